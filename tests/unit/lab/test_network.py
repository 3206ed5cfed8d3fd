"""The network of a lab, with sockets of this process in its namespaces. Needs root.

What was lost is told by what comes next: datagrams keep their order, and none is sent again.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from vhostnvme.errors import ConfigError, LabError
from vhostnvme.lab import namespaces
from vhostnvme.lab.names import card_hosts, namespace_prefix, store_hosts
from vhostnvme.lab.network import RATE_BITS_MAX, LinkState, Network, format_rate, parse_rate

LAB = "testnet1"
PORT = 7
WHOLE = LinkState(cut_off=False, loses_to=(), rate_bits=None)


class Post:
    """A datagram socket on each host, by the host's name."""

    def __init__(self, network: Network, stack: ExitStack) -> None:
        self.network = network
        self.addresses = {host.name: host.address for host in network.hosts.values()}
        self.sockets = {
            host.name: stack.enter_context(namespaces.inside(host.namespace, self._open))
            for host in network.hosts.values()
        }

    @staticmethod
    def _open() -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.bind(("0.0.0.0", PORT))
        opened.settimeout(10)
        return opened

    def send(self, sender: str, receiver: str, text: str) -> None:
        self.sockets[sender].sendto(text.encode(), (self.addresses[receiver], PORT))

    def next(self, receiver: str) -> str:
        return self.sockets[receiver].recv(2000).decode()

    def count_until(self, receiver: str, last: str) -> int:
        count = 0
        while self.next(receiver) != last:
            count += 1
        return count


@pytest.fixture(scope="module")
def post() -> Iterator[Post]:
    network = Network(LAB, [*card_hosts(LAB, 3), *store_hosts(LAB, 1)])
    network.remove()
    try:
        network.make()
        with ExitStack() as stack:
            yield Post(network, stack)
    finally:
        network.remove()
        assert not namespaces.find(namespace_prefix(LAB))


@pytest.fixture(autouse=True)
def healed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "post" in request.fixturenames:
        network: Network = request.getfixturevalue("post").network
        network.heal(network.hosts)
        assert set(network.states().values()) == {WHOLE}


def test_all_hosts_hear_each_other(post: Post) -> None:
    names = list(post.sockets)
    for sender in names:
        for receiver in names:
            post.send(sender, receiver, f"{sender}{receiver}")
            assert post.next(receiver) == f"{sender}{receiver}"


def test_a_host_is_cut_off_silently_and_comes_back(post: Post) -> None:
    post.network.cut_off("b")
    assert post.network.states()["b"].cut_off
    for sender, receiver in (("a", "b"), ("b", "a"), ("b", "store1"), ("store1", "b")):
        post.send(sender, receiver, "lost")  # no error either
    post.send("a", "c", "others do not notice")
    assert post.next("c") == "others do not notice"
    post.network.heal(["b"])
    for sender, receiver in (("a", "b"), ("b", "a"), ("b", "store1"), ("store1", "b")):
        post.send(sender, receiver, f"from {sender}")
        assert post.next(receiver) == f"from {sender}"


def test_one_way_is_lost_and_the_other_is_not(post: Post) -> None:
    post.network.lose("a", ["b"])
    assert post.network.states()["a"].loses_to == ("b",)
    assert post.network.states()["b"] == WHOLE
    post.send("a", "b", "lost")
    post.send("b", "a", "heard")
    assert post.next("a") == "heard"
    post.send("a", "c", "not concerned")
    assert post.next("c") == "not concerned"
    post.network.heal(["b"])  # whichever of the two is healed
    post.send("a", "b", "found")
    assert post.next("b") == "found"


def test_healing_one_host_leaves_the_others_cut(post: Post) -> None:
    post.network.lose("a", ["b", "c"])
    post.network.heal(["c"])
    assert post.network.states()["a"].loses_to == ("b",)


def test_a_slow_host_sends_less(post: Post) -> None:
    """50 KB at once, of which the burst and the queue of a limit of 10 KB/s hold two thirds."""
    post.network.slow("a", 80_000)
    assert post.network.states()["a"].rate_bits == 80_000
    for _ in range(50):
        post.send("a", "b", "x" * 1000)
    assert 1000 < post.network.sent_bytes("a") < 40_000
    post.network.slow("a", None)
    assert post.network.states()["a"] == WHOLE
    post.send("a", "b", "end of the slow ones")
    assert post.count_until("b", "end of the slow ones") < 45
    for _ in range(50):
        post.send("a", "b", "x" * 1000)
    post.send("a", "b", "end")
    assert post.count_until("b", "end") == 50


def test_a_slow_host_gets_less(post: Post) -> None:
    post.network.slow("b", 80_000)
    for _ in range(50):
        post.send("a", "b", "x" * 1000)
    post.network.slow("b", None)
    post.send("a", "b", "end")
    assert post.count_until("b", "end") < 45


def test_a_limit_can_be_changed(post: Post) -> None:
    for rate in (10_000_000, RATE_BITS_MAX, 8_000):
        post.network.slow("c", rate)
        assert post.network.states()["c"].rate_bits == rate
    post.network.slow("c", None)
    post.network.slow("c", None)


def test_a_lab_is_not_made_twice(post: Post) -> None:
    with pytest.raises(LabError, match="there is a network namespace vhostnvme-testnet1-net"):
        Network(LAB, card_hosts(LAB, 1)).make()


def test_a_network_that_is_not_there() -> None:
    network = Network("testnet2", card_hosts("testnet2", 1))
    assert not network.exists()
    network.remove()
    with pytest.raises(LabError, match="vhostnvme-testnet2-net: No such file"):
        network.cut_off("a")


@pytest.mark.parametrize(
    ("text", "rate"),
    [("10mbit", 10_000_000), ("8kbit", 8_000), ("9001bit", 9001), ("10GBIT", 10_000_000_000)],
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate
    assert format_rate(rate) == text.lower()


@pytest.mark.parametrize("text", ["10", "7kbit", "11gbit", "-1mbit", "1.5mbit", "mbit", "10mb"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ConfigError, match="rate"):
        parse_rate(text)
