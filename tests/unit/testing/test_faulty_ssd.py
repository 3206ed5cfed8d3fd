"""The SSD that fails and heals on command: for what is open already, and nothing of it stays."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_protocol import until
from tests_storage import FIRST, opened

from vhostnvme.errors import PeerError
from vhostnvme.testing import CommandFailed, NvmeHost, nvme
from vhostnvme.testing.cards import CardPlan, Cards
from vhostnvme.testing.faulty_ssd import FaultySsd
from vhostnvme.testing.server import ServerProcess

MIB = 1 << 20
SIZE = 64 * MIB
BLOCK = 4096


class User:
    """Whoever has had the device open, past the page cache, since before the fault."""

    def __init__(self, ssd: FaultySsd) -> None:
        self.fd = os.open(ssd.device, os.O_RDWR | os.O_DIRECT)
        self._page = mmap.mmap(-1, BLOCK)

    def write(self, letter: bytes, offset: int = 0) -> None:
        self._page[:] = letter * BLOCK
        assert os.pwritev(self.fd, [self._page], offset) == BLOCK

    def read(self, offset: int = 0) -> bytes:
        assert os.preadv(self.fd, [self._page], offset) == BLOCK
        return self._page[:1]

    def flush(self) -> None:
        os.fsync(self.fd)


@pytest.fixture
def ssd(tmp_path: Path) -> Iterator[FaultySsd]:
    with FaultySsd(tmp_path / "ssd", SIZE) as made:
        yield made
    assert is_gone(made)


@pytest.fixture
def user(ssd: FaultySsd) -> Iterator[User]:
    made = User(ssd)
    yield made
    os.close(made.fd)


def is_gone(ssd: FaultySsd) -> bool:
    """No loop device and no mount of it is there."""
    files = Path("/sys/block").glob("loop*/loop/backing_file")
    text = "".join(each.read_text() for each in files) + Path("/proc/mounts").read_text()
    return str(ssd.image.parent) not in text


def fails(doing: object, *arguments: object) -> None:
    with pytest.raises(OSError) as caught:
        doing(*arguments)  # type: ignore[operator]
    assert caught.value.errno == errno.EIO


def begun(ssd: FaultySsd, *doings: object) -> list[threading.Thread]:
    """Each on a thread, in this order at the device."""
    threads = []
    for number, doing in enumerate(doings, 1):
        threads.append(threading.Thread(target=doing))  # type: ignore[arg-type]
        threads[-1].start()
        until(lambda number=number: ssd.counts().hanging == number, "it hangs", 10)  # type: ignore[misc]
    return threads


def test_it_is_a_block_device_whose_content_is_in_a_file(ssd: FaultySsd, user: User) -> None:
    assert ssd.device.is_block_device()
    assert os.lseek(user.fd, 0, os.SEEK_END) == SIZE
    user.write(b"a", SIZE - BLOCK)
    user.flush()
    assert user.read(SIZE - BLOCK) == b"a"
    assert ssd.image.read_bytes()[-BLOCK:] == b"a" * BLOCK


def test_it_fails_what_is_open_already_and_heals(ssd: FaultySsd, user: User) -> None:
    user.write(b"a")
    ssd.fail()
    fails(user.write, b"b")
    fails(user.read)
    fails(user.flush)
    assert ssd.counts().failed >= 3
    ssd.heal()
    assert user.read() == b"a"
    user.write(b"c")
    user.flush()


@pytest.mark.parametrize("kind", ["read", "write", "sync"])
def test_one_kind_of_requests_fails(ssd: FaultySsd, user: User, kind: str) -> None:
    doings = {"read": user.read, "write": lambda: user.write(b"b"), "sync": user.flush}
    ssd.fail([kind])
    fails(doings.pop(kind))
    for doing in doings.values():
        doing()


def test_what_hangs_is_carried_out_late(ssd: FaultySsd, user: User) -> None:
    user.write(b"a")
    read: list[bytes] = []
    ssd.hang()
    other = User(ssd)
    threads = begun(ssd, lambda: user.write(b"b", BLOCK), lambda: read.append(other.read()))
    assert read == []
    assert ssd.image.read_bytes()[BLOCK : 2 * BLOCK] == bytes(BLOCK)
    assert ssd.heal().hanging == 0
    for thread in threads:
        thread.join()
    os.close(other.fd)
    assert read == [b"a"]
    assert ssd.image.read_bytes()[BLOCK : 2 * BLOCK] == b"b" * BLOCK


@pytest.mark.parametrize("way", ["fail", "close", "kill"])
def test_what_hangs_can_fail_in_the_end(ssd: FaultySsd, user: User, way: str) -> None:
    ssd.hang(["write"])
    assert user.read() == b"\0"
    threads = begun(ssd, lambda: fails(user.write, b"b"))
    getattr(ssd, way)()
    threads[0].join(10)
    assert not threads[0].is_alive()
    assert ssd.image.read_bytes()[:BLOCK] == bytes(BLOCK)


def test_a_process_that_was_killed_leaves_nothing(ssd: FaultySsd, user: User) -> None:
    ssd.kill()
    fails(user.read)
    with pytest.raises(PeerError, match="has ended"):
        ssd.heal()


def test_its_content_is_there_when_it_is_made_again(tmp_path: Path) -> None:
    for expected, letter in ((b"\0", b"a"), (b"a", b"b")):
        with FaultySsd(tmp_path / "ssd", SIZE) as ssd:
            user = User(ssd)
            assert user.read() == expected
            user.write(letter)
            os.close(user.fd)
        until(lambda ssd=ssd: is_gone(ssd), "it has gone", 10)  # type: ignore[misc]


def test_discarded_and_zeroed_ranges_read_as_zeros(ssd: FaultySsd, user: User) -> None:
    user.write(b"a")
    user.write(b"b", 8 * MIB)
    made = opened(ssd.device)
    made.carve(FIRST, 16 * MIB)
    offset = made.disk(FIRST, 16 * MIB, 4096).offset  # type: ignore[attr-defined]
    assert offset == 4 * MIB
    assert not any(ssd.image.read_bytes()[offset:][: 16 * MIB])
    made.close()


def test_a_server_that_has_it_open_sees_the_errors(tmp_path: Path, ssd: FaultySsd) -> None:
    """Its io_uring has the device open since before."""
    with (
        ServerProcess([f"file:{ssd.device}"], directory=tmp_path) as server,
        NvmeHost.connect(server.socket) as host,
    ):
        host.enable()
        queue = host.create_queue_pair()
        queue.write(0, b"a" * BLOCK)
        ssd.fail()
        for doing in (lambda: queue.write(8, b"b" * BLOCK), lambda: queue.read(0, 8)):
            with pytest.raises(CommandFailed):
                doing()
        ssd.heal()
        assert queue.read(0, 8) == b"a" * BLOCK


def test_a_killed_server_has_its_writes_carried_out_late(tmp_path: Path, ssd: FaultySsd) -> None:
    """As a real disk does that comes to itself after its host's process has gone."""
    with (
        ServerProcess([f"file:{ssd.device}"], directory=tmp_path) as server,
        NvmeHost.connect(server.socket) as host,
    ):
        host.enable()
        queue = host.create_queue_pair()
        buffer = host.alloc(BLOCK)
        buffer.put(b"b" * BLOCK)
        ssd.hang()
        queue.submit(nvme.write(1, 0, BLOCK // 512), buffer)
        until(lambda: ssd.counts().hanging > 0, "it hangs", 10)
        server.process.kill()
        assert ssd.image.read_bytes()[:BLOCK] == bytes(BLOCK)
        ssd.heal()
        server.process.wait(10)
        assert ssd.image.read_bytes()[:BLOCK] == b"b" * BLOCK


def test_a_card_has_it_as_its_ssd(tmp_path: Path, ssd: FaultySsd) -> None:
    with Cards(1, CardPlan(devices={"a": [ssd.device]}), tmp_path / "cards") as cards:
        assert [(each.kind, each.healthy) for each in cards["a"].ssds()] == [("block", True)]
        ssd.fail()
        cards.wait(lambda: not cards["a"].ssds()[0].healthy, "it is seen to have failed")
