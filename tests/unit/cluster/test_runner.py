"""The runner: what is durable first, what ends tell, and a store that comes and goes."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vhostnvme.cluster.commands import CreateDevice, DeleteDevice, Part
from vhostnvme.cluster.messages import (
    Attach,
    CardOptions,
    Carve,
    Destroy,
    SsdReport,
    StartDevice,
    StopDevice,
)
from vhostnvme.cluster.pool import Pool
from vhostnvme.cluster.rows import KINDS, DeviceRow, SpaceRow
from vhostnvme.cluster.runner import Runner
from vhostnvme.cluster.store import open_store
from vhostnvme.errors import ClusterError, ConfigError, NativeError, NoSpace
from vhostnvme.storage.catalog import Catalog

MIB = 1 << 20
SSD = SsdReport("ssd0", "directory", 64 * MIB, 64 * MIB, 64 * MIB, 4096)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with Catalog(tmp_path / "state", KINDS) as catalog:
        yield catalog


class Works:
    """Effects that end at once, or as `answers` has it; `seen` is their order."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.before: Callable[[object], None] = lambda _: None

    async def __call__(self, effect: object) -> None:
        self.seen.append(effect)
        self.before(effect)

    def table(self) -> dict[type, Works]:
        return dict.fromkeys((Carve, Destroy, StartDevice, StopDevice, Attach), self)


def make_runner(catalog: Catalog, works: Works, **options: object) -> tuple[Runner, Pool]:
    values = {"name": "a", "uuid": catalog.card_uuid, "session": "s", "clustered": False}
    pool = Pool(CardOptions(**(values | options)), [], [SSD], 0.0)
    return Runner(pool, catalog, None, works.table()), pool


def create(size: int) -> Callable[[int], CreateDevice]:
    return lambda number: CreateDevice(number, "vm1", (Part(size),))


async def test_rows_are_durable_before_what_follows(catalog: Catalog) -> None:
    works = Works()
    runner, _ = make_runner(catalog, works)
    rows: list[bool] = []

    def look(effect: object) -> None:
        if isinstance(effect, Carve):
            rows.append(catalog.get(SpaceRow, effect.uuid) is not None)

    works.before = look
    runner.start()
    name = await runner.command(create(MIB))
    assert rows == [True] and catalog.get(DeviceRow, name) is not None
    await runner.command(lambda n: DeleteDevice(n, name))
    assert not catalog.all(SpaceRow) and not catalog.all(DeviceRow)
    await runner.stop()


async def test_errors_of_commands_are_raised_and_the_next_one_works(catalog: Catalog) -> None:
    runner, _ = make_runner(catalog, Works())
    runner.start()
    with pytest.raises(NoSpace):
        await runner.command(create(65 * MIB))
    with pytest.raises(ConfigError):
        await runner.command(create(1))
    await runner.command(create(MIB))
    await runner.stop()


async def test_a_full_medium_is_told_apart_and_what_is_busy_is_tried_again(
    catalog: Catalog,
) -> None:
    works = Works()
    runner, pool = make_runner(catalog, works)
    runner.start()

    def full(effect: object) -> None:
        if isinstance(effect, Carve):
            raise NativeError(errno.ENOSPC, "the SSD is full")

    works.before = full
    with pytest.raises(NoSpace):
        await runner.command(create(MIB))
    left = [errno.EBUSY, errno.EIO]

    def busy(effect: object) -> None:
        if isinstance(effect, Destroy) and left:
            raise NativeError(left.pop(0), "not now")

    works.before = lambda _: None
    name = await runner.command(create(MIB))
    works.before = busy
    await runner.command(lambda n: DeleteDevice(n, name))
    assert not left and not pool.spaces
    await runner.stop()


async def test_an_effect_that_is_broken_off_is_told_like_any_other(catalog: Catalog) -> None:
    works = Works()
    runner, pool = make_runner(catalog, works)
    left = [True]

    def broken_off(effect: object) -> None:
        if isinstance(effect, Destroy) and left:
            left.clear()
            raise asyncio.CancelledError

    works.before = broken_off
    runner.start()
    name = await runner.command(create(MIB))
    await runner.command(lambda n: DeleteDevice(n, name))
    assert not left and not pool.spaces
    await runner.stop()


async def test_a_mistake_of_ours_ends_the_card_with_it(catalog: Catalog) -> None:
    works = Works()
    runner, _ = make_runner(catalog, works)

    def broken(effect: object) -> None:
        raise ZeroDivisionError("ours")

    works.before = broken
    runner.start()
    asking = asyncio.ensure_future(runner.command(create(MIB)))
    with pytest.raises(ZeroDivisionError):
        await runner.wait()
    await runner.stop()
    with pytest.raises(ClusterError, match="the card is ending"):
        await asking


async def test_a_card_joins_its_cluster_and_a_second_of_its_name_ends(
    tmp_path: Path, catalog: Catalog
) -> None:
    url = f"sqlite://{tmp_path}/cluster.db"
    async with open_store(url) as store, open_store(url) as other_store:
        works = Works()
        options = CardOptions(name="a", uuid=catalog.card_uuid, session="s")
        pool = Pool(options, [], [SSD], 0.0)
        runner = Runner(pool, catalog, store, works.table())
        runner.start()
        async with asyncio.timeout(20):
            while not pool.member:
                await asyncio.sleep(0.01)
        with Catalog(tmp_path / "other", KINDS) as second:
            options = CardOptions(name="a", uuid=second.card_uuid, session="t")
            twin = Runner(Pool(options, [], [SSD], 0.0), second, other_store, works.table())
            twin.start()
            async with asyncio.timeout(20):
                with pytest.raises(ConfigError, match="another card of this cluster is called"):
                    await twin.wait()
            await twin.stop()
        assert pool.member
        await runner.stop()
