"""`vhostnvme simulate`: seeded histories of a whole cluster, with all that can go wrong in it."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from vhostnvme.cli import arguments

if TYPE_CHECKING:
    from vhostnvme.testing.simulator.bugs import Bug
    from vhostnvme.testing.simulator.history import Outcome
    from vhostnvme.testing.simulator.plan import Plan

STORY_LINES = 40
PROGRESS_S = 2.0
SHRINK_S = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Runs the managers of many cards over a simulated store, network, clocks, SSDs and guests,"
        " with crashes, pauses, partitions and losses drawn from a seed, and checks after every"
        " step that no byte and no namespace is given twice, and in the end that nothing leaks."
        " A failure is made small, told as a story, and can be run again."
    )
    number = arguments.whole_number
    parser.add_argument(
        "--histories", type=number(1, 10**9), default=1000, metavar="N", help="how many (1000)"
    )
    parser.add_argument(
        "--seed", type=number(0, 1 << 62), default=0, metavar="S", help="of the first history (0)"
    )
    parser.add_argument(
        "--cards", type=number(1, 99), default=0, metavar="N", help="in each (default: 3 to 5)"
    )
    parser.add_argument(
        "--steps", type=number(1, 10**6), default=0, metavar="N",
        help="so many draws for each schedule (default: 90 to 250)",
    )  # fmt: skip
    parser.add_argument("--only", metavar="LIST", help="one history, with these events: 1-3,7")
    parser.add_argument("--without-cards", metavar="LIST", default="", help="one history: a,b")
    parser.add_argument(
        "--shrink", type=number(0, 10**6), default=SHRINK_S, metavar="SECONDS",
        help="to make a failure small (30)",
    )  # fmt: skip
    parser.add_argument("--bug", metavar="NAME", help="with a bug on purpose; `list` names them")
    parser.add_argument(
        "--big", action="store_true",
        help="instead: one large cluster without faults (50 cards, 5000 namespaces)",
    )  # fmt: skip
    parser.add_argument(
        "--namespaces", type=number(1, 10**6), default=5000, metavar="N", help="with --big (5000)"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(args: argparse.Namespace) -> int:
    from vhostnvme.errors import ConfigError
    from vhostnvme.testing.simulator.bugs import BUGS, find_bug

    if args.big:
        return _run_big(args)
    if args.bug == "list":
        for each in BUGS:
            sys.stdout.write(f"{each.name:20} {each.what}\n")
        return 0
    try:
        bug = find_bug(args.bug) if args.bug else None
    except KeyError:
        names = ", ".join(each.name for each in BUGS)
        raise ConfigError(f"there is no bug {args.bug!r}: there are {names}") from None
    if args.only is not None or args.without_cards:
        return _run_one(args, bug)
    return _run_many(args, bug)


def _run_one(args: argparse.Namespace, bug: Bug | None) -> int:
    from vhostnvme.errors import ConfigError
    from vhostnvme.testing.simulator.history import run_plan
    from vhostnvme.testing.simulator.plan import make_plan
    from vhostnvme.testing.simulator.shrink import parse_idents

    plan = make_plan(args.seed, cards=args.cards, steps=args.steps)
    for name in filter(None, args.without_cards.split(",")):
        plan = plan.without(name)
    if args.only is not None:
        try:
            plan = plan.keep(parse_idents(args.only))
        except ValueError:
            raise ConfigError(f"--only {args.only}: write numbers and ranges, as 1-3,7") from None
    outcome = run_plan(plan, bug=bug, digest=True)
    if args.json:
        _print_json({"seed": args.seed, "broken": outcome.broken, "digest": outcome.digest})
    else:
        _tell(outcome)
        sys.stdout.write(f"{outcome.broken or 'no rule was broken'}\n")
    return 1 if outcome.broken else 0


def _run_many(args: argparse.Namespace, bug: Bug | None) -> int:
    from vhostnvme.testing.simulator.history import run_plan
    from vhostnvme.testing.simulator.plan import make_plan

    began = shown = time.monotonic()
    virtual_s, commands, done = 0.0, 0, 0
    for seed in range(args.seed, args.seed + args.histories):
        plan = make_plan(seed, cards=args.cards, steps=args.steps)
        outcome = run_plan(plan, bug=bug)
        done += 1
        virtual_s += outcome.virtual_s
        commands += sum(outcome.answers.values())
        if outcome.broken:
            _fail(args, plan, outcome, bug)
            break
        now = time.monotonic()
        if now - shown >= PROGRESS_S:
            shown = now
            rate = done / (now - began)
            sys.stderr.write(f"simulate: {done} of {args.histories}, {rate:.1f} a second\n")
    else:
        outcome = None
    seconds = time.monotonic() - began
    if args.json and outcome is None:
        _print_json(
            {
                "histories": done, "seed": args.seed, "broken": "", "seconds": seconds,
                "virtual_seconds": virtual_s, "commands": commands,
            }
        )  # fmt: skip
    elif outcome is None:
        last = args.seed + done - 1
        sys.stdout.write(
            f"{done} histories, seeds {args.seed} to {last}: no rule was broken\n"
            f"{commands} commands answered in {virtual_s / 3600:.1f} virtual hours;"
            f" {done / seconds:.1f} histories a second\n"
        )
    return 1 if outcome else 0


def _fail(args: argparse.Namespace, plan: Plan, outcome: Outcome, bug: Bug | None) -> None:
    """Makes it small and tells it."""
    from vhostnvme.testing.simulator.history import run_plan
    from vhostnvme.testing.simulator.shrink import format_idents, shrink

    sys.stderr.write(f"simulate: seed {plan.seed}: {outcome.broken}\nsimulate: making it small\n")
    small, tried = shrink(
        plan, outcome.broken, lambda each: run_plan(each, bug=bug).broken, args.shrink
    )
    outcome = run_plan(small, bug=bug)
    kept = {card.name for card in small.cards}
    words = [f"./run simulate --seed {plan.seed}"]
    words += [f"--cards {args.cards}"] if args.cards else []
    words += [f"--steps {args.steps}"] if args.steps else []
    words += [f"--bug {bug.name}"] if bug else []
    words.append(f"--only {format_idents(event.ident for event in small.events) or chr(34) * 2}")
    without = ",".join(card.name for card in plan.cards if card.name not in kept)
    words += [f"--without-cards {without}"] if without else []
    replay = " ".join(words)
    if args.json:
        _print_json(
            {
                "histories": plan.seed - args.seed + 1, "seed": plan.seed,
                "broken": outcome.broken, "replay": replay,
                "events": [str(event) for event in small.events],
            }
        )  # fmt: skip
        return
    _tell(outcome)
    sys.stdout.write(
        f"\nseed {plan.seed}: {outcome.broken}\n\n"
        f"{len(small.events)} of {len(plan.events)} events are enough ({tried} plans tried):\n"
    )
    for event in small.events:
        sys.stdout.write(f"  {event}\n")
    sys.stdout.write(f"\nonce more: {replay}\n")


def _tell(outcome: Outcome) -> None:
    from vhostnvme.testing.simulator.story import interesting, tell

    for line in tell(interesting(outcome.notes)[-STORY_LINES:]):
        sys.stdout.write(line + "\n")


def _run_big(args: argparse.Namespace) -> int:
    import dataclasses

    from vhostnvme.testing.simulator.big import run_big

    outcome = run_big(args.cards or 50, args.namespaces, args.seed)
    if args.json:
        _print_json(dataclasses.asdict(outcome))
        return 1 if outcome.broken else 0
    lines = [
        f"{outcome.cards} cards, {outcome.namespaces} namespaces, {outcome.remote} of them remote",
        f"creation: {outcome.create_s_p50 * 1000:.0f} ms median, {outcome.create_s_p99 * 1000:.0f}"
        f" ms for 99 of 100, {outcome.create_s_max * 1000:.0f} ms at most (virtual)",
    ]
    for name, load in (("while creating", outcome.creating), ("afterwards", outcome.idle)):
        lines.append(
            f"each card {name}, a second: {load.writes:.2f} transactions, {load.reads:.2f} lists,"
            f" {load.calls:.2f} calls in all, told {load.changes:.1f} changes"
        )
    lines.append(outcome.broken or "no rule was broken")
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if outcome.broken else 0


def _print_json(found: dict[str, Any]) -> None:
    import msgspec

    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
