"""`python -m vhostnvme.testing.recovery`: a line a cycle, and a summary. See the package."""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from vhostnvme.errors import VhostNvmeError
from vhostnvme.testing.recovery.bed import BedPlan, make_bed
from vhostnvme.testing.recovery.cycles import Cycle, run_cycles, summary
from vhostnvme.units import parse_size


async def run(args: argparse.Namespace, folder: Path) -> int:
    plan = BedPlan(cards=args.cards, size=args.size, store=args.store)
    done: list[Cycle] = []

    def tell(cycle: Cycle) -> None:
        done.append(cycle)
        say(f"{time.strftime('%H:%M:%S')} {cycle}")

    async with make_bed(folder, plan) as bed:
        try:
            await run_cycles(bed, args.cycles, random.Random(args.seed), tell)
        except VhostNvmeError as error:
            say(f"FAILED in cycle {len(done) + 1}: {error}\n{bed.evidence()}")
            return 1
        finally:
            say(summary(done))
    return 0 if all(cycle.in_bound for cycle in done) else 1


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m vhostnvme.testing.recovery")
    parser.add_argument("--cycles", type=int, default=5, help="5")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--cards", type=int, default=3, help="3")
    parser.add_argument("--size", type=parse_size, default="64M", help="of the namespace (64M)")
    parser.add_argument("--store", choices=["etcd", "sqlite"], default="etcd")
    parser.add_argument("--keep", type=Path, help="folder for SSDs and logs; a temporary one")
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    say(f"seed {args.seed}")
    try:
        with tempfile.TemporaryDirectory(prefix="vn-", dir="/var/tmp") as temporary:
            return asyncio.run(run(args, args.keep or Path(temporary)))
    except VhostNvmeError as error:
        sys.stderr.write(f"recovery: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("recovery: ended by a signal\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
