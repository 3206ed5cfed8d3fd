"""Data integrity: random I/O on several queues against a model of the disk."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests_protocol import MAPPED, PAGE, TRAPPED, Serve, dice

from vhostnvme.testing import Buffer, HostFlags, NvmeHost, QueuePair, nvme
from vhostnvme.testing.nvme import Io

MIB = 1 << 20
DISK_BYTES = 8 * MIB
QUEUES = 4
SLOT_BYTES = 128 << 10  # the longest transfer but for a few


class Model:
    """What the disk holds; and which blocks commands in flight are changing or reading."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.blocks = DISK_BYTES // block
        self.content = bytearray(DISK_BYTES)
        self.changing: set[int] = set()
        self.reading: dict[int, int] = {}

    def free(self, lba: int, count: int, writes: bool) -> bool:
        span = range(lba, lba + count)
        if any(at in self.changing for at in span):
            return False
        return not writes or not any(self.reading.get(at) for at in span)

    def hold(self, lba: int, count: int, writes: bool) -> None:
        for at in range(lba, lba + count):
            if writes:
                self.changing.add(at)
            else:
                self.reading[at] = self.reading.get(at, 0) + 1

    def release(self, lba: int, count: int, writes: bool) -> None:
        for at in range(lba, lba + count):
            if writes:
                self.changing.discard(at)
            else:
                self.reading[at] -= 1

    def get(self, lba: int, count: int) -> bytes:
        return bytes(self.content[lba * self.block : (lba + count) * self.block])

    def put(self, lba: int, data: bytes) -> None:
        self.content[lba * self.block : lba * self.block + len(data)] = data


class Mix:
    """Commands in flight on some queues of one namespace, and what each must do to the model."""

    def __init__(self, host: NvmeHost, queues: list[QueuePair], model: Model, nsid: int) -> None:
        self.host, self.queues, self.model, self.nsid = host, queues, model, nsid
        self.buffers = [host.alloc(SLOT_BYTES + PAGE) for _ in range(96)]
        self.inflight: dict[tuple[int, int], tuple[Buffer, int, int, int, int, bytes]] = {}

    def start(self, rng: random.Random, queue: QueuePair) -> None:
        model = self.model
        most = SLOT_BYTES // model.block
        count = min(most, rng.choice([1, 1, 2, 7, 8, 8, 9, 16, 33, 64, most]))
        lba = rng.randrange(model.blocks - count + 1)
        opcode = rng.choices([Io.READ, Io.WRITE, Io.WRITE_ZEROES, Io.DSM], [5, 5, 1, 1])[0]
        writes = opcode != Io.READ
        if not self.buffers or not model.free(lba, count, writes):
            return
        buffer, at = self.buffers.pop(), rng.choice([0, 0, 0, 4, 512, 2048, 4092])
        length, data = count * model.block, b""
        control = rng.choice([0, 0, 0, 1 << 30]) if writes else 0
        if opcode == Io.DSM:
            first = rng.randrange(count + 1)
            buffer.put(nvme.dsm_ranges([(lba, first), (lba + first, count - first)]), at)
            sqe = buffer.point(nvme.dataset_management(self.nsid, 2), 32, at)
        elif opcode == Io.WRITE_ZEROES:
            sqe = nvme.write_zeroes(self.nsid, lba, count, rng.random() < 0.5)
        elif opcode == Io.WRITE:
            data = rng.randbytes(length)
            buffer.put(data, at)
            sqe = nvme.write(self.nsid, lba, count, control=control)
        else:
            buffer.put(b"\xcc" * length, at)
            sqe = nvme.read(self.nsid, lba, count)
        if opcode in (Io.READ, Io.WRITE):
            if rng.random() < 0.2:
                sqe = sqe.with_sgl(buffer.iova + at, length)
            else:
                sqe = buffer.point(sqe, length, at)
        if writes and opcode != Io.WRITE:
            data = bytes(length)
        model.hold(lba, count, writes)
        cid = queue.submit(sqe, doorbell=rng.random() < 0.5)
        self.inflight[queue.qid, cid] = (buffer, at, opcode, lba, count, data)

    def finish(self, qid: int) -> None:
        for completion in self.host.poll(qid):
            buffer, at, opcode, lba, count, data = self.inflight.pop((qid, completion.cid))
            assert completion.ok, f"{Io(opcode).name} of {count} at {lba}: {completion}"
            if opcode == Io.READ:
                got = buffer.get(count * self.model.block, at)
                assert got == self.model.get(lba, count), f"{count} blocks at {lba} are wrong"
            else:
                self.model.put(lba, data)
            self.model.release(lba, count, opcode != Io.READ)
            self.buffers.append(buffer)

    def run(self, rng: random.Random, rounds: int) -> None:
        for _ in range(rounds):
            for queue in self.queues:
                room = queue.depth - 1 - queue.inflight
                for _ in range(min(room, rng.choice([0, 1, 1, 4, 30]))):
                    self.start(rng, queue)
                queue.ring()
                self.finish(queue.qid)
        self.drain()

    def drain(self) -> None:
        for queue in self.queues:
            queue.ring()
            while queue.inflight:
                self.finish(queue.qid)

    def verify(self) -> None:
        step = SLOT_BYTES // self.model.block
        for lba in range(0, self.model.blocks, step):
            got = self.queues[0].read(lba, step, nsid=self.nsid)
            assert got == self.model.get(lba, step), f"the blocks from {lba} on are wrong"


SPECS = {
    "mem-512": "mem:8M",
    "mem-4096": "mem:8M?block=4096",
    "file-512": "file:{0}/d?size=8M",
    "file-4096": "file:{0}/d?size=8M&block=4096",
    "file-buffered": "file:{0}/d?size=8M&direct=off",
    "mem-slow": "mem:8M?delay=300us",
}


@pytest.mark.parametrize("depth", [2, 16, 128])
@pytest.mark.parametrize("spec", SPECS)
def test_random_io_agrees_with_the_model(
    serve: Serve, tmp_path: Path, spec: str, depth: int
) -> None:
    rng = dice("test_random_io_agrees_with_the_model")
    kind = rng.choice([MAPPED, TRAPPED])
    served = serve(SPECS[spec].format(tmp_path), **kind)
    host = served.connect(memory_bytes=64 << 20, map_chunk_bytes=rng.choice([0, 4 << 20]))
    if kind is TRAPPED and rng.random() < 0.5:
        host.enable_shadow_doorbells()
    queues = [host.create_queue_pair(qid, depth=depth) for qid in range(1, QUEUES + 1)]
    mix = Mix(host, queues, Model(host.block_bytes(1)), 1)
    mix.run(rng, {2: 1500, 16: 500, 128: 150}[depth])
    mix.verify()
    if "file" in spec:
        queues[0].flush()
        served.close()
        assert (tmp_path / "d").read_bytes() == mix.model.content


def test_random_io_on_three_namespaces_at_once(serve: Serve, tmp_path: Path) -> None:
    rng = dice("test_random_io_on_three_namespaces_at_once")
    served = serve("mem:8M", f"file:{tmp_path}/d?size=8M&block=4096", f"file:{tmp_path}/e?size=8M")
    host = served.connect(memory_bytes=64 << 20)
    queues = [host.create_queue_pair(qid, depth=32) for qid in range(1, 4)]
    mixes = [
        Mix(host, [queues[nsid - 1]], Model(host.block_bytes(nsid)), nsid) for nsid in (1, 2, 3)
    ]
    for _ in range(10):
        for mix in mixes:
            for _ in range(8):
                mix.start(rng, mix.queues[0])
            mix.queues[0].ring()
        for mix in mixes:
            mix.drain()
    for mix in mixes:
        mix.verify()


def test_random_io_with_the_write_cache_off(serve: Serve, tmp_path: Path) -> None:
    rng = dice("test_random_io_with_the_write_cache_off")
    host = serve(f"file:{tmp_path}/d?size=8M").connect(memory_bytes=64 << 20)
    host.set_feature(6, 0)
    queues = [host.create_queue_pair(qid, depth=16) for qid in (1, 2)]
    mix = Mix(host, queues, Model(512), 1)
    mix.run(rng, 15)
    mix.verify()


def test_what_was_written_is_there_after_a_restart(serve: Serve, tmp_path: Path) -> None:
    rng = dice("test_what_was_written_is_there_after_a_restart")
    spec = f"file:{tmp_path}/d?size=8M"
    model = Model(512)
    for turn in range(3):
        served = serve(spec)
        host = served.connect(HostFlags.TRAP_DOORBELLS, memory_bytes=64 << 20)
        mix = Mix(host, [host.create_queue_pair(1, depth=32)], model, 1)
        if turn:
            mix.verify()
        mix.run(rng, 30)
        if turn == 0:
            host.shutdown()
        served.close()
