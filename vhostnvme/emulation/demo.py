"""`vhostnvme demo`: a guest on a local file, fio with verification, a table of the results."""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhostnvme.emulation.boot import (
    BootOptions,
    booted,
    scratch_folder,
    scratch_spec,
    unwind_on_signals,
)
from vhostnvme.errors import ConfigError, GuestError
from vhostnvme.guest.accel import Accel, choose_accel
from vhostnvme.guest.debian import say
from vhostnvme.guest.provision import provision
from vhostnvme.guest.vm import Guest

if TYPE_CHECKING:
    from rich.table import Table

GUEST_DEVICE = "/dev/nvme0n1"
FIO_TIMEOUT_S = 120.0
# struct verify_header of fio begins with this, little-endian: the host finds it in the file.
FIO_VERIFY_MAGIC = (0xACCA).to_bytes(2, "little")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One run of fio; sizes in bytes. `read_s`: read for so long; None: write all, then check."""

    name: str
    rw: str
    block_size: int
    depth: int
    offset: int
    size: int
    read_s: int | None

    def command(self) -> str:
        words = [
            "fio",
            f"--name={self.rw}",
            f"--filename={GUEST_DEVICE}",
            f"--rw={self.rw}",
            f"--bs={self.block_size}",
            f"--iodepth={self.depth}",
            f"--offset={self.offset}",
            f"--size={self.size}",
            "--ioengine=libaio",
            "--direct=1",
            "--output-format=json",
        ]
        if self.read_s is None:
            words += ["--verify=crc32c", "--do_verify=1", "--verify_fatal=1"]
        else:
            words += ["--time_based=1", f"--runtime={self.read_s}"]
        return " ".join(words)

    @property
    def verify(self) -> bool:
        return self.read_s is None


# Small enough for an emulated processor that shares two cores with everything else.
SEQUENTIAL_BYTES = 96 << 20
RANDOM_BYTES = 24 << 20
PATTERNS = (
    Pattern("sequential write", "write", 128 << 10, 16, 0, SEQUENTIAL_BYTES, None),
    Pattern("sequential read", "read", 128 << 10, 16, 0, SEQUENTIAL_BYTES, 4),
    Pattern("random write", "randwrite", 4 << 10, 32, SEQUENTIAL_BYTES, RANDOM_BYTES, None),
    Pattern("random read", "randread", 4 << 10, 32, SEQUENTIAL_BYTES, RANDOM_BYTES, 4),
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What fio said of one pattern; `bandwidth` in bytes a second, `verified_bytes` read back."""

    pattern: Pattern
    iops: float
    bandwidth: float
    latency_p50_us: float
    latency_p99_us: float
    verified_bytes: int


def demo(path: Path | None) -> int:
    """Runs it all; the exit code is 0 only when every byte was read back as it was written.

    Args:
        path: the file to use, made when missing and kept; None: a temporary one.

    Raises:
        ConfigError, NativeError, ProvisionError, GuestError: what failed, and what to do.
    """
    with ExitStack() as stack:
        if path is None:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="vhostnvme-", dir=scratch_folder())
            )
            disk = Path(folder) / "disk.img"
        elif path.exists():
            raise ConfigError(f"{path} exists, and the demo would overwrite it: name a new file")
        else:
            disk = path
        unwind_on_signals()
        artifacts = provision()
        accel = choose_accel(artifacts.qemu, artifacts.kernel)
        say(f"booting a guest on {accel.name} ({accel.reason})")
        options = BootOptions(disks=((scratch_spec(disk.absolute()),),))

        async def boot_and_measure() -> tuple[float, list[Measurement]]:
            async with booted(options, artifacts, accel) as up:
                say(f"the guest is up after {up.guest.boot_seconds:.1f} s")
                return up.guest.boot_seconds, [await measure(up.guest, each) for each in PATTERNS]

        boot_seconds, measurements = asyncio.run(boot_and_measure())
        blocks_found = find_written_blocks(disk)
        allocated = disk.stat().st_blocks * 512
        show(fio_table(accel, boot_seconds, measurements))
        say_where = f"{disk} ({allocated >> 20} MiB in use)" + (
            "" if path else ", removed now; --file PATH keeps one"
        )
        show(f"the data lies in {say_where}")
        show(f"blocks that the guest wrote and the host found in the file: {blocks_found}")
        show("verification errors: 0")
    return 0


async def measure(guest: Guest, pattern: Pattern) -> Measurement:
    """One run of fio in the guest.

    Raises:
        GuestError: fio failed, or found a block that is not what was written.
    """
    say(f"fio: {pattern.name}")
    result = await guest.run(pattern.command(), timeout=FIO_TIMEOUT_S)
    if result.exit_code != 0:
        lines = (result.stderr.strip() or result.stdout.strip()).splitlines()[-1:] or ["no output"]
        raise GuestError(f"fio's {pattern.name} failed in the guest: {lines[0]}")
    return read_fio(pattern, result.stdout)


def read_fio(pattern: Pattern, output: str) -> Measurement:
    """Reads fio's JSON.

    Raises:
        GuestError: it is none, or tells of an error.
    """
    try:
        job: dict[str, Any] = json.loads(output[output.index("{") :])["jobs"][0]
        writes = "write" in pattern.rw
        side = job["write" if writes else "read"]
        percentiles = side["clat_ns"]["percentile"]
        measurement = Measurement(
            pattern,
            iops=side["iops"],
            bandwidth=side["bw_bytes"],
            latency_p50_us=percentiles["50.000000"] / 1000,
            latency_p99_us=percentiles["99.000000"] / 1000,
            verified_bytes=job["read"]["io_bytes"] if pattern.verify else 0,
        )
        error = job["error"]
        written = side["io_bytes"]
    except (ValueError, KeyError, IndexError, TypeError) as problem:
        raise GuestError(f"fio's answer could not be read ({problem!r})") from None
    if error:
        raise GuestError(f"fio's {pattern.name} ended with error {error}")
    if pattern.verify and measurement.verified_bytes < written:
        raise GuestError(
            f"fio's {pattern.name} read back {measurement.verified_bytes} of {written} bytes"
        )
    return measurement


def find_written_blocks(path: Path) -> int:
    """How many blocks of the random region carry fio's mark, in the host's file.

    Raises:
        GuestError: none does: what the guest wrote did not reach the file.
    """
    random = PATTERNS[2]
    found = 0
    with path.open("rb") as file:
        for offset in range(random.offset, random.offset + random.size, random.block_size):
            file.seek(offset)
            found += file.read(2) == FIO_VERIFY_MAGIC
    if not found:
        raise GuestError(f"nothing that fio wrote in the guest is in {path}")
    return found


def fio_table(accel: Accel, boot_seconds: float, measurements: list[Measurement]) -> Table:
    """A line for each run of fio."""
    from rich.table import Table

    table = Table(
        title=f"fio in a guest, up in {boot_seconds:.1f} s on {accel.name}", title_justify="left"
    )
    for heading in ("pattern", "IOPS", "MB/s", "p50 us", "p99 us", "verified"):
        table.add_column(heading, justify="left" if heading == "pattern" else "right")
    for each in measurements:
        kib = each.pattern.block_size >> 10
        table.add_row(
            f"{each.pattern.name} {kib}K x{each.pattern.depth}",
            f"{each.iops:,.0f}",
            f"{each.bandwidth / 1e6:,.1f}",
            f"{each.latency_p50_us:,.0f}",
            f"{each.latency_p99_us:,.0f}",
            f"{each.verified_bytes >> 20} MiB" if each.pattern.verify else "-",
        )
    return table


def show(what: str | Table) -> None:
    """A line or a table, on stdout."""
    from rich.console import Console

    Console(soft_wrap=isinstance(what, str)).print(what, highlight=False, markup=False)
