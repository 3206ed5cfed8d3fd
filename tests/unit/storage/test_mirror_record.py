"""The record of which leg of a mirror counts: durable, whole, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests_crash import cuts

from vhostnvme.errors import ConfigError
from vhostnvme.storage.mirror_record import MirrorRecord, Standing
from vhostnvme.storage.spec import FileSpec, MirrorSpec

SPEC = MirrorSpec(legs=(FileSpec(path="a"), FileSpec(path="b")), bitmap="bits")
DISKS = ("file:a", "file:b")
KEPT = (True, True)


def record(folder: Path, disks: tuple[str, ...] = DISKS) -> MirrorRecord:
    return MirrorRecord.of(SPEC, disks, (True,) * len(disks), folder)


def test_at_first_all_count(tmp_path: Path) -> None:
    first = record(tmp_path)
    assert first.is_first
    assert first.standings() == (Standing.IN_SYNC, Standing.IN_SYNC)
    again = record(tmp_path)
    assert not again.is_first
    assert again.standings() == first.standings()


def test_a_change_is_there_after_a_restart(tmp_path: Path) -> None:
    record(tmp_path).change(1, Standing.STALE)
    assert record(tmp_path).standings() == (Standing.IN_SYNC, Standing.STALE)
    turned = record(tmp_path, ("file:b", "file:a"))
    assert turned.standings() == (Standing.STALE, Standing.IN_SYNC)


def test_a_disk_that_is_not_known_is_new(tmp_path: Path) -> None:
    record(tmp_path)
    changed = record(tmp_path, ("file:a", "file:c"))
    assert changed.standings() == (Standing.IN_SYNC, Standing.NEW)
    back = record(tmp_path)  # what was taken out has missed something
    assert back.standings() == (Standing.IN_SYNC, Standing.NEW)


def test_memory_has_nothing_after_a_restart(tmp_path: Path) -> None:
    disks = ("file:a", "mem:1M")
    assert MirrorRecord.of(SPEC, disks, (True, False), tmp_path).standing(1) is Standing.IN_SYNC
    assert MirrorRecord.of(SPEC, disks, (True, False), tmp_path).standing(1) is Standing.NEW


def test_none_that_counts_is_refused(tmp_path: Path) -> None:
    record(tmp_path).change(1, Standing.STALE)
    with pytest.raises(ConfigError, match="none of the mirror's legs"):
        record(tmp_path, ("file:b", "file:c"))


def test_a_record_that_is_lost_is_not_made_up(tmp_path: Path) -> None:
    record(tmp_path)
    (tmp_path / "bits").write_bytes(b"bitmap")
    (tmp_path / "bits.legs").unlink()
    with pytest.raises(ConfigError, match="is missing, though there is a bitmap"):
        record(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"\xff", b'{"version":2,"legs":[]}', b'{"version":1,"legs":3}']
)
def test_a_damaged_record_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bits.legs").write_bytes(content)
    with pytest.raises(ConfigError, match=r"bits\.legs"):
        record(tmp_path)


def test_one_that_cannot_be_written_has_not_changed(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    kept = record(folder)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    with pytest.raises(ConfigError, match="cannot record"):
        kept.change(0, Standing.STALE)
    assert kept.standing(0) is Standing.IN_SYNC


def test_cut_off_anywhere_it_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    for number, steps in enumerate(cuts()):
        folder = tmp_path / str(number)
        folder.mkdir()
        kept = record(folder)
        with steps.counted():
            kept.change(1, Standing.STALE)
        assert record(folder).standing(1) in (Standing.IN_SYNC, Standing.STALE)
        if not steps.cut:
            assert record(folder).standing(1) is Standing.STALE
