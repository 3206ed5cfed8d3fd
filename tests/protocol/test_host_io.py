"""The vfio-user host against our server: bring-up, I/O, queues, interrupts, loss of the server."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from vhostnvme.errors import NativeError, PeerError
from vhostnvme.native.host import PeerTimeout
from vhostnvme.testing import CommandFailed, HostFlags, NvmeHost, QueuePair, Sqe, Status, nvme
from vhostnvme.testing.server import ServerProcess

BLOCK = 512


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess(["mem:64M"]) as running:
        yield running


@pytest.fixture
def host(server: ServerProcess) -> Iterator[NvmeHost]:
    with NvmeHost.connect(server.socket) as connected:
        connected.enable()
        yield connected


@pytest.fixture
def queue(host: NvmeHost) -> QueuePair:
    return host.create_queue_pair(1, depth=64)


def pattern(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


@pytest.mark.parametrize(
    "flags",
    [
        HostFlags(0),
        HostFlags.VERSION_BARE,
        HostFlags.MSG_ID_ZERO,
        HostFlags.UNMAP_WITH_FD,
        HostFlags.TRAP_DOORBELLS,
        HostFlags.TRAP_DOORBELLS | HostFlags.SYNC_DOORBELLS,
    ],
)
def test_every_kind_of_host_is_served(server: ServerProcess, flags: HostFlags) -> None:
    with NvmeHost.connect(server.socket, flags=flags, memory_bytes=8 << 20) as host:
        host.enable()
        queue = host.create_queue_pair()
        data = pattern(int(flags), 8 * BLOCK)
        queue.write(8, data)
        assert queue.read(8, 8) == data


def test_many_regions_of_2_mib_at_the_hosts_own_addresses(server: ServerProcess) -> None:
    with NvmeHost.connect(
        server.socket, memory_bytes=16 << 20, iova_base=0x7F0000000000, map_chunk_bytes=2 << 20
    ) as host:
        host.enable()
        queue = host.create_queue_pair()
        buffer = host.alloc(6 << 20)  # so that one of the transfers crosses two regions
        for at in range(0, 6 << 20, 1 << 19):
            data = pattern(at, 1 << 18)
            buffer.put(data, at)
            sqe = buffer.point(nvme.write(1, at // BLOCK, len(data) // BLOCK), len(data), at)
            assert queue.command(sqe).ok
            assert queue.read(at // BLOCK, len(data) // BLOCK) == data


@pytest.mark.parametrize("blocks", [1, 7, 8, 9, 16, 17, 100, 1023, 2048])
def test_transfers_of_every_prp_shape(queue: QueuePair, blocks: int) -> None:
    data = pattern(blocks, blocks * BLOCK)
    queue.write(5, data)
    assert queue.read(5, blocks) == data


def test_data_may_start_inside_a_page(host: NvmeHost, queue: QueuePair) -> None:
    data = pattern(1, 24 * BLOCK)
    with host.alloc(64 << 10) as buffer:
        for at in (4, 512, 4092, 4096 + 8):
            buffer.put(data, at)
            assert queue.command(buffer.point(nvme.write(1, 0, 24), len(data), at)).ok
            assert queue.read(0, 24) == data


def test_sgl_in_pieces(host: NvmeHost, queue: QueuePair) -> None:
    data = pattern(2, 4 * BLOCK)
    with host.alloc(64 << 10) as buffer, host.alloc(4096) as segment:
        lengths, at, descriptors = (100, 924, 1000, 24), 16, b""
        assert sum(lengths) == len(data)
        done = 0
        for length in lengths:
            buffer.put(data[done : done + length], at)
            descriptors += nvme.sgl(buffer.iova + at, length)
            at += 8192
            done += length
        segment.put(descriptors)
        completion = queue.command(
            nvme.write(1, 40, 4).with_sgl(segment.iova, len(descriptors), kind=3)
        )
        if completion.code == Status.SGL_TYPE or completion.code == Status.INVALID_FIELD:
            pytest.skip("the controller has no SGLs")
        assert completion.ok, str(completion)
    assert queue.read(40, 4) == data


def test_burst_with_one_doorbell(host: NvmeHost, queue: QueuePair) -> None:
    with host.alloc(63 * 4096) as buffer:
        cids = {}
        for i in range(63):
            sqe = buffer.point(nvme.read(1, i, 8), 4096, i * 4096)
            cids[queue.submit(sqe, doorbell=False)] = i
        with pytest.raises(NativeError, match="full"):
            queue.submit(nvme.flush(1), doorbell=False)
        assert queue.poll() == []
        queue.ring()
        for _ in range(63):
            completion = host.wait_any(1)
            assert completion.ok
            del cids[completion.cid]
        assert not cids and queue.inflight == 0


def test_rings_wrap_and_phases_turn(host: NvmeHost) -> None:
    queue = host.create_queue_pair(1, depth=3)
    for i in range(50):
        data = pattern(i, BLOCK)
        queue.write(i, data)
        assert queue.read(i, 1) == data


def test_queues_share_a_completion_queue(host: NvmeHost) -> None:
    assert host.create_cq(1, 64).ok
    assert host.create_sq(1, 16, 1).ok
    assert host.create_sq(2, 16, 1).ok
    first = host.submit(1, nvme.flush(1))
    second = host.submit(2, nvme.flush(1))
    assert host.wait(2, second).sqid == 2
    assert host.wait(1, first).sqid == 1


def test_an_interrupt_per_completion(host: NvmeHost) -> None:
    host.enable_interrupts(3)
    queue = host.create_queue_pair(1, vector=2, interrupts=True)
    for _ in range(5):
        cid = queue.submit(nvme.flush(1))
        assert host.wait_interrupt(2) >= 1
        assert queue.wait(cid).ok
    with pytest.raises(PeerTimeout):
        host.wait_interrupt(2, 0.02)


def test_shadow_doorbells_carry_io(server: ServerProcess) -> None:
    with NvmeHost.connect(server.socket, flags=HostFlags.TRAP_DOORBELLS) as host:
        host.enable()
        if not host.enable_shadow_doorbells():
            pytest.skip("the controller has no shadow doorbells")
        queue = host.create_queue_pair(1)
        for i in range(200):
            data = pattern(i, BLOCK)
            queue.write(i, data)
            assert queue.read(i, 1) == data


def test_a_failed_command_says_what_and_why(queue: QueuePair) -> None:
    with pytest.raises(CommandFailed, match=r"reading 1 blocks at .*LBA_RANGE \(0/80\) DNR"):
        queue.read(1 << 40, 1)
    completion = queue.command(Sqe(0x7F, nsid=1))
    assert completion.code == Status.INVALID_OPCODE
    assert queue.host.csts & 1


def test_any_number_of_lives(server: ServerProcess) -> None:
    for life in range(20):
        with NvmeHost.connect(server.socket, memory_bytes=2 << 20) as host:
            host.enable()
            queue = host.create_queue_pair()
            queue.flush()
            if life % 3 == 0:
                host.disable()
            elif life % 3 == 1:
                host.shutdown()
                assert host.csts & 0xC == 0x8


def test_a_second_host_is_told_that_the_server_is_busy(host: NvmeHost) -> None:
    with pytest.raises(PeerError):
        NvmeHost.connect(host.path, timeout=0.3)


def test_nobody_listens(tmp_path: object) -> None:
    with pytest.raises(PeerError, match="is the server running"):
        NvmeHost.connect(f"{tmp_path}/cntrl")


def test_a_killed_server_is_noticed() -> None:
    with ServerProcess(["mem:16M"]) as server, NvmeHost.connect(server.socket) as host:
        host.enable()
        queue = host.create_queue_pair()
        queue.flush()
        server.kill()
        cid = host.submit(0, nvme.async_event()) if host.info.doorbells_mapped else None
        with pytest.raises(PeerError):
            host.wait(0, 0 if cid is None else cid)
        with pytest.raises(PeerError):
            host.read32(nvme.Reg.CSTS)
        server.restart()
        with NvmeHost.connect(server.socket) as again:
            again.enable()
