"""Argument types that several commands share; argparse reports the mistakes, with exit code 2."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from vhostnvme.errors import ConfigError
from vhostnvme.fabric.address import Address, parse_address
from vhostnvme.fabric.nqn import check_nqn, check_subsystem_nqn
from vhostnvme.limits import BANDWIDTHS, IOPS, NAMES, option_of, parse_limit
from vhostnvme.storage.spec import DiskSpec, parse_spec
from vhostnvme.storage.ssd_folder import SsdSpec, parse_ssd
from vhostnvme.units import parse_size

T = TypeVar("T")


def checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """`parse` with its ConfigError turned into argparse's."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def spec(text: str) -> DiskSpec:
    return checked(parse_spec)(text)


def ssd(text: str) -> SsdSpec:
    return checked(parse_ssd)(text)


def size(text: str) -> int:
    return checked(parse_size)(text)


def address(text: str) -> Address:
    return checked(parse_address)(text)


def listen_address(text: str) -> Address:
    """Its port may be 0."""
    return checked(partial(parse_address, any_port=True))(text)


def nqn(text: str) -> str:
    return checked(check_nqn)(text)


def subsystem_nqn(text: str) -> str:
    return checked(check_subsystem_nqn)(text)


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Integers from `low` to `high`."""

    def convert(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)

    return convert


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def add_host(parser: argparse.ArgumentParser) -> None:
    """Who we are to an NVMe/TCP target; `given_host` finds it again."""
    group = parser.add_argument_group("over NVMe/TCP")
    group.add_argument(
        "--hostnqn", type=nqn, metavar="NQN", help="who we are (/etc/nvme/hostnqn, or made)"
    )
    for name, line in (
        ("tls-psk", "use TLS, with this pre-shared key"),
        ("dhchap-key", "prove with DH-HMAC-CHAP that we know this key"),
        ("dhchap-ctrl-key", "and have the target prove that it knows this one"),
    ):
        group.add_argument(f"--{name}-file", metavar="FILE", help=line)


def given_host(args: argparse.Namespace) -> dict[str, Any]:
    """What was given of it, by the names in RemoteSpec."""
    names = ("hostnqn", "tls_psk_file", "dhchap_key_file", "dhchap_ctrl_key_file")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def add_limits(parser: argparse.ArgumentParser) -> None:
    """An option for each limit; `given_limits` finds them again."""
    group = parser.add_argument_group("limits (`none` for no limit)")
    for name in NAMES:
        metavar, line = "N", "commands a second"
        if name in BANDWIDTHS:
            metavar, line = "SIZE", "bytes a second, with K, M, G"
        elif name not in IOPS:
            metavar, line = "TIME", "save up unused commands and bytes for so long (default 100ms)"
        group.add_argument(
            f"--{option_of(name)}",
            dest=name,
            type=checked(partial(parse_limit, name)),
            metavar=metavar,
            help=line,
        )


def given_limits(args: argparse.Namespace) -> dict[str, int]:
    """The limits that were given, by their names in Limits."""
    return {name: getattr(args, name) for name in NAMES if getattr(args, name) is not None}
