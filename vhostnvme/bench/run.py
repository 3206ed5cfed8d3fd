"""The benchmark from end to end: files, guest, rounds, report."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vhostnvme.bench.contestants import CONTESTANTS, OURS, make_disks
from vhostnvme.bench.guest import cells, compare
from vhostnvme.bench.report import draw, show, write_json
from vhostnvme.emulation.boot import scratch_folder
from vhostnvme.errors import ConfigError

RAM_FOLDER = Path("/dev/shm")
PATTERNS = ("read", "write", "randread", "randwrite")
BACKINGS = ("disk", "ram")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What to compare; `seconds` of each fio run, `folder` for the files on disk."""

    output: Path
    rounds: int
    seconds: int
    depths: tuple[int, ...]
    patterns: tuple[str, ...]
    backings: tuple[str, ...]
    folder: Path | None = None
    contestants: tuple[str, ...] | None = None
    poll_us: int | None = None

    def __post_init__(self) -> None:
        names = tuple(contestant.name for contestant in CONTESTANTS)
        for words, known, what in (
            (self.patterns, PATTERNS, "pattern"),
            (self.backings, BACKINGS, "backing"),
            (self.contestants or (), names, "contestant"),
        ):
            for word in words:
                if word not in known:
                    raise ConfigError(f"there is no {what} {word!r}: take {', '.join(known)}")
        if not all(1 <= depth <= 1024 for depth in self.depths):
            raise ConfigError("a queue depth is a number from 1 to 1024")


def bench(options: BenchOptions) -> int:
    """Runs the comparison, prints a table, writes JSON and a picture.

    Raises:
        ConfigError, GuestError, ProvisionError, NativeError: what failed, and what to do.
    """
    options.output.mkdir(parents=True, exist_ok=True)
    names = None if options.contestants is None else [OURS, *options.contestants]
    with ExitStack() as stack:
        folders = {
            backing: stack.enter_context(folder_of(backing, options.folder))
            for backing in options.backings
        }
        _say("writing the disks' files")
        disks = make_disks(folders, names)
        results, accel = asyncio.run(
            compare(
                disks,
                cells(options.depths, options.patterns),
                rounds=options.rounds,
                seconds=options.seconds,
                poll_us=options.poll_us,
                report=_say,
            )
        )
    show(results, accel)
    write_json(results, accel, options.output / "bench.json")
    draw(results, accel, options.output / "bench.png")
    _say(f"written: {options.output / 'bench.json'}, {options.output / 'bench.png'}")
    return 0


@contextmanager
def folder_of(backing: str, folder: Path | None) -> Iterator[Path]:
    parent = RAM_FOLDER if backing == "ram" else folder or scratch_folder()
    with tempfile.TemporaryDirectory(prefix="vhostnvme-", dir=parent) as made:
        yield Path(made)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
