"""What goes into a card's managers, and what comes out of them, about namespaces kept as copies.

A mirror is named by the UUID of its namespace, a copy by the number of its leg. See messages.py.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from vhostnvme.cluster.rows import HoldingRow, MirrorRow


class LegState(enum.StrEnum):
    """Of a leg in the library; see enum vn_leg_state. READY: it has all, and does not count yet."""

    NONE = "none"
    OUT = "out"
    REBUILDING = "rebuilding"
    READY = "ready"
    IN_SYNC = "in-sync"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LegSeen:
    """A leg as the library has it. `uuid`: the holding that was opened for it, "" for none.

    `covered`: what it lacks is durably in the bitmap.
    """

    uuid: str = ""
    state: LegState = LegState.NONE
    covered: bool = False
    failures: int = 0


@dataclass(frozen=True, slots=True)
class MirrorSeen:
    """A mirror as it runs; told whenever something about it has changed. Sizes in bytes.

    `dirty`: what may differ between the legs; `left`: what is still to be copied now. `held`:
    commands that wait for a `LegOut`.
    """

    mirror: str
    legs: tuple[LegSeen, ...]
    dirty: int = 0
    left: int = 0
    held: int = 0


@dataclass(frozen=True, slots=True)
class AttachMirror:
    """Opens a mirror with the legs that count, and gives it to its device; safe to repeat.

    `legs`: the holdings, by number, None where there is none that counts. `fresh`: nothing has been
    written to it yet. A MirrorSeen comes before the end of this, and of those below.
    """

    op: int
    mirror: MirrorRow
    legs: tuple[HoldingRow | None, ...]
    fresh: bool


@dataclass(frozen=True, slots=True)
class LegOut:
    """A leg that has failed has been recorded as stale: the mirror goes on without it."""

    op: int
    mirror: str
    leg: int


@dataclass(frozen=True, slots=True)
class LegIn:
    """Has a leg brought up to date that is out, in the background.

    `full`: it lacks more than the bitmap knows.
    """

    op: int
    mirror: str
    leg: int
    holding: HoldingRow
    full: bool


@dataclass(frozen=True, slots=True)
class LegCounts:
    """A leg that is ready has been recorded as in sync: it counts from here on."""

    op: int
    mirror: str
    leg: int


@dataclass(frozen=True, slots=True)
class LegDrop:
    """A leg that is not recorded any more is closed, whatever it was."""

    op: int
    mirror: str
    leg: int


MirrorEffect = AttachMirror | LegOut | LegIn | LegCounts | LegDrop
