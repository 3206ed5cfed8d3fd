"""A card's SSDs together: what is told of them, and what is done on them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from vhostnvme.cluster.messages import Carve, Destroy, SsdReport, Stretch
from vhostnvme.cluster.rows import KINDS, RowState, SpaceRow, SsdRow
from vhostnvme.errors import ConfigError
from vhostnvme.storage.catalog import Catalog
from vhostnvme.storage.disk import native_options
from vhostnvme.storage.spec import FileSpec, format_spec, parse_spec
from vhostnvme.storage.ssd import SsdOptions
from vhostnvme.storage.ssd_health import HealthOptions
from vhostnvme.works.ssds import Ssds

UUID = "0d0cf5a1-6a43-4a44-9d07-3f2a2e0a3f11"
MIB = 1 << 20
T = TypeVar("T")


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(tmp_path / "state", KINDS) as catalog:
        yield catalog


def options(tmp_path: Path, name: str = "ssd0") -> SsdOptions:
    (tmp_path / name).mkdir(exist_ok=True)
    return SsdOptions(name, tmp_path / name, capacity=64 * MIB)


def row(**values: object) -> SpaceRow:
    fields = {"uuid": UUID, "ssd": "ssd0", "size": MIB, "block_size": 512, "owner": "a", "vm": "v"}
    return SpaceRow(**(fields | values))


async def test_space_is_carved_stretched_and_given_back_and_each_is_told(
    tmp_path: Path, catalog: Catalog
) -> None:
    ssds = Ssds([options(tmp_path)], catalog)
    told: list[Sequence[SsdReport]] = []
    ssds.changed = told.append
    await ssds.carve(Carve(1, UUID, "ssd0", MIB))
    assert told[-1][0].promised == MIB and told[-1][0].capacity == 64 * MIB
    await ssds.stretch(Stretch(2, UUID, "ssd0", 2 * MIB))
    disk = await ssds.disk("ssd0", UUID, 2 * MIB, 512)
    assert isinstance(disk, FileSpec) and Path(disk.path).stat().st_size == 2 * MIB
    await ssds.destroy(Destroy(3, UUID, "ssd0"))
    assert told[-1][0].promised == 0 and not Path(disk.path).exists()
    ssds.close()


async def test_what_is_open_on_an_ssd_is_counted_for_it(tmp_path: Path, catalog: Catalog) -> None:
    both = [options(tmp_path, "ssd0"), options(tmp_path, "ssd1")]
    ssds = Ssds(both, catalog)
    media = []
    for number, each in enumerate(both):
        uuid = f"{UUID[:-1]}{number}"
        await ssds.carve(Carve(number, uuid, each.name, MIB))
        disk = await ssds.disk(each.name, uuid, MIB, 512)
        assert isinstance(disk, FileSpec) and disk.medium is not None
        assert native_options(disk).medium is disk.medium
        media.append(disk.medium)
        assert parse_spec(format_spec(disk)) == disk
    assert media[0] is not media[1]
    ssds.close()


async def test_one_that_hangs_is_marked_and_holds_up_no_other(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at it, and a change of it, do not come back."""
    monkeypatch.setattr("vhostnvme.works.ssds.COUNT_S", 0.01)
    monkeypatch.setattr("vhostnvme.works.ssds.LOOK_S", 0.01)
    monkeypatch.setattr("vhostnvme.works.ssds.ANSWER_S", 0.01)
    health = HealthOptions(hang_s=0.1, clear_s=0.1)
    ssds = Ssds([options(tmp_path, "ssd0"), options(tmp_path, "ssd1")], catalog, health)
    stuck = threading.Event()
    one = ssds._ssds["ssd0"].ssd
    monkeypatch.setattr(one, "state", held(stuck, one.state))
    monkeypatch.setattr(one, "carve", held(stuck, one.carve))
    watching = asyncio.create_task(ssds.watch())
    carving = asyncio.create_task(ssds.carve(Carve(1, UUID, "ssd0", MIB)))
    await until(lambda: ssds.reports()[0].failing)
    assert "a read of its label has not ended after" in ssds.reports()[0].reason
    await ssds.carve(Carve(2, UUID, "ssd1", MIB))
    assert [each.failing for each in ssds.reports()] == [True, False]
    stuck.set()
    await carving
    await until(lambda: not ssds.reports()[0].failing)
    watching.cancel()
    ssds.close()


def held(until: threading.Event, doing: Callable[..., T]) -> Callable[..., T]:
    def do(*arguments: object) -> T:
        until.wait()
        return doing(*arguments)

    return do


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_ssd_that_nobody_has_is_a_mistake(tmp_path: Path, catalog: Catalog) -> None:
    ssds = Ssds([options(tmp_path)], catalog)
    with pytest.raises(ConfigError, match="no SSD 'gone' any more"):
        await ssds.carve(Carve(1, UUID, "gone", MIB))
    ssds.close()


def test_two_at_one_place_are_refused(tmp_path: Path, catalog: Catalog) -> None:
    one = options(tmp_path)
    with pytest.raises(ConfigError, match="are at one place"):
        Ssds([one, SsdOptions("ssd1", one.path)], catalog)


async def test_an_ssd_that_is_away_at_the_start_is_not_replaced_by_another(
    tmp_path: Path, catalog: Catalog
) -> None:
    Ssds([options(tmp_path)], catalog).close()
    known = catalog.get(SsdRow, "ssd0")
    assert known is not None
    away = tmp_path / "away"
    (tmp_path / "ssd0").rename(away)
    ssds = Ssds([SsdOptions("ssd0", tmp_path / "ssd0", 64 * MIB)], catalog)
    (report,) = ssds.reports()
    assert not report.healthy and "ssd0" in report.reason
    ssds.close()
    (tmp_path / "ssd0").mkdir()  # an empty folder in its place
    ssds = Ssds([options(tmp_path)], catalog)
    assert not ssds.reports()[0].healthy
    ssds.close()
    (tmp_path / "ssd0").rmdir()
    away.rename(tmp_path / "ssd0")
    ssds = Ssds([options(tmp_path)], catalog)
    assert ssds.reports()[0].healthy
    ssds.close()


def test_what_nobody_knows_is_told_and_left(
    tmp_path: Path, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    Ssds([options(tmp_path)], catalog).close()
    stranger = tmp_path / "ssd0" / f"{UUID}.ns"
    stranger.write_bytes(bytes(4096))
    (tmp_path / "ssd0" / "notes.txt").write_text("mine")
    Ssds([options(tmp_path)], catalog).close()
    assert f"nobody knows the namespace {UUID}" in caplog.text
    assert "notes.txt" in caplog.text
    assert stranger.exists() and (tmp_path / "ssd0" / "notes.txt").exists()


def test_what_is_missing_is_told(
    tmp_path: Path, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    catalog.write(row(state=RowState.READY))
    Ssds([options(tmp_path)], catalog).close()
    assert f"namespace {UUID} of VM v is missing" in caplog.text
