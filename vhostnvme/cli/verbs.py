"""What commands on a card have in common: verbs, `--card`, `--json`, and the way to the card."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

Act = Callable[[argparse.Namespace], int]
_CARD_HELP = (
    "the card: its name, its control socket, or the folder of that (VHOSTNVME_CARD, else the only"
    " card that runs in $XDG_RUNTIME_DIR/vhostnvme or /run/vhostnvme)"
)


def add_verbs(parser: argparse.ArgumentParser) -> Any:
    """Where `add_verb` adds to."""
    return parser.add_subparsers(dest="verb", metavar="VERB", required=True)


def add_verb(
    verbs: Any, name: str, act: Act, line: str, example: str, *, of_card: bool = True
) -> argparse.ArgumentParser:
    """The parser of a verb that `act` runs.

    Args:
        of_card: whether it asks a running card.
    """
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=line,
        description=line[0].upper() + line[1:] + ".",
        epilog=f"example: vhostnvme {example}",
        allow_abbrev=False,
    )
    parser.set_defaults(act=act)
    if of_card:
        add_card(parser)
        parser.add_argument("--json", action="store_true", help="print JSON (docs/cluster.md)")
    return parser


def add_card(parser: argparse.ArgumentParser) -> None:
    """`--card` may stand before the command, or behind its verb."""
    parser.add_argument("--card", metavar="NAME|SOCKET", default=argparse.SUPPRESS, help=_CARD_HELP)


def run_verb(args: argparse.Namespace) -> int:
    """What the verb's parser has said."""
    act: Act = args.act
    return act(args)


def ask(
    args: argparse.Namespace,
    method: str,
    params: object,
    result: type[T],
    timeout_s: float | None = None,
) -> T:
    """The card's answer; raises as ControlClient does.

    Raises:
        ConfigError: no such card runs here.
    """
    from vhostnvme.control.client import TIMEOUT_S, call
    from vhostnvme.control.paths import find_card

    path = find_card(getattr(args, "card", None))
    return call(path, method, params, result, TIMEOUT_S if timeout_s is None else timeout_s)


def tell(args: argparse.Namespace, answer: T, show: Callable[[T], None]) -> int:
    """The answer as one line of JSON, or by `show`; the exit code."""
    if args.json:
        import msgspec

        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    else:
        show(answer)
    return 0
