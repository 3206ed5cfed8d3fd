"""The network of a lab: hosts in namespaces, veth pairs, one bridge, and what can be done to them.

Each host knows the hardware addresses of all others for good: nobody asks, so what is lost is lost
without a word to the sender. Where things are cut is kept by the kernel alone, so that any process
can change it and see it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl import TC_H_ROOT

from vhostnvme.errors import ConfigError
from vhostnvme.lab import namespaces
from vhostnvme.lab.names import SUBNET, Host, namespace_prefix, switch_namespace

BRIDGE = "bridge"
DEVICE = "eth0"  # what a host calls its end of the cable
RATE_BITS_MIN = 8_000
RATE_BITS_MAX = 10_000_000_000
NOBODY = "02:00:00:00:00:ff"  # a hardware address that no host has
_BURST_BYTES_MIN = 16 << 10
_QUEUE_S = 0.1  # what a slow cable holds back before it drops
_NUD_PERMANENT = 0x80
_RATE_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LinkState:
    """How a host is connected: `cut_off` from all; `loses_to`: what it sends to these is lost."""

    cut_off: bool
    loses_to: tuple[str, ...]
    rate_bits: int | None


class Network:
    """The namespaces of one lab; they need not exist yet.

    Raises (all methods):
        LabError: the kernel refuses, or the lab is not there.
    """

    def __init__(self, lab: str, hosts: Sequence[Host]) -> None:
        self.lab = lab
        self.hosts = {host.name: host for host in hosts}
        self._switch = switch_namespace(lab)

    def make(self) -> None:
        """All of it."""
        namespaces.create(self._switch)
        _with_netlink(self._switch, _make_bridge)
        for host in self.hosts.values():
            namespaces.create(host.namespace)
        _with_netlink(self._switch, self._make_cables)
        for host in self.hosts.values():
            _with_netlink(host.namespace, self._host_maker(host))

    def remove(self) -> None:
        """All that bears this lab's name, whatever state it is in. Safe to repeat."""
        for name in namespaces.find(namespace_prefix(self.lab)):
            namespaces.remove(name)

    def exists(self) -> bool:
        """Whether anything of it is there."""
        return bool(namespaces.find(namespace_prefix(self.lab)))

    def cut_off(self, name: str) -> None:
        """Nothing reaches the host, and nothing it sends arrives; its cable looks as before."""

        def cut(netlink: Any) -> None:
            netlink.link("set", index=_index(netlink, name), master=0)

        _with_netlink(self._switch, cut)

    def lose(self, sender: str, receivers: Iterable[str]) -> None:
        """What `sender` sends to these hosts is lost; what they send is not."""
        self._point(self.hosts[sender], [self.hosts[name] for name in receivers], NOBODY)

    def heal(self, names: Iterable[str]) -> None:
        """These hosts, and all that send to them, lose nothing any more."""
        healed = set(names)

        def join(netlink: Any) -> None:
            for name in sorted(healed):
                bridge = _index(netlink, BRIDGE)
                netlink.link("set", index=_index(netlink, name), master=bridge, state="up")

        _with_netlink(self._switch, join)
        for host in self.hosts.values():
            others = [other for other in self.hosts.values() if other.name != host.name]
            wanted = [other for other in others if {host.name, other.name} & healed]
            self._point(host, wanted, None)

    def slow(self, name: str, rate_bits: int | None) -> None:
        """Limits what the host sends, and what it gets, to so many bits a second; None: no limit.

        From RATE_BITS_MIN to RATE_BITS_MAX.
        """

        def limit(device: str) -> Callable[[Any], None]:
            return lambda netlink: _limit(netlink, _index(netlink, device), rate_bits)

        _with_netlink(self.hosts[name].namespace, limit(DEVICE))
        _with_netlink(self._switch, limit(name))

    def states(self) -> dict[str, LinkState]:
        """Of all hosts whose namespaces are there."""
        joined = _with_netlink(self._switch, _ports_of_bridge)
        states = {}
        for host in self.hosts.values():
            lost, rate = _with_netlink(host.namespace, _losses_and_rate)
            names = tuple(other.name for other in self.hosts.values() if other.address in lost)
            states[host.name] = LinkState(host.name not in joined, names, rate)
        return states

    def sent_bytes(self, name: str) -> int:
        """What a host that was made slow has sent since then, with Ethernet headers."""

        def read(netlink: Any) -> int:
            limiter = _limiter(netlink, _index(netlink, DEVICE))
            return 0 if limiter is None else int(limiter.get_attr("TCA_STATS")["bytes"])

        return _with_netlink(self.hosts[name].namespace, read)

    def _make_cables(self, netlink: Any) -> None:
        bridge = _index(netlink, BRIDGE)
        for host in self.hosts.values():
            far_end = {"ifname": DEVICE, "net_ns_fd": host.namespace, "address": host.mac}
            netlink.link("add", ifname=host.name, kind="veth", peer=far_end)
            netlink.link("set", index=_index(netlink, host.name), master=bridge, state="up")

    def _host_maker(self, host: Host) -> Callable[[Any], None]:
        def make(netlink: Any) -> None:
            netlink.link("set", index=_index(netlink, "lo"), state="up")
            index = _index(netlink, DEVICE)
            netlink.addr("add", index=index, address=host.address, prefixlen=SUBNET.prefixlen)
            netlink.link("set", index=index, state="up")
            others = [other for other in self.hosts.values() if other.name != host.name]
            _tell_neighbours(netlink, others, None)

        return make

    def _point(self, host: Host, others: Sequence[Host], mac: str | None) -> None:
        """Has `host` send what is for the others to this hardware address; None: to theirs."""
        _with_netlink(host.namespace, lambda netlink: _tell_neighbours(netlink, others, mac))


def parse_rate(text: str) -> int:
    """Bits a second of `10mbit`, as tc(8) writes them: thousands, not 1024s.

    Raises:
        ConfigError: no whole number with bit, kbit, mbit or gbit, or none that can be had.
    """
    match = re.fullmatch(r"([0-9]{1,12})([kmg]?)bit", text, re.ASCII | re.IGNORECASE)
    if match is None:
        raise ConfigError(f"{text!r} is no rate: write a whole number and kbit, mbit or gbit")
    rate = int(match[1]) * _RATE_FACTORS[match[2].lower()]
    if not RATE_BITS_MIN <= rate <= RATE_BITS_MAX:
        raise ConfigError(f"{text!r} is no possible rate: it is from 8kbit to 10gbit")
    return rate


def format_rate(rate_bits: int) -> str:
    """The shortest text that `parse_rate` reads as this rate."""
    for letter in "gmk":
        if rate_bits % _RATE_FACTORS[letter] == 0:
            return f"{rate_bits // _RATE_FACTORS[letter]}{letter}bit"
    return f"{rate_bits}bit"


def _with_netlink(namespace: str, function: Callable[[Any], T]) -> T:
    def work() -> T:
        with IPRoute() as netlink:
            return function(netlink)

    return namespaces.inside(namespace, work)


def _make_bridge(netlink: Any) -> None:
    netlink.link("add", ifname=BRIDGE, kind="bridge")
    netlink.link("set", index=_index(netlink, BRIDGE), state="up")


def _ports_of_bridge(netlink: Any) -> set[str]:
    bridge = _index(netlink, BRIDGE)
    links = list(netlink.get_links())
    return {
        link.get_attr("IFLA_IFNAME") for link in links if link.get_attr("IFLA_MASTER") == bridge
    }


def _index(netlink: Any, device: str) -> int:
    found = netlink.link_lookup(ifname=device)
    if not found:
        raise OSError(f"there is no network device {device}")
    return int(found[0])


def _tell_neighbours(netlink: Any, others: Sequence[Host], mac: str | None) -> None:
    index = _index(netlink, DEVICE)
    for other in others:
        netlink.neigh(
            "replace",
            ifindex=index,
            dst=other.address,
            lladdr=mac or other.mac,
            state=_NUD_PERMANENT,
        )


def _losses_and_rate(netlink: Any) -> tuple[set[str], int | None]:
    index = _index(netlink, DEVICE)
    lost = {
        entry.get_attr("NDA_DST")
        for entry in netlink.get_neighbours(ifindex=index)
        if entry.get_attr("NDA_LLADDR") == NOBODY
    }
    limiter = _limiter(netlink, index)
    if limiter is None:
        return lost, None
    settings = limiter.get_attr("TCA_OPTIONS").get_attr("TCA_TBF_PARMS")
    return lost, settings["rate"] * 8


def _limiter(netlink: Any, index: int) -> Any:
    for queue in netlink.get_qdiscs(index=index):
        if queue.get_attr("TCA_KIND") == "tbf":
            return queue
    return None


def _limit(netlink: Any, index: int, rate_bits: int | None) -> None:
    if rate_bits is None:
        if _limiter(netlink, index) is not None:
            netlink.tc("del", index=index, parent=TC_H_ROOT)
        return
    rate_bytes = rate_bits // 8
    # tc-tbf(8): the burst holds what passes in one tick of the timer, here of 100 Hz at worst.
    burst = max(_BURST_BYTES_MIN, rate_bytes // 100)
    netlink.tc(
        "replace",
        "tbf",
        index=index,
        rate=rate_bytes,
        burst=burst,
        limit=burst + int(rate_bytes * _QUEUE_S),
    )
