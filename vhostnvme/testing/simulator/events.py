"""What a schedule is made of: plain events, each of which can be left out.

An event speaks of the outcome of another, such as the device to delete, by that event's number.
Times in seconds of true time, sizes in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeAlias

from vhostnvme.cluster.commands import Part

MIB = 1 << 20
TTL_S = 2.0  # of leases: short, so that a history holds many lives of one


@dataclass(frozen=True, slots=True)
class Event:
    """`card` is where it happens; "": to the store."""

    ident: int
    at: float
    card: str

    def __str__(self) -> str:
        rest = [
            f"{each.name}={getattr(self, each.name)!r}"
            for each in fields(self)
            if each.name not in ("ident", "at", "card")
        ]
        place = f" at {self.card}" if self.card else ""
        return f"#{self.ident} {self.at:.2f} s{place}: {type(self).__name__} {' '.join(rest)}"


# --- Faults ---


@dataclass(frozen=True, slots=True)
class Crash(Event):
    down_s: float


@dataclass(frozen=True, slots=True)
class CrashAt(Event):
    """Waits for the `nth` effect of this type, and crashes before or after it is begun."""

    effect: str
    nth: int
    after: bool
    down_s: float


@dataclass(frozen=True, slots=True)
class Leave(Event):
    """Crashes, and never comes back."""


@dataclass(frozen=True, slots=True)
class Pause(Event):
    for_s: float


@dataclass(frozen=True, slots=True)
class PauseAt(Event):
    """As CrashAt: stops before the `nth` effect of this type, and goes on with it."""

    effect: str
    nth: int
    for_s: float


@dataclass(frozen=True, slots=True)
class CutStore(Event):
    """The card and the store do not reach each other."""

    for_s: float


@dataclass(frozen=True, slots=True)
class CutPeer(Event):
    """No data goes between two cards."""

    peer: str
    for_s: float


@dataclass(frozen=True, slots=True)
class StoreAway(Event):
    for_s: float
    grace: bool


@dataclass(frozen=True, slots=True)
class BadCall(Event):
    """What becomes of the `nth` call of the store from now on.

    `how`: `lost` never arrives, `unanswered` is done but not answered, `late` is done `late_s`
    after it was sent.
    """

    nth: int
    how: str
    late_s: float


@dataclass(frozen=True, slots=True)
class BadRecord(BadCall):
    """The same of the `nth` call that changes the record of a mirror."""


@dataclass(frozen=True, slots=True)
class BreakWatch(Event):
    pass


@dataclass(frozen=True, slots=True)
class LagWatch(Event):
    lag_s: float
    for_s: float


@dataclass(frozen=True, slots=True)
class RepeatChanges(Event):
    """The last changes are told once more."""

    count: int


@dataclass(frozen=True, slots=True)
class SsdFault(Event):
    """`how`: `vanish`, `error`, `hang`, `die` (errors, to the end of all faults).

    Or `full`: others have written `size` bytes.
    """

    ssd: int
    how: str
    size: int
    for_s: float


@dataclass(frozen=True, slots=True)
class SsdFailing(Event):
    """An SSD says that it will not last, or that all is well again."""

    ssd: int
    on: bool


@dataclass(frozen=True, slots=True)
class SlowSsd(Event):
    """All takes long at the card's SSDs: drains too, and these may say BUSY."""

    for_s: float


Fault: TypeAlias = (
    Crash | CrashAt | Leave | Pause | PauseAt | CutStore | CutPeer | StoreAway | BadCall
    | BadRecord    | BreakWatch | LagWatch | RepeatChanges | SsdFault | SsdFailing | SlowSsd
)  # fmt: skip

# --- Commands ---


@dataclass(frozen=True, slots=True)
class Create(Event):
    """A device; without a name when not `named`."""

    vm: str
    parts: tuple[Part, ...]
    named: bool
    priority: int
    wait_s: float
    throw_away: bool


@dataclass(frozen=True, slots=True)
class CreateSpace(Event):
    """A namespace that no device has."""

    vm: str
    size: int


@dataclass(frozen=True, slots=True)
class OnTarget(Event):
    """`target`: the number of the Create, or CreateSpace, whose outcome it speaks of."""

    target: int


@dataclass(frozen=True, slots=True)
class Delete(OnTarget):
    pass


@dataclass(frozen=True, slots=True)
class DeleteAllOf(Event):
    vm: str


@dataclass(frozen=True, slots=True)
class Add(OnTarget):
    part: Part
    priority: int
    wait_s: float


@dataclass(frozen=True, slots=True)
class DeletePart(OnTarget):
    nth: int


@dataclass(frozen=True, slots=True)
class Resize(OnTarget):
    nth: int
    size: int


@dataclass(frozen=True, slots=True)
class Clone(OnTarget):
    nth: int
    read_only: bool


@dataclass(frozen=True, slots=True)
class AttachTo(OnTarget):
    """Gives a device, of the Create `device`, the namespace of `target`."""

    device: int


@dataclass(frozen=True, slots=True)
class Adopt(OnTarget):
    force: bool = False


@dataclass(frozen=True, slots=True)
class Move(OnTarget):
    """Of a device's `nth` namespace. `to` "": what moves stays; `source` "": whichever there is."""

    nth: int
    to: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class Promote(OnTarget):
    """Of a device's `nth` namespace, its `leg`: taken for a good one by hand."""

    nth: int
    leg: int


@dataclass(frozen=True, slots=True)
class Drain(Event):
    """The card is emptied, or no more."""

    on: bool


@dataclass(frozen=True, slots=True)
class Forget(Event):
    victim: str


@dataclass(frozen=True, slots=True)
class Unplug(OnTarget):
    """QEMU ends: HostGone."""


Order: TypeAlias = (
    Create | CreateSpace | Delete | DeleteAllOf | Add | DeletePart | Resize | Clone | AttachTo
    | Adopt | Forget | Unplug | Move | Promote | Drain
)  # fmt: skip
