"""Namespaces kept as copies: who counts is written down first, and lost copies are replaced."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests_pool import GIB, TestCard, TestMirror, World, ssd

from vhostnvme.cluster.commands import (
    AdoptDevice,
    Command,
    CreateDevice,
    DeleteDevice,
    Part,
    ResizeNamespace,
)
from vhostnvme.cluster.messages import Destroy, Effect, Refit, Txn
from vhostnvme.cluster.mirror_messages import LegCounts, LegDrop, LegIn, LegOut, LegState
from vhostnvme.cluster.records import MirrorRecord, decode
from vhostnvme.cluster.rows import MirrorRow, Recorded
from vhostnvme.cluster.store.base import Change
from vhostnvme.errors import ClusterError, ConfigError, NoSpace
from vhostnvme.storage.mirror_record import Standing


@pytest.fixture
def world() -> World:
    return World()


def three(world: World, **options: object) -> tuple[TestCard, TestCard, TestCard]:
    a, b, c = (world.add(name, **options) for name in ("a", "b", "c"))
    world.advance(1.0)
    return a, b, c


def create(*parts: Part, vm: str = "vm1") -> Callable[[int], Command]:
    return lambda number: CreateDevice(number, vm=vm, parts=parts or (Part(GIB, copies=2),))


def mirrored(card: TestCard, part: Part | None = None) -> tuple[str, TestMirror]:
    name = card.do(create(part or Part(GIB, copies=2)))
    (row,) = card.pool.mirrors.values()
    return name, card.mirrors[row.uuid]


def row_of(card: TestCard) -> MirrorRow:
    (row,) = card.pool.mirrors.values()
    return row


def record_of(world: World, owner: str) -> MirrorRecord | None:
    for key, entry in world.store.entries.items():
        if key.startswith(f"mirrors/{owner}/"):
            return decode(key, entry.value, MirrorRecord)
    return None


def standings(card: TestCard) -> list[str]:
    return [str(leg.standing) for leg in row_of(card).legs if leg.uuid]


def givers(card: TestCard) -> list[str]:
    row = row_of(card)
    return [card.pool.holdings[leg.uuid].giver for leg in row.legs if leg.uuid]


def is_empty(*cards: TestCard) -> bool:
    return not any(
        card.pool.spaces or card.pool.holdings or card.pool.mirrors or card.pool.devices
        for card in cards
    )


def test_two_copies_lie_on_two_cards(world: World) -> None:
    a, b, c = three(world)
    name, mirror = mirrored(a)
    assert givers(a) == ["a", "b"]
    assert standings(a) == ["in-sync", "in-sync"] and mirror.states() == ["in-sync", "in-sync"]
    record = record_of(world, "a")
    assert record is not None and [leg.giver for leg in record.legs] == ["a", "b"]
    assert row_of(a).recorded is Recorded.SAME
    assert a.pool.device_is_complete(name)
    a.do(lambda number: DeleteDevice(number, name), 20.0)
    world.advance(2.0)
    assert is_empty(a, b, c) and record_of(world, "a") is None


def test_two_copies_lie_on_two_ssds_of_a_card_that_is_alone(world: World) -> None:
    a = world.add("a", ssds=[ssd("ssd0", 4 * GIB), ssd("ssd1", 4 * GIB)], clustered=False)
    mirrored(a)
    assert {space.ssd for space in a.pool.spaces.values()} == {"ssd0", "ssd1"}
    assert row_of(a).recorded is Recorded.NOWHERE and not a.begun(Txn)


def test_more_copies_than_places_leave_nothing(world: World) -> None:
    a = world.add("a", clustered=False)
    with pytest.raises(NoSpace, match="each copy needs another card, or another SSD"):
        a.do(create(), 10.0)
    world.advance(2.0)
    assert is_empty(a)


@pytest.mark.parametrize("leg", [0, 1])
def test_a_copy_is_written_down_as_stale_before_it_is_out(world: World, leg: int) -> None:
    a, _, _ = three(world)
    _, mirror = mirrored(a)
    a.reachable = False
    world.run()
    mirror.comes_to(leg, LegState.FAILED)
    world.advance(2.0)
    assert standings(a)[leg] == "stale" and not a.begun(LegOut)  # the store cannot be told
    a.reachable = True
    world.advance(2.0)
    (out,) = a.begun(LegOut)
    record = record_of(world, "a")
    assert out.leg == leg and record is not None
    assert record.legs[leg].standing is Standing.STALE


def test_a_copy_comes_back_by_the_bitmap(world: World) -> None:
    a, _, _ = three(world)
    _, mirror = mirrored(a)
    mirror.comes_to(1, LegState.FAILED)
    world.advance(2.0)
    (brought,) = a.begun(LegIn)
    assert brought.leg == 1 and not brought.full
    a.holds = lambda effect: isinstance(effect, LegCounts)
    mirror.comes_to(1, LegState.READY)
    record = record_of(world, "a")
    assert record is not None and record.legs[1].standing is Standing.IN_SYNC
    a.holds = lambda _: False
    a.finish(a.held[0])
    assert givers(a) == ["a", "b"] and standings(a) == ["in-sync", "in-sync"]


def test_a_copy_is_not_brought_in_while_its_card_is_away(world: World) -> None:
    a, b, _ = three(world)
    _, mirror = mirrored(a)
    world.kill(b)
    mirror.comes_to(1, LegState.FAILED)
    world.advance(20.0)
    assert a.begun(LegOut) and not a.begun(LegIn)
    world.bring_back(b)
    assert a.begun(LegIn)


def lost_and_replaced(world: World, a: TestCard, b: TestCard, mirror: TestMirror) -> None:
    world.kill(b)
    mirror.comes_to(1, LegState.FAILED)
    world.advance(a.options.replace_after_s - 5.0)
    assert givers(a) == ["a", "b"]
    world.advance(10.0)
    assert givers(a) == ["a", "b", "c"]
    (brought,) = a.begun(LegIn)
    assert brought.leg == 2 and brought.full


def test_a_copy_that_stays_away_is_replaced(world: World) -> None:
    a, b, c = three(world)
    name, mirror = mirrored(a)
    lost_and_replaced(world, a, b, mirror)
    mirror.comes_to(2, LegState.REBUILDING, covered=True)
    assert standings(a)[2] == "stale"
    mirror.comes_to(2, LegState.READY)
    assert givers(a) == ["a", "c"] and standings(a) == ["in-sync", "in-sync"]
    assert [effect.leg for effect in a.begun(LegDrop)] == [1] and not mirror.legs[1].uuid
    world.bring_back(b)  # its space is given back when it is there again
    assert not b.pool.spaces
    a.do(lambda number: DeleteDevice(number, name), 20.0)
    world.advance(2.0)
    assert is_empty(a, b, c)


def test_a_copy_that_is_back_before_its_replacement_stays(world: World) -> None:
    a, b, c = three(world)
    _, mirror = mirrored(a)
    lost_and_replaced(world, a, b, mirror)
    world.bring_back(b)
    mirror.comes_to(2, LegState.OUT)  # the one that is new has failed
    world.advance(3.0)
    assert a.begun(LegIn)[1].leg == 1 and not a.begun(LegIn)[1].full
    mirror.comes_to(1, LegState.READY)
    world.advance(3.0)
    assert givers(a) == ["a", "b"] and not c.pool.spaces


def test_a_copy_that_its_giver_has_lost_is_replaced_at_once(world: World) -> None:
    a, _, _ = three(world)
    _, mirror = mirrored(a)
    (held,) = [row for row in a.pool.holdings.values() if row.giver == "b"]
    for key in (f"space/b/{held.uuid}", f"held/a/{held.uuid}"):
        del world.store.entries[key]
        world.store.revision += 1
        world.store.changes.append(Change(key, None, world.store.revision, 0))
    world.advance(3.0)
    assert mirror.legs[1].uuid != held.uuid and givers(a) == ["a", "c"]
    assert a.begun(LegIn)[-1].full


def test_a_card_that_was_overtaken_goes_on_with_nothing(world: World) -> None:
    """Card d adopts; card a, which was declared dead, can put no copy out any more."""
    a, b, _ = three(world)
    name, mirror = mirrored(a, Part(GIB, "remote", copies=2))
    d = world.add("d")
    world.lose(a)
    assert d.do(lambda number: AdoptDevice(number, name, "a"), 20.0) == name
    assert standings(d) == ["in-sync", "in-sync"] and row_of(d).recorded is Recorded.SAME
    mirror.comes_to(0, LegState.FAILED)
    world.advance(5.0)
    assert not a.begun(LegOut)
    a.reachable = True
    world.advance(5.0)
    assert not a.begun(LegOut) and is_empty(a)
    d.do(lambda number: DeleteDevice(number, name), 20.0)
    world.advance(2.0)
    assert is_empty(b, d)


def test_a_stale_copy_is_adopted_by_force_only(world: World) -> None:
    a, _, c = three(world)
    name, mirror = mirrored(a)
    mirror.comes_to(1, LegState.FAILED)
    world.kill(a)
    with pytest.raises(ClusterError, match="lacks what was written last"):
        c.do(lambda number: AdoptDevice(number, name, "a"))
    assert is_empty(c)
    c.do(lambda number: AdoptDevice(number, name, "a", force=True), 20.0)
    assert standings(c)[0] == "in-sync"


def test_the_last_copy_that_counts_is_never_put_out(world: World) -> None:
    a, _, _ = three(world)
    _, mirror = mirrored(a)
    mirror.comes_to(1, LegState.FAILED)
    a.holds = lambda effect: isinstance(effect, LegIn)
    world.advance(3.0)
    mirror.comes_to(0, LegState.FAILED)
    world.advance(3.0)
    assert standings(a) == ["in-sync", "stale"] and [out.leg for out in a.begun(LegOut)] == [1]


@pytest.mark.parametrize("nth", range(12))
def test_a_crash_at_any_effect_of_a_replacement(world: World, nth: int) -> None:
    """The card dies before its nth effect; what it then makes of it is whole again."""
    a, b, c = three(world)
    name, mirror = mirrored(a)
    world.kill(b)
    begun = len(a.effects)

    def dead(_: Effect) -> bool:
        return len(a.effects) - begun > nth

    a.holds = dead
    mirror.comes_to(1, LegState.FAILED)
    world.advance(70.0)
    a.holds = lambda _: False
    world.restart(a)
    world.advance(3.0)
    mirror = a.mirrors[row_of(a).uuid]
    for _ in range(200):
        for number, leg in enumerate(mirror.legs):
            if leg.state is LegState.FAILED:
                mirror.comes_to(number, LegState.FAILED)
            elif leg.uuid and a.pool.holdings.get(leg.uuid, None) is None:
                continue
            elif leg.uuid and a.pool.holdings[leg.uuid].giver == "b":
                if leg.state is LegState.IN_SYNC:
                    mirror.comes_to(number, LegState.FAILED)
            elif leg.state is LegState.REBUILDING:
                mirror.comes_to(number, LegState.READY)
        world.advance(1.0)
    assert givers(a) == ["a", "c"] and standings(a) == ["in-sync", "in-sync"]
    world.bring_back(b)
    a.do(lambda number: DeleteDevice(number, name), 20.0)
    world.advance(5.0)
    assert is_empty(a, b, c) and record_of(world, "a") is None
    assert b.begun(Destroy)


@pytest.mark.parametrize("copies", [1, 2])
def test_a_card_takes_over_what_it_has_given_itself(world: World, copies: int) -> None:
    a = world.add("a")
    b = world.add("b")
    name = a.do(create(Part(GIB, "b" if copies == 1 else "auto", copies=copies)))
    world.kill(a)
    assert b.do(lambda number: AdoptDevice(number, name, "a"), 20.0) == name
    (space,) = b.pool.spaces.values()
    (held,) = b.pool.holdings.values()
    assert (space.owner, held.giver, held.state) == ("b", "b", "held")
    assert b.pool.device_is_complete(name) and not world.store.spaces()
    assert not [key for key in world.admitted if key[0] == "b"]
    world.bring_back(a)
    world.advance(5.0)
    assert is_empty(a)
    b.do(lambda number: DeleteDevice(number, name), 20.0)
    world.advance(2.0)
    assert is_empty(b)


@pytest.mark.parametrize("nth", range(10))
def test_a_crash_at_any_effect_of_taking_over_what_was_given(world: World, nth: int) -> None:
    a = world.add("a")
    b = world.add("b")
    name = a.do(create())
    world.kill(a)
    begun = len(b.effects)
    b.holds = lambda _: len(b.effects) - begun > nth
    b.ask(lambda number: AdoptDevice(number, name, "a"))
    world.advance(3.0)
    b.holds = lambda _: False
    world.restart(b)
    world.advance(5.0)
    if b.pool.devices:
        assert b.pool.device_is_complete(name), b.logs[-5:]
        assert not world.store.spaces()
    else:
        assert b.do(lambda number: AdoptDevice(number, name, "a"), 20.0) == name
    b.do(lambda number: DeleteDevice(number, name), 20.0)
    world.advance(2.0)
    assert is_empty(b)


def test_copies_grow_together(world: World) -> None:
    a, b, _ = three(world)
    _, mirror = mirrored(a)
    uuid = row_of(a).uuid
    assert a.do(lambda number: ResizeNamespace(number, uuid, 2 * GIB)) == 2 * GIB
    assert a.begun(Refit)[-1].row.size == 2 * GIB
    assert {row.size for row in a.pool.holdings.values()} == {2 * GIB}
    assert [space.size for space in b.pool.spaces.values()] == [2 * GIB]
    record = record_of(world, "a")
    assert record is not None and record.size == 2 * GIB
    with pytest.raises(ConfigError, match="it can only grow"):
        a.do(lambda number: ResizeNamespace(number, uuid, GIB))
    with pytest.raises(ClusterError, match=r"keeps its size|no space"):
        a.do(lambda number: ResizeNamespace(number, uuid, 64 * GIB))
    mirror.comes_to(1, LegState.FAILED)
    with pytest.raises(ClusterError, match="before all its copies are in sync"):
        a.do(lambda number: ResizeNamespace(number, uuid, 3 * GIB))


@pytest.mark.parametrize("nth", range(10))
def test_a_crash_while_copies_grow(world: World, nth: int) -> None:
    a, b, _ = three(world)
    mirrored(a)
    uuid = row_of(a).uuid
    begun = len(a.effects)
    a.holds = lambda _: len(a.effects) - begun > nth
    a.ask(lambda number: ResizeNamespace(number, uuid, 2 * GIB))
    world.advance(3.0)
    a.holds = lambda _: False
    world.restart(a)
    world.advance(5.0)
    sizes = {row.size for row in a.pool.holdings.values()} | {row_of(a).size}
    sizes |= {space.size for space in (*a.pool.spaces.values(), *b.pool.spaces.values())}
    assert sizes in ({GIB}, {2 * GIB})


def test_a_namespace_may_begin_with_one_copy_and_gets_the_other_later(world: World) -> None:
    a = world.add("a")
    world.add("b", size=GIB // 2)
    name, mirror = mirrored(a, Part(GIB, copies=2, degraded=True))
    assert givers(a) == ["a"] and a.pool.device_is_complete(name)
    assert "each copy needs another card" in a.pool.mirror_failure(row_of(a).uuid)
    world.add("c")
    world.advance(15.0)
    assert givers(a) == ["a", "c"] and standings(a) == ["in-sync", "new"]
    assert a.begun(LegIn)[-1].full
    mirror.comes_to(1, LegState.READY)
    assert standings(a) == ["in-sync", "in-sync"]
