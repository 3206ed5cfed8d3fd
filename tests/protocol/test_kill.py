"""Promise 3: kill -9 of the server loses and tears no write that was acknowledged.

The oracle is this process. Every block that it writes holds its own address, a generation that no
other write has, and a CRC. After each kill all blocks of the file must hold the generation that was
acknowledged last or, where a write was still in flight, that of the write. VHOSTNVME_KILL_CYCLES
sets the number of kills.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests_protocol import BLOCK, PAGE, dice

from vhostnvme.errors import NativeError, PeerError
from vhostnvme.testing import Buffer, NvmeHost, nvme
from vhostnvme.testing.nvme import Completion

CYCLES = int(os.environ.get("VHOSTNVME_KILL_CYCLES", "50"))
BLOCKS = 8192  # 4 MiB
DEPTH = 32
LONGEST = 64  # blocks of one write
STAMP = struct.Struct("<QQI")  # LBA, generation, CRC of the rest and these two
START_S, END_S = 20.0, 10.0

SERVER = """
    import sys
    from vhostnvme.native import *
    path, socket, doorbells, direct = sys.argv[1:]
    runtime = Runtime()
    file = NamespaceOptions(backend="file", path=path, direct=direct == "on")
    namespace = Namespace(runtime, file)
    controller = Controller(runtime, ControllerOptions(serial="kill", doorbells=int(doorbells)))
    controller.attach(namespace, 1)
    controller.listen(socket)
    print("ready", flush=True)
    sys.stdin.read()
"""


def stamped(lba: int, generation: int) -> bytes:
    body = (generation * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF).to_bytes(8, "little")
    body = (body * (BLOCK // 8))[: BLOCK - STAMP.size]
    crc = zlib.crc32(struct.pack("<QQ", lba, generation) + body)
    return STAMP.pack(lba, generation, crc) + body


def generation_of(lba: int, block: bytes) -> int:
    """0 for a block of zeros; raises for what nobody has written there."""
    if not any(block):
        return 0
    found, generation, crc = STAMP.unpack_from(block)
    body = block[STAMP.size :]
    assert zlib.crc32(struct.pack("<QQ", found, generation) + body) == crc, f"LBA {lba} is torn"
    assert found == lba, f"LBA {lba} holds what was written to {found}"
    return int(generation)


@dataclass
class Oracle:
    """The generation of each block that was acknowledged last, and the writes in flight."""

    acknowledged: list[int] = field(default_factory=lambda: [0] * BLOCKS)
    inflight: dict[tuple[int, int], tuple[range, int, Buffer | None]] = field(default_factory=dict)
    busy: set[int] = field(default_factory=set)
    last: int = 0
    total: int = 0

    def begin(
        self, key: tuple[int, int], span: range, generation: int, data: Buffer | None
    ) -> None:
        self.inflight[key] = (span, generation, data)
        self.busy.update(span)

    def done(self, qid: int, completion: Completion) -> Buffer | None:
        span, generation, data = self.inflight.pop((qid, completion.cid))
        assert completion.ok, str(completion)
        for lba in span:
            self.acknowledged[lba] = generation
        self.busy.difference_update(span)
        self.total += 1
        return data

    def check(self, content: bytes) -> None:
        """All blocks are as they must be; what was in flight counts from now on as it was found."""
        allowed: dict[int, int] = {}
        for span, generation, _ in self.inflight.values():
            allowed.update(dict.fromkeys(span, generation))
        for lba in range(BLOCKS):
            block = content[lba * BLOCK : (lba + 1) * BLOCK]
            expected = self.acknowledged[lba]
            if lba not in allowed and block == (stamped(lba, expected) if expected else _ZEROS):
                continue
            found = generation_of(lba, block)
            good = {expected, allowed.get(lba, expected)}
            assert found in good, f"LBA {lba} holds generation {found}, not one of {good}"
            self.acknowledged[lba] = found
        self.inflight.clear()
        self.busy.clear()


_ZEROS = bytes(BLOCK)


@contextlib.contextmanager
def server(
    path: Path, socket: Path, doorbells: int, direct: bool
) -> Iterator[subprocess.Popen[str]]:
    arguments = [str(path), str(socket), str(doorbells), "on" if direct else "off"]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVER), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the server did not start"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=END_S)


def fill(host: NvmeHost, oracle: Oracle, rng: random.Random, free: list[Buffer]) -> None:
    """Submits writes as long as there are buffers, on two queues."""
    for qid in (1, 2):
        while free and host.handle.inflight(qid) < DEPTH // 2:
            count = rng.choice([1, 1, 2, 8, 8, 17, LONGEST])
            span = range(start := rng.randrange(BLOCKS - count + 1), start + count)
            if not oracle.busy.isdisjoint(span):
                return
            control = rng.choice([0, 0, 0, 1 << 30])  # FUA
            if rng.random() < 0.1:
                sqe, data, generation = nvme.write_zeroes(1, start, count), None, 0
            else:
                oracle.last = generation = oracle.last + 1
                data = free.pop()
                data.put(b"".join(stamped(lba, generation) for lba in span))
                sqe = nvme.write(1, start, count, control=control)
                sqe = data.point(sqe, count * BLOCK)
            cid = host.submit(qid, sqe, doorbell=False)
            oracle.begin((qid, cid), span, generation, data)
        host.handle.ring(qid)


def load(host: NvmeHost, oracle: Oracle, rng: random.Random, dead: threading.Event) -> None:
    """Writes until the server is dead; what it has acknowledged by then counts."""
    host.enable()
    free = [host.alloc(LONGEST * BLOCK + PAGE) for _ in range(DEPTH)]
    for qid in (1, 2):
        assert host.create_cq(qid, DEPTH).ok and host.create_sq(qid, DEPTH, qid).ok
    while True:
        last_look = dead.is_set()
        if not last_look:
            fill(host, oracle, rng, free)
        for qid in (1, 2):
            for completion in host.poll(qid):
                data = oracle.done(qid, completion)
                if data is not None:
                    free.append(data)
        if last_look:
            return


def cycle(path: Path, socket: Path, oracle: Oracle, rng: random.Random, mapped: bool) -> None:
    dead = threading.Event()
    with server(path, socket, 1 if mapped else 2, rng.random() < 0.7) as process:
        host = NvmeHost.connect(socket, memory_bytes=8 << 20)

        def kill() -> None:
            process.kill()
            process.wait(END_S)
            dead.set()

        timer = threading.Timer(rng.uniform(0.005, 0.12), kill)
        timer.start()
        with host, contextlib.suppress(PeerError, NativeError):
            load(host, oracle, rng, dead)
        timer.join()
        assert dead.is_set()


@pytest.mark.timeout(60 + 2 * CYCLES)
def test_kill_9_loses_no_acknowledged_write(tmp_path: Path, sockets: Path) -> None:
    rng = dice("test_kill_9_loses_no_acknowledged_write")
    path, socket = tmp_path / "disk", sockets / "kill"
    with path.open("wb") as file:
        file.truncate(BLOCKS * BLOCK)
    oracle = Oracle()
    started = time.monotonic()
    for number in range(CYCLES):
        cycle(path, socket, oracle, rng, mapped=bool(number % 3))
        oracle.check(path.read_bytes())
    with server(path, socket, 1, True), NvmeHost.connect(socket) as host:  # as a guest sees it
        host.enable()
        queue = host.create_queue_pair()
        content = b"".join(queue.read(lba, 1024) for lba in range(0, BLOCKS, 1024))
        oracle.check(content)
    took = time.monotonic() - started
    print(f"{CYCLES} kills, {oracle.total} acknowledged writes, {took:.1f} s")  # noqa: T201
    assert oracle.total > CYCLES, "hardly anything was written"


def test_the_oracle_finds_what_is_lost_and_what_is_torn() -> None:
    good = [stamped(lba, 5) for lba in range(BLOCKS)]
    oracle = Oracle(acknowledged=[5] * BLOCKS)
    oracle.check(b"".join(good))
    wrong = {
        "generation 4": stamped(7, 4),
        "generation 0": bytes(BLOCK),
        "torn": stamped(7, 6)[:256] + stamped(7, 5)[256:],
        "written to 8": stamped(8, 5),
    }
    for what, block in wrong.items():
        with pytest.raises(AssertionError, match=what):
            oracle.check(b"".join([*good[:7], block, *good[8:]]))
    oracle.begin((1, 1), range(6, 9), 6, None)
    oracle.check(b"".join([*good[:7], stamped(7, 6), *good[8:]]))
    assert oracle.acknowledged[6:9] == [5, 6, 5]
