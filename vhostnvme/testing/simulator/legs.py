"""The legs of a simulated mirror, and what is on its way to them; see mirror.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vhostnvme.cluster.mirror_messages import LegSeen, LegState
from vhostnvme.testing.simulator.path import Path

# They get every write.
ATTACHED = (LegState.IN_SYNC, LegState.READY, LegState.REBUILDING)


@dataclass(slots=True)
class SimLeg:
    """`copy`: the regions that it lacks still. `waits`: who waits for its answers."""

    state: LegState = LegState.NONE
    path: Path | None = None
    covered: bool = False
    failures: int = 0
    copy: set[int] = field(default_factory=set)
    waits: list[Callable[[], None]] = field(default_factory=list)

    def seen(self) -> LegSeen:
        uuid = self.path.holding.uuid if self.path else ""
        return LegSeen(uuid, self.state, self.covered, self.failures)


@dataclass(slots=True)
class Write:
    """A guest's. `good`: the legs that have it."""

    region: int
    version: int
    pending: set[int] = field(default_factory=set)
    good: set[int] = field(default_factory=set)
    error: bool = False
