"""`vhostnvme ssd`: the SSDs of a card, and who has their space."""

from __future__ import annotations

import argparse

from vhostnvme.cli.verbs import add_verb, add_verbs, ask, run_verb, tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = add_verbs(parser)
    add_verb(verbs, "list", _list, "show the card's SSDs, exact to the byte", "ssd list --json")


run = run_verb


def _list(args: argparse.Namespace) -> int:
    from vhostnvme.control.card import SSD_LIST, SsdInfo
    from vhostnvme.control.device import NoParams
    from vhostnvme.inspect.show_card import show_ssds

    return tell(args, ask(args, SSD_LIST, NoParams(), list[SsdInfo]), show_ssds)
