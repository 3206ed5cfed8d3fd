"""What a card's catalog remembers: the space on its SSDs, its devices, and what these hold.

Sizes in bytes. A row is changed only by the manager that owns its table: spaces by the coherence
manager, devices, holdings and mirrors by the namespace manager.
"""

from __future__ import annotations

import enum
from typing import ClassVar

import msgspec

from vhostnvme.cluster.records import PRIORITY_DEFAULT, SpaceRecord
from vhostnvme.storage.catalog import Row
from vhostnvme.storage.mirror import LEGS_MAX
from vhostnvme.storage.mirror_record import Standing


class RowState(enum.StrEnum):
    """MAKING is accounted for already, and undone when the card ends before READY."""

    MAKING = "making"
    READY = "ready"
    DELETING = "deleting"


class HoldingState(enum.StrEnum):
    """WANTED: it may have been asked for. RELEASING: its giver may not know it yet."""

    WANTED = "wanted"
    HELD = "held"
    RELEASING = "releasing"


class SpaceRow(Row, frozen=True, kw_only=True):
    """Space on an own SSD. `owner` is the card that it is given to, this one or another."""

    TABLE: ClassVar[str] = "spaces"

    uuid: str
    ssd: str
    size: int
    block_size: int
    owner: str
    vm: str
    device: str = ""
    epoch: int = 0  # the latest that has been let in; 0 for own VMs
    state: RowState = RowState.MAKING
    wanted: int = 0  # the size that it is being given; 0: it stays as it is
    source: str = ""  # the namespace that it was cloned from
    read_only: bool = False

    def key(self) -> str:
        return self.uuid


class DeviceRow(Row, frozen=True, kw_only=True):
    """A device of this card."""

    TABLE: ClassVar[str] = "devices"

    name: str
    vm: str
    serial: str
    state: RowState = RowState.MAKING
    release_on_disconnect: bool = False

    def key(self) -> str:
        return self.name


class HoldingRow(Row, frozen=True, kw_only=True):
    """A namespace that this card has for a VM, or asks for. `device` "": no device has it.

    A local one (`giver` is this card) has its space in a SpaceRow of the same UUID. `mirror`: it is
    a copy of the namespace of that UUID, and guests see it as a part of that. `scratch`: when its
    space is lost for good, an empty one takes its place, which `replaces` it until it has gone.
    """

    TABLE: ClassVar[str] = "holdings"

    uuid: str
    vm: str
    device: str
    nsid: int
    size: int
    block_size: int
    placement: str = "auto"
    giver: str = ""  # "": nobody has been asked yet
    state: HoldingState = HoldingState.WANTED
    priority: int = PRIORITY_DEFAULT
    epoch: int = 0
    adopting: bool = False  # WANTED, from a card that has gone
    ssd: str = ""
    subnqn: str = ""
    remote_nsid: int = 0
    addresses: tuple[str, ...] = ()
    read_only: bool = False
    mirror: str = ""
    scratch: bool = False
    replaces: str = ""

    def key(self) -> str:
        return self.uuid

    def releasing(self) -> HoldingRow:
        """As it is when it is not wanted any more."""
        return msgspec.structs.replace(self, state=HoldingState.RELEASING, adopting=False)

    def answered(self, record: SpaceRecord) -> HoldingRow:
        """As it is when its giver has let us in."""
        return msgspec.structs.replace(
            self,
            state=HoldingState.HELD,
            adopting=False,
            size=record.size,
            epoch=record.epoch,
            ssd=record.ssd,
            subnqn=record.subnqn,
            remote_nsid=record.nsid,
            addresses=record.addresses,
        )


class Leg(msgspec.Struct, frozen=True):
    """A copy of a namespace: the holding `uuid`. "": nothing is here. `leaving`: it shall go."""

    uuid: str = ""
    standing: Standing = Standing.NEW
    leaving: bool = False


class Recorded(enum.StrEnum):
    """What the store has of a mirror. NOWHERE: it need not know, all copies are on this card."""

    NOWHERE = "nowhere"
    NOT_YET = "not-yet"
    BEHIND = "behind"
    SAME = "same"


class MirrorRow(Row, frozen=True, kw_only=True):
    """A namespace of a device that is kept as copies, each a holding: one, two or three.

    MAKING until its device has had it once: until then all copies hold zeros. A copy whose standing
    is IN_SYNC counts: nothing is acknowledged without it. `to`: where the copies that are leaving
    go, a card or an SSD of this card.
    `degraded`: it may begin with fewer copies.
    """

    TABLE: ClassVar[str] = "mirrors"

    uuid: str
    vm: str
    device: str
    nsid: int
    size: int
    block_size: int
    copies: int
    placement: str = "auto"
    priority: int = PRIORITY_DEFAULT
    state: RowState = RowState.MAKING
    legs: tuple[Leg, ...] = (Leg(),) * LEGS_MAX
    recorded: Recorded = Recorded.NOWHERE
    to: str = ""
    wanted: int = 0
    degraded: bool = False

    def key(self) -> str:
        return self.uuid

    @property
    def is_recorded(self) -> bool:
        """Whether nobody can take a copy for a good one that is none by this row."""
        return self.recorded in (Recorded.NOWHERE, Recorded.SAME)

    def uuids(self) -> set[str]:
        """The holdings that are its copies now."""
        return {leg.uuid for leg in self.legs if leg.uuid}

    def number_of(self, uuid: str) -> int | None:
        """Which of the legs this holding is."""
        return next((n for n, leg in enumerate(self.legs) if uuid and leg.uuid == uuid), None)

    def in_sync(self) -> list[int]:
        """The numbers of the legs that count."""
        return [
            number
            for number, leg in enumerate(self.legs)
            if leg.uuid and leg.standing is Standing.IN_SYNC
        ]

    def with_leg(self, number: int, leg: Leg) -> MirrorRow:
        """The same with another leg; the store does not know yet."""
        return self.with_legs((*self.legs[:number], leg, *self.legs[number + 1 :]))

    def with_legs(self, legs: tuple[Leg, ...]) -> MirrorRow:
        return msgspec.structs.replace(self, legs=legs, recorded=self._behind())

    def with_size(self, size: int) -> MirrorRow:
        return msgspec.structs.replace(self, size=size, wanted=0, recorded=self._behind())

    def _behind(self) -> Recorded:
        """What the store has of it, when it is another one now."""
        known = self.recorded in (Recorded.NOWHERE, Recorded.NOT_YET)
        return self.recorded if known else Recorded.BEHIND


class DrainRow(Row, frozen=True, kw_only=True):
    """It is there while this card is being emptied: nothing new comes here, what is here goes."""

    TABLE: ClassVar[str] = "draining"

    def key(self) -> str:
        return "card"


class SsdRow(Row, frozen=True, kw_only=True):
    """An SSD that this card has had, so that another in its place is noticed."""

    TABLE: ClassVar[str] = "ssds"

    name: str
    uuid: str
    path: str

    def key(self) -> str:
        return self.name


class StoreRow(Row, frozen=True, kw_only=True):
    """The store of the cluster that this card has joined."""

    TABLE: ClassVar[str] = "store"

    url: str
    prefix: str

    def key(self) -> str:
        return "store"


# Of the managers, then of others.
POOL_KINDS = (SpaceRow, DeviceRow, HoldingRow, MirrorRow, DrainRow)
KINDS = (*POOL_KINDS, SsdRow, StoreRow)
