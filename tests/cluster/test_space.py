"""What namespaces hold: new sizes while they are in use, copies, and nothing of who was before.

Copies need a file system that shares blocks; it is made on a loop device, by root.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests_cluster import BLOCK, MIB, check_accounts, is_refused, opened, wait_empty
from tests_cluster_load import load_on
from tests_protocol import dice
from tests_storage import file_system

from vhostnvme.control import card as methods
from vhostnvme.control.card import (
    AttachNamespaceParams,
    CloneNamespaceParams,
    NamespaceInfo,
    NamespaceParams,
    ReleasedInfo,
)
from vhostnvme.errors import ConfigError, NoSpace, VhostNvmeError
from vhostnvme.testing import CommandFailed
from vhostnvme.testing.cards import CardPlan, CardProcess, Cards

SIZE = 4 * MIB


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cards]:
    with (
        file_system("xfs", tmp_path_factory.mktemp("space")) as folder,
        Cards(2, CardPlan(ssd_bytes=64 * MIB), folder) as running,
    ):
        yield running


@pytest.mark.parametrize("placement", ["local", "remote"])
def test_a_namespace_grows_in_use(cards: Cards, placement: str) -> None:
    rng = dice("test_a_namespace_grows_in_use")
    card = cards["a"]
    made = card.create_device("vm1", SIZE, placement=placement)
    uuid = made.namespaces[0].uuid
    with load_on(made.socket, SIZE, rng) as load:
        event = load.host.submit_async_event()
        for size in (2 * SIZE, 3 * SIZE, 10 * SIZE):
            load.goes_on()
            assert card.resize_namespace(uuid, size).size == size
            load.goes_on()
        assert load.host.wait_async_event(event).ok
    assert load.oracle.errors == 0
    check_accounts(cards)
    host, queue = opened(made.socket)
    with host:
        assert host.identify_namespace(1).nr_blocks * BLOCK == 10 * SIZE
        for lba in range(SIZE // BLOCK, 10 * SIZE // BLOCK, 256):
            assert queue.read(lba, 256) == bytes(256 * BLOCK)
        queue.write(10 * SIZE // BLOCK - 8, b"\xaa" * 8 * BLOCK)
        with pytest.raises(ConfigError, match="it can only grow"):
            card.resize_namespace(uuid, SIZE)
        with pytest.raises((NoSpace, VhostNvmeError)) as refused:
            card.resize_namespace(uuid, 65 * MIB)
        assert "space" in is_refused(refused.value)
        assert queue.read(10 * SIZE // BLOCK - 8, 8) == b"\xaa" * 8 * BLOCK
    check_accounts(cards)
    assert not card.delete_vm("vm1").pending
    wait_empty(cards)


def test_space_of_others_reads_as_zeros(cards: Cards) -> None:
    """All of an SSD, again and again, local and remote in turn."""
    size = 64 * MIB
    for number in range(4):
        card, placement = (cards["b"], "local") if number % 2 else (cards["a"], "b")
        made = card.create_device("vm1", size, placement=placement)
        host, queue = opened(made.socket)
        with host:
            for lba in range(0, size // BLOCK, 512):
                assert queue.read(lba, 512) == bytes(512 * BLOCK)
                queue.write(lba, b"\xbb" * 512 * BLOCK)
        assert not card.delete_vm("vm1").pending
    wait_empty(cards)


def copy(card: CardProcess, uuid: str, *, read_only: bool) -> NamespaceInfo:
    params = CloneNamespaceParams(uuid, read_only=read_only)
    return card.call(methods.NAMESPACE_CLONE, params, NamespaceInfo, 60)


def attach(card: CardProcess, uuid: str, device: str) -> NamespaceInfo:
    params = AttachNamespaceParams(uuid, device)
    return card.call(methods.NAMESPACE_ATTACH, params, NamespaceInfo, 60)


def test_copies_are_as_of_then(cards: Cards) -> None:
    """A snapshot and a clone of a namespace in use; each lives on without the others."""
    card = cards["a"]
    made = card.create_device("vm1", SIZE, placement="local")
    source = made.namespaces[0].uuid
    host, queue = opened(made.socket)
    with host:
        queue.write(0, b"1" * BLOCK)
        queue.flush()
        snapshot, clone = (copy(card, source, read_only=each) for each in (True, False))
        queue.write(0, b"2" * BLOCK)
        assert (snapshot.device, snapshot.size, snapshot.read_only) == ("", SIZE, True)
        check_accounts(cards)
        assert attach(card, snapshot.uuid, made.device).nsid == 2
        assert attach(card, clone.uuid, made.device).nsid == 3
        assert host.active_namespaces() == [1, 2, 3]
        assert [queue.read(0, 1, nsid=nsid)[:1] for nsid in (1, 2, 3)] == [b"2", b"1", b"1"]
        with pytest.raises(CommandFailed):
            queue.write(0, b"3" * BLOCK, nsid=2)
        queue.write(0, b"3" * BLOCK, nsid=3)
        assert [queue.read(0, 1, nsid=nsid)[:1] for nsid in (1, 2, 3)] == [b"2", b"1", b"3"]
        params = NamespaceParams(source)
        assert not card.call(methods.NAMESPACE_DELETE, params, ReleasedInfo, 60).pending
        assert host.active_namespaces() == [2, 3]
    check_accounts(cards)
    card.kill()
    card.start()
    cards.wait_together()
    host, queue = opened(made.socket, nsid=2)
    with host:
        cards.wait(lambda: host.active_namespaces() == [2, 3], "its namespaces are there")
        assert [queue.read(0, 1, nsid=nsid)[:1] for nsid in (2, 3)] == [b"1", b"3"]
    check_accounts(cards)
    card.delete_vm("vm1")
    wait_empty(cards)
