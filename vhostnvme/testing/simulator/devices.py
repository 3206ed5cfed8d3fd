"""The devices of a simulated card as they run, and what the managers have done to them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vhostnvme.cluster import messages as msg
from vhostnvme.cluster.messages import Done, Effect, Failure, FailureKind
from vhostnvme.cluster.mirror_messages import AttachMirror, LegCounts, LegDrop, LegIn, LegOut
from vhostnvme.cluster.rows import HoldingRow, MirrorRow
from vhostnvme.storage.catalog import Deleted, Gone, Row
from vhostnvme.storage.mirror_record import Standing
from vhostnvme.testing.simulator.mirror import REGIONS, Bitmap, SimMirror

if TYPE_CHECKING:
    from vhostnvme.testing.simulator.card import Card
    from vhostnvme.testing.simulator.world import World

OPEN_S = 1.0  # until a giver that does not answer is given up

LegEffect = LegOut | LegIn | LegCounts | LegDrop
DeviceEffect = (
    msg.StartDevice | msg.StopDevice | msg.Attach | msg.Detach | msg.Refit | AttachMirror
    | LegEffect
)  # fmt: skip


@dataclass(slots=True)
class SimDevice:
    """A device that runs: what it has, by UUID, and how that runs."""

    attached: dict[str, HoldingRow | MirrorRow] = field(default_factory=dict)
    mirrors: dict[str, SimMirror] = field(default_factory=dict)

    def close(self, uuid: str) -> None:
        self.attached.pop(uuid, None)
        if uuid in self.mirrors:
            self.mirrors.pop(uuid).close()


class Devices:
    """Of one card. `bitmaps`, by namespace, outlive a crash; the devices do not."""

    def __init__(self, world: World, card: Card) -> None:
        self._world = world
        self._card = card
        self.devices: dict[str, SimDevice] = {}
        self.bitmaps: dict[str, Bitmap] = {}

    def clear(self) -> None:
        """The card has crashed."""
        for device in self.devices.values():
            for mirror in device.mirrors.values():
                mirror.close()
        self.devices = {}

    def find(self, unit: str) -> SimMirror | None:
        for device in self.devices.values():
            if unit in device.mirrors:
                return device.mirrors[unit]
        return None

    def mirrors(self) -> list[SimMirror]:
        return [mirror for device in self.devices.values() for mirror in device.mirrors.values()]

    def open_holdings(self) -> set[str]:
        return {row.uuid for mirror in self.mirrors() for row in mirror.open_holdings()}

    def forget_bitmaps(self, changes: Iterable[Row | Gone | Deleted]) -> None:
        """Those of namespaces of which no row is left."""
        for change in changes:
            if isinstance(change, Gone) and self._card.rows.unit(change.key) is None:
                self.bitmaps.pop(change.key, None)

    # --- Effects ---

    def begin(self, effect: Effect) -> None:
        assert isinstance(effect, DeviceEffect)
        card, life = self._card, self._card.life

        def act() -> None:
            if card.life != life:
                return
            if card.pauses:
                self._world.engine.after(0.1, act)
                return
            failure = self._change(effect)
            unit = _unit_of(effect)
            mirror = self.find(unit) if unit else None
            if mirror is not None:
                mirror.tell()
            card.deliver(life, Done(effect.op, None, failure))

        self._world.engine.after(self._delay(effect), act)

    def _delay(self, effect: DeviceEffect) -> float:
        rows: list[HoldingRow] = []
        if isinstance(effect, msg.Attach | LegIn):
            rows = [effect.holding]
        elif isinstance(effect, AttachMirror):
            rows = [row for row in effect.legs if row is not None]
        if not all(self._world.reaches(self._card, row.giver) for row in rows):
            return OPEN_S
        return self._card.rng.uniform(0.0005, 0.01)

    def _change(self, effect: DeviceEffect) -> Failure | None:
        match effect:
            case msg.StartDevice():
                self.devices.setdefault(effect.device.name, SimDevice())
            case msg.StopDevice():
                device = self.devices.pop(effect.device, SimDevice())
                for uuid in list(device.attached):
                    self._close(device, uuid)
            case msg.Detach():
                if effect.device in self.devices:
                    self._close(self.devices[effect.device], effect.uuid)
            case msg.Attach(_, holding):
                return self._attach(holding, (holding,), ())
            case AttachMirror(_, row, legs, fresh):
                if fresh:
                    self.bitmaps.setdefault(row.uuid, set())
                stale = [n for n, leg in enumerate(row.legs) if leg.standing is Standing.STALE]
                return self._attach(row, legs, stale)
            case msg.Refit():
                return self._refit(effect.row)
            case LegOut() | LegIn() | LegCounts() | LegDrop():
                return self._change_leg(effect)
        return None

    def _close(self, device: SimDevice, uuid: str) -> None:
        device.close(uuid)
        if self._card.rows.unit(uuid) is None:
            self.bitmaps.pop(uuid, None)  # its row has gone while it was being opened

    def _attach(
        self,
        unit: HoldingRow | MirrorRow,
        legs: tuple[HoldingRow | None, ...],
        stale: Iterable[int],
    ) -> Failure | None:
        device = self.devices.get(unit.device)
        if device is None:
            return Failure(FailureKind.FAILED, f"the device {unit.device} does not run")
        if unit.uuid in device.attached:
            return None
        if any(each.nsid == unit.nsid for each in device.attached.values()):
            self._world.fail(
                f"{self._card.name} gives {unit.device} two namespaces with the NSID {unit.nsid}"
            )
        new = self.bitmaps.get(unit.uuid)
        bitmap = set(range(REGIONS)) if new is None else new
        mirror = SimMirror(self._world, self._card, unit.uuid, bitmap)
        if not mirror.begin(legs, tuple(stale)):
            mirror.close()
            return Failure(FailureKind.FAILED, f"no copy of {unit.uuid} can be opened")
        self.bitmaps[unit.uuid] = bitmap
        device.attached[unit.uuid] = unit
        device.mirrors[unit.uuid] = mirror
        self._world.ledger.attached(self._card, unit.uuid)
        return None

    def _refit(self, row: HoldingRow | MirrorRow) -> Failure | None:
        device = self.devices.get(row.device)
        if device is None or row.uuid not in device.attached:
            return Failure(FailureKind.FAILED, "the device has no such namespace")
        device.attached[row.uuid] = row
        return None

    def _change_leg(self, effect: LegEffect) -> Failure | None:
        mirror = self.find(effect.mirror)
        if mirror is None:
            return Failure(FailureKind.FAILED, f"no device has {effect.mirror}")
        match effect:
            case LegOut(_, _, leg):
                return mirror.leg_out(leg)
            case LegIn(_, _, leg, holding, full):
                return mirror.leg_in(leg, holding, full)
            case LegCounts(_, _, leg):
                return mirror.leg_counts(leg)
            case LegDrop(_, _, leg):
                return mirror.leg_drop(leg)


def _unit_of(effect: DeviceEffect) -> str:
    match effect:
        case msg.Attach(_, holding):
            return holding.uuid
        case AttachMirror(_, row):
            return row.uuid
        case LegOut() | LegIn() | LegCounts() | LegDrop():
            return effect.mirror
    return ""
