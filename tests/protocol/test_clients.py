"""Clients that go, lie or are not alone: disconnects, garbage on the socket, the socket's path."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_protocol import (
    PAGE,
    Serve,
    Served,
    dice,
    open_fds,
    pattern,
    resident_bytes,
    threads,
    until,
)

from vhostnvme.errors import NativeError, PeerError
from vhostnvme.native import Controller, ControllerOptions, Runtime
from vhostnvme.testing import NvmeHost, QueuePair, nvme
from vhostnvme.testing.server import ServerProcess

MIB = 1 << 20
HEADER = struct.Struct("<HHIII")  # message id, command, size, flags, error
VERSION, DMA_MAP, DMA_UNMAP, REGION_READ, REGION_WRITE = 1, 2, 3, 9, 10
COMMAND, REPLY, NO_REPLY, ERROR = 0, 1, 0x10, 0x20


def header(command: int, size: int, flags: int = COMMAND, ident: int = 7) -> bytes:
    return HEADER.pack(ident, command, size, flags, 0)


def message(command: int, payload: bytes, flags: int = COMMAND) -> bytes:
    return header(command, HEADER.size + len(payload), flags) + payload


def raw_client(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(5.0)
    client.connect(str(path))
    return client


@contextlib.contextmanager
def traffic(host: NvmeHost) -> Iterator[list[int]]:
    """Writes and reads back on another controller all the while; one number for each round."""
    queue = host.create_queue_pair(9)
    rounds: list[int] = []
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                data = pattern(len(rounds), PAGE)
                queue.write(0, data)
                assert queue.read(0, 8) == data
                rounds.append(1)
                time.sleep(0.0005)
        except BaseException as error:
            failures.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield rounds
    finally:
        stop.set()
        worker.join()
    assert not failures, failures
    assert rounds


def works(served: Served) -> None:
    with NvmeHost.connect(served.path, memory_bytes=4 * MIB, timeout=5) as host:
        host.enable()
        queue = host.create_queue_pair()
        queue.write(0, pattern(99, PAGE))
        assert queue.read(0, 8) == pattern(99, PAGE)
    until(lambda: not served.controller.info().attached, "the client's end was seen")


# --- clients that go ---


def loaded(host: NvmeHost, rng: random.Random) -> QueuePair:
    queue = host.create_queue_pair(1, depth=64)
    buffer = host.alloc(PAGE)
    for _ in range(rng.randrange(50)):
        sqe = rng.choice([nvme.read(1, 0, 8), nvme.write(1, 8, 8), nvme.flush(1)])
        queue.submit(sqe, None if sqe.opcode == nvme.Io.FLUSH else buffer)
    return queue


@pytest.mark.parametrize("delay", ["", "?delay=1ms", "?delay=300ms"])
def test_a_client_may_go_at_any_moment(serve: Serve, delay: str) -> None:
    served = serve(f"mem:1M{delay}")
    rng = dice("test_a_client_may_go_at_any_moment")
    before: list[tuple[int, int]] = []
    memory = 0
    for turn in range(20):
        host = NvmeHost.connect(served.path, memory_bytes=4 * MIB)
        if rng.random() < 0.9:
            host.enable()
            if rng.random() < 0.3:
                host.enable_interrupts()
            if rng.random() < 0.5:
                host.submit_async_event()
                host.enable_shadow_doorbells()
            loaded(host, rng)
            time.sleep(rng.random() * 0.002)
        host.close()
        if turn == 4:
            memory = resident_bytes()
        if turn >= 4:
            until(lambda: not served.controller.info().attached, "the client's end was seen")
            before.append((open_fds(), threads()))
    assert len(set(before)) == 1, f"file descriptors and threads: {before}"
    assert resident_bytes() - memory < 8 * MIB
    info = served.controller.info()
    assert info.inflight == 0 and info.submission_queues == 0
    with served.connect() as host:
        assert host.create_queue_pair().read(0, 8) is not None


def test_a_client_that_goes_while_it_waits_for_a_slow_disk(serve: Serve) -> None:
    served = serve("mem:1M?delay=60s", "mem:1M")
    host = served.connect()
    queue = host.create_queue_pair()
    for _ in range(10):
        queue.submit(nvme.flush(1))
    until(lambda: served.controller.info().inflight == 10, "all fetched")
    host.close()
    again = served.connect()  # within its 5 s
    assert again.create_queue_pair(1, nsid=2).read(0, 1) == bytes(512)


def test_the_second_client_is_served_after_the_first(served: Served) -> None:
    first = served.connect()
    with pytest.raises(PeerError):
        NvmeHost.connect(served.path, timeout=0.2)
    assert first.identify_controller()
    first.close()
    works(served)


def test_nothing_of_the_last_client_remains(serve: Serve) -> None:
    served = serve("mem:1M")
    first = served.connect()
    first.set_feature(6, 0)
    first.set_feature(0xB, 0)
    first.create_queue_pair(1)
    first.close()
    second = served.connect(enable=False)
    assert second.csts == 0 and second.read32(nvme.Reg.CC) == 0
    assert second.read32(nvme.Reg.AQA) == 0
    assert second.read64(nvme.Reg.ASQ) == second.read64(nvme.Reg.ACQ) == 0
    second.enable()
    assert second.get_feature(6) == 1 and second.get_feature(0xB) != 0
    assert second.create_sq(1, 16, 1).code == nvme.Status.CQ_INVALID


# --- garbage ---


def garbage(rng: random.Random) -> dict[str, bytes]:
    return {
        "nothing": b"",
        "one byte": b"\0",
        "half a header": header(VERSION, 64)[:8],
        "a header without its body": header(VERSION, 4096),
        "size 0": header(VERSION, 0),
        "size 15": header(VERSION, 15),
        "a huge size": header(VERSION, 0xFFFFFFFF),
        "2 GiB": header(VERSION, 0x7FFFFFFF) + bytes(100),
        "a version of no size": header(VERSION, 16),
        "a version of 3 bytes": message(VERSION, b"\0\0\1"),
        "version 9.9": message(VERSION, struct.pack("<HH", 9, 9) + b"{}\0"),
        "broken JSON": message(VERSION, struct.pack("<HH", 0, 1) + b'{"capabilities":{\0'),
        "JSON of the wrong kind": message(VERSION, struct.pack("<HH", 0, 1) + b"[1,2]\0"),
        "JSON without an end": message(VERSION, struct.pack("<HH", 0, 1) + b'{"a":1}'),
        "deep JSON": message(VERSION, struct.pack("<HH", 0, 1) + b"[" * 3000 + b"\0"),
        "a reply": message(VERSION, bytes(8), REPLY),
        "an unknown command": message(77, bytes(32)),
        "no version first": message(DMA_MAP, bytes(32)),
        "random bytes": rng.randbytes(5000),
        "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    }


def send_and_go(path: Path, data: bytes, fds: list[int] | None = None) -> None:
    with raw_client(path) as client, contextlib.suppress(OSError):
        if fds:
            socket.send_fds(client, [data], fds)
        elif data:
            client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass


def test_garbage_in_place_of_a_version(serve: Serve) -> None:
    rng = dice("test_garbage_in_place_of_a_version")
    served, other = serve("mem:1M"), serve("mem:1M")
    fds = open_fds()
    with traffic(other.connect()):
        for data in garbage(rng).values():
            send_and_go(served.path, data)
        works(served)
    until(lambda: open_fds() <= fds + 6, "no descriptor is left behind")


def test_garbage_after_the_version(serve: Serve) -> None:
    rng = dice("test_garbage_after_the_version")
    served, other = serve("mem:1M"), serve("mem:1M")
    region = struct.pack("<QII", 0x14, 0, 0xFFFFFFFF)
    cases = garbage(rng) | {
        "a read of 4 GiB": message(REGION_READ, region),
        "a write without data": message(REGION_WRITE, struct.pack("<QII", 0x14, 0, 4)),
        "a write of too much data": message(REGION_WRITE, struct.pack("<QII", 0x14, 0, 4) * 4),
        "a region that is not there": message(REGION_READ, struct.pack("<QII", 0, 99, 4)),
        "an offset that wraps": message(REGION_READ, struct.pack("<QII", 2**64 - 2, 0, 4)),
        "a short map": message(DMA_MAP, bytes(8)),
        "a map without a descriptor": message(DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0, PAGE)),
        "a short unmap": message(DMA_UNMAP, bytes(4)),
        "an unmap of all and more": message(
            DMA_UNMAP, struct.pack("<IIQQ", 24, 0xFFFFFFFF, 0, 2**64 - 1)
        ),
        "a bitmap": message(DMA_UNMAP, struct.pack("<IIQQ", 24, 1, 1 << 32, 4 * MIB) + bytes(40)),
        "interrupts without number": message(8, struct.pack("<IIIII", 20, 0x24, 2, 0, 0xFFFFFFFF)),
        "vector -1": message(8, struct.pack("<IIIII", 20, 0x24, 2, 0xFFFFFFFF, 2)),
        "interrupts of no type": message(8, struct.pack("<IIIII", 20, 0x24, 99, 0, 1)),
        "a posted nonsense": message(REGION_WRITE, bytes(7), NO_REPLY),
        "posted doorbells, cut short": message(
            REGION_WRITE, struct.pack("<QIII", 0x1000, 0, 4, 3), NO_REPLY
        )[:-3],
    }
    with traffic(other.connect()):
        for what, data in cases.items():
            host = NvmeHost.connect(served.path, memory_bytes=4 * MIB)
            host.enable()
            host.create_queue_pair().flush()
            with contextlib.suppress(PeerError, NativeError):
                host.handle.raw_send(data)
                host.handle.raw_recv(4096, 20)
            host.close()
            assert not served.controller.info().fatal, what
        works(served)


def test_random_messages_with_random_descriptors(serve: Serve) -> None:
    rng = dice("test_random_messages_with_random_descriptors")
    served, other = serve("mem:1M"), serve("mem:1M")
    fd = os.memfd_create("garbage")
    os.ftruncate(fd, MIB)
    fds = open_fds()
    with traffic(other.connect()):
        for _ in range(60):
            host = NvmeHost.connect(served.path, memory_bytes=2 * MIB)
            with contextlib.suppress(PeerError, NativeError):
                for _ in range(rng.randrange(1, 8)):
                    payload = rng.randbytes(rng.choice([0, 4, 16, 20, 24, 32, 40, 200]))
                    if rng.random() < 0.5:  # a sound beginning
                        words = [rng.choice([0, 1, 2, 3, 4, 0x24, 32, PAGE]) for _ in range(8)]
                        payload = struct.pack("<8I", *words)[: len(payload)]
                    flags = rng.choice([COMMAND, COMMAND, NO_REPLY])
                    data = message(rng.randrange(16), payload, flags)
                    host.handle.raw_send(data, [fd] * rng.choice([0, 0, 1, 2, 8]))
                    if not flags:
                        host.handle.raw_recv(8192, 10)
            host.close()
        works(served)
    os.close(fd)
    until(lambda: open_fds() <= fds + 6, "no descriptor is left behind")


@pytest.mark.parametrize("count", [1, 8, 9, 64, 253])
def test_more_descriptors_than_a_message_may_have(serve: Serve, count: int) -> None:
    served = serve("mem:1M")
    works(served)
    fd = os.memfd_create("many")
    fds = open_fds()
    for command in (VERSION, DMA_MAP, REGION_READ, 8):
        send_and_go(served.path, message(command, bytes(32)), [fd] * count)
        host = served.connect(enable=False)
        with contextlib.suppress(PeerError, NativeError):
            host.handle.raw_send(message(command, bytes(32)), [fd] * count)
            host.handle.raw_recv(4096, 20)
        host.close()
    works(served)
    until(lambda: open_fds() <= fds, "every descriptor is closed")
    os.close(fd)


def test_a_client_that_says_nothing_holds_nobody_up_for_long(serve: Serve) -> None:
    served, other = serve("mem:1M"), serve("mem:1M")
    host = other.connect()
    queue = host.create_queue_pair()
    silent = raw_client(served.path)
    slowest = 0.0
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        started = time.monotonic()
        queue.flush()
        slowest = max(slowest, time.monotonic() - started)
    silent.close()
    assert slowest < 1.5
    works(served)


def test_a_client_that_does_not_read_its_replies(serve: Serve) -> None:
    served, other = serve("mem:1M"), serve("mem:1M")
    with traffic(other.connect()):
        host = served.connect()
        ask = message(REGION_READ, struct.pack("<QII", 0, 0, 4096)) * 64
        with contextlib.suppress(PeerError, NativeError):
            for _ in range(40):
                host.handle.raw_send(ask)
        host.close()
        works(served)


# --- the path of the socket ---


def listen(runtime: Runtime, path: Path) -> None:
    """A controller listens there, for a moment."""
    with Controller(runtime, ControllerOptions(serial="path")) as controller:
        controller.listen(path)


def test_a_live_socket_is_not_taken_over(runtime: Runtime, served: Served) -> None:
    with pytest.raises(NativeError, match="in use by another server"):
        listen(runtime, served.path)
    host = served.connect()  # busy is alive, too
    with pytest.raises(NativeError, match="in use by another server"):
        listen(runtime, served.path)
    assert host.identify_controller()


def test_a_stale_socket_is_replaced(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "cntrl"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert path.is_socket()
    listen(runtime, path)
    assert not path.exists(), "an ordered end takes the socket away"


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_something_else_of_that_name_is_kept(runtime: Runtime, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cntrl"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        (tmp_path / "precious").write_text("precious")
        path.symlink_to(tmp_path / "precious")
    with pytest.raises(NativeError, match="there is a file of that name"):
        listen(runtime, path)
    if kind == "file":
        assert path.read_text() == "precious"
    assert path.exists() or path.is_symlink()


def test_a_path_that_is_too_long(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(NativeError, match="too long"):
        listen(runtime, tmp_path / ("x" * 120))


def test_a_path_that_is_relative(runtime: Runtime) -> None:
    with pytest.raises(NativeError, match="not absolute"):
        listen(runtime, Path("cntrl"))


def test_a_folder_that_is_missing(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(NativeError, match="No such file or directory"):
        listen(runtime, tmp_path / "missing" / "cntrl")


def test_the_socket_is_for_its_owner_only(served: Served) -> None:
    assert served.path.stat().st_mode & 0o777 == 0o600


def test_a_server_that_was_killed_is_replaced(tmp_path: Path) -> None:
    with ServerProcess(["mem:1M"], directory=tmp_path) as server:
        server.kill()
        assert server.socket.is_socket()
        server.restart()
        with NvmeHost.connect(server.socket) as host:
            host.enable()
            with pytest.raises(PeerError, match="in use by another server"):
                ServerProcess(["mem:1M"], directory=tmp_path)
            assert host.identify_controller()
