"""The way of one wanted namespace from card to card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vhostnvme.cluster.records import SpaceRecord
from vhostnvme.cluster.requests import Granted, Request
from vhostnvme.cluster.rows import HoldingRow

# The holding as it is HELD, or why there is none.
Found = Callable[[HoldingRow | None, Exception | None], None]


@dataclass(slots=True)
class Seek:
    """`uuid` is that of the current attempt."""

    uuid: str
    found: Found
    started: float
    wait_until: float
    ssd: str | None = None
    tried: set[str] = field(default_factory=set)
    ask_until: float | None = None  # a peer has been asked
    written: bool = False  # its record is in the store
    retry_at: float | None = None  # nobody has been asked
    silent: list[str] = field(default_factory=list)  # who has been asked and did not answer
    reason: str = ""  # why space that there was could not be made


def request_of(
    seek: Seek, row: HoldingRow, now: float, draw: float, with_reserve: bool, granted: Granted
) -> Request:
    """To this card itself; `row` names it as the giver."""
    return Request(
        uuid=row.uuid,
        owner=row.giver,
        vm=row.vm,
        device=row.device,
        size=row.size,
        block_size=row.block_size,
        priority=row.priority,
        waited_s=now - seek.started,
        since=now,
        draw=draw,
        ssd=seek.ssd,
        with_reserve=with_reserve,
        mirror=row.mirror,
        granted=granted,
    )


def record_of(seek: Seek, row: HoldingRow, me: str, giver: str, now: float) -> SpaceRecord:
    """To another card."""
    return SpaceRecord(
        uuid=row.uuid,
        giver=giver,
        owner=me,
        vm=row.vm,
        device=row.device,
        device_nsid=row.nsid,
        mirror=row.mirror,
        size=row.size,
        block_size=row.block_size,
        priority=row.priority,
        waited_ms=int((now - seek.started) * 1000),
    )
