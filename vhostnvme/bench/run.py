"""The benchmark from end to end: files, sections, report. Each section stands for itself."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vhostnvme.bench import guest, host, record, report, scaling, tcp
from vhostnvme.bench.contestants import CONTESTANTS, fill, make_disks
from vhostnvme.bench.machine import Disturbance, describe, watch
from vhostnvme.bench.samples import OURS, Load, Results
from vhostnvme.emulation.boot import scratch_folder, unwind_on_signals
from vhostnvme.errors import ConfigError

RAM_FOLDER = Path("/dev/shm")
SECTIONS = ("guest", "host", "engine", "scaling", "tcp")
PATTERNS = ("read", "write", "randread", "randwrite")
BACKINGS = ("disk", "ram")
GUEST_DEPTHS = (1, 32)
HOST_DEPTHS = (1, 32, 128)
BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What to measure; `seconds` of each run, `folder` for the files on disk.

    Attributes:
        depths: of all sections; None: of each its own.
        patterns, backings: of the guest; the host section takes disk files, or what is left.
        contestants: the guest's, beside ours; None: all that take part by default.
    """

    output: Path
    sections: tuple[str, ...] = SECTIONS
    rounds: int = 3
    seconds: float = 1.0
    depths: tuple[int, ...] | None = None
    patterns: tuple[str, ...] = ("randread", "randwrite")
    backings: tuple[str, ...] = BACKINGS
    folder: Path | None = None
    contestants: tuple[str, ...] | None = None
    poll_us: int | None = None

    def __post_init__(self) -> None:
        names = tuple(contestant.name for contestant in CONTESTANTS)
        for words, known, what in (
            (self.sections, SECTIONS, "section"),
            (self.patterns, PATTERNS, "pattern"),
            (self.backings, BACKINGS, "backing"),
            (self.contestants or (), names, "contestant"),
        ):
            for word in words:
                if word not in known:
                    raise ConfigError(f"there is no {what} {word!r}: take {', '.join(known)}")
        if not all(1 <= depth <= 1024 for depth in self.depths or ()):
            raise ConfigError("a queue depth is a number from 1 to 1024")

    @property
    def guest_loads(self) -> list[Load]:
        depths = self.depths or GUEST_DEPTHS
        return [Load(rw, BLOCK_BYTES, depth) for rw in self.patterns for depth in depths]

    @property
    def host_loads(self) -> list[Load]:
        return host.loads_of(self.depths or HOST_DEPTHS)

    @property
    def tcp_loads(self) -> list[Load]:
        return tcp.tcp_loads(self.depths or tcp.DEPTHS)


def bench(options: BenchOptions) -> int:
    """Measures, prints tables, writes bench.json and pictures.

    What has been measured is shown and written also when a later section fails or is interrupted.

    Raises:
        ConfigError, GuestError, ProvisionError, PeerError, NativeError: what failed, what to do.
    """
    options.output.mkdir(parents=True, exist_ok=True)
    if "host" in options.sections:
        host.fio_of_host()  # better now than after minutes
    unwind_on_signals()
    started, began = datetime.now(UTC), time.monotonic()
    results, notes = Results(), dict[str, Disturbance]()
    with ExitStack() as stack:
        folders = {
            backing: stack.enter_context(folder_of(backing, options.folder)) for backing in BACKINGS
        }
        machine = describe(folders)
        try:
            asyncio.run(_measure(options, folders, results, machine, notes))
        finally:
            about = {
                "started": started.isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - began, 1),
                "complete": sys.exc_info()[0] is None,
                "options": _plain(options),
                "machine": machine,
                "disturbance": {section: asdict(note) for section, note in notes.items()},
            }
            if results.samples:
                _publish(results, about, options.output)
    return 0


async def _measure(
    options: BenchOptions,
    folders: dict[str, Path],
    results: Results,
    machine: dict[str, Any],
    notes: dict[str, Disturbance],
) -> None:
    """The sections, in their order; each removes its files at its end."""
    common: dict[str, Any] = {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "results": results,
        "report": _say,
    }
    for section in (name for name in SECTIONS if name in options.sections):
        with watch(notes, section):
            if section == "guest":
                await _guest(options, folders, results, machine)
            elif section == "host":
                backing = "disk" if "disk" in options.backings else "ram"
                path = folders[backing] / "host.img"
                fill(path)
                await host.compare_files({backing: path}, options.host_loads, **common)
                path.unlink()
            elif section == "engine":
                await host.compare_engines(folders["ram"], options.host_loads, **common)
            elif section == "tcp":
                await tcp.compare_tcp(folders["ram"], options.tcp_loads, **common)
            else:
                await scaling.scale(folders["ram"], **common)


async def _guest(
    options: BenchOptions, folders: dict[str, Path], results: Results, machine: dict[str, Any]
) -> None:
    names = None if options.contestants is None else [OURS, *options.contestants]
    _say("guest: writing the disks' files")
    disks = make_disks({name: folders[name] for name in options.backings}, names)
    settings = guest.GuestOptions(
        rounds=options.rounds, seconds=options.seconds, poll_us=options.poll_us
    )
    known = await guest.compare(disks, options.guest_loads, settings, results, _say)
    machine["accel"] = known.pop("accel")
    machine["versions"].update(known)
    for disk in disks:
        disk.path.unlink()


def _publish(results: Results, about: dict[str, Any], output: Path) -> None:
    from vhostnvme.bench import plots

    report.show(results, about)
    written = [output / "bench.json"]
    record.write(record.to_record(results, about), written[0])
    try:
        written += plots.draw_all(results, about["machine"], output)
    except ImportError:
        _say("no pictures: there is no matplotlib (pip install matplotlib)")
    _say("written: " + ", ".join(str(path) for path in written))


def _plain(options: BenchOptions) -> dict[str, Any]:
    """The options as JSON has them."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(options).items()
    }


@contextmanager
def folder_of(backing: str, folder: Path | None) -> Iterator[Path]:
    parent = RAM_FOLDER if backing == "ram" else folder or scratch_folder()
    with tempfile.TemporaryDirectory(prefix="vhostnvme-", dir=parent) as made:
        yield Path(made)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
