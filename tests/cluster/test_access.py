"""Who reaches a namespace at its giver: its owner at its epoch, for as long as it has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests_cluster import MIB, wait_empty

from vhostnvme.cluster.records import host_nqn_of, subsystem_nqn_of
from vhostnvme.errors import PeerError
from vhostnvme.fabric.nqn import DISCOVERY_NQN
from vhostnvme.testing.cards import PORT, CardPlan, CardProcess, Cards
from vhostnvme.testing.nvmetcp_host import HostOptions, TcpHost

SIZE = 4 * MIB


@pytest.fixture(scope="module")
def cards() -> Iterator[Cards]:
    with Cards(3, CardPlan(ssd_bytes=64 * MIB, ttl_s=2.0)) as running:
        yield running


def enters(giver: CardProcess, uuid: str, hostnqn: str) -> bool:
    options = HostOptions(hostnqn=hostnqn)
    try:
        with TcpHost((giver.address, PORT), subsystem_nqn_of(uuid), options):
            return True
    except PeerError:
        return False


def offered(giver: CardProcess, hostnqn: str) -> list[str]:
    """What the discovery service tells this host of namespaces."""
    options = HostOptions(hostnqn=hostnqn)
    with TcpHost((giver.address, PORT), DISCOVERY_NQN, options) as host:
        names = [entry.subnqn for entry in host.discovery_log().entries]
    return [name for name in names if name != DISCOVERY_NQN]


def test_only_the_owner_at_its_epoch_is_let_in(cards: Cards) -> None:
    giver = cards["b"]
    made = cards["a"].create_device("vm1", SIZE, placement="b", name="d")
    other = cards["c"].create_device("vm2", SIZE, placement="b")
    uuid = made.namespaces[0].uuid
    owner = host_nqn_of("a", uuid, 1)
    strangers = [
        host_nqn_of("a", uuid, 0),
        host_nqn_of("a", uuid, 2),
        host_nqn_of("c", uuid, 1),
        host_nqn_of("c", other.namespaces[0].uuid, 1),
        HostOptions().hostnqn,
    ]
    assert enters(giver, uuid, owner)
    assert offered(giver, owner) == [subsystem_nqn_of(uuid)]
    assert not any(enters(giver, uuid, each) for each in strangers)
    assert offered(giver, strangers[-1]) == []

    cards["a"].kill()
    cards.wait(lambda: not cards["c"].sees("a"), "card a is lost")
    cards["c"].adopt_device("d", "a")
    heir = host_nqn_of("c", uuid, 2)
    assert not enters(giver, uuid, owner) and enters(giver, uuid, heir)
    giver.kill()  # which remembers whom it has let in
    giver.start()
    cards.wait(lambda: enters(giver, uuid, heir), "the heir is let in again")
    assert not enters(giver, uuid, owner)

    cards["a"].start()
    cards.wait_together()
    for name in "ac":
        for device in cards[name].devices():
            cards[name].delete_device(device.device)
    wait_empty(cards)
    everybody = [owner, heir, *strangers]
    assert not any(enters(giver, uuid, each) for each in everybody)
    assert all(offered(giver, each) == [] for each in everybody)
