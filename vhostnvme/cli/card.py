"""`vhostnvme card`: runs a card in the foreground, checks its file, shows how it is."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vhostnvme.cli import arguments
from vhostnvme.cli.verbs import add_verb, add_verbs, ask, run_verb, tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "docs/cluster.md describes CARD.toml."
    verbs = add_verbs(parser)
    run_one = add_verb(
        verbs,
        "run",
        _run,
        "run a card in the foreground, until a signal comes",
        "card run /etc/vhostnvme/a.toml",
        of_card=False,
    )
    run_one.add_argument("file", type=Path, metavar="CARD.toml")
    run_one.add_argument(
        "--ready-fd",
        type=arguments.whole_number(0, 1 << 20),
        metavar="N",
        help="write a line to this file descriptor when commands are taken, and close it",
    )
    check = add_verb(
        verbs,
        "check",
        _check,
        "read a card's file, and say what is wrong with it",
        "card check /etc/vhostnvme/a.toml",
        of_card=False,
    )
    check.add_argument("file", type=Path, metavar="CARD.toml")
    line = "empty a card's SSDs for maintenance: what lies there moves away while its VMs run"
    drain = add_verb(verbs, "drain", _drain, line, "card drain b")
    drain.add_argument(
        "name", nargs="?", metavar="CARD", help="a card of this machine (default: that of --card)"
    )
    drain.add_argument("--cancel", action="store_true", help="the card is emptied no more")
    drain.add_argument("--no-wait", action="store_true", help="do not wait until it is empty")
    add_verb(verbs, "status", _status, "show how a running card is", "--card a card status")


run = run_verb


def _run(args: argparse.Namespace) -> int:
    import asyncio

    from vhostnvme.card import run_card
    from vhostnvme.config import load_card
    from vhostnvme.emulation.announcement import Announcement

    config = load_card(args.file)
    Announcement(ready_fd=args.ready_fd).check()
    asyncio.run(run_card(config, ready_fd=args.ready_fd))
    return 0


def _check(args: argparse.Namespace) -> int:
    from vhostnvme.config import load_card
    from vhostnvme.inspect.show_card import show_config

    show_config(load_card(args.file))
    sys.stdout.flush()
    return 0


def _status(args: argparse.Namespace) -> int:
    from vhostnvme.control.card import CARD_STATUS, CardStatus
    from vhostnvme.control.device import NoParams
    from vhostnvme.inspect.show_card import show_card

    return tell(args, ask(args, CARD_STATUS, NoParams(), CardStatus), show_card)


def _drain(args: argparse.Namespace) -> int:
    from vhostnvme.cli.moving import wait_for_drain
    from vhostnvme.control.card import CARD_DRAIN, DrainInfo, DrainParams
    from vhostnvme.inspect.show_card import show_drain

    if args.name:
        args.card = args.name
    drain = ask(args, CARD_DRAIN, DrainParams(on=not args.cancel), DrainInfo)
    if drain.draining and not args.no_wait:
        drain.left = wait_for_drain(args, drain.left)
    return tell(args, drain, show_drain)
