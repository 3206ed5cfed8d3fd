"""An SSD that is a block device: loop devices, and files that stand for one."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests_storage import (
    CARD,
    FIRST,
    MIB,
    OTHER_CARD,
    SECOND,
    THIRD,
    block_device,
    file_of,
    loop_device,
    mounted,
    opened,
    run,
)
from tests_tcp import TcpServed

from vhostnvme.errors import ConfigError, NativeError, NoSpace
from vhostnvme.native import Runtime
from vhostnvme.storage.spec import FileSpec, format_spec
from vhostnvme.storage.ssd import Found, Missing, Ssd, SsdOptions, open_ssd

CHUNK = 4 * MIB


@pytest.fixture(params=["device", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Of 64 MiB: 15 chunks for namespaces. What nobody has written reads as 0xAA."""
    image = tmp_path / "image"
    image.write_bytes(b"\xaa" * 64 * MIB)
    with image.open("r+b") as file:
        file.write(bytes(MIB))
    if request.param == "file":
        yield image
    else:
        with loop_device(image) as device:
            yield device


def content(ssd: Ssd, uuid: str, size: int) -> bytes:
    disk = ssd.disk(uuid, size)
    assert isinstance(disk, FileSpec) and disk.offset is not None
    with Path(disk.path).open("rb") as file:
        file.seek(disk.offset)
        return file.read(size)


def test_namespaces_are_carved_and_given_back(place: Path) -> None:
    with opened(place) as ssd:
        assert (ssd.kind, ssd.granule, ssd.can_clone) == ("block", CHUNK, False)
        before = ssd.state()
        assert (before.capacity, before.available, before.largest) == (15 * CHUNK,) * 3
        ssd.carve(FIRST, 2 * CHUNK)
        ssd.carve(SECOND, 13 * CHUNK)
        assert content(ssd, FIRST, 2 * CHUNK) == bytes(2 * CHUNK)
        assert content(ssd, SECOND, 13 * CHUNK) == bytes(13 * CHUNK)
        state = ssd.state()
        assert (state.available, state.largest, state.allocated) == (0, 0, 15 * CHUNK)
        with pytest.raises(NoSpace, match="has no room for 4M: 0 of its capacity are left"):
            ssd.carve(THIRD, CHUNK)
    with opened(place) as ssd:
        assert ssd.found() == (
            [Found(FIRST, 2 * CHUNK, True), Found(SECOND, 13 * CHUNK, True)],
            [],
        )
        ssd.destroy(FIRST)
        ssd.destroy(SECOND)
        assert ssd.state() == before
        assert ssd.found() == ([], [])


def test_what_was_written_does_not_come_back(place: Path) -> None:
    with opened(place) as ssd:
        ssd.carve(FIRST, 15 * CHUNK)
        disk = ssd.disk(FIRST, CHUNK)
        assert isinstance(disk, FileSpec) and disk.offset == CHUNK
        with place.open("r+b") as file:
            file.seek(CHUNK)
            file.write(b"x" * 15 * CHUNK)
        ssd.destroy(FIRST)
        ssd.carve(SECOND, CHUNK)
        ssd.resize(SECOND, 3 * CHUNK)
        assert content(ssd, SECOND, 3 * CHUNK) == bytes(3 * CHUNK)


def test_the_smallest_gap_that_fits_is_taken(tmp_path: Path) -> None:
    with opened(file_of(tmp_path, 64 * MIB)) as ssd:
        uuids = [FIRST[:-1] + digit for digit in "123456"]
        for uuid, chunks in zip(uuids, (3, 1, 2, 1, 4, 4), strict=True):
            ssd.carve(uuid, chunks * CHUNK)
        for uuid in (uuids[0], uuids[2]):
            ssd.destroy(uuid)
        assert (ssd.state().available, ssd.state().largest) == (5 * CHUNK, 3 * CHUNK)
        with pytest.raises(NoSpace, match="has no room for 16M in one piece"):
            ssd.carve(SECOND, 4 * CHUNK)
        ssd.carve(SECOND, 2 * CHUNK)
        disk = ssd.disk(SECOND, 2 * CHUNK)
        assert isinstance(disk, FileSpec) and disk.offset == 5 * CHUNK


def test_growth_needs_room_behind(tmp_path: Path) -> None:
    with opened(file_of(tmp_path, 64 * MIB)) as ssd:
        ssd.carve(FIRST, CHUNK)
        ssd.carve(SECOND, CHUNK)
        ssd.resize(SECOND, 2 * CHUNK)
        with pytest.raises(NoSpace, match=f"no room behind {FIRST}, not 4M, and cannot move it"):
            ssd.resize(FIRST, 2 * CHUNK)
        with pytest.raises(NoSpace, match="has no room for 52M: 48M of its capacity are left"):
            ssd.resize(SECOND, 15 * CHUNK)
        ssd.resize(SECOND, 14 * CHUNK)
        ssd.resize(SECOND, CHUNK)
        ssd.destroy(SECOND)
        ssd.resize(FIRST, 15 * CHUNK)
        assert ssd.found()[0] == [Found(FIRST, 15 * CHUNK, True)]


def test_everything_may_be_repeated(tmp_path: Path) -> None:
    with opened(file_of(tmp_path, 64 * MIB)) as ssd:
        for _ in range(2):
            ssd.carve(FIRST, CHUNK)
        with pytest.raises(NativeError, match=f"there, with {CHUNK} bytes, not {2 * CHUNK}"):
            ssd.carve(FIRST, 2 * CHUNK)
        for _ in range(2):
            ssd.resize(FIRST, 2 * CHUNK)
        for _ in range(2):
            ssd.destroy(FIRST)
        for call in (lambda: ssd.resize(FIRST, CHUNK), lambda: ssd.disk(FIRST, CHUNK)):
            with pytest.raises(NativeError, match="it is not there") as told:
                call()
            assert told.value.errno == errno.ENOENT
        with pytest.raises(NativeError, match="a block device cannot share space"):
            ssd.clone(FIRST, SECOND)


def test_a_capacity_is_kept(tmp_path: Path) -> None:
    with opened(file_of(tmp_path, 64 * MIB), capacity=3 * CHUNK + MIB) as ssd:
        assert ssd.state().capacity == 3 * CHUNK
        ssd.carve(FIRST, 2 * CHUNK)
        with pytest.raises(NoSpace, match="no room for 8M: 4M of its capacity are left"):
            ssd.carve(SECOND, 2 * CHUNK)
        assert (ssd.state().available, ssd.state().largest) == (CHUNK, CHUNK)


def test_many_threads_share_it(tmp_path: Path) -> None:
    with opened(file_of(tmp_path, 64 * MIB)) as ssd:
        refused: list[str] = []

        def work(uuid: str) -> None:
            try:
                ssd.carve(uuid, CHUNK)
            except NoSpace:
                refused.append(uuid)

        uuids = [f"{FIRST[:-2]}{number:02}" for number in range(20)]
        threads = [threading.Thread(target=work, args=(uuid,)) for uuid in uuids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = ssd.found()[0]
        assert (len(found), len(refused)) == (15, 5)
    with opened(tmp_path / "image") as ssd:
        assert ssd.found()[0] == found


def served(runtime: Runtime, ssd: Ssd, uuids: list[str], size: int) -> TcpServed:
    """A target of these namespaces."""
    return TcpServed(runtime, [format_spec(ssd.disk(uuid, size)) for uuid in uuids])


def test_guests_have_windows_of_it(place: Path) -> None:
    part = CHUNK - 512  # less than was carved
    blocks = part // 512
    with opened(place) as ssd, Runtime() as runtime:
        for uuid in (FIRST, SECOND):
            ssd.carve(uuid, CHUNK)
        with closing(served(runtime, ssd, [FIRST, SECOND], part)) as target:
            queue = target.connect().create_queue(1)
            for nsid in (1, 2):
                assert target.namespaces[nsid - 1].info().size == part
                for lba in (0, blocks - 8):
                    queue.write(lba, bytes([nsid]) * 4096, nsid)
            # what is made beside running namespaces is zeros, and nothing of theirs
            ssd.carve(THIRD, 2 * CHUNK)
            assert content(ssd, THIRD, 2 * CHUNK) == bytes(2 * CHUNK)
            for nsid in (1, 2):
                assert queue.read(0, 9, nsid) == bytes([nsid]) * 4096 + bytes(512)
                assert queue.read(blocks - 8, 8, nsid) == bytes([nsid]) * 4096
            queue.flush()
        ssd.destroy(FIRST)
        ssd.carve(FIRST, CHUNK)
        with closing(served(runtime, ssd, [SECOND, FIRST], part)) as target:
            queue = target.connect().create_queue(1)
            assert queue.read(0, 8, 1) == bytes([2]) * 4096
            assert queue.read(0, 8, 2) == queue.read(blocks - 8, 8, 2) == bytes(4096)


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (["mkfs.ext4", "-q"], r"a file system or other content \(ext4\)"),
        (["mkfs.xfs", "-q", "-f"], r"a file system or other content \(xfs\)"),
        (["mkswap"], r"a file system or other content \(swap\)"),
    ],
)
def test_what_others_have_there_is_not_overwritten(
    tmp_path: Path, command: list[str], what: str
) -> None:
    with block_device(tmp_path, 320 * MIB) as device:
        run(*command, device)
        wipe = re.escape(f"wipe it with `wipefs --all {device}`")
        with pytest.raises(ConfigError, match=f"holds {what}: if nothing of it is needed, {wipe}"):
            opened(device)
        run("wipefs", "--all", device)
        opened(device).close()


def test_a_partition_table_is_not_overwritten(tmp_path: Path) -> None:
    with block_device(tmp_path, 64 * MIB) as device:
        with device.open("r+b") as file:
            file.seek(446)
            file.write(
                b"\0\x20\x21\0\x83\x28\x20\x08\0\x08\0\0\0\xf0\1\0" + bytes(48) + b"\x55\xaa"
            )
        with pytest.raises(ConfigError, match=r"holds a partition table \(dos\)"):
            opened(device)


@pytest.mark.parametrize("place_of", [0, 64 * MIB - 512])
def test_without_blkid_any_data_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place_of: int
) -> None:
    path = file_of(tmp_path, 64 * MIB)
    with path.open("r+b") as file:
        file.seek(place_of)
        file.write(b"x")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("vhostnvme.storage.ssd_foreign._PATHS", "")
    with pytest.raises(ConfigError, match="holds data: if nothing of it is needed, fill its first"):
        opened(path)
    with path.open("r+b") as file:
        file.seek(place_of)
        file.write(b"\0")
    opened(path).close()


def test_another_cards_device(tmp_path: Path) -> None:
    path = file_of(tmp_path, 64 * MIB)
    with opened(path) as ssd:
        uuid = ssd.uuid
    with pytest.raises(ConfigError, match=f"belongs to another card, {CARD}: .*wipe it with `dd "):
        open_ssd(SsdOptions("ssd0", path), OTHER_CARD)
    with opened(path) as ssd:
        assert ssd.uuid == uuid
    run("dd", "if=/dev/zero", f"of={path}", "bs=4K", "count=1", "conv=notrunc")
    with open_ssd(SsdOptions("ssd0", path), OTHER_CARD) as ssd:
        assert ssd.uuid != uuid


def test_one_card_at_a_time(place: Path) -> None:
    with opened(place), pytest.raises(ConfigError, match="is in use"):
        opened(place)
    holder = (
        "import fcntl, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR); fcntl.flock(fd, fcntl.LOCK_EX)\n"
        "print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        with pytest.raises(ConfigError, match="in use by another card"):
            opened(place)
        process.stdin.close()
    opened(place).close()


def test_a_mounted_device(tmp_path: Path) -> None:
    with block_device(tmp_path, 64 * MIB) as device:
        run("mkfs.ext4", "-q", device)
        with (
            mounted(device, tmp_path / "mount", "defaults"),
            pytest.raises(ConfigError, match="is in use: it is mounted, a part of another device"),
        ):
            opened(device)


def test_nobody_mounts_it_meanwhile(tmp_path: Path) -> None:
    with block_device(tmp_path, 64 * MIB) as device:
        with opened(device), pytest.raises(OSError, match="busy"):
            os.close(os.open(device, os.O_RDWR | os.O_EXCL))
        os.close(os.open(device, os.O_RDWR | os.O_EXCL))


@pytest.mark.parametrize(
    ("size", "capacity", "thin", "why"),
    [
        (7 * MIB, None, False, "too small, 7340032 bytes: it needs 8M or more"),
        (0, None, False, "too small, 0 bytes"),
        (64 * MIB, 64 * MIB, False, "cannot have a capacity of 64M: it has room for 60M"),
        (64 * MIB, MIB, False, "cannot have a capacity of 1M: .* at least 4M"),
        (64 * MIB, None, True, "is no directory, so it cannot be thin"),
    ],
)
def test_options_that_cannot_be(
    tmp_path: Path, size: int, capacity: int | None, thin: bool, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        opened(file_of(tmp_path, size), capacity, thin)


def test_neither_directory_nor_device() -> None:
    with pytest.raises(ConfigError, match="is neither a directory nor a block device: name one"):
        opened(Path("/dev/null"))


def test_a_device_that_goes_away_comes_back(tmp_path: Path) -> None:
    path = file_of(tmp_path, 64 * MIB)
    link = tmp_path / "ssd"
    with loop_device(path) as device:
        link.symlink_to(device)
        ssd = opened(link)
        ssd.carve(FIRST, CHUNK)
        assert ssd.state().healthy
        link.unlink()
        state = ssd.state()
        assert not state.healthy and "is not there: connect it" in state.reason
        assert (state.available, state.allocated) == (0, CHUNK)
        with pytest.raises(Missing, match="is not there any more"):
            ssd.carve(SECOND, CHUNK)
    with block_device(tmp_path, 64 * MIB, "other") as other:
        link.symlink_to(other)
        assert "not the SSD that this card had there" in ssd.state().reason
        assert not any(other.read_bytes()[:MIB])
        link.unlink()
    with loop_device(path) as device:
        link.symlink_to(device)
        assert ssd.state().healthy
        assert ssd.found()[0] == [Found(FIRST, CHUNK, True)]
        ssd.close()
        with opened(link, known=ssd.uuid) as again:
            assert again.state().healthy


def test_a_device_that_something_else_writes_to(tmp_path: Path) -> None:
    path = file_of(tmp_path, 64 * MIB)
    with opened(path) as ssd:
        with path.open("r+b") as file:
            file.write(b"x" * 4096)
        state = ssd.state()
        assert not state.healthy and "not the SSD that this card had there" in state.reason


def test_a_device_that_shrinks(tmp_path: Path) -> None:
    path = file_of(tmp_path, 64 * MIB)
    with opened(path) as ssd:
        ssd.carve(FIRST, 8 * CHUNK)
        os.truncate(path, 20 * MIB)
        assert "namespaces lie on its first 37748736 bytes" in ssd.state().reason
        with pytest.raises(ConfigError, match="and it has only 20971520"):
            opened(path)
        os.truncate(path, 128 * MIB)
        assert ssd.state().capacity == 31 * CHUNK


def test_a_known_device_may_be_missing_at_first(tmp_path: Path) -> None:
    with opened(Path("/dev/vhostnvme-test-missing"), known=THIRD) as ssd:
        assert (ssd.kind, ssd.uuid) == ("block", THIRD)
        assert "is not there: connect it" in ssd.state().reason
