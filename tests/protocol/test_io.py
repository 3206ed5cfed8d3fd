"""I/O commands (NVM Command Set 3.2): ranges, flags, flush, zeroes, deallocation, refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests_protocol import BLOCK, PAGE, Serve, dice, pattern, refused

from vhostnvme.testing import NvmeHost, QueuePair, nvme, replay
from vhostnvme.testing.nvme import Io, Sqe, Status

BLOCKS = 32768  # of the default namespace, 16 MiB
FUA = 1 << 30
BROADCAST = 0xFFFFFFFF
RANGED = (Io.READ, Io.WRITE, Io.COMPARE, Io.WRITE_ZEROES)


def ranged(opcode: int, lba: int, nlb: int, nsid: int = 1) -> Sqe:
    """`nlb` is zero-based, as on the wire."""
    return Sqe(opcode, nsid=nsid, cdw10=lba & 0xFFFFFFFF, cdw11=lba >> 32, cdw12=nlb)


@pytest.mark.parametrize("opcode", RANGED)
@pytest.mark.parametrize(
    ("lba", "nlb"),
    [
        (BLOCKS, 0),
        (BLOCKS - 1, 1),
        (BLOCKS - 7, 7),
        (0, 0xFFFF),
        (2**64 - 1, 0),
        (2**64 - 1, 1),  # SLBA + NLB wraps to 1
        (2**64 - 8, 15),
        (1 << 55, 0),  # times 512 it wraps to 0
        (2**63, 7),
    ],
)
def test_a_range_beyond_the_namespace_is_refused(
    queue: QueuePair, opcode: int, lba: int, nlb: int
) -> None:
    with queue.host.alloc(PAGE) as buffer:
        refused(queue.command(buffer.point(ranged(opcode, lba, nlb))), Status.LBA_RANGE)


@pytest.mark.parametrize("opcode", RANGED)
def test_the_last_block(queue: QueuePair, opcode: int) -> None:
    with queue.host.alloc(PAGE) as buffer:
        assert queue.command(buffer.point(ranged(opcode, BLOCKS - 1, 0))).ok
        assert queue.command(buffer.point(ranged(opcode, BLOCKS - 8, 7))).ok


@pytest.mark.parametrize("opcode", [*RANGED, Io.FLUSH, Io.DSM])
@pytest.mark.parametrize("nsid", [0, 2, 256, 257, 0xFFFFFFFE])
def test_a_namespace_that_is_not_there_is_refused(queue: QueuePair, opcode: int, nsid: int) -> None:
    with queue.host.alloc(PAGE) as buffer:
        sqe = buffer.point(ranged(opcode, 0, 0, nsid))
        refused(queue.command(sqe), Status.INVALID_NAMESPACE)


@pytest.mark.parametrize("opcode", [*RANGED, Io.DSM])
def test_the_broadcast_namespace_is_for_flush_only(queue: QueuePair, opcode: int) -> None:
    with queue.host.alloc(PAGE) as buffer:
        sqe = buffer.point(ranged(opcode, 0, 0, BROADCAST))
        refused(queue.command(sqe), Status.INVALID_NAMESPACE)


def test_flush_to_all_flushes_each_once(serve: Serve) -> None:
    served = serve("mem:1M", "mem:1M?delay=2ms", "null:1M")
    queue = served.connect().create_queue_pair()
    assert queue.command(nvme.flush(BROADCAST)).ok
    assert [namespace.info().flushes for namespace in served.namespaces] == [1, 1, 1]
    assert queue.command(nvme.flush(2)).ok
    assert [namespace.info().flushes for namespace in served.namespaces] == [1, 2, 1]


def test_flush_to_all_tells_a_failure(serve: Serve) -> None:
    served = serve("mem:1M", "mem:1M?error=100%&error-ops=flush", "mem:1M")
    queue = served.connect().create_queue_pair()
    refused(queue.command(nvme.flush(BROADCAST)), Status.WRITE_FAULT, dnr=None)
    assert queue.command(nvme.flush(3)).ok


@pytest.mark.parametrize("where", ["mem", "file"])
def test_compare(serve: Serve, tmp_path: Path, where: str) -> None:
    served = serve("mem:1M" if where == "mem" else f"file:{tmp_path}/d?size=1M")
    host = served.connect()
    queue = host.create_queue_pair()
    data = pattern(1, 3 * PAGE)
    queue.write(8, data)
    with host.alloc(3 * PAGE) as buffer:
        sqe = buffer.point(nvme.compare(1, 8, 3 * PAGE // BLOCK))
        buffer.put(data)
        assert queue.command(sqe).ok
        assert queue.command(sqe.with_fields(cdw12=sqe.cdw12 | FUA)).ok
        buffer.put(bytes([data[-1] ^ 1]), 3 * PAGE - 1)
        refused(queue.command(sqe), Status.COMPARE_FAILURE, dnr=None)
    assert queue.read(8, 3 * PAGE // BLOCK) == data
    smart = host.log_page(2, 512)
    assert (
        int.from_bytes(smart[64:80], "little") == 3
    )  # host reads: one, and the compares that were equal
    assert smart[160:176] == bytes(16)  # to differ is no media error


@pytest.mark.parametrize("flags", [1, 2, 3])
@pytest.mark.parametrize("opcode", [Io.READ, Io.WRITE, Io.FLUSH, Io.COMPARE])
def test_fused_commands_are_refused(queue: QueuePair, opcode: int, flags: int) -> None:
    """But for Compare and Write, which need each other."""
    lacks_partner = (opcode, flags) in ((Io.COMPARE, 1), (Io.WRITE, 2))
    with queue.host.alloc(PAGE) as buffer:
        sqe = buffer.point(ranged(opcode, 0, 0)).with_fields(flags=flags)
        completion = queue.command(sqe)
    refused(completion, Status.ABORT_MISSING_FUSED if lacks_partner else Status.INVALID_FIELD)


@pytest.mark.parametrize("opcode", [3, 6, 7, 0xA, 0x14, 0x1D, 0x7F, 0x80, 0xFF])
def test_opcodes_that_are_not_offered_are_refused(queue: QueuePair, opcode: int) -> None:
    refused(queue.command(ranged(opcode, 0, 0)), Status.INVALID_OPCODE)


@pytest.mark.parametrize("prinfo", [1, 2, 4, 8, 15])
def test_protection_information_is_refused(queue: QueuePair, prinfo: int) -> None:
    with queue.host.alloc(PAGE) as buffer:
        for opcode in RANGED:
            sqe = buffer.point(ranged(opcode, 0, prinfo << 26))
            refused(queue.command(sqe), Status.INVALID_FIELD)


@pytest.mark.parametrize("where", ["mem", "file"])
def test_fua_and_limited_retry_are_accepted(serve: Serve, tmp_path: Path, where: str) -> None:
    spec = "mem:1M" if where == "mem" else f"file:{tmp_path}/d?size=1M"
    queue = serve(spec).connect().create_queue_pair()
    data = pattern(1, PAGE)
    queue.write(0, data, fua=True)
    assert queue.read(0, 8) == data
    with queue.host.alloc(PAGE) as buffer:
        for opcode in RANGED:
            sqe = buffer.point(ranged(opcode, 8, 7 | FUA | 1 << 31))
            assert queue.command(sqe).ok
    assert queue.read(8, 8) == bytes(PAGE)


def test_with_the_write_cache_off_every_write_is_durable(serve: Serve, tmp_path: Path) -> None:
    record = tmp_path / "log"
    served = serve(f"file:{tmp_path}/d?size=1M&record={record}")
    host = served.connect()
    queue = host.create_queue_pair()
    for cache in (0, 1, 0):
        host.set_feature(6, cache)
        assert host.get_feature(6) == cache
        queue.write(cache, pattern(cache, PAGE))
        assert queue.read(cache, 8) == pattern(cache, PAGE)
        queue.write_zeroes(16, 8)
    queue.write(0, pattern(7, PAGE), fua=True)
    served.close()
    kinds = (replay.Op.WRITE, replay.Op.WRITE_ZEROES)
    events = replay.read_log(record).events
    writes = [event for event in events if event.kind is replay.Kind.SUBMIT and event.op in kinds]
    assert [event.fua for event in writes] == [True, True, False, False, True, True, True]


def test_write_zeroes(queue: QueuePair) -> None:
    for deallocate in (False, True):
        data = pattern(deallocate, 64 << 10)
        queue.write(0, data)
        queue.write_zeroes(3, 50, deallocate)
        expected = data[: 3 * BLOCK] + bytes(50 * BLOCK) + data[53 * BLOCK :]
        assert queue.read(0, 128) == expected


def test_write_zeroes_of_all_65536_blocks(serve: Serve) -> None:
    queue = serve("mem:64M").connect().create_queue_pair()
    queue.write(65535, pattern(1, 2 * BLOCK))
    assert queue.command(nvme.write_zeroes(1, 0, 65536)).ok
    assert queue.read(65535, 2) == bytes(BLOCK) + pattern(1, 2 * BLOCK)[BLOCK:]


def test_deallocate_256_ranges(queue: QueuePair) -> None:
    data = pattern(9, 512 * BLOCK)
    queue.write(0, data)
    queue.deallocate([(2 * i, 1) for i in range(256)])
    got = queue.read(0, 512)
    for i in range(512):
        block = got[i * BLOCK : (i + 1) * BLOCK]
        assert block == (data[i * BLOCK : (i + 1) * BLOCK] if i % 2 else bytes(BLOCK))


def test_deallocate_of_nothing_and_of_everything(queue: QueuePair) -> None:
    queue.write(0, pattern(1, PAGE))
    queue.deallocate([(0, 0), (5, 0), (BLOCKS, 0)])
    assert queue.read(0, 8) == pattern(1, PAGE)
    queue.deallocate([(0, 0), (0, BLOCKS), (0, 0)])
    assert queue.read(0, 8) == bytes(PAGE)


def test_a_hint_changes_nothing(queue: QueuePair) -> None:
    queue.write(0, pattern(1, PAGE))
    with queue.host.alloc(PAGE) as buffer:
        buffer.put(nvme.dsm_ranges([(0, 8)]))
        assert queue.command(nvme.dataset_management(1, 1, deallocate=False), buffer).ok
    assert queue.read(0, 8) == pattern(1, PAGE)


@pytest.mark.parametrize(
    "wrong", [(BLOCKS, 1), (0, BLOCKS + 1), (2**64 - 1, 2), (BLOCKS - 1, 2), (0, 2**32 - 1)]
)
def test_a_deallocate_with_one_wrong_range_does_nothing(
    queue: QueuePair, wrong: tuple[int, int]
) -> None:
    queue.write(0, pattern(1, PAGE))
    with queue.host.alloc(PAGE) as buffer:
        buffer.put(nvme.dsm_ranges([(0, 8), wrong]))
        refused(queue.command(nvme.dataset_management(1, 2), buffer), Status.LBA_RANGE)
    assert queue.read(0, 8) == pattern(1, PAGE)


def test_deallocate_ranges_outside_memory(queue: QueuePair) -> None:
    sqe = nvme.dataset_management(1, 256).with_fields(prp1=1 << 40)
    refused(queue.command(sqe), Status.DATA_TRANSFER_ERROR)


def test_a_read_only_namespace(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.write_bytes(pattern(1, 1 << 20))
    queue = serve(f"file:{path}?readonly=on", "mem:1M?readonly=on").connect().create_queue_pair()
    with queue.host.alloc(PAGE) as buffer:
        buffer.put(nvme.dsm_ranges([(0, 8)]))
        for nsid in (1, 2):
            for sqe in (
                nvme.write(nsid, 0, 8),
                nvme.write(nsid, 0, 8, fua=True),
                nvme.write_zeroes(nsid, 0, 8),
                nvme.write_zeroes(nsid, 0, 8, deallocate=True),
                nvme.dataset_management(nsid, 1),
            ):
                refused(queue.command(sqe, buffer), Status.WRITE_PROTECTED)
            assert queue.command(nvme.flush(nsid)).ok
    assert queue.read(0, 8) == pattern(1, 1 << 20)[:PAGE]
    assert path.read_bytes() == pattern(1, 1 << 20)


def test_metadata_pointers_are_ignored(queue: QueuePair) -> None:
    with queue.host.alloc(PAGE) as buffer:
        for mptr in (1, 2**64 - 1):
            sqe = buffer.point(nvme.read(1, 0, 8)).with_fields(mptr=mptr)
            assert queue.command(sqe).ok


@pytest.mark.parametrize("doorbells", [1, 2])
def test_every_command_of_random_bytes_is_answered(serve: Serve, doorbells: int) -> None:
    """Well-formed rings, and anything in the commands."""
    host = serve("mem:4M", doorbells=doorbells).connect()
    queue = host.create_queue_pair(1, depth=64)
    rng = dice("test_every_command_of_random_bytes_is_answered")
    for turn in range(60):
        cids = set()
        for cid in range(40):
            raw = bytearray(rng.randbytes(64))
            if rng.random() < 0.7:
                raw[0] = rng.choice([0, 1, 2, 8, 9])
                raw[1] = rng.choice([0, 0, 0x40])
                raw[4:8] = (1).to_bytes(4, "little")
            if rng.random() < 0.5:
                raw[40:48] = rng.randrange(9000).to_bytes(8, "little")
            sqe = Sqe.of(bytes(raw)).with_fields(cid=turn * 64 + cid)
            cids.add(host.submit(1, sqe, keep_cid=True, doorbell=False))
        queue.ring()
        assert {host.wait_any(1).cid for _ in range(40)} == cids
    assert host.csts & 3 == 1


def test_admin_commands_of_random_bytes_are_answered(serve: Serve) -> None:
    served = serve("mem:4M")
    host = served.connect()
    rng = dice("test_admin_commands_of_random_bytes_are_answered")
    skipped = {nvme.Admin.ASYNC_EVENT, nvme.Admin.CREATE_SQ, nvme.Admin.DOORBELL_CONFIG}
    skipped |= {nvme.Admin.SANITIZE}  # nothing can be read after it for a while
    for turn in range(1500):
        raw = bytearray(rng.randbytes(64))
        opcodes = [op for op in nvme.Admin if op not in skipped]
        raw[0] = rng.choice(opcodes) if rng.random() < 0.8 else rng.choice([0x3F, 0xC5, 0x1F])
        raw[1] = rng.choice([0, 0, 0, 0x40, rng.getrandbits(8)])
        raw[24:40] = (host.info.iova_base + (8 << 20)).to_bytes(8, "little") * 2
        for at in (40, 44):
            if rng.random() < 0.7:
                raw[at : at + 4] = rng.randrange(70).to_bytes(4, "little")
        sqe = Sqe.of(bytes(raw)).with_fields(cid=turn)
        completion = host.admin(sqe)
        assert completion.sqid == 0
    host.disable()
    host.enable()
    assert host.create_queue_pair().read(0, 1) == bytes(BLOCK)


def test_4096_byte_blocks(serve: Serve) -> None:
    host = serve("mem:1M?block=4096").connect()
    queue = host.create_queue_pair()
    queue.write(255, pattern(1, PAGE))
    assert queue.read(255, 1) == pattern(1, PAGE)
    refused(queue.command(nvme.read(1, 256, 1)), Status.LBA_RANGE)
    with host.alloc((1 << 20) + PAGE) as buffer:
        assert queue.command(nvme.read(1, 0, 256), buffer, 1 << 20).ok
    queue.deallocate([(255, 1)])
    assert queue.read(255, 1) == bytes(PAGE)


def test_three_namespaces_do_not_mix(serve: Serve, tmp_path: Path) -> None:
    host: NvmeHost = serve(
        "mem:1M", f"file:{tmp_path}/d?size=2M&block=4096", f"file:{tmp_path}/e?size=1M"
    ).connect()
    queue = host.create_queue_pair()
    for nsid in (1, 2, 3):
        queue.write(0, pattern(nsid, 2 * PAGE), nsid=nsid)
    for nsid in (1, 2, 3):
        blocks = 2 * PAGE // host.block_bytes(nsid)
        assert queue.read(0, blocks, nsid=nsid) == pattern(nsid, 2 * PAGE)
    assert (tmp_path / "d").read_bytes()[: 2 * PAGE] == pattern(2, 2 * PAGE)
    assert (tmp_path / "e").read_bytes()[: 2 * PAGE] == pattern(3, 2 * PAGE)
