"""A card that kills itself at a chosen step, for tests of what a crash leaves behind.

`python -m vhostnvme.testing.mortal_card CARD.toml [--ready-fd N] --trace FILE`

runs the card. A line on its standard input, a number, arms it: FILE is emptied, gets the line
`armed`, and from there on a line for each step; at the step of that number the process ends by
SIGKILL, its line being the last. 0: it lives on, and the last line is `disarmed`. A step is the
moment before an effect of the card's managers is begun, or after its work has ended and before the
managers are told. With the file `die-at` beside CARD.toml it is armed from the start, by the number
in it, once.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vhostnvme import card
from vhostnvme.cluster.messages import Effect, KeepAlive, Log, Txn, Write
from vhostnvme.cluster.runner import Runner, Work
from vhostnvme.config import load_card
from vhostnvme.errors import VhostNvmeError

DIE_AT = "die-at"


class Fate:
    """Counts steps once it is armed, writes them down, and ends the process at the chosen one."""

    def __init__(self, trace: Path) -> None:
        self._trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._left = 0  # steps until death; 0: there will be none

    def arm(self, number: int) -> None:
        """From here on; 0: not any more."""
        if number:
            os.ftruncate(self._trace, 0)
        os.write(self._trace, b"armed\n" if number else b"disarmed\n")
        self._left = number

    def step(self, what: str) -> None:
        if self._left == 0:
            return
        os.write(self._trace, f"{what}\n".encode())
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def listen(self) -> None:
        """Until the end of standard input."""
        for line in sys.stdin:
            self.arm(int(line))


class MortalRunner(Runner):
    """A runner whose steps fate counts; lines of the log and heartbeats are none."""

    fate: Fate

    def _carry_out(self, effect: Effect) -> None:
        if not isinstance(effect, KeepAlive | Log):
            self.fate.step(f"before {describe(effect)}")
        super()._carry_out(effect)

    async def _work(self, effect: Any, work: Work) -> None:
        async def watched(effect: Any) -> Any:
            try:
                return await work(effect)
            finally:
                if not isinstance(effect, KeepAlive):
                    self.fate.step(f"after {describe(effect)}")

        await super()._work(effect, watched)


def describe(effect: Effect) -> str:
    """Its type, and what it changes."""
    name = type(effect).__name__
    match effect:
        case Write(changes):
            return f"{name} {' '.join(type(each).__name__ for each in changes)}"
        case Txn(_, _, then):
            return f"{name} {' '.join(each.key.partition('/')[0] for each in then)}"
    return name


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A card that kills itself at a chosen step.")
    parser.add_argument("file", type=Path, metavar="CARD.toml")
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--trace", type=Path, help="default: beside CARD.toml")
    args = parser.parse_args(arguments)
    MortalRunner.fate = Fate(args.trace or args.file.with_name("trace"))
    card.Runner = MortalRunner  # type: ignore[attr-defined]
    die_at = args.file.with_name(DIE_AT)
    if die_at.exists():
        MortalRunner.fate.arm(int(die_at.read_text(encoding="ascii")))
        die_at.unlink()
    threading.Thread(target=MortalRunner.fate.listen, daemon=True).start()
    try:
        asyncio.run(card.run_card(load_card(args.file), ready_fd=args.ready_fd))
    except VhostNvmeError as error:
        sys.stderr.write(f"mortal_card: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
