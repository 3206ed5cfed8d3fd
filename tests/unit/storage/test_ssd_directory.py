"""An SSD that is a directory, on real file systems."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from tests_storage import (
    FIRST,
    GIB,
    MIB,
    SECOND,
    THIRD,
    file_system,
    names_in,
    opened,
)

from vhostnvme.errors import ConfigError, NativeError, NoSpace
from vhostnvme.storage.spec import FileSpec
from vhostnvme.storage.ssd import Found

_XFS_IOC_GOINGDOWN = 0x8004587D


@pytest.fixture(params=["ext4", "xfs", "tmpfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with file_system(request.param, tmp_path) as folder:
        yield folder


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    with file_system("xfs", tmp_path) as folder:
        yield folder


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_a_thick_namespace_has_all_its_blocks(place: Path) -> None:
    with opened(place) as ssd:
        before = ssd.state()
        assert before.healthy and before.allocated == 0
        ssd.carve(FIRST, 40 * MIB)
        ssd.carve(SECOND, 4096)
        state = ssd.state()
        assert blocks(place / f"{FIRST}.ns") == 40 * MIB
        assert state.allocated == 40 * MIB + 4096
        # but for the file system's own maps, and what it had not tidied up yet
        assert abs(before.available - state.available - state.allocated) <= MIB
        assert (place / f"{FIRST}.ns").read_bytes() == bytes(40 * MIB)
        assert ssd.found() == ([Found(FIRST, 40 * MIB, True), Found(SECOND, 4096, True)], [])
        ssd.destroy(FIRST)
        ssd.destroy(SECOND)
        assert ssd.state() == before
        assert ssd.found() == ([], [])


def test_what_is_said_to_be_available_can_be_carved(place: Path) -> None:
    with opened(place) as ssd:
        for uuid in (FIRST, SECOND):
            size = ssd.state().largest
            ssd.carve(uuid, size if uuid == SECOND else size // 8192 * 4096)
        assert ssd.state().available == 0
        with pytest.raises(NoSpace, match=r"SSD ssd0 \(.*\)( has no room for 64M|: it is full)"):
            ssd.carve(THIRD, 64 * MIB)
        assert [one.uuid for one in ssd.found()[0]] == [FIRST, SECOND]
        assert not (place / f"{THIRD}.making").exists()


def test_little_growth_needs_little_room(place: Path) -> None:
    with opened(place) as ssd:
        ssd.carve(FIRST, 180 * MIB)
        ssd.resize(FIRST, 184 * MIB)
        assert blocks(place / f"{FIRST}.ns") // MIB == 184


def test_what_was_thin_is_thick_when_it_has_grown(place: Path) -> None:
    with opened(place, capacity=128 * MIB, thin=True) as ssd:
        ssd.carve(FIRST, 8 * MIB)
        with (place / f"{FIRST}.ns").open("r+b") as file:
            for at in (0, 3 * MIB, 8 * MIB - 4096):
                file.seek(at)
                file.write(b"x" * 4096)
    before = (place / f"{FIRST}.ns").read_bytes()
    with opened(place) as ssd:
        ssd.resize(FIRST, 9 * MIB)
        maps = blocks(place / f"{FIRST}.ns") - 9 * MIB  # ext4 needs a block for so many pieces
        assert maps in (0, 4096)
        assert (place / f"{FIRST}.ns").read_bytes() == before + bytes(MIB)


def test_growth_that_fails_leaves_the_size(place: Path) -> None:
    with opened(place) as ssd:
        ssd.carve(FIRST, 8 * MIB)
        with pytest.raises(NoSpace):
            ssd.resize(FIRST, 1024 * MIB)
        assert ssd.found()[0] == [Found(FIRST, 8 * MIB, True)]
        assert blocks(place / f"{FIRST}.ns") == 8 * MIB


def test_a_namespace_grows_while_a_range_is_zeroed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux takes the blocks of such a range away first, and then gives it new ones."""
    path = place / f"{FIRST}.ns"
    set_aside = os.posix_fallocate

    def zeroing(fd: int, start: int, length: int) -> None:
        set_aside(fd, start, length)
        subprocess.run(["fallocate", "-p", "-l", "1MiB", str(path)], check=True)

    with opened(place) as ssd:
        ssd.carve(FIRST, 8 * MIB)
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", zeroing)
            ssd.resize(FIRST, 9 * MIB)
        assert blocks(path) == 8 * MIB
        ssd.resize(FIRST, 10 * MIB)
        assert blocks(path) == 10 * MIB


def test_what_is_added_reads_as_zeros(place: Path) -> None:
    with opened(place) as ssd:
        ssd.carve(FIRST, 4 * MIB)
        path = place / f"{FIRST}.ns"
        with path.open("r+b") as file:
            file.write(b"x" * 4 * MIB)
        ssd.resize(FIRST, 4096)
        assert blocks(path) == 4096
        ssd.resize(FIRST, 2 * MIB)
        ssd.resize(FIRST, 2 * MIB)
        assert blocks(path) == 2 * MIB
        assert path.read_bytes() == b"x" * 4096 + bytes(2 * MIB - 4096)


def test_thin_takes_space_when_it_is_written(place: Path) -> None:
    with opened(place, capacity=1024 * MIB, thin=True) as ssd:
        ssd.carve(FIRST, 700 * MIB)
        state = ssd.state()
        assert (state.allocated, state.available) == (0, 324 * MIB)
        with (place / f"{FIRST}.ns").open("r+b") as file:
            file.write(b"x" * MIB)
            os.fsync(file.fileno())
        assert ssd.state().allocated == MIB
        with pytest.raises(NoSpace, match="324M of its capacity are left"):
            ssd.resize(FIRST, 1100 * MIB)
        ssd.resize(FIRST, 1024 * MIB)
        assert ssd.state().available == 0


def test_a_capacity_is_kept_to_the_byte(tmp_path: Path) -> None:
    with opened(tmp_path, capacity=10 * MIB) as ssd:
        ssd.carve(FIRST, 10 * MIB - 4096)
        assert ssd.state().available == 4096
        with pytest.raises(NoSpace, match="has no room for 8K: 4K of its capacity are left"):
            ssd.carve(SECOND, 8192)
        ssd.carve(SECOND, 4096)
        state = ssd.state()
        assert (state.capacity, state.available, state.largest) == (10 * MIB, 0, 0)


def test_many_threads_stay_within_the_capacity(tmp_path: Path) -> None:
    with opened(tmp_path, capacity=5 * MIB) as ssd:
        refused: list[str] = []

        def carve(uuid: str) -> None:
            try:
                ssd.carve(uuid, MIB)
            except NoSpace:
                refused.append(uuid)

        uuids = [FIRST[:-1] + digit for digit in "0123456789"]
        threads = [threading.Thread(target=carve, args=(uuid,)) for uuid in uuids for _ in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ssd.found()[0]) == 5
        assert set(refused) == set(uuids) - {one.uuid for one in ssd.found()[0]}


def test_everything_may_be_repeated(tmp_path: Path) -> None:
    with opened(tmp_path) as ssd:
        for _ in range(2):
            ssd.carve(FIRST, MIB)
        with pytest.raises(NativeError, match=f"{FIRST}.*there, with {MIB} bytes, not {2 * MIB}"):
            ssd.carve(FIRST, 2 * MIB)
        for _ in range(2):
            ssd.resize(FIRST, 2 * MIB)
        for _ in range(2):
            ssd.destroy(FIRST)
        with pytest.raises(NativeError) as told:
            ssd.resize(FIRST, MIB)
        assert told.value.errno == errno.ENOENT


def test_what_a_crash_left_is_found_and_taken_away(tmp_path: Path) -> None:
    opened(tmp_path).close()
    for uuid, suffix in ((FIRST, "making"), (SECOND, "deleting"), (THIRD, "ns")):
        (tmp_path / f"{uuid}.{suffix}").write_bytes(bytes(4096))
    (tmp_path / f"{THIRD}.making").touch()
    with opened(tmp_path) as ssd:
        assert ssd.found()[0] == [
            Found(FIRST, 4096, False),
            Found(SECOND, 4096, False),
            Found(THIRD, 4096, True),
        ]
        ssd.destroy(FIRST)
        ssd.carve(SECOND, 8192)
        ssd.destroy(THIRD)
        assert ssd.found() == ([Found(SECOND, 8192, True)], [])
        assert names_in(tmp_path) == [".vhostnvme-ssd.json", f"{SECOND}.ns"]


def test_what_is_not_ours_is_told_and_stays(tmp_path: Path) -> None:
    with opened(tmp_path) as ssd:
        strange = [f"{FIRST.upper()}.ns", "notes", f"{SECOND}.ns.bak", "x.making"]
        for name in strange:
            (tmp_path / name).touch()
        (tmp_path / f"{FIRST}.ns").symlink_to("/etc/passwd")
        (tmp_path / f"{SECOND}.ns").mkdir()
        (tmp_path / "lost+found").mkdir()
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).touch()
        names = [*strange, f"{FIRST}.ns", f"{SECOND}.ns", "\\xff"]
        assert ssd.found() == ([], sorted(names))
        with pytest.raises(NativeError):
            ssd.resize(FIRST, 4096)
        assert len(names_in(tmp_path)) == 9


@pytest.mark.parametrize("name", ["", "../../etc/passwd", FIRST.upper(), FIRST + "\n", "x" * 5000])
def test_only_a_uuid_becomes_a_name(tmp_path: Path, name: str) -> None:
    with opened(tmp_path) as ssd:
        for call in (
            lambda: ssd.carve(name, 4096),
            lambda: ssd.destroy(name),
            lambda: ssd.clone(name, FIRST),
            lambda: ssd.clone(FIRST, name),
            lambda: ssd.disk(name, 4096, 512),
        ):
            with pytest.raises(ConfigError, match="is no UUID of a namespace"):
                call()


def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with opened(tmp_path) as ssd:
            ssd.carve(FIRST, 4096)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_clone_shares_until_one_is_written(xfs: Path) -> None:
    with opened(xfs) as ssd:
        assert ssd.can_clone
        ssd.carve(FIRST, 64 * MIB)
        source, clone = xfs / f"{FIRST}.ns", xfs / f"{SECOND}.ns"
        with source.open("r+b") as file:
            file.write(b"old" * MIB)
        free = os.statvfs(xfs).f_bavail * 4096
        for _ in range(2):
            ssd.clone(FIRST, SECOND)
        # what was never written is set aside anew, the rest is shared
        assert free - os.statvfs(xfs).f_bavail * 4096 < 62 * MIB
        assert blocks(clone) == 64 * MIB
        with source.open("r+b") as file:
            file.write(b"new")
        assert clone.read_bytes() == b"old" * MIB + bytes(61 * MIB)
        assert source.read_bytes()[:6] == b"newold"
        ssd.destroy(FIRST)
        assert ssd.found()[0] == [Found(SECOND, 64 * MIB, True)]


def test_clones_count_in_full(xfs: Path) -> None:
    with opened(xfs) as ssd:
        ssd.carve(FIRST, 120 * MIB)
        (xfs / f"{FIRST}.ns").write_bytes(b"x" * 120 * MIB)
        ssd.clone(FIRST, SECOND)
        assert ssd.state().available <= 16 * MIB
        with pytest.raises(NoSpace, match="has no room for 120M: 16M of its capacity are left"):
            ssd.clone(FIRST, THIRD)
        assert [one.uuid for one in ssd.found()[0]] == [FIRST, SECOND]


def test_thin_files_fit_the_file_system(xfs: Path) -> None:
    with opened(xfs, thin=True) as ssd:
        ssd.carve(FIRST, 200 * MIB)
        assert ssd.state().available < 60 * MIB
        with pytest.raises(NoSpace, match="has no room for 100M"):
            ssd.carve(SECOND, 100 * MIB)


def test_a_file_system_that_cannot_share(tmp_path: Path) -> None:
    with file_system("ext4", tmp_path) as place, opened(place) as ssd:
        assert not ssd.can_clone
        ssd.carve(FIRST, 4096)
        with pytest.raises(NativeError, match="cannot share blocks between files; XFS") as told:
            ssd.clone(FIRST, SECOND)
        assert told.value.errno == errno.EOPNOTSUPP
        assert ssd.found()[0] == [Found(FIRST, 4096, True)]


def test_a_file_system_that_sets_nothing_aside(tmp_path: Path) -> None:
    with file_system("ramfs", tmp_path) as place:
        with pytest.raises(ConfigError, match=r"cannot set space aside .* or say thin = true"):
            opened(place)
        with opened(place, capacity=GIB, thin=True) as ssd:
            ssd.carve(FIRST, MIB)
            with pytest.raises(NativeError, match="cannot share blocks"):
                ssd.clone(FIRST, SECOND)


def test_the_disk_is_the_file(tmp_path: Path) -> None:
    with opened(tmp_path) as ssd:
        ssd.carve(FIRST, MIB)
        disk = ssd.disk(FIRST, MIB, 4096, read_only=True)
        assert isinstance(disk, FileSpec)
        assert Path(disk.path) == tmp_path / f"{FIRST}.ns"
        assert (disk.size, disk.block_size, disk.read_only) == (MIB, 4096, True)
        assert str(disk.uuid) == FIRST
        assert disk.offset is None
        part = ssd.disk(FIRST, MIB - 512, 512)
        assert isinstance(part, FileSpec) and (part.offset, part.size) == (0, MIB - 512)
        with pytest.raises(NativeError, match=f"it has {MIB} bytes, not {2 * MIB}"):
            ssd.disk(FIRST, 2 * MIB, 512)
        with pytest.raises(NativeError, match="it is not there"):
            ssd.disk(SECOND, 4096, 512)


def test_who_looks_at_the_same_time_sees_all_of_it(tmp_path: Path) -> None:
    """Openings of the directory that shared their place in it saw some files twice, some never."""
    with opened(tmp_path, 64 * MIB) as ssd:
        for number in range(100):
            ssd.carve(str(UUID(int=number, version=4)), 4096)
        seen: set[int] = set()

        def look() -> None:
            seen.update(ssd.state().available for _ in range(50))

        threads = [threading.Thread(target=look) for _ in range(6)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert seen == {64 * MIB - 100 * 4096}
