"""The comparison in a guest: fio on each disk in turns, round after round, and the host's CPU."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from vhostnvme.bench.contestants import Disk
from vhostnvme.emulation.device import DeviceOptions
from vhostnvme.emulation.server import serving
from vhostnvme.errors import GuestError
from vhostnvme.guest.vm import Guest
from vhostnvme.native import RuntimeOptions
from vhostnvme.storage.spec import parse_spec

FIO_RAMP_S = 1
# Waits for the disk, checks that it is one (a missing one would be written as a plain file in
# devtmpfs), and prints its name.
FIND_DISK = """
for i in 1 2 3 4 5 6 7 8 9 10; do
  for d in /sys/block/*; do
    s=$(cat $d/device/serial 2>/dev/null || cat $d/serial 2>/dev/null)
    if [ "$(echo $s)" = {serial} ]; then test -b /dev/${{d##*/}} && echo /dev/${{d##*/}}; exit; fi
  done
  sleep 0.3
done
exit 1
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of load: `block_size` in bytes."""

    rw: str
    block_size: int
    depth: int

    @property
    def label(self) -> str:
        return f"{self.rw} {self.block_size >> 10}K depth {self.depth}"


@dataclass(slots=True)
class Samples:
    """What the rounds gave for one disk and one cell."""

    iops: list[float] = field(default_factory=list)
    latency_p50_us: list[float] = field(default_factory=list)
    latency_p99_us: list[float] = field(default_factory=list)
    host_cpu_s_per_10k: list[float] = field(default_factory=list)


Results = dict[tuple[str, str, Cell], Samples]


def cells(depths: Iterable[int], patterns: Iterable[str], block_size: int = 4096) -> list[Cell]:
    return [Cell(rw, block_size, depth) for rw in patterns for depth in depths]


def process_cpu_s(pid: int) -> float:
    """User and system time of a process with all its threads, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def compare(
    disks: list[Disk],
    loads: list[Cell],
    *,
    rounds: int,
    seconds: int,
    cpus: int = 2,
    poll_us: int | None = None,
    report: Callable[[str], None],
) -> tuple[Results, str]:
    """Boots one guest with all disks and runs every load on each, `rounds` times, in turns.

    Args:
        seconds: how long each fio runs after its ramp.
        report: gets a line about what goes on.

    Returns:
        The samples by (contestant, backing, cell), and the accelerator's name.

    Raises:
        GuestError: the guest does not boot, a disk is missing, or fio fails.
    """
    runtime = RuntimeOptions() if poll_us is None else RuntimeOptions(poll_us=poll_us)
    results: Results = {}
    async with AsyncExitStack() as stack:
        folder = Path(disks[0].path).parent
        ours = [
            DeviceOptions(
                socket=folder / disk.serial / "cntrl",
                namespaces=(parse_spec(f"file:{disk.path}"),),
                serial=disk.serial,
                doorbells=disk.contestant.doorbells,
            )
            for disk in disks
            if disk.contestant.is_ours
        ]
        devices = await stack.enter_async_context(serving(ours, runtime, log_level=30))
        extra = [word for disk in disks for word in disk.qemu_arguments()]
        guest = await stack.enter_async_context(
            Guest(disks=[device.socket for device in devices], cpus=cpus, extra_args=extra)
        )
        accel = guest.accel.name if guest.accel else "unknown"
        report(f"guest up after {guest.boot_seconds:.1f} s on {accel}")
        await guest.run("modprobe virtio_blk", timeout=30)
        paths = {disk.serial: await find_disk(guest, disk) for disk in disks}
        for turn in range(rounds):
            for load in loads:
                for disk in disks:
                    key = (disk.contestant.name, disk.backing, load)
                    samples = results.setdefault(key, Samples())
                    await measure(guest, paths[disk.serial], load, seconds, samples)
                    report(
                        f"round {turn + 1}/{rounds} {disk.backing:5} {load.label:24}"
                        f" {disk.contestant.name:20} {samples.iops[-1]:9,.0f} IOPS"
                    )
    return results, accel


async def find_disk(guest: Guest, disk: Disk) -> str:
    """The disk's block device in the guest."""
    found = await guest.run(FIND_DISK.format(serial=shlex.quote(disk.serial)), timeout=30)
    if found.exit_code or not found.stdout.strip():
        raise GuestError(
            f"The guest has no disk with serial number {disk.serial} ({disk.contestant.name})."
        )
    return found.stdout.strip()


async def measure(guest: Guest, path: str, load: Cell, seconds: int, samples: Samples) -> None:
    """One fio run. CPU time: this process's (our server) and QEMU's, over fio's whole life."""
    command = (
        f"fio --name=load --filename={path} --rw={load.rw} --bs={load.block_size}"
        f" --iodepth={load.depth} --ioengine=io_uring --direct=1 --time_based=1"
        f" --ramp_time={FIO_RAMP_S} --runtime={seconds} --randrepeat=1 --norandommap=1"
        " --output-format=json"
    )
    cpu = process_cpu_s(guest.pid) + time.process_time()
    done = (await guest.run(command, timeout=60 + 4 * seconds)).check()
    cpu = process_cpu_s(guest.pid) + time.process_time() - cpu
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    side = job["write" if "write" in load.rw else "read"]
    if job["error"] or not side["total_ios"]:
        raise GuestError(f"fio failed in the guest on {path}: error {job['error']}.")
    percentiles = side["clat_ns"]["percentile"]
    samples.iops.append(side["iops"])
    samples.latency_p50_us.append(percentiles["50.000000"] / 1000)
    samples.latency_p99_us.append(percentiles["99.000000"] / 1000)
    # The ramp's I/Os are not in total_ios, but they cost as much as the others.
    total = side["total_ios"] * (seconds + FIO_RAMP_S) / seconds
    samples.host_cpu_s_per_10k.append(cpu / total * 10_000)


def median(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0
