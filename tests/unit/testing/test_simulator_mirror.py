"""A simulated mirror by itself, with nobody in the place of the managers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import pytest

from vhostnvme.cluster import messages as msg
from vhostnvme.cluster.messages import CardOptions, Effect, Failure, FailureKind, Message, SsdReport
from vhostnvme.cluster.mirror_messages import AttachMirror, LegState
from vhostnvme.cluster.rows import (
    DeviceRow,
    HoldingRow,
    HoldingState,
    Leg,
    MirrorRow,
    RowState,
    SpaceRow,
)
from vhostnvme.storage.catalog import Deleted, Row
from vhostnvme.storage.mirror_record import Standing
from vhostnvme.testing.simulator.card import Card
from vhostnvme.testing.simulator.engine import Clock, RuleBroken
from vhostnvme.testing.simulator.events import MIB
from vhostnvme.testing.simulator.mirror import SimMirror
from vhostnvme.testing.simulator.plan import CardPlan, Plan, SsdPlan
from vhostnvme.testing.simulator.world import World

HERE, THERE, UNIT = "here", "there", "unit"
IN_SYNC = Leg(HERE, Standing.IN_SYNC), Leg(THERE, Standing.IN_SYNC), Leg()


class Nobody:
    """Managers that do nothing."""

    def start(self, _now: float) -> list[Effect]:
        return []

    def step(self, _message: Message, _now: float) -> list[Effect]:
        return []


def nobody(
    _options: CardOptions,
    _rows: Iterable[Row | Deleted],
    _ssds: Sequence[SsdReport],
    _now: float,
) -> Nobody:
    return Nobody()


@dataclass
class Pair:
    """Card a has a mirror with a copy of its own and one on card b."""

    world: World
    row: MirrorRow

    @property
    def owner(self) -> Card:
        return self.world.cards["a"]

    @property
    def mirror(self) -> SimMirror:
        found = self.owner.find_mirror(UNIT)
        assert found is not None
        return found

    def run(self, seconds: float) -> None:
        self.world.run_until(self.world.engine.now + seconds)

    def attach(self, *, fresh: bool) -> None:
        device = DeviceRow(name="d", vm="vm", serial="VN1", state=RowState.READY)
        holdings = self.owner.rows.holdings
        legs = (holdings[HERE], holdings[THERE], None)
        self.owner.running_devices.begin(msg.StartDevice(1, device))
        self.run(0.1)
        self.owner.running_devices.begin(AttachMirror(2, self.row, legs, fresh))
        self.run(0.1)

    def states(self) -> list[str]:
        return [str(leg.state) for leg in self.mirror.legs[:2]]

    def content(self, region: int) -> list[int]:
        spaces = self.world.find("a", HERE), self.world.find("b", THERE)
        return [space.content.get(region, 0) if space else -1 for space in spaces]

    def spoil(self, card: str, fault: str) -> None:
        self.world.cards[card].medium.ssds["ssd0"].fault = fault

    def write_down(self, standing: Standing) -> None:
        """What the copy on card b is."""
        self.row = self.row.with_leg(1, Leg(THERE, standing))
        self.owner.rows.write([self.row])

    def acknowledged(self, region: int) -> int:
        return self.world.ledger.acknowledged(UNIT, region)


@pytest.fixture
def pair() -> Pair:
    ssds = (SsdPlan("ssd0", 8 * MIB, 4096),)
    cards = tuple(CardPlan(name, Clock(1.0, 1.0), ssds, 0, 0.0) for name in ("a", "b"))
    world = World(Plan(1, cards, (), 100.0, guest_write_s=0.0), nobody)
    row = MirrorRow(
        uuid=UNIT, vm="vm", device="d", nsid=1, size=MIB, block_size=512, copies=2,
        state=RowState.READY, legs=IN_SYNC,
    )  # fmt: skip
    world.run_until(1.0)
    for card, uuid in (("a", HERE), ("b", THERE)):
        assert world.cards[card].medium.do(msg.Carve(1, uuid, "ssd0", MIB)) is None
        holding = HoldingRow(
            uuid=uuid, vm="vm", device="d", nsid=1, size=MIB, block_size=512, giver=card,
            state=HoldingState.HELD, epoch=int(card == "b"), ssd="ssd0", mirror=UNIT,
        )  # fmt: skip
        world.cards["a"].rows.write([holding])
    space = SpaceRow(uuid=HERE, ssd="ssd0", size=MIB, block_size=512, owner="a", vm="vm")
    world.cards["a"].rows.write([row, space])
    world.cards["b"].target.export(
        msg.Export(1, THERE, "ssd0", MIB, 512, "a", 1), lambda _failure: None
    )
    pair = Pair(world, row)
    pair.attach(fresh=True)
    return pair


def test_a_write_is_acknowledged_when_both_copies_have_it(pair: Pair) -> None:
    pair.mirror.write(0, 5)
    assert pair.acknowledged(0) == 0
    pair.run(0.1)
    assert pair.content(0) == [5, 5] and pair.acknowledged(0) == 5
    assert pair.mirror.bitmap == {0}
    pair.run(5.0)
    assert not pair.mirror.bitmap


@pytest.mark.parametrize("fault", ["error", "hang", "vanish"])
def test_a_copy_that_fails_holds_all_until_it_is_out(pair: Pair, fault: str) -> None:
    pair.spoil("b", fault)
    pair.mirror.write(0, 6)
    pair.run(2.0)
    assert pair.states() == ["in-sync", "failed"]
    assert pair.mirror.seen().held == 1 and pair.acknowledged(0) == 0
    pair.write_down(Standing.STALE)
    assert pair.mirror.leg_out(1) is None
    assert pair.acknowledged(0) == 6 and pair.content(0) == [6, 0]


def test_an_acknowledgement_that_a_good_copy_lacks_breaks_a_rule(pair: Pair) -> None:
    pair.spoil("b", "error")
    pair.mirror.write(0, 6)
    pair.run(1.0)
    with pytest.raises(RuleBroken, match="which is written down as in sync, has 0"):
        pair.mirror.leg_out(1)


def test_a_stale_read_breaks_a_rule(pair: Pair) -> None:
    pair.mirror.write(0, 5)
    pair.run(0.1)
    space = pair.world.find("a", HERE)
    assert space is not None
    space.content[0] = 4
    pair.mirror.read(0)
    with pytest.raises(RuleBroken, match="a stale read"):
        pair.run(0.1)


def test_the_last_copy_passes_its_errors_on(pair: Pair) -> None:
    for card in ("a", "b"):
        pair.spoil(card, "error")
    pair.mirror.write(0, 7)
    pair.run(1.0)
    assert sorted(pair.states()) == ["failed", "in-sync"]
    pair.write_down(Standing.STALE)
    pair.run(1.0)
    assert pair.acknowledged(0) == 0


def test_a_copy_comes_back_by_the_bitmap(pair: Pair) -> None:
    test_a_copy_that_fails_holds_all_until_it_is_out(pair, "error")
    holding = pair.owner.rows.holdings[THERE]
    refused = pair.mirror.leg_in(1, holding, full=False)
    assert refused is None  # its target lets us in, though its SSD does not work
    pair.run(1.0)
    assert pair.states() == ["in-sync", "out"]
    pair.spoil("b", "")
    assert pair.mirror.leg_in(1, holding, full=False) is None
    busy = pair.mirror.leg_in(2, holding, full=True)
    assert busy == Failure(FailureKind.BUSY, "another leg is being rebuilt: one after the other")
    pair.mirror.write(1, 8)
    pair.run(5.0)
    assert pair.states() == ["in-sync", "ready"]
    assert pair.content(0) == [6, 6] and pair.content(1) == [8, 8]
    pair.write_down(Standing.IN_SYNC)
    assert pair.mirror.leg_counts(1) is None
    assert pair.states() == ["in-sync", "in-sync"]


def test_a_new_copy_is_not_brought_in_by_the_bitmap(pair: Pair) -> None:
    assert pair.mirror.leg_drop(1) is None
    assert pair.mirror.legs[1].state is LegState.NONE
    holding = pair.owner.rows.holdings[THERE]
    refused = pair.mirror.leg_in(1, holding, full=False)
    assert refused is not None and "lacks more than the bitmap knows" in refused.message


def test_after_a_crash_copies_are_the_same_again(pair: Pair) -> None:
    pair.mirror.write(2, 9)
    pair.run(0.0005)  # on its way
    pair.owner.crash(0.1)
    space = pair.world.find("b", THERE)
    assert space is not None
    space.content[2] = 9  # one copy has got it
    pair.run(1.0)
    pair.attach(fresh=False)
    pair.run(3.0)
    here, there = pair.content(2)
    assert here == there and pair.acknowledged(2) == 0


def test_a_write_of_an_earlier_connection_is_not_carried_out(pair: Pair) -> None:
    target = pair.world.cards["b"].target
    assert target.connect("a", THERE, 1, 1000)
    assert target.connect("a", THERE, 1, 1001)
    assert not target.command("a", THERE, 1, 1000, 0, 3, lambda _ok, _value: None)
    assert target.command("a", THERE, 1, 1001, 0, 4, lambda _ok, _value: None)
    assert not target.connect("a", THERE, 1, 1002)  # one is under way
    pair.run(0.1)
    assert pair.content(0) == [0, 4]


def test_rows_say_in_sync_only_what_is_ready(pair: Pair) -> None:
    pair.write_down(Standing.STALE)
    pair.mirror.legs[1].state = LegState.REBUILDING
    row = msgspec.structs.replace(pair.row, legs=IN_SYNC)
    with pytest.raises(RuleBroken, match="as in sync, and it is rebuilding"):
        pair.world.ledger.write(pair.owner, [row])
