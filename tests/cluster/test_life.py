"""Devices over the lives of their cards: what stays, what waits, and what is given back later."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests_cluster import BLOCK, MIB, check_accounts, is_refused, opened, wait_empty
from tests_cluster_load import load_on
from tests_protocol import dice

from vhostnvme.control.card import DeviceInfo
from vhostnvme.errors import ConfigError, NoSpace, VhostNvmeError
from vhostnvme.testing import NvmeHost
from vhostnvme.testing.cards import CardPlan, CardProcess, Cards

SIZE = 4 * MIB


@pytest.fixture(scope="module")
def running() -> Iterator[Cards]:
    with Cards(3, CardPlan(ssd_bytes=64 * MIB, ttl_s=2.0)) as cards:
        yield cards


@pytest.fixture
def cards(running: Cards) -> Iterator[Cards]:
    """All run when the test begins, and nothing is left when it ends."""
    running.start()
    for card in running:  # of a test that has failed
        for device in card.devices():
            card.delete_device(device.device)
    yield running
    wait_empty(running)


def content_of(number: int) -> bytes:
    return random.Random(number).randbytes(64 * BLOCK)


def devices_of(card: CardProcess) -> list[DeviceInfo]:
    """But for the moment's state."""
    return [msgspec.structs.replace(each, state="") for each in card.devices()]


def works(socket: str | Path) -> bool:
    try:
        host, queue = opened(socket)
        with host:
            queue.read(0, 1)
    except VhostNvmeError:
        return False
    return True


@pytest.mark.parametrize("crash", [False, True])
def test_a_device_survives_its_card(cards: Cards, crash: bool) -> None:
    card = cards["a"]
    card.create_device("vm1", SIZE, 2 * SIZE, SIZE, placements=["local", "b", "c"], name="d")
    before = devices_of(card)
    assert [each.card for each in before[0].namespaces] == ["a", "b", "c"]
    with NvmeHost.connect(before[0].socket, memory_bytes=4 << 20) as host:
        host.enable()
        assert host.active_namespaces() == [1, 2, 3]
        identity = host.identify_controller()[4:64]
        identities = [host.identify_namespace(nsid).raw for nsid in (1, 2, 3)]
        queue = host.create_queue_pair()
        for nsid in (1, 2, 3):
            queue.write(16, content_of(nsid), nsid=nsid)
    if crash:
        card.kill()
        card.start()
    else:
        card.restart()
    cards.wait(lambda: works(before[0].socket), "the device is there again")
    assert devices_of(card) == before
    with NvmeHost.connect(before[0].socket, memory_bytes=4 << 20) as host:
        host.enable()
        cards.wait(lambda: host.active_namespaces() == [1, 2, 3], "its namespaces are there")
        assert host.identify_controller()[4:64] == identity
        assert [host.identify_namespace(nsid).raw for nsid in (1, 2, 3)] == identities
        queue = host.create_queue_pair()
        for nsid in (1, 2, 3):
            assert queue.read(16, 64, nsid=nsid) == content_of(nsid)
    cards.wait_together()
    check_accounts(cards)
    assert not card.delete_device("d").pending


@pytest.mark.parametrize("crash", [False, True])
def test_io_waits_for_a_giver_that_starts_again(cards: Cards, crash: bool) -> None:
    rng = dice("test_io_waits_for_a_giver_that_starts_again")
    made = cards["a"].create_device("vm1", SIZE, placement="b")
    with load_on(made.socket, SIZE, rng) as load:
        for _ in range(2):
            load.goes_on()
            if crash:
                cards["b"].kill()
                time.sleep(rng.uniform(0, 0.5))
                cards["b"].start()
            else:
                cards["b"].restart()
            load.goes_on()
    assert load.oracle.errors == 0
    path = cards["b"].ssd_folders[0] / f"{made.namespaces[0].uuid}.ns"
    load.oracle.check(path.read_bytes())
    cards.wait_together()
    assert not cards["a"].delete_vm("vm1").pending


def test_a_giver_that_is_away_gets_its_space_back_later(cards: Cards) -> None:
    made = cards["a"].create_device("vm1", SIZE, placement="b")
    uuid = made.namespaces[0].uuid
    cards["b"].kill()
    for _ in range(2):
        released = cards["a"].delete_vm("vm1")
        assert released.pending == [uuid] and not released.already
        assert cards["a"].devices() == []
        assert [(each.uuid, each.state) for each in cards["a"].namespaces()] == [
            (uuid, "releasing")
        ]
    cards["a"].kill()  # which remembers it
    cards["a"].start()
    assert [each.uuid for each in cards["a"].namespaces()] == [uuid]
    cards["b"].start()
    wait_empty(cards)
    assert cards["a"].delete_vm("vm1").already
    assert cards["a"].delete_device(made.device).already


def test_a_deletion_can_be_repeated_but_must_name_what_was_there(cards: Cards) -> None:
    with pytest.raises(ConfigError, match="there is no VM 'nobody' on card 'a'"):
        cards["a"].delete_vm("nobody")
    cards["a"].create_device("vm1", SIZE)
    cards["a"].create_device("vm1", SIZE, placement="remote")
    released = cards["a"].delete_vm("vm1")
    assert (len(released.devices), len(released.namespaces)) == (2, 2)
    assert cards["a"].delete_vm("vm1").already
    with pytest.raises(ConfigError):
        cards["b"].delete_vm("vm1")  # it was never there


@pytest.mark.parametrize("placement", ["local", "remote"])
def test_release_on_disconnect(cards: Cards, placement: str) -> None:
    made = cards["a"].create_device("vm1", SIZE, placement=placement, release_on_disconnect=True)
    host, queue = opened(made.socket)
    with host:
        queue.write(0, content_of(1))
        assert [each.device for each in cards["a"].devices()] == [made.device]
    wait_empty(cards)


def test_all_of_a_device_or_nothing(cards: Cards) -> None:
    sizes = (SIZE, SIZE, 65 * MIB)
    with pytest.raises(NoSpace) as refused:
        cards["a"].create_device("vm1", *sizes, placements=["local", "b", "c"])
    assert "no space for a namespace of 65M" in is_refused(refused.value)
    wait_empty(cards)


def test_a_device_that_was_taken_over_is_not_its_old_cards(cards: Cards) -> None:
    made = cards["a"].create_device("vm1", SIZE, SIZE, placements=["b", "b"], name="d")
    file = cards["b"].ssd_folders[0] / f"{made.namespaces[0].uuid}.ns"
    with NvmeHost.connect(made.socket, memory_bytes=4 << 20) as host:
        host.enable()
        queue = host.create_queue_pair()
        for nsid in (1, 2):
            queue.write(0, content_of(nsid), nsid=nsid)
    with pytest.raises(VhostNvmeError, match="card 'a' is online"):
        cards["c"].adopt_device("d", "a")
    cards["a"].kill()
    cards.wait(lambda: not cards["c"].sees(["a"]), "card a is lost")
    taken = cards["c"].adopt_device("d", "a")
    assert [each.uuid for each in taken.namespaces] == [each.uuid for each in made.namespaces]
    with NvmeHost.connect(taken.socket, memory_bytes=4 << 20) as host:
        host.enable()
        queue = host.create_queue_pair()
        for nsid in (1, 2):
            assert queue.read(0, 64, nsid=nsid) == content_of(nsid)
        queue.write(0, content_of(3), nsid=1)
        cards["a"].start()
        end = time.monotonic() + 1
        while time.monotonic() < end or cards["a"].devices():
            tries_to_write(cards["a"].device_socket("d"))
        assert file.read_bytes()[: 64 * BLOCK] == content_of(3)
        assert queue.read(0, 64, nsid=1) == content_of(3)
    cards.wait_together()
    assert cards["a"].devices() == [] == cards["a"].namespaces()
    check_accounts(cards)
    assert not cards["c"].delete_device("d").pending


def tries_to_write(socket: Path) -> None:
    """Of a card that may have lost the device; all of it may fail."""
    try:
        host, queue = opened(socket)
        with host:
            host.timeout = 0.2
            queue.write(0, b"\xee" * BLOCK)
    except VhostNvmeError:
        time.sleep(0.01)
