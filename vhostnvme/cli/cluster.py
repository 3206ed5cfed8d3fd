"""`vhostnvme cluster`: the cards of the cluster as one of them sees it."""

from __future__ import annotations

import argparse

from vhostnvme.cli.verbs import add_verb, add_verbs, ask, run_verb, tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = add_verbs(parser)
    line = "show the cards, how they are, their space, and who holds what where"
    add_verb(verbs, "status", _status, line, "cluster status --json")
    line = "give up a card that will not come back: what it held is released, what it gave is lost"
    forget = add_verb(verbs, "forget", _forget, line, "cluster forget b")
    forget.add_argument("name", metavar="CARD", help="the card that is to be forgotten")


run = run_verb


def _status(args: argparse.Namespace) -> int:
    from vhostnvme.control.card import CLUSTER_STATUS, ClusterCard
    from vhostnvme.control.device import NoParams
    from vhostnvme.inspect.show_card import show_cluster

    return tell(args, ask(args, CLUSTER_STATUS, NoParams(), list[ClusterCard]), show_cluster)


def _forget(args: argparse.Namespace) -> int:
    from vhostnvme.control.card import CLUSTER_FORGET, SLOW_S, CardParams, ForgottenCard
    from vhostnvme.inspect.show_card import show_forgotten

    answer = ask(args, CLUSTER_FORGET, CardParams(card=args.name), ForgottenCard, SLOW_S)
    return tell(args, answer, show_forgotten)
