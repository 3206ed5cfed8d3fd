"""What histories of the simulator have shown of namespaces kept as copies, each told by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests_pool import GIB, TestCard, TestMirror, World, ssd

from vhostnvme.cluster.commands import (
    AdoptDevice,
    Command,
    CreateDevice,
    DrainCard,
    ForgetCard,
    MoveNamespace,
    Part,
    ResizeNamespace,
)
from vhostnvme.cluster.messages import Effect, Export, Failure, FailureKind, Txn
from vhostnvme.cluster.mirror_messages import LegCounts, LegOut, LegState
from vhostnvme.cluster.records import CopyRecord, MirrorRecord, decode, encode
from vhostnvme.cluster.store.base import Put
from vhostnvme.errors import ClusterError, ConfigError, NoSpace
from vhostnvme.storage.mirror_record import Standing


@pytest.fixture
def world() -> World:
    return World()


def three(world: World) -> tuple[TestCard, TestCard, TestCard]:
    a, b, c = (world.add(name) for name in ("a", "b", "c"))
    world.advance(1.0)
    return a, b, c


def create(*parts: Part) -> Callable[[int], Command]:
    return lambda number: CreateDevice(number, vm="vm1", parts=parts)


def mirrored(card: TestCard, placement: str = "auto") -> tuple[str, TestMirror]:
    name = card.do(create(Part(GIB, placement, copies=2)))
    (row,) = card.pool.mirrors.values()
    return name, card.mirrors[row.uuid]


def givers(card: TestCard) -> list[str]:
    (row,) = card.pool.mirrors.values()
    return [card.pool.holdings[leg.uuid].giver for leg in row.legs if leg.uuid]


def standings(card: TestCard) -> list[str]:
    (row,) = card.pool.mirrors.values()
    return [str(leg.standing) for leg in row.legs if leg.uuid]


def test_a_failing_ssd_gets_nothing_new(world: World) -> None:
    a = world.add("a", ssds=[ssd("ssd0", 4 * GIB, failing=True), ssd("ssd1", 2 * GIB)])
    b = world.add("b", ssds=[ssd("ssd0", 4 * GIB, failing=True)])
    a.do(create(Part(GIB)))
    assert [space.ssd for space in a.pool.spaces.values()] == ["ssd1"]
    with pytest.raises(NoSpace):
        a.do(create(Part(GIB, "remote")))
    assert not b.pool.spaces


def test_a_copy_without_its_mirror_is_not_adopted(world: World) -> None:
    """Who took the mirror over did not take this copy: it is no namespace of its own."""
    a, b, c = three(world)
    name, _ = mirrored(a, "remote")
    d = world.add("d")
    world.kill(a)
    (key,) = [key for key in world.store.entries if key.startswith("mirrors/a/")]
    del world.store.entries[key]
    with pytest.raises(ConfigError, match="nothing to take over"):
        d.do(lambda number: AdoptDevice(number, name, "a"))
    assert not d.pool.holdings and b.pool.spaces and c.pool.spaces


def test_a_late_change_of_the_record_calls_nothing_in_sync_that_is_not(world: World) -> None:
    """The copy was to count, nobody knows whether the store got that, and then it fails."""
    a, _, _ = three(world)
    _, mirror = mirrored(a)
    mirror.comes_to(1, LegState.FAILED)
    world.advance(2.0)
    late: list[Txn] = []

    def lost(effect: Effect) -> Failure | None:
        if isinstance(effect, Txn) and any("mirrors/" in each.key for each in effect.then):
            late.append(effect)
            return Failure(FailureKind.UNAVAILABLE, "the store does not answer")
        return None

    a.fails = lost
    mirror.comes_to(1, LegState.READY)
    assert len(late) == 1 and not a.begun(LegCounts)
    mirror.comes_to(1, LegState.FAILED)
    world.advance(2.0)
    assert len(a.begun(LegOut)) == 1  # of the first time
    a.fails = lambda _: None
    world.advance(2.0)
    assert len(a.begun(LegOut)) == 2
    assert not world.store.txn(late[0].compare, late[0].then).succeeded


def test_a_copy_whose_card_is_away_too_does_not_hold_an_adoption_up(world: World) -> None:
    a, b, _ = three(world)
    name, _ = mirrored(a, "remote")
    d = world.add("d")
    world.kill(a)
    world.kill(b)
    d.do(lambda number: AdoptDevice(number, name, "a"), 20.0)
    assert d.pool.device_is_complete(name) and "c" in givers(d)
    (row,) = d.pool.mirrors
    record = decode("", world.store.entries[f"mirrors/d/{row}"].value, MirrorRecord)
    assert "b" not in [leg.giver for leg in record.legs]


def test_three_copies_that_count_make_room_for_one_where_it_may_stay(world: World) -> None:
    a = world.add("a", ssds=[ssd("ssd0", 4 * GIB), ssd("ssd1", 4 * GIB)])
    _, mirror = mirrored(a)
    b = world.add("b")
    a.do(lambda number: DrainCard(number, on=True))
    world.advance(2.0)
    mirror.comes_to(2, LegState.READY)
    assert givers(a) == ["a", "b"] and standings(a) == ["in-sync"] * 2
    world.add("c")
    world.advance(25.0)
    rebuilt = [n for n, leg in enumerate(mirror.legs) if leg.state is LegState.REBUILDING]
    mirror.comes_to(rebuilt[0], LegState.READY)
    world.advance(2.0)
    assert sorted(givers(a)) == ["b", "c"] and not a.pool.spaces and b.pool.spaces


def test_space_that_somebody_else_has_got_is_not_grown_into(world: World) -> None:
    """A request that waits for better ones is answered between the check and the growing."""
    a = world.add("a", ssds=[ssd("ssd0", 4 * GIB), ssd("ssd1", 2 * GIB)], clustered=False)
    mirrored(a)
    (row,) = a.pool.mirrors.values()
    a.ask(create(Part(3 * GIB, "local")))
    assert len(a.pool.spaces) == 2  # it would be the last
    world.now += 1.0
    with pytest.raises(ClusterError, match="keeps its size"):
        a.do(lambda number: ResizeNamespace(number, row.uuid, 2 * GIB))
    for name, size in (("ssd0", 4 * GIB), ("ssd1", 2 * GIB)):
        given = [space for space in a.pool.spaces.values() if space.ssd == name]
        assert sum(max(space.size, space.wanted) for space in given) <= size


def test_a_mirror_whose_only_good_copy_is_lost_while_it_is_taken_over_leaves_no_record(
    world: World,
) -> None:
    a, b, c = three(world)
    name, _ = mirrored(a)
    d = world.add("d")
    world.kill(a)
    b.holds = lambda effect: isinstance(effect, Export)
    d.ask(lambda number: AdoptDevice(number, name, "a"))
    world.advance(1.0)
    assert any(key.startswith("mirrors/d/") for key in world.store.entries)
    world.kill(b)
    c.do(lambda number: ForgetCard(number, "b"))
    world.advance(15.0)
    assert not any(key.startswith("mirrors/") for key in world.store.entries)
    assert not d.pool.mirrors and not d.pool.holdings and not d.pool.devices


def test_what_a_namespace_has_moved_away_from_is_not_adopted(world: World) -> None:
    """The copy that was the namespace itself is still granted, and lacks what came after."""
    a, _, _ = three(world)
    name = a.do(create(Part(GIB, "b")))
    d = world.add("d")
    world.kill(a)
    (held,) = [key for key in world.store.entries if key.startswith("held/a/")]
    uuid = held.rpartition("/")[2]
    moved = MirrorRecord(
        uuid=uuid, owner="a", vm="vm1", device=name, device_nsid=1, size=GIB, block_size=512,
        copies=1, placement="auto", priority=50,
        legs=(CopyRecord("elsewhere", "a", Standing.IN_SYNC),),
    )  # fmt: skip
    assert world.store.txn((), (Put(f"mirrors/a/{uuid}", encode(moved)),)).succeeded
    with pytest.raises(ClusterError, match="no copy that this card can take over"):
        d.do(lambda number: AdoptDevice(number, name, "a"))
    assert not d.pool.holdings


def test_a_namespace_that_was_adopted_before_its_mirror_was_recorded_is_lost(world: World) -> None:
    """It had just begun to move: the copy that was new is not the namespace."""
    a, _, _ = three(world)
    name = a.do(create(Part(GIB, "b")))
    d = world.add("d")
    a.fails = lambda effect: (
        Failure(FailureKind.UNAVAILABLE, "the store does not answer")
        if isinstance(effect, Txn) and any("mirrors/" in each.key for each in effect.then)
        else None
    )
    (uuid,) = a.pool.holdings
    a.do(lambda number: MoveNamespace(number, uuid, "c"))
    world.lose(a)
    d.do(lambda number: AdoptDevice(number, name, "a"), 20.0)
    a.fails = lambda _: None
    a.reachable = True
    world.advance(70.0)  # its record may still be made until then
    assert not a.pool.mirrors and not a.pool.holdings and not a.pool.devices
    assert d.pool.device_is_complete(name)
