"""`vhostnvme lab`: several hosts on one machine, in network namespaces, with a card on each."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhostnvme.cli import arguments
from vhostnvme.units import parse_duration_us

if TYPE_CHECKING:
    from vhostnvme.lab import Lab
    from vhostnvme.lab.status import HostStatus

EXIT_NOT_FOUND = 127
_EXAMPLE = """examples:
  vhostnvme lab up --cards 3 --store etcd
  vhostnvme lab exec b -- vhostnvme device create --vm vm1 --size 1G
  vhostnvme lab partition b
  vhostnvme lab heal
  vhostnvme lab down
"""
_COLUMNS_MIN = 100  # of a table that goes into a file
_ONE = "a card, or `store`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verbs of `vhostnvme lab`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLE + "\nNeeds root. docs/lab.md tells how it is made."
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_up(_verb(verbs, "up", _up, "make the hosts and start their cards", "up --cards 3"))
    status = _verb(verbs, "status", _status, "show the hosts, and where they are cut", "status")
    status.add_argument("--json", action="store_true", help="one list of flat objects")
    line = "run a command on a card's host; its exit code is ours"
    execute = _verb(verbs, "exec", _exec, line, "exec b -- vhostnvme cluster status")
    execute.add_argument("host", metavar="CARD", help=_ONE.replace("`store`", "`store1`"))
    execute.add_argument("words", metavar="CMD", nargs=argparse.REMAINDER, help="behind --")
    _add_network(verbs)
    for name, line in (
        ("kill", "kill -9 of the card's process"),
        ("stop", "end the card's process politely"),
        ("freeze", "stop it in its tracks (SIGSTOP)"),
        ("thaw", "let it go on (SIGCONT)"),
        ("restart", "start it again, after kill or stop, and wait until it answers"),
    ):
        verb = _verb(verbs, name, _process, line, f"{name} b")
        verb.add_argument("host", metavar="CARD", help=_ONE)
    _verb(verbs, "down", _down, "remove all of it, also what an earlier one left", "down")


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    act: Callable[[argparse.Namespace], int],
    line: str,
    example: str,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=line,
        description=line,
        epilog=f"example: vhostnvme lab {example}",
        allow_abbrev=False,
    )
    parser.set_defaults(act=act)
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="the lab's folder (VHOSTNVME_LAB, else $XDG_STATE_HOME/vhostnvme/lab or"
        " /var/lib/vhostnvme/lab)",
    )
    return parser


def _add_up(parser: argparse.ArgumentParser) -> None:
    number = arguments.whole_number
    parser.add_argument("--cards", type=number(1, 50), default=3, metavar="N", help="a, b, … (3)")
    parser.add_argument(
        "--store", choices=("sqlite", "etcd"), default="sqlite", help="the cards' (sqlite)"
    )
    parser.add_argument(
        "--etcd", type=number(1, 3), default=1, metavar="N", help="servers of the store (1)"
    )
    parser.add_argument(
        "--ssds", type=number(1, 16), default=1, metavar="N", help="of each card (1)"
    )
    parser.add_argument(
        "--ssd-size", type=arguments.size, default="2G", metavar="SIZE", help="of each (2G)"
    )
    parser.add_argument(
        "--reserve", type=arguments.size, metavar="SIZE", help="what a card keeps back"
    )
    parser.add_argument(
        "--ttl",
        type=arguments.checked(parse_duration_us),
        metavar="TIME",
        help="for how long a card that is not heard stays a member (10s)",
    )
    parser.add_argument(
        "--timeout", type=arguments.seconds, metavar="S", help="until all cards answer"
    )
    parser.add_argument("--json", action="store_true", help="one list of flat objects")


def _add_network(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    line = "cut a host off; what is lost is lost silently"
    partition = _verb(verbs, "partition", _partition, line, "partition b --from a --one-way out")
    partition.add_argument("host", metavar="CARD", help=_ONE)
    partition.add_argument("--from", dest="other", metavar="CARD", help="only from this one")
    partition.add_argument(
        "--one-way",
        choices=("in", "out"),
        help="only what it sends (out) or what it is sent (in) is lost",
    )
    heal = _verb(verbs, "heal", _heal, "take back what partition did", "heal")
    heal.add_argument("host", metavar="CARD", nargs="?", help="to this one (all)")
    slow = _verb(verbs, "slow", _slow, "limit a host, both ways", "slow b --rate 10mbit")
    slow.add_argument("host", metavar="CARD", help=_ONE)
    group = slow.add_mutually_exclusive_group(required=True)
    group.add_argument("--rate", type=_rate, metavar="RATE", help="8kbit to 10gbit a second")
    group.add_argument("--none", action="store_true", help="no limit any more")


def _rate(text: str) -> int:
    """Bits a second, as tc(8) has them."""
    from vhostnvme.errors import ConfigError
    from vhostnvme.lab.network import parse_rate

    try:
        return parse_rate(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    """Runs one verb; returns the exit code.

    Raises:
        ConfigError, LabError: it cannot be.
    """
    from vhostnvme.errors import LabError

    try:
        code: int = args.act(args)
    except ModuleNotFoundError as error:
        if error.name != "pyroute2":
            raise
        raise LabError("the lab needs pyroute2: pip install 'vhostnvme[lab]'") from None
    return code


def _open(args: argparse.Namespace) -> Lab:
    from vhostnvme.lab import Lab

    return Lab.open(args.dir)


def _up(args: argparse.Namespace) -> int:
    from vhostnvme.lab import Lab, LabPlan

    plan = LabPlan(
        cards=args.cards,
        store=args.store,
        etcd=args.etcd,
        ssds=args.ssds,
        ssd_size=args.ssd_size,
        reserve=args.reserve,
        ttl_us=args.ttl,
        ready_s=args.timeout,
    )
    # Also whoever ends us politely wants nothing to be left.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    _show(Lab.up(args.dir, plan).status(), args.json)
    return 0


def _status(args: argparse.Namespace) -> int:
    _show(_open(args).status(), args.json)
    return 0


def _exec(args: argparse.Namespace) -> int:
    """Becomes the command, or returns an exit code."""
    import shutil

    from vhostnvme.errors import ConfigError

    words = args.words[1:] if args.words[:1] == ["--"] else args.words
    if args.words and words is args.words and words[0].startswith("-"):
        raise ConfigError(f"lab exec: {words[0]} stands behind the card: put it in front of it")
    if not words:
        raise ConfigError("lab exec: say what to run, as in `vhostnvme lab exec a -- ip address`")
    lab = _open(args)
    environment = lab.environment(args.host)
    command = lab.command(args.host, words)
    if shutil.which(words[0], path=environment["PATH"]) is not None:
        os.execvpe(command[0], command, environment)
    sys.stderr.write(f"vhostnvme: there is no command {words[0]!r}\n")
    return EXIT_NOT_FOUND


def _partition(args: argparse.Namespace) -> int:
    from vhostnvme.errors import ConfigError

    lab = _open(args)
    if lab.store_is_a_file:
        if "store" in (args.host, args.other):
            raise ConfigError(
                "the store of this lab is a file, which no network leads to: a lab with"
                " --store etcd has one that can be cut off"
            )
        sys.stderr.write(
            "vhostnvme: the store of this lab is a file, so the card still reaches it;"
            " its NVMe/TCP is cut\n"
        )
    lab.partition(args.host, args.other, args.one_way)
    return 0


def _heal(args: argparse.Namespace) -> int:
    _open(args).heal(args.host)
    return 0


def _slow(args: argparse.Namespace) -> int:
    _open(args).slow(args.host, args.rate)
    return 0


def _process(args: argparse.Namespace) -> int:
    lab = _open(args)
    actions: dict[str, Callable[[str], None]] = {
        "kill": lab.kill,
        "stop": lab.stop,
        "freeze": lab.freeze,
        "thaw": lab.thaw,
        "restart": lab.restart,
    }
    actions[args.verb](args.host)
    return 0


def _down(args: argparse.Namespace) -> int:
    from vhostnvme.lab import Lab

    if not Lab.remove(args.dir):
        sys.stderr.write("vhostnvme: there was no lab\n")
    return 0


def _show(status: list[HostStatus], as_json: bool) -> None:
    import msgspec

    if as_json:
        sys.stdout.write(json.dumps(msgspec.to_builtins(status)) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("name", "address", "pid", "state", "network", "SSDs", "socket"):
        table.add_column(title, no_wrap=title == "socket", overflow="fold")
    for host in status:
        table.add_row(*_row(host))
    console = Console()
    Console(width=max(console.width, _COLUMNS_MIN)).print(table)


def _row(host: HostStatus) -> tuple[Any, ...]:
    return (
        host.name,
        host.address,
        str(host.pid or ""),
        host.state,
        _network(host),
        str(len(host.ssds)) if host.kind == "card" else "",
        host.socket or "",
    )


def _network(host: HostStatus) -> str:
    from vhostnvme.lab.network import format_rate

    words = ["cut off"] if host.cut_off else []
    if host.loses_to:
        words.append("loses to " + ", ".join(host.loses_to))
    if host.rate_bits is not None:
        words.append(format_rate(host.rate_bits))
    return "; ".join(words) or "whole"
