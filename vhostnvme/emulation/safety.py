"""How safe a namespace is, in words: which copies count, what is at risk, what is being done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from vhostnvme.cluster.mirror_messages import LegState, MirrorSeen
from vhostnvme.cluster.rows import HoldingRow, HoldingState, MirrorRow, RowState
from vhostnvme.control.card import CopyInfo
from vhostnvme.storage.mirror_record import Standing
from vhostnvme.units import format_size

SAFE = "safe"
AT_RISK = "at risk"
WAITING = "waiting"
LOST = "lost"
_COMING = (LegState.REBUILDING, LegState.READY)


class Pool(Protocol):
    """What the managers know of copies."""

    @property
    def holdings(self) -> Mapping[str, HoldingRow]: ...
    def mirror_seen(self, uuid: str) -> MirrorSeen | None: ...
    def mirror_failure(self, uuid: str) -> str: ...
    def copy_is_wanted(self, row: HoldingRow) -> bool: ...


def copies(pool: Pool, row: MirrorRow) -> list[CopyInfo]:
    """The copies of a namespace, those that count first."""
    seen = pool.mirror_seen(row.uuid)
    found = []
    for number, leg in enumerate(row.legs):
        if not leg.uuid:
            continue
        holding = pool.holdings.get(leg.uuid)
        found.append(
            CopyInfo(
                uuid=leg.uuid,
                card=holding.giver if holding else "",
                ssd=holding.ssd if holding else "",
                standing=leg.standing,
                state=seen.legs[number].state if seen else LegState.NONE,
                moving=leg.leaving or (holding is not None and not pool.copy_is_wanted(holding)),
            )
        )
    return sorted(found, key=lambda copy: copy.standing != Standing.IN_SYNC)


def progress(pool: Pool, row: MirrorRow) -> float | None:
    """How much of the namespace is the same on the copy that is being brought up to date."""
    seen = pool.mirror_seen(row.uuid)
    if seen is None or not any(leg.state in _COMING for leg in seen.legs):
        return None
    return round(max(0.0, 1.0 - seen.left / row.size), 3)


def safety(pool: Pool, row: MirrorRow) -> tuple[str, str]:
    """A word, and a sentence."""
    if row.state is RowState.MAKING:
        return WAITING, "it is being made"
    seen = pool.mirror_seen(row.uuid)
    counting = [pool.holdings.get(row.legs[number].uuid) for number in row.in_sync()]
    if not any(each is not None and each.state is HoldingState.HELD for each in counting):
        return LOST, "no copy that counts is left: see `vhostnvme namespace promote`"
    where = " and ".join(_where(each) for each in counting if each is not None)
    if seen is None:
        return WAITING, f"the copy that counts, on {where}, cannot be reached now"
    held = f", and {seen.held} commands wait for the store" if seen.held else ""
    doing = _doing(pool, row, seen)
    if len(counting) >= row.copies and len(counting) > 1:
        return SAFE, f"all is on {where}{held}{doing}"
    if row.copies == 1:
        return SAFE if not doing else AT_RISK, f"one copy was asked for: it is on {where}{doing}"
    return AT_RISK, f"all is on {where} only{held}{doing}"


def _where(row: HoldingRow) -> str:
    return f"card {row.giver}, {row.ssd}"


def _doing(pool: Pool, row: MirrorRow, seen: MirrorSeen) -> str:
    words = []
    for number, leg in enumerate(row.legs):
        holding = pool.holdings.get(leg.uuid)
        if holding is None or leg.standing is Standing.IN_SYNC:
            continue
        if seen.legs[number].state in _COMING:
            left = format_size(seen.left) if seen.left else "nothing"
            words.append(f"{_where(holding)} is being brought up to date, {left} left")
        elif leg.standing is Standing.STALE:
            lacks = f"{format_size(seen.dirty)} at most"
            words.append(f"the copy on {_where(holding)} lacks {lacks}, and is away")
        else:
            words.append(f"a new copy on {_where(holding)} is to be made")
    failure = pool.mirror_failure(row.uuid)
    if failure:
        words.append(failure)
    return "".join(f"; {each}" for each in words)
