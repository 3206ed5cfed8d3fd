"""A namespace over NVMe/TCP, beside local access to it, and bare TCP with messages as long."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vhostnvme.bench.host import loads_of
from vhostnvme.bench.load import PERCENTILE_NAMES, PERF_RAMP_S, PROGRAM, fill, perf, server
from vhostnvme.bench.processes import daemon, output_of
from vhostnvme.bench.samples import (
    OURS,
    Case,
    Load,
    Results,
    Sample,
    percentiles_that_tell,
    rotated,
)
from vhostnvme.bench.wire import message_bytes
from vhostnvme.errors import PeerError

SECTION = "tcp"
DEPTHS = (1, 32, 128)
LARGE_DEPTH_MAX = 32  # of 128 KiB: more only fills the sockets
MEMORY_BYTES = 256 << 20
SUBNQN = "nqn.2026-11.io.vhostnvme:bench"
LOCAL, WIRE = "local", "bare TCP"
DIGESTS = f"{OURS}, digests"
CARDS = f"{OURS}, two cards"
NAMES = (OURS, DIGESTS, CARDS, LOCAL, WIRE)


@dataclass(frozen=True, slots=True)
class Ways:
    """To one namespace: its server's socket and address, and the socket of a server beside it."""

    local: Path
    address: str
    forwarded: Path

    def target(self, name: str) -> Path | str:
        """What `vhostnvme perf` is given for a contestant."""
        found: dict[str, Path | str] = {
            OURS: self.address,
            DIGESTS: f"{self.address}?hdgst=on&ddgst=on",
            CARDS: self.forwarded,
            LOCAL: self.local,
        }
        return found[name]


def tcp_loads(depths: Sequence[int] = DEPTHS) -> list[Load]:
    """4 KiB at random and 128 KiB in sequence."""
    small = 4 << 10
    return [
        load
        for load in loads_of(depths)
        if load.block_size <= small or load.depth <= LARGE_DEPTH_MAX
    ]


async def compare_tcp(
    folder: Path,
    loads: Sequence[Load],
    *,
    rounds: int,
    seconds: float,
    results: Results,
    report: Callable[[str], None],
    memory_bytes: int = MEMORY_BYTES,
) -> None:
    """All ways to the same memory, in turns.

    Raises:
        PeerError: a server or a load failed.
    """
    async with two_cards(folder, f"mem:{memory_bytes}") as ways:
        report(f"tcp: filling {memory_bytes >> 20} MiB of memory")
        await fill(ways.local)
        for turn in range(rounds):
            for place, load in enumerate(loads):
                for name in rotated(NAMES, turn + place):
                    if name == WIRE:
                        sample = await bare_tcp(load, seconds=seconds)
                    else:
                        sample = await perf([ways.target(name)], load, seconds=seconds)
                    results.add(Case(SECTION, "memory", load, name), sample)
                    report(
                        f"tcp: round {turn + 1}/{rounds} {load.label:24} {name:20}"
                        f" {sample.iops:11,.0f} IOPS"
                    )


@asynccontextmanager
async def two_cards(folder: Path, spec: str) -> AsyncIterator[Ways]:
    """A server with a namespace behind both doors, and another one that forwards to it.

    Raises:
        PeerError: one of them did not start.
    """
    socket = folder / "a" / "cntrl"
    log = folder / "a.log"
    words = [*PROGRAM, "serve", "--socket", str(socket), "--namespace", spec, "--json"]
    words += ["--tcp", "127.0.0.1:0", "--subnqn", SUBNQN, "--allow-any-host"]
    words += ["--ready-fd", "{ready_fd}"]
    async with daemon(words, what="vhostnvme serve --tcp", log=log):
        (port,) = (each["port"] for each in _ready_object(log)["listeners"])
        address = f"nvme+tcp://127.0.0.1:{port}/{SUBNQN}/1"
        async with server(folder, "b", address) as forwarded:
            yield Ways(socket, address, forwarded)


def _ready_object(log: Path) -> dict[str, Any]:
    for line in log.read_text().splitlines():
        if line.startswith("{"):
            told: dict[str, Any] = json.loads(line)
            return told
    raise PeerError("vhostnvme serve is ready and has not said where")


async def bare_tcp(load: Load, *, seconds: float) -> Sample:
    """Messages of the same sizes, there and back, by two threads that do nothing else.

    Raises:
        PeerError: the exchange failed.
    """
    sizes = [*message_bytes(load.rw, load.block_size), load.depth]
    words = [sys.executable, "-m", "vhostnvme.bench.wire", *map(str, sizes)]
    words += [f"{seconds:g}", f"{PERF_RAMP_S:g}"]
    out, _ = await output_of(words, what="the exchange on bare TCP", timeout_s=60 + 4 * seconds)
    answer = json.loads(out)
    if not answer["nr"]:
        raise PeerError("nothing came back on bare TCP: measure for more --seconds")
    latency = answer["latency"]
    percentiles = {each: latency[name] / 1000 for each, name in PERCENTILE_NAMES.items()}
    # The answering thread's time has the warm-up in it.
    share = answer["elapsed_ns"] / (answer["elapsed_ns"] + PERF_RAMP_S * 1e9)
    per_10k = 10_000 / answer["nr"] / 1e9
    return Sample(
        iops=answer["nr"] / (answer["elapsed_ns"] / 1e9),
        latency_us=percentiles_that_tell(percentiles, answer["nr"]),
        cpu_s_per_10k=(answer["cpu_ns"] + answer["peer_cpu_ns"] * share) * per_10k,
        server_cpu_s_per_10k=answer["peer_cpu_ns"] * share * per_10k,
    )
