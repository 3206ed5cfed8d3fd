"""What goes into a card's managers, and what comes out of them.

The managers are pure: `step(message, now) -> effects`. The runner carries effects out; those with
an `op` are answered by a `Done` with the same number. Effects of one step are begun in their order,
and a `Write` is durable before the next is begun. Times in seconds on the card's monotonic clock,
sizes in bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vhostnvme.cluster.commands import Command
from vhostnvme.cluster.mirror_messages import MirrorEffect, MirrorSeen
from vhostnvme.cluster.rows import DeviceRow, HoldingRow, MirrorRow
from vhostnvme.cluster.store.base import Change, Compare, Entry, Operation
from vhostnvme.storage.catalog import Deleted, Gone, Row

# --- What comes in ---


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has gone by; at least every TICK_S."""


TICK_S = 0.25


@dataclass(frozen=True, slots=True)
class Synced:
    """All that the card watches, as of `revision`; `Changed` follows from there on."""

    revision: int
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Changed:
    """Changes in the order of their revisions."""

    changes: Sequence[Change]


@dataclass(frozen=True, slots=True)
class StoreLost:
    """The watch has ended; the runner lists and watches anew, until it can tell `Synced`."""

    reason: str


@dataclass(frozen=True, slots=True)
class SsdReport:
    """An SSD as the medium sees it. `granule`: sizes there are multiples of it.

    `promised`: what of the namespaces' space was there already when this was measured. `failing`:
    it is used still, but gets nothing new, and what is on it had better be elsewhere.
    """

    name: str
    kind: str
    capacity: int
    available: int
    largest: int
    granule: int
    promised: int = 0
    healthy: bool = True
    reason: str = ""
    can_clone: bool = False
    failing: bool = False


@dataclass(frozen=True, slots=True)
class SsdsSeen:
    """All SSDs of this card; told at start, and whenever something about them has changed."""

    ssds: Sequence[SsdReport]


class FailureKind(enum.StrEnum):
    """What an effect failed of."""

    UNAVAILABLE = "unavailable"  # of the store: perhaps it was done all the same
    LEASE_LOST = "lease-lost"
    NO_SPACE = "no-space"
    BUSY = "busy"  # try again later
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Failure:
    kind: FailureKind
    message: str


@dataclass(frozen=True, slots=True)
class Done:
    """The end of the effect `op`: a value, whose type the effect says, or a failure."""

    op: int
    value: Any = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class HostGone:
    """The VM has let go of a device: QEMU has ended."""

    device: str


Message = (
    Tick | Synced | Changed | StoreLost | SsdsSeen | Done | HostGone | MirrorSeen | Command
)  # fmt: skip

# --- What comes out ---


@dataclass(frozen=True, slots=True)
class Write:
    """One atomic, durable change of the catalog. Not answered: a card that cannot write ends."""

    changes: tuple[Row | Gone | Deleted, ...]


@dataclass(frozen=True, slots=True)
class Txn:
    """Done: a TxnResult of the store."""

    op: int
    compare: tuple[Compare, ...]
    then: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class ListStore:
    """Done: a Snapshot of the store."""

    op: int
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GrantLease:
    """Done: the lease's id."""

    op: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Done: the seconds that it has left. LEASE_LOST: it has run out."""

    op: int
    lease: int


@dataclass(frozen=True, slots=True)
class RevokeLease:
    """Done: nothing. Its failure does not matter."""

    op: int
    lease: int


@dataclass(frozen=True, slots=True)
class Carve:
    """Makes space on an own SSD that reads as zeros; safe to repeat. NO_SPACE is told apart."""

    op: int
    uuid: str
    ssd: str
    size: int


@dataclass(frozen=True, slots=True)
class Clone:
    """Makes space that shares the blocks of `source`, on the same SSD."""

    op: int
    uuid: str
    ssd: str
    source: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """Gives space of an own SSD another size, also while it is in use. NO_SPACE is told apart."""

    op: int
    uuid: str
    ssd: str
    size: int


@dataclass(frozen=True, slots=True)
class Destroy:
    """Gives space of an own SSD back; safe to repeat."""

    op: int
    uuid: str
    ssd: str


@dataclass(frozen=True, slots=True)
class Export:
    """Lets exactly one host in, after whoever was in before has been denied and drained.

    BUSY: commands of the old host are still under way; nobody has been let in.
    """

    op: int
    uuid: str
    ssd: str
    size: int
    block_size: int
    owner: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Unexport:
    """Ends the export; Done when nothing of it is under way any more. BUSY as for Export."""

    op: int
    uuid: str


@dataclass(frozen=True, slots=True)
class StartDevice:
    """Opens the device's socket; safe to repeat."""

    op: int
    device: DeviceRow


@dataclass(frozen=True, slots=True)
class StopDevice:
    """Closes the device and its namespaces; safe to repeat."""

    op: int
    device: str


@dataclass(frozen=True, slots=True)
class Attach:
    """Opens a namespace, local or remote, and gives it to a device; safe to repeat."""

    op: int
    holding: HoldingRow


@dataclass(frozen=True, slots=True)
class Detach:
    """Takes a namespace from a device and closes it; safe to repeat."""

    op: int
    device: str
    uuid: str
    nsid: int


@dataclass(frozen=True, slots=True)
class Refit:
    """A device's namespace has another size now: its guest is told."""

    op: int
    row: HoldingRow | MirrorRow


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a command: what its docstring says, or an exception to be raised there."""

    command: int
    value: Any = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """A line for people; `level` as of logging."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class EndCard:
    """The card cannot go on; `error` says why."""

    error: Exception


Effect = (
    Write | Txn | ListStore | GrantLease | KeepAlive | RevokeLease | Carve | Clone | Stretch
    | Destroy | Export | Unexport | StartDevice | StopDevice | Attach | Detach | Refit | Reply
    | MirrorEffect | Log | EndCard
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CardOptions:
    """Who a card is to its managers, and the times that they keep."""

    name: str
    uuid: str
    session: str
    addresses: tuple[str, ...] = ()
    reserve: int = 0  # of all SSDs together: kept back from peers and automatic placement
    clustered: bool = True  # False: no store; local space only
    ttl_s: float = 10.0
    ask_timeout_s: float = 10.0  # a giver that does not answer for so long is given up
    contention_s: float = 0.5  # who asks for the last space waits so long for better requests
    aging_s: float = 10.0  # a request gains a priority for each that it has waited
    release_wait_s: float = 5.0  # a deletion waits so long for givers to confirm
    replace_after_s: float = 60.0  # a copy that has been away for so long is replaced
    seed: int = 0  # of the draw between equal priorities
    version: str = field(default="")
