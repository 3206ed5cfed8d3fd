"""An SSD that has real faults: it is marked, gets nothing new, and is well again after a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_cluster import opened

from vhostnvme.control.card import SsdInfo
from vhostnvme.errors import NoSpace
from vhostnvme.testing import CommandFailed, QueuePair
from vhostnvme.testing.card_process import CardPlan
from vhostnvme.testing.cards import Cards
from vhostnvme.testing.faulty_ssd import FaultySsd

MIB = 1 << 20
BLOCK = 4096


@pytest.fixture
def ssd(tmp_path: Path) -> Iterator[FaultySsd]:
    with FaultySsd(tmp_path / "ssd", 64 * MIB) as made:
        yield made


@pytest.fixture
def cards(tmp_path: Path, ssd: FaultySsd) -> Iterator[Cards]:
    """Card a has the faulty SSD, card b a folder."""
    plan = CardPlan(
        ssd_bytes=64 * MIB,
        devices={"a": [ssd.device]},
        health={"window": "15s", "hang": "1s", "clear": "3s"},
    )
    with Cards(2, plan, tmp_path / "cards") as made:
        try:
            yield made
        finally:
            ssd.heal()


@pytest.fixture
def queue(cards: Cards) -> Iterator[QueuePair]:
    """Of a device whose namespace is on the faulty SSD."""
    made = cards["a"].create_device("vm1", 8 * MIB, placement="local")
    host, queue = opened(made.socket)
    with host:
        queue.write(0, b"a" * BLOCK)
        yield queue


def seen(cards: Cards, card: str) -> SsdInfo:
    """The SSD, as a card sees it."""
    (found,) = (each for each in cards[card].cluster() if each.card == "a")
    return found.ssds[0]


def check_gets_nothing_new(cards: Cards) -> None:
    words = ("device", "create", "--vm", "vm2", "--size", "8M", "--placement", "local")
    done = cards["a"].cli(*words)
    assert done.returncode == 1 and "no space for a namespace of 8M" in done.stderr, done.stderr
    elsewhere = cards["a"].create_device("vm2", 8 * MIB)
    assert [each.card for each in elsewhere.namespaces] == ["b"]
    with pytest.raises(NoSpace):
        cards["b"].create_device("vm3", 8 * MIB, placement="a")


def check_is_well_again(cards: Cards) -> None:
    cards.wait(lambda: cards["a"].ssds()[0].state == "ok", "it is well again")
    assert cards["a"].ssds()[0].reason == ""
    again = cards["a"].create_device("vm4", 8 * MIB, placement="local")
    assert [each.card for each in again.namespaces] == ["a"]
    assert "it is well again" in cards["a"].log_text()


def test_one_that_fails_writes(cards: Cards, ssd: FaultySsd, queue: QueuePair) -> None:
    """What is on it can be used still, as far as it goes."""
    ssd.fail(["write"])
    with pytest.raises(CommandFailed):
        queue.write(8, b"b" * BLOCK)
    assert cards["a"].ssds()[0].state == "ok"  # one error marks nothing
    for _ in range(4):
        with pytest.raises(CommandFailed):
            queue.write(8, b"b" * BLOCK)
    cards.wait(lambda: cards["a"].ssds()[0].state == "failing", "it is marked")
    own = cards["a"].ssds()[0]
    assert own.healthy and own.free == 0 and "commands within" in own.reason, own
    assert "ended with an error" in own.reason
    cards.wait(lambda: seen(cards, "b").state == "failing", "the other card knows")
    assert seen(cards, "b").reason == own.reason
    table = cards["a"].cli("ssd", "list").stdout
    assert "failing" in table and own.reason in table
    assert "1, 1 failing" in cards["b"].cli("cluster", "status").stdout
    check_gets_nothing_new(cards)
    assert queue.read(0, 1)[:1] == b"a"
    ssd.heal()
    queue.write(8, b"b" * BLOCK)
    check_is_well_again(cards)


def test_one_that_hangs(cards: Cards, ssd: FaultySsd, queue: QueuePair) -> None:
    """It is marked while the command is under way; other SSDs are looked after meanwhile."""
    ssd.hang(["write"])
    writing = threading.Thread(target=queue.write, args=(8, b"b" * BLOCK))
    writing.start()
    cards.wait(lambda: cards["a"].ssds()[0].state == "failing", "it is marked")
    assert "none has ended for" in cards["a"].ssds()[0].reason
    check_gets_nothing_new(cards)
    ssd.heal()
    writing.join(30)
    assert not writing.is_alive()
    check_is_well_again(cards)
    assert queue.read(8, 1)[:1] == b"b"


def test_one_whose_label_cannot_be_read(cards: Cards, ssd: FaultySsd) -> None:
    """Nothing is asked of it but that."""
    ssd.fail(["read"])
    cards.wait(lambda: cards["a"].ssds()[0].state == "failing", "it is marked")
    own = cards["a"].ssds()[0]
    assert not own.healthy and "Input/output error" in own.reason
    check_gets_nothing_new(cards)
    ssd.heal()
    check_is_well_again(cards)
