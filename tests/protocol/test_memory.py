"""The guest's memory comes and goes: DMA maps and unmaps, in flight and under the queues."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time

import pytest
from tests_protocol import BLOCK, MAPPED, PAGE, TRAPPED, Serve, dice, open_fds, pattern, until

from vhostnvme.errors import NativeError
from vhostnvme.native import EventType
from vhostnvme.testing import HostFlags, NvmeHost, nvme
from vhostnvme.testing.nvme import Reg, Status

DMA_MAP, DMA_UNMAP = 2, 3
MIB = 1 << 20
SIZE = 8 * MIB


def pieces(host: NvmeHost) -> int:
    return host.info.iova_base


@pytest.mark.parametrize("kind", [MAPPED, TRAPPED])
@pytest.mark.parametrize("shadow", [False, True])
def test_queues_go_on_after_their_memory_went_and_came(
    serve: Serve, kind: dict[str, object], shadow: bool
) -> None:
    host = serve("mem:1M", **kind).connect(memory_bytes=SIZE)
    if shadow and not host.enable_shadow_doorbells():
        pytest.skip("no shadow doorbells with mapped ones")
    queue = host.create_queue_pair(1, depth=8)
    for turn in range(10):
        queue.write(0, pattern(turn, PAGE))
        host.handle.dma_unmap(pieces(host), SIZE)
        cid = queue.submit(nvme.flush(1))  # while nobody can see it
        host.handle.dma_map(0, pieces(host), SIZE)
        queue.ring()
        assert queue.wait(cid).ok
        assert queue.read(0, 8) == pattern(turn, PAGE)
        assert host.identify_controller()


def test_a_remap_storm_as_at_a_boot(serve: Serve) -> None:
    """SeaBIOS maps the low memory about 36 times."""
    served = serve("mem:1M?delay=200us")
    host = served.connect(memory_bytes=SIZE)
    queue = host.create_queue_pair(1, depth=64)
    fds = open_fds()
    started = time.monotonic()
    with host.alloc(PAGE) as buffer:
        for turn in range(36):
            cids = [queue.submit(nvme.read(1, 0, 8), buffer) for _ in range(5)]
            host.handle.dma_unmap(pieces(host), SIZE)
            host.handle.dma_map(0, pieces(host), SIZE)
            assert all(queue.wait(cid).ok for cid in cids), f"turn {turn}"
    assert time.monotonic() - started < 5
    assert open_fds() == fds


def test_an_unmap_waits_for_what_is_in_flight(serve: Serve) -> None:
    served = serve("mem:1M?delay=50ms")
    host = served.connect(memory_bytes=SIZE)
    queue = host.create_queue_pair(1, depth=32)
    with host.alloc(PAGE) as buffer:
        cids = [queue.submit(nvme.read(1, 0, 8), buffer) for _ in range(20)]
        until(lambda: served.controller.info().inflight == 20, "all fetched")
        buffer.put(b"\xa5" * PAGE)
        host.handle.dma_unmap(pieces(host), SIZE)
        assert buffer.get() == bytes(PAGE), "all has been read when the unmap is answered"
        buffer.put(b"\xa5" * PAGE)
        time.sleep(0.1)
        assert buffer.get() == b"\xa5" * PAGE, "and nothing is written after it"
        host.handle.dma_map(0, pieces(host), SIZE)
        assert all(queue.wait(cid).ok for cid in cids)


def test_an_unmap_is_answered_in_time_whatever_the_disk_does(serve: Serve) -> None:
    """QEMU gives a device up after 5 s."""
    served = serve("mem:1M?delay=60s")
    host = served.connect(memory_bytes=SIZE)
    queue = host.create_queue_pair(1, depth=32)
    with host.alloc(PAGE) as buffer:
        cids = [queue.submit(nvme.read(1, 0, 8), buffer) for _ in range(5)]
        until(lambda: served.controller.info().inflight == 5, "all fetched")
        started = time.monotonic()
        host.handle.dma_unmap(pieces(host), SIZE)
        assert time.monotonic() - started < 3
        host.handle.dma_map(0, pieces(host), SIZE)
        for cid in cids:
            completion = queue.wait(cid)
            assert completion.code == Status.ABORT_REQUESTED and not completion.dnr


def test_other_memory_may_come_and_go_under_load(serve: Serve) -> None:
    served = serve("mem:4M?delay=100us")
    host = served.connect(memory_bytes=SIZE)
    queue = host.create_queue_pair(1, depth=64)
    rng = dice("test_other_memory_may_come_and_go_under_load")
    other = pieces(host) + (1 << 32)
    with host.alloc(64 * PAGE) as buffer:
        for turn in range(150):
            cids = {}
            for slot in range(rng.randrange(1, 30)):
                at = slot * PAGE
                buffer.put(pattern(turn * 100 + slot, PAGE), at)
                lba = slot * 8
                cids[queue.submit(buffer.point(nvme.write(1, lba, 8), PAGE, at))] = slot
            host.handle.dma_map(4 * MIB, other, MIB)
            host.handle.dma_unmap(other, MIB)
            assert all(queue.wait(cid).ok for cid in cids)
            slot = rng.choice(sorted(cids.values()))
            assert queue.read(slot * 8, 8) == pattern(turn * 100 + slot, PAGE)


def test_a_pointer_into_memory_that_went_is_refused(serve: Serve) -> None:
    host = serve("mem:1M").connect(memory_bytes=SIZE)
    queue = host.create_queue_pair()
    other = pieces(host) + (1 << 32)
    sqe = nvme.read(1, 0, 8).with_fields(prp1=other)
    for _ in range(5):
        host.handle.dma_map(4 * MIB, other, MIB)
        assert queue.command(sqe).ok
        host.handle.dma_unmap(other, MIB)
        assert queue.command(sqe).code == Status.DATA_TRANSFER_ERROR


def test_256_regions_and_more(serve: Serve) -> None:
    served = serve("mem:1M")
    host = served.connect(memory_bytes=SIZE)
    queue = host.create_queue_pair()
    base = pieces(host) + (1 << 32)
    mapped = 0
    with contextlib.suppress(NativeError):
        for i in range(400):
            host.handle.dma_map(4 * MIB, base + i * MIB, 64 << 10)
            mapped += 1
    assert mapped >= 200
    for i in (0, 100, 199):
        assert queue.command(nvme.read(1, 0, 8).with_fields(prp1=base + i * MIB)).ok
    for i in range(mapped):
        host.handle.dma_unmap(base + i * MIB, 64 << 10)
    assert queue.command(nvme.flush(1)).ok


def test_regions_that_cannot_be_are_refused(serve: Serve) -> None:
    host = serve("mem:1M").connect(memory_bytes=SIZE)
    queue = host.create_queue_pair()
    base, other = pieces(host), pieces(host) + (1 << 32)
    fds = open_fds()
    cases = {
        "empty": (0, other, 0, 3),
        "wrapping": (0, 2**64 - PAGE, 2 * PAGE, 3),
        "overlapping": (0, base + MIB, MIB, 3),
        "around": (0, base - PAGE, SIZE + 2 * PAGE, 3),
        "beyond the file": (0, other, SIZE + PAGE, 3),
        "at the end of the file": (SIZE, other, PAGE, 3),
        "far beyond the file": (1 << 60, other, PAGE, 3),
        "huge": (0, other, 1 << 62, 3),
    }
    for what, (offset, iova, size, flags) in cases.items():
        with pytest.raises(NativeError):
            host.handle.dma_map(offset, iova, size, flags)
        assert queue.command(nvme.flush(1)).ok, what
    assert open_fds() == fds
    for iova, size in ((other, MIB), (base, MIB), (base + MIB, SIZE), (base, 0)):
        with pytest.raises(NativeError):
            host.handle.dma_unmap(iova, size)
    assert queue.command(nvme.flush(1)).ok


def test_memory_that_is_not_shared_is_told_in_one_sentence(serve: Serve) -> None:
    served = serve("mem:1M")
    host = served.connect(HostFlags.MAP_WITHOUT_FD, enable=False)
    served.runtime.poll_events()
    with pytest.raises(NativeError):
        host.enable()
    events = served.runtime.poll_events()
    (told,) = [event for event in events if event.type is EventType.MEMORY_NOT_SHARED]
    assert "share=on" in told.text and "-object" in told.text


def test_memory_that_is_shared_in_name_only_is_told(serve: Serve) -> None:
    """As with share=off: the descriptor maps, and what the guest writes does not arrive."""
    served = serve("mem:1M")
    host = served.connect(HostFlags.NO_MAP, memory_bytes=SIZE, enable=False)
    fd = os.memfd_create("other")
    os.ftruncate(fd, SIZE)
    payload = struct.pack("<IIQQQ", 32, 3, 0, pieces(host), SIZE)
    host.handle.message(DMA_MAP, payload, [fd])
    os.close(fd)
    host.enable()
    served.runtime.poll_events()
    host.submit(0, nvme.identify(1))
    until(lambda: host.fatal, "CSTS.CFS")
    kinds = [event.type for event in served.runtime.poll_events()]
    assert EventType.MEMORY_NOT_SHARED in kinds
    host.handle.dma_unmap(pieces(host), SIZE)
    host.handle.dma_map(0, pieces(host), SIZE)
    host.enable()  # and with true memory it recovers
    assert host.create_queue_pair().read(0, 1) == bytes(BLOCK)


def test_a_guest_that_changes_its_lists_meanwhile_breaks_nothing(serve: Serve) -> None:
    """A racing writer on PRP lists, SGLs and the submission queue itself."""
    host = serve("mem:4M").connect(memory_bytes=SIZE)
    queue = host.create_queue_pair(1, depth=64)
    rng = dice("test_a_guest_that_changes_its_lists_meanwhile_breaks_nothing")
    buffer = host.alloc(2 * MIB)
    lists = host.alloc(4 * PAGE)
    stop = threading.Event()
    good = [buffer.iova + PAGE * i for i in range(256)]
    bad = [0, 1 << 40, buffer.iova + 4, 2**64 - 8]
    contents = []
    for _ in range(16):
        words = [rng.choice(bad) if rng.random() < 0.01 else rng.choice(good) for _ in range(512)]
        contents.append(struct.pack("<512Q", *words))

    def race() -> None:
        turn = 0
        while not stop.is_set():
            lists.put(contents[turn % 16], PAGE * (turn % 4))
            turn += 1

    racer = threading.Thread(target=race)
    racer.start()
    try:
        for _ in range(2000):
            sqe = nvme.read(1, 0, rng.choice([24, 100, 2048]))
            sqe = sqe.with_fields(prp1=rng.choice(good), prp2=lists.iova + rng.randrange(512) * 8)
            if rng.random() < 0.3:
                sqe = sqe.with_fields(flags=0x40, prp1=lists.iova, prp2=0x3 << 60 | 1024)
            queue.command(sqe)
    finally:
        stop.set()
        racer.join()
    assert host.read32(Reg.CSTS) & 3 == 1
