"""Membership: joining, beating, being lost and heard again, and what others are told."""

from __future__ import annotations

import pytest
from tests_pool import GIB, World

from vhostnvme.cluster.commands import CreateDevice, ForgetCard, Part
from vhostnvme.cluster.messages import KeepAlive, StartDevice, Txn
from vhostnvme.cluster.records import MemberRecord, decode
from vhostnvme.errors import ClusterError, ConfigError


@pytest.fixture
def world() -> World:
    return World()


def remote(size: int):
    return lambda number: CreateDevice(number, "vm1", (Part(size, "remote"),))


def test_cards_see_each_other_and_what_they_have(world: World) -> None:
    first, second = world.add("a", GIB), world.add("b", 2 * GIB)
    assert [(p.name, p.health, p.offer.free) for p in first.pool.peers()] == [
        ("b", "online", 2 * GIB)
    ]
    assert [p.name for p in second.pool.peers()] == ["a"]
    second.do(lambda n: CreateDevice(n, "vm1", (Part(GIB),)))
    world.advance(0.5)
    assert first.pool.peers()[0].offer.free == GIB


def test_a_card_that_is_alone_needs_no_store(world: World) -> None:
    card = world.add("a", clustered=False)
    assert not card.begun(Txn) and not card.pool.peers()


def test_a_card_stops_before_its_lease_can_have_run_out(world: World) -> None:
    card = world.add("a")
    card.reachable = False
    world.advance(5.0)
    assert card.pool.member
    world.advance(2.5)  # three quarters of ten seconds after the last beat
    assert not card.pool.member
    assert any("is no member" in line for line in card.logs)


def test_a_slow_answer_counts_from_when_it_was_asked(world: World) -> None:
    card = world.add("a")
    card.holds = lambda effect: isinstance(effect, KeepAlive)
    world.advance(7.0)
    (beat,) = card.held
    card.finish(beat, 10.0)
    world.advance(1.5)
    assert not card.pool.member


def test_a_lost_card_is_dropped_and_taken_back_in_another_session(world: World) -> None:
    card, other = world.add("a"), world.add("b")
    before = decode("", world.store.entries["members/a"].value, MemberRecord)
    world.lose(card)
    assert [(p.name, p.health) for p in other.pool.peers()] == [("a", "lost")]
    with pytest.raises(ClusterError):
        card.do(remote(GIB), seconds=15)
    card.reachable = True
    world.advance(3.0)
    after = decode("", world.store.entries["members/a"].value, MemberRecord)
    assert card.pool.member and before.session != after.session
    assert [(p.name, p.health) for p in other.pool.peers()] == [("a", "online")]
    other.do(remote(GIB))


def test_a_card_that_starts_again_takes_its_place_at_once(world: World) -> None:
    card = world.add("a")
    world.restart(card)
    assert card.pool.member


def test_transactions_of_an_earlier_life_change_nothing(world: World) -> None:
    world.add("g")
    card = world.add("a", 4096)
    card.holds = lambda effect: (
        isinstance(effect, Txn) and any(each.key.startswith("space/") for each in effect.then)
    )
    card.ask(remote(GIB))
    (late,) = card.held
    card.holds = lambda _: False
    world.restart(card)
    assert not world.store.txn(late.compare, late.then).succeeded


def test_two_cards_of_one_name_cannot_be(world: World) -> None:
    world.add("a")
    world.cards["other"] = world.cards["a"]
    second = world.add("a", uuid="another")
    assert isinstance(second.ended, ConfigError)
    assert "another card of this cluster is called 'a'" in str(second.ended)


def test_own_devices_run_while_the_store_is_away(world: World) -> None:
    card = world.add("a")
    card.reachable = False
    world.run()
    card.do(lambda n: CreateDevice(n, "vm1", (Part(GIB),)))
    assert card.begun(StartDevice)


def test_new_space_waits_for_the_store(world: World) -> None:
    world.add("g")
    card = world.add("a", 4096)
    card.reachable = False
    world.run()
    world.advance(10.0)
    number = card.ask(remote(GIB))
    world.advance(5.0)
    assert number not in card.replies
    card.reachable = True
    world.advance(5.0)
    assert card.replies[number].error is None


def test_a_card_that_never_comes_back_is_forgotten(world: World) -> None:
    giver, card, third = world.add("g"), world.add("a", 4096), world.add("c", 4096)
    card.do(remote(GIB))
    with pytest.raises(ClusterError, match="is online"):
        third.do(lambda n: ForgetCard(n, "a"))
    world.kill(card)
    assert third.do(lambda n: ForgetCard(n, "a")) == 1
    world.advance(2.0)
    assert not giver.pool.spaces and not world.store.spaces()
    assert [p.name for p in third.pool.peers()] == ["g"]
    assert not [key for key in world.store.entries if key.endswith("/a")]
    with pytest.raises(ConfigError, match="no other card 'a'"):
        third.do(lambda n: ForgetCard(n, "a"))


def test_what_a_forgotten_card_gave_is_lost(world: World) -> None:
    giver, card, third = world.add("g"), world.add("a", 4096), world.add("c", 4096)
    card.do(remote(GIB))
    world.kill(giver)
    third.do(lambda n: ForgetCard(n, "g"))
    world.advance(2.0)
    assert not card.pool.holdings and not card.pool.devices
