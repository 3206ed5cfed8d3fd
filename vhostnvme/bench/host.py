"""Without a VM: our server on a file beside fio on the same file, and on memory and nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

from vhostnvme.bench.contestants import DISK_BYTES
from vhostnvme.bench.fio import fio_words, parse_fio
from vhostnvme.bench.load import fill, perf, server
from vhostnvme.bench.processes import output_of
from vhostnvme.bench.samples import OURS, Case, Load, Results, Sample, rotated
from vhostnvme.errors import ProvisionError

HOST_SECTION = "host"
ENGINE_SECTION = "engine"
FIO_RAMP_S = 0.3
PINNED = f"{OURS} pinned"
SERVERS: dict[str, Sequence[str]] = {OURS: (), PINNED: ("--pin-memory",)}
FIO = "fio"
FIO_FIXED = "fio fixed"
# Files and buffers registered with the kernel beforehand: what fio can do at its best.
FIXED_WORDS = ("--registerfiles=1", "--fixedbufs=1")
MEMORY_BYTES = 512 << 20
NULL_SPEC = "null:64G"
# 4 KiB at random, 128 KiB in sequence.
PATTERNS = (
    ("randread", 4 << 10),
    ("randwrite", 4 << 10),
    ("read", 128 << 10),
    ("write", 128 << 10),
)

Report = Callable[[str], None]


def loads_of(depths: Sequence[int]) -> list[Load]:
    return [Load(rw, size, depth) for rw, size in PATTERNS for depth in depths]


def fio_of_host() -> str:
    """
    Raises:
        ProvisionError: this machine has no fio.
    """
    path = shutil.which("fio")
    if path is None:
        raise ProvisionError(
            "There is no fio on this machine, with which the host section compares: install it"
            " (./run bench does), or choose other --sections."
        )
    return path


async def compare_files(
    files: dict[str, Path],
    loads: Sequence[Load],
    *,
    rounds: int,
    seconds: float,
    results: Results,
    report: Report,
) -> None:
    """fio natively, and our servers driven by `vhostnvme perf`, on the same file, in turns.

    Args:
        files: by backing; filled, of DISK_BYTES.

    Raises:
        ProvisionError: there is no fio. PeerError, GuestError: a server or a load failed.
    """
    fio = fio_of_host()
    names = [*SERVERS, FIO, FIO_FIXED]
    for turn in range(rounds):
        for place, load in enumerate(loads):
            for backing, path in files.items():
                for name in rotated(names, turn + place):
                    if name in SERVERS:
                        sample = await served(path, load, seconds, SERVERS[name])
                    else:
                        extra = FIXED_WORDS if name == FIO_FIXED else ()
                        sample = await native_fio(fio, path, load, seconds, extra)
                    results.add(Case(HOST_SECTION, backing, load, name), sample)
                    report(
                        f"host: round {turn + 1}/{rounds} {backing:5} {load.label:24}"
                        f" {name:16} {sample.iops:9,.0f} IOPS"
                    )


async def served(path: Path, load: Load, seconds: float, options: Sequence[str]) -> Sample:
    """One run on a server of its own: it holds the file alone.

    Raises:
        PeerError: the server or the load failed.
    """
    spec = f"file:{quote(str(path))}?direct=on"
    async with server(path.parent, "host", spec, options) as socket:
        return await perf([socket], load, seconds=seconds)


async def native_fio(
    fio: str, path: Path, load: Load, seconds: float, extra: Sequence[str]
) -> Sample:
    """One fio run. Its CPU time, start and end included, counts for all of its I/Os.

    Raises:
        GuestError, PeerError: fio failed.
    """
    words = fio_words(str(path), load, seconds=seconds, ramp_s=FIO_RAMP_S)
    # The size keeps fio from making a file of its own where this one is missing.
    words = [fio, *words[1:], f"--size={DISK_BYTES}", "--allow_file_create=0", *extra]
    out, cpu = await output_of(words, what="fio", timeout_s=60 + 4 * seconds)
    answer = parse_fio(out, load)
    # The ramp's I/Os are not among nr_ios, but cost as much as the others.
    nr_ios = answer.nr_ios * (seconds + FIO_RAMP_S) / seconds
    return Sample(answer.iops, answer.latency_us, cpu / nr_ios * 10_000)


async def compare_engines(
    folder: Path,
    loads: Sequence[Load],
    *,
    rounds: int,
    seconds: float,
    results: Results,
    report: Report,
    memory_bytes: int = MEMORY_BYTES,
) -> None:
    """`mem` and `null` namespaces under `vhostnvme perf`: what the path to the file costs.

    Raises:
        PeerError: a server or a load failed.
    """
    async with AsyncExitStack() as stack:
        sockets = {}
        for name, spec in (("mem", f"mem:{memory_bytes}"), ("null", NULL_SPEC)):
            sockets[name] = await stack.enter_async_context(server(folder, name, spec))
        report(f"engine: filling {memory_bytes >> 20} MiB of memory")
        await fill(sockets["mem"])
        for turn in range(rounds):
            for place, load in enumerate(loads):
                for name in rotated(list(sockets), turn + place):
                    sample = await perf([sockets[name]], load, seconds=seconds)
                    results.add(Case(ENGINE_SECTION, "memory", load, f"{OURS} {name}"), sample)
                    report(
                        f"engine: round {turn + 1}/{rounds} {load.label:24} {name:5}"
                        f" {sample.iops:11,.0f} IOPS"
                    )
