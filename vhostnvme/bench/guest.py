"""The comparison in a guest: fio on each disk in turns, round after round, and the host's CPU."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

from vhostnvme.bench.contestants import STORAGE_DAEMON, Disk, storage_daemon
from vhostnvme.bench.fio import fio_words, parse_fio
from vhostnvme.bench.processes import daemon, process_cpu_s
from vhostnvme.bench.samples import Case, Load, Results, Sample, rotated
from vhostnvme.emulation.device import DeviceOptions
from vhostnvme.emulation.server import serving
from vhostnvme.errors import GuestError, ProvisionError
from vhostnvme.guest.vm import Guest
from vhostnvme.native import RuntimeOptions
from vhostnvme.storage.spec import parse_spec

SECTION = "guest"
FIO_RAMP_S = 0.4
ROUND_STEP = 5  # another one begins in each round, on another kind of file
# CPU is counted from the end of the ramp until so much of the measured time has passed.
CPU_WINDOW = 0.9
# Prints the name of a disk once the kernel has found it; `test -b`, because a missing one would be
# written as a plain file in devtmpfs.
FIND_DISK = """
for i in 1 2 3 4 5 6 7 8 9 10; do
  for d in /sys/block/*; do
    {match} || continue
    test -b /dev/${{d##*/}} && echo /dev/${{d##*/}}; exit
  done
  sleep 0.3
done
exit 1
"""
MATCH_SERIAL = (
    '[ "$(echo $(cat $d/device/serial 2>/dev/null || cat $d/serial 2>/dev/null))" = {serial} ]'
)
MATCH_ADDRESS = "readlink -f $d | grep -q /{address}/"
# Runs fio, and marks two moments in its run by the number of I/Os that the disk has completed, so
# that the host counts CPU time and I/Os over the same interval. fio's start, which takes an
# emulated processor as long as the load, is in neither.
RUN_FIO = """
ios() {{ read -r r a b c w rest <{stat}; echo $((r + w)); }}
start=$(ios)
{fio} >/tmp/fio.json 2>/tmp/fio.err & fio=$!
while [ $(($(ios) - start)) -lt 8 ] && kill -0 $fio 2>/dev/null; do sleep 0.05; done
sleep {ramp}; echo mark $(ios) >&2
sleep {window}; echo mark $(ios) >&2
wait $fio; code=$?
cat /tmp/fio.json; cat /tmp/fio.err >&2
exit $code
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestOptions:
    """`seconds` of each fio run after its ramp; `poll_us` of our server, None for its default."""

    rounds: int
    seconds: float
    cpus: int = 2
    poll_us: int | None = None


async def compare(
    disks: Sequence[Disk],
    loads: Sequence[Load],
    options: GuestOptions,
    results: Results,
    report: Callable[[str], None],
) -> dict[str, str]:
    """Boots one guest with all disks and runs every load on each, round after round, in turns.

    Args:
        results: the samples are added to it as they come.
        report: gets a line about what goes on.

    Returns:
        What the guest is: `accel`, `qemu`, `guest_kernel`, `guest_fio`.

    Raises:
        GuestError: the guest does not boot, a disk is missing, or fio fails.
        ProvisionError, PeerError: there is no qemu-storage-daemon, or it does not start.
    """
    async with AsyncExitStack() as stack:
        guest, servers = await _boot(stack, disks, options)
        accel = guest.accel.name if guest.accel else "unknown"
        report(f"guest: up after {guest.boot_seconds:.1f} s on {accel}")
        await guest.run("modprobe virtio_blk", timeout=30)
        paths = {disk.serial: await find_disk(guest, disk) for disk in disks}
        for disk in disks:  # whoever is first would be measured while the guest settles
            await measure(guest, paths[disk.serial], loads[0], options.seconds, None)
        for turn in range(options.rounds):
            for place, load in enumerate(loads):
                for disk in rotated(disks, turn * ROUND_STEP + place):
                    case = Case(SECTION, disk.backing, load, disk.contestant.name)
                    path, server = paths[disk.serial], servers.get(disk.serial)
                    sample = await measure(guest, path, load, options.seconds, server)
                    results.add(case, sample)
                    report(
                        f"guest: round {turn + 1}/{options.rounds} {disk.backing:5}"
                        f" {load.label:24} {disk.contestant.name:20} {sample.iops:9,.0f} IOPS"
                    )
        kernel = (await guest.run("uname -r", timeout=30)).stdout.strip()
        fio = (await guest.run("fio --version", timeout=30)).stdout.strip()
        qemu = guest.artifacts.qemu.version if guest.artifacts else "unknown"
    return {"accel": accel, "qemu": qemu, "guest_kernel": kernel, "guest_fio": fio}


async def _boot(
    stack: AsyncExitStack, disks: Sequence[Disk], options: GuestOptions
) -> tuple[Guest, dict[str, int]]:
    """The servers, then the guest; and the process that serves a disk, if it is not QEMU."""
    runtime = RuntimeOptions()
    if options.poll_us is not None:
        runtime = RuntimeOptions(poll_us=options.poll_us)
    ours = [
        DeviceOptions(
            socket=disk.socket,
            namespaces=(parse_spec(f"file:{disk.path}"),),
            serial=disk.serial,
            doorbells=disk.contestant.doorbells,
        )
        for disk in disks
        if disk.contestant.is_ours
    ]
    devices = await stack.enter_async_context(serving(ours, runtime, log_level=30))
    servers = {disk.serial: os.getpid() for disk in disks if disk.contestant.is_ours}
    for disk in disks:
        if disk.contestant.in_daemon:
            servers[disk.serial] = await stack.enter_async_context(_storage_daemon(disk))
    guest = await stack.enter_async_context(
        Guest(
            disks=[device.socket for device in devices],
            cpus=options.cpus,
            extra_args=[word for disk in disks for word in disk.qemu_arguments()],
        )
    )
    return guest, servers


def _storage_daemon(disk: Disk) -> AbstractAsyncContextManager[int]:
    program = storage_daemon()
    if program is None:
        raise ProvisionError(
            f"There is no {STORAGE_DAEMON} on this machine: install it (Debian has it in"
            " qemu-system-common or qemu-utils), or leave vhost-user-blk out by --contestants."
        )
    disk.socket.parent.mkdir(exist_ok=True)
    return daemon(
        [*program, *disk.daemon_arguments()],
        what=STORAGE_DAEMON,
        log=disk.socket.with_name("log"),
        ready=disk.pidfile,
    )


async def find_disk(guest: Guest, disk: Disk) -> str:
    """The disk's block device in the guest.

    Raises:
        GuestError: it is not there, or is no block device.
    """
    if disk.pci_address:
        match = MATCH_ADDRESS.format(address=disk.pci_address)
    else:
        match = MATCH_SERIAL.format(serial=shlex.quote(disk.serial))
    found = await guest.run(FIND_DISK.format(match=match), timeout=30)
    if found.exit_code or not found.stdout.strip():
        raise GuestError(
            f"The guest has no block device for {disk.contestant.name} ({disk.serial}):"
            " the guest's kernel log says why."
        )
    return found.stdout.strip()


async def measure(
    guest: Guest, path: str, load: Load, seconds: float, server: int | None
) -> Sample:
    """One fio run in the guest. CPU time: QEMU's, and that of `server`, a process id.

    Raises:
        GuestError: fio failed.
    """
    fio = " ".join(fio_words(path, load, seconds=seconds, ramp_s=FIO_RAMP_S))
    command = RUN_FIO.format(
        fio=fio,
        stat=f"/sys/block/{path.rpartition('/')[2]}/stat",
        ramp=FIO_RAMP_S,
        window=round(seconds * CPU_WINDOW, 3),
    )
    output = bytearray()
    said = bytearray()
    cpu: list[float] = []

    def keep(stream: str, data: bytes) -> None:
        if stream == "stdout":
            output.extend(data)
            return
        marks = said.count(b"mark ")
        said.extend(data)
        if said.count(b"mark ") > marks:
            cpu.append(process_cpu_s(guest.pid) + (process_cpu_s(server) if server else 0.0))

    async with asyncio.timeout(90 + 6 * seconds):
        code = await guest.stream(command, keep)
    if code:
        lines = said.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise GuestError(f"fio failed in the guest on {path}: {lines[0]}")
    answer = parse_fio(output.decode(errors="replace"), load)
    return Sample(
        iops=answer.iops,
        latency_us=answer.latency_us,
        cpu_s_per_10k=cpu_per_10k(said.decode(errors="replace"), cpu),
    )


def cpu_per_10k(said: str, cpu: Sequence[float]) -> float:
    """CPU seconds for 10,000 I/Os from the two marks and the CPU times read at each.

    Raises:
        GuestError: there are no two marks with I/Os between them.
    """
    marks = [int(line.split()[1]) for line in said.splitlines() if line.startswith("mark ")]
    if len(marks) != 2 or len(cpu) != 2 or marks[1] <= marks[0]:
        raise GuestError(f"the guest's disk did no I/O between two marks ({marks})")
    return (cpu[1] - cpu[0]) / (marks[1] - marks[0]) * 10_000
