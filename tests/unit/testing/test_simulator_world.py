"""The simulated world by itself, with a script in the place of the managers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from vhostnvme.cluster import messages as msg
from vhostnvme.cluster.messages import CardOptions, Effect, Message, SsdReport
from vhostnvme.cluster.rows import RowState, SpaceRow
from vhostnvme.cluster.store.base import Put
from vhostnvme.storage.catalog import Deleted, Row
from vhostnvme.testing.simulator import events as ev
from vhostnvme.testing.simulator.card import Trap
from vhostnvme.testing.simulator.engine import Clock, RuleBroken
from vhostnvme.testing.simulator.events import MIB
from vhostnvme.testing.simulator.plan import CardPlan, Plan, SsdPlan
from vhostnvme.testing.simulator.world import World

UUID = "00000000-0000-4000-8000-000000000001"


class Script:
    """Begins `effects` in its first life, and notes what it is told in each."""

    def __init__(self, effects: Sequence[Effect]) -> None:
        self.effects = list(effects)
        self.rows: list[list[Row | Deleted]] = []
        self.told: list[list[Message]] = []

    def make(
        self,
        _options: CardOptions,
        rows: Iterable[Row | Deleted],
        _ssds: Sequence[SsdReport],
        _now: float,
    ) -> Script:
        self.rows.append(list(rows))
        self.told.append([])
        return self

    def start(self, _now: float) -> list[Effect]:
        return self.effects if len(self.told) == 1 else []

    def step(self, message: Message, _now: float) -> list[Effect]:
        if not isinstance(message, msg.Tick):
            self.told[-1].append(message)
        return []

    def of(self, kind: type[Message], life: int = -1) -> list[Message]:
        return [each for each in self.told[life] if isinstance(each, kind)]


def world_of(script: Script, *events: ev.Event, seed: int = 1) -> World:
    card = CardPlan("a", Clock(1.0, 1.0), (SsdPlan("ssd0", 8 * MIB, 4096),), 0, 0.0)
    return World(Plan(seed, (card,), events, 100.0), script.make)


def space(**more: object) -> SpaceRow:
    words: dict[str, object] = {
        "uuid": UUID, "ssd": "ssd0", "size": MIB, "block_size": 512, "owner": "a", "vm": "vm1",
    }  # fmt: skip
    return SpaceRow(**(words | more))  # type: ignore[arg-type]


def carve(op: int = 1, size: int = MIB) -> msg.Carve:
    return msg.Carve(op, UUID, "ssd0", size)


def test_effects_are_done_and_ended() -> None:
    script = Script([msg.Write((space(),)), carve()])
    world = world_of(script)
    world.run_until(1.0)
    assert script.of(msg.Done) == [msg.Done(1)]
    found = world.cards["a"].medium.find(UUID)
    assert found is not None and found.size == MIB and not found.half


def trap(world: World, fault: ev.CrashAt | ev.PauseAt) -> None:
    world.cards["a"].traps.append(Trap(fault, fault.nth))


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_comes_before_or_after_an_effect(after: bool) -> None:
    ready = space(state=RowState.READY)
    script = Script([msg.Write((space(),)), msg.Write((ready,))])
    world = world_of(script)
    trap(world, ev.CrashAt(1, 0.0, "a", "Write", 2, after, 0.5))
    world.run_until(2.0)
    assert script.rows == [[], [ready if after else space()]]


def test_a_crash_loses_what_is_under_way() -> None:
    fates = set()
    for seed in range(20):
        script = Script([msg.Write((space(),)), carve()])
        world = world_of(script, seed=seed)
        trap(world, ev.CrashAt(1, 0.0, "a", "Carve", 1, True, 0.5))
        world.run_until(2.0)
        found = world.cards["a"].medium.find(UUID)
        fates.add(None if found is None else found.half)
        assert not any(script.of(msg.Done, life) for life in (0, 1))
    assert fates == {None, False, True}


def test_a_pause_holds_all_up_and_then_all_goes_on() -> None:
    script = Script([msg.Write((space(),)), carve()])
    world = world_of(script)
    trap(world, ev.PauseAt(1, 0.0, "a", "Carve", 1, 5.0))
    world.run_until(4.0)
    assert script.told == [[]]
    assert world.cards["a"].medium.find(UUID) is None
    world.run_until(6.0)
    assert len(script.told) == 1
    assert [type(each) for each in script.told[0]] == [msg.Synced, msg.Done, msg.SsdsSeen]


def put() -> msg.Txn:
    """A transaction as a member's: the rules of the store are none of these tests'."""
    return msg.Txn(1, (), (Put("members/a", b'{"name":"a","uuid":"","session":"a-1"}'),))


def test_a_late_transaction_is_done_though_its_sender_was_told_that_it_is_lost() -> None:
    script = Script([put()])
    world = world_of(script)
    world.cards["a"].link.spoil(ev.BadCall(1, 0.0, "a", 2, "late", 3.0))
    world.run_until(2.0)
    (done,) = script.of(msg.Done)
    assert isinstance(done, msg.Done) and done.failure is not None
    assert done.failure.kind is msg.FailureKind.UNAVAILABLE
    assert not world.store.entries
    world.cards["a"].crash(None)
    world.run_until(4.0)
    assert "members/a" in world.store.entries


@pytest.mark.parametrize(("how", "there"), [("lost", False), ("unanswered", True)])
def test_a_call_may_be_lost_on_both_ways(how: str, there: bool) -> None:
    script = Script([put()])
    world = world_of(script)
    world.cards["a"].link.spoil(ev.BadCall(1, 0.0, "a", 2, how, 0.0))
    world.run_until(2.0)
    (done,) = script.of(msg.Done)
    assert isinstance(done, msg.Done) and done.failure is not None
    assert ("members/a" in world.store.entries) is there


def test_a_watch_lists_tells_breaks_and_lists_again() -> None:
    script = Script([])
    world = world_of(script, ev.BreakWatch(1, 2.0, "a"))
    for at in (1.0, 2.1, 3.0):
        world.engine.after(at, lambda at=at: world.store.txn((), (Put(f"cards/{at}", b""),)))  # type: ignore[misc]
    world.run_until(4.0)
    told = script.told[0]
    assert [type(each) for each in told] == [
        msg.Synced, msg.Changed, msg.StoreLost, msg.Synced, msg.Changed,
    ]  # fmt: skip
    first, changed, _, second, last = told
    assert isinstance(first, msg.Synced) and first.entries == ()
    assert isinstance(changed, msg.Changed) and changed.changes[0].key == "cards/1.0"
    assert isinstance(second, msg.Synced)
    assert [each.key for each in second.entries] == ["cards/1.0", "cards/2.1"]
    assert isinstance(last, msg.Changed) and last.changes[0].key == "cards/3.0"


def test_a_card_that_is_cut_off_hears_nothing_until_it_is_back() -> None:
    script = Script([])
    world = world_of(script, ev.CutStore(1, 1.0, "a", 5.0))
    world.engine.after(2.0, lambda: world.store.txn((), (Put("cards/x", b""),)))
    world.run_until(5.9)
    assert [type(each) for each in script.told[0]] == [msg.Synced, msg.StoreLost]
    world.run_until(9.0)
    last = script.told[0][-1]
    assert isinstance(last, msg.Synced) and [each.key for each in last.entries] == ["cards/x"]


# --- Rules ---


def export(op: int, owner: str, epoch: int) -> msg.Export:
    return msg.Export(op, UUID, "ssd0", MIB, 512, owner, epoch)


def given(owner: str, epoch: int) -> msg.Write:
    return msg.Write((space(owner=owner, epoch=epoch, state=RowState.READY),))


BROKEN: tuple[tuple[str, list[Effect]], ...] = (
    ("a byte is given twice", [msg.Write((space(size=9 * MIB),))]),
    ("without a row", [carve()]),
    ("accounts for", [msg.Write((space(),)), carve(size=2 * MIB)]),
    ("back to", [msg.Write((space(epoch=2),)), msg.Write((space(epoch=1),))]),
    ("before its catalog says so", [msg.Write((space(),)), export(1, "b", 1)]),
    ("which has no row", [msg.Destroy(1, UUID, "ssd0")]),
    ("which has ready row", [given("a", 0), msg.Destroy(1, UUID, "ssd0")]),
    ("lease may have run out", [msg.Txn(1, (), (Put("offers/a", b""),))]),
)


@pytest.mark.parametrize(("words", "effects"), BROKEN, ids=[words for words, _ in BROKEN])
def test_a_broken_rule_ends_the_history(words: str, effects: list[Effect]) -> None:
    world = world_of(Script(effects))
    with pytest.raises(RuleBroken, match=words):
        world.run_until(2.0)


def test_a_newer_host_is_let_in_when_the_writes_of_the_older_have_ended() -> None:
    world = world_of(Script([msg.Write((space(),)), carve()]))
    world.run_until(1.0)
    target = world.cards["a"].target
    ends: list[tuple[str, msg.Failure | None]] = []
    target.export(export(1, "b", 1), lambda failure: ends.append(("first", failure)))
    assert ends == [("first", None)]
    target.slow = 1  # a write takes up to 1.5 s
    for stamp in range(5):
        target.receive("b", UUID, 1, stamp)
    target.export(export(2, "c", 2), lambda failure: ends.append(("second", failure)))
    assert not target.lets_in("b", UUID, 1) and not target.lets_in("c", UUID, 2)
    world.run_until(5.0)
    assert [name for name, _ in ends] == ["first", "second"]
    busy = ends[1][1]
    assert (busy is None) == target.lets_in("c", UUID, 2)
    target.export(export(3, "c", 2), lambda failure: ends.append(("third", failure)))
    world.run_until(6.0)
    assert ends[2] == ("third", None)
    target.receive("b", UUID, 1, 9)
    world.run_until(7.0)
    found = world.cards["a"].medium.find(UUID)
    assert found is not None and found.let_in == ("c", 2) and found.stamp < 9


def test_an_older_epoch_is_never_let_in_again() -> None:
    world = world_of(Script([msg.Write((space(),)), carve()]))
    world.run_until(1.0)
    target = world.cards["a"].target
    target.export(export(1, "b", 2), lambda _failure: None)
    with pytest.raises(RuleBroken, match="epochs only grow"):
        target.export(export(2, "c", 1), lambda _failure: None)


def test_a_write_of_a_stale_owner_breaks_a_rule() -> None:
    world = world_of(Script([msg.Write((space(),)), carve()]))
    world.run_until(1.0)
    found = world.cards["a"].medium.find(UUID)
    assert found is not None
    found.admit("b", 1)
    found.write("b", 1, 1)
    found.admit("c", 2)
    with pytest.raises(RuleBroken, match="one writer"):
        found.write("b", 1, 2)
