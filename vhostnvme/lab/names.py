"""How the hosts of a lab are called, and where they are: names, addresses, namespaces."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from pathlib import Path

import msgspec

from vhostnvme.errors import ConfigError

CARDS_MAX = 50
STORES_MAX = 3
SUBNET = ipaddress.ip_network("10.77.0.0/16")
PREFIX = "vhostnvme-"
STORE = "store"  # in commands: all hosts of the store
_SWITCH = "net"
_FIRST_STORE = 256  # 10.77.1.0: the cards are below


class Host(msgspec.Struct, frozen=True):
    """A machine of the lab: one network namespace with one address."""

    name: str
    address: str
    namespace: str

    @property
    def mac(self) -> str:
        """Locally administered, and told by the address: nobody has to ask for it."""
        octets = ipaddress.ip_address(self.address).packed
        return ":".join(f"{octet:02x}" for octet in (2, 0, *octets))


def lab_name(directory: Path) -> str:
    """The name of the lab in this folder; two folders never share one."""
    return hashlib.sha256(os.fsencode(directory)).hexdigest()[:8]


def namespace_prefix(lab: str) -> str:
    """What all its network namespaces begin with."""
    return f"{PREFIX}{lab}-"


def switch_namespace(lab: str) -> str:
    """Where the bridge is."""
    return namespace_prefix(lab) + _SWITCH


def card_names(count: int) -> list[str]:
    """a, b, … z, aa, ab, …

    Raises:
        ConfigError: there are none, or more than CARDS_MAX.
    """
    if not 1 <= count <= CARDS_MAX:
        raise ConfigError(f"a lab has from 1 to {CARDS_MAX} cards, not {count}")
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = [*letters, *(first + second for first in letters for second in letters)]
    return names[:count]


def card_hosts(lab: str, count: int) -> list[Host]:
    """The cards' hosts, at 10.77.0.1 and on."""
    return [_host(lab, name, number) for number, name in enumerate(card_names(count), 1)]


def store_hosts(lab: str, count: int) -> list[Host]:
    """The store's hosts: `store1` at 10.77.1.1, and on."""
    if not 0 <= count <= STORES_MAX:
        raise ConfigError(f"a lab has up to {STORES_MAX} servers of its store, not {count}")
    return [_host(lab, f"{STORE}{n}", _FIRST_STORE + n) for n in range(1, count + 1)]


def is_store(name: str) -> bool:
    """Whether a host of this name holds a part of the store."""
    return re.fullmatch(rf"{STORE}[0-9]+", name) is not None


def _host(lab: str, name: str, number: int) -> Host:
    return Host(name, str(SUBNET.network_address + number), namespace_prefix(lab) + name)
