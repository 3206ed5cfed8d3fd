"""The rows of a namespace that is wanted: one holding, or a mirror and a holding for each copy."""

from __future__ import annotations

from collections.abc import Callable

from vhostnvme.cluster import placement as rule
from vhostnvme.cluster.commands import Part
from vhostnvme.cluster.rows import DeviceRow, HoldingRow, MirrorRow


def new_unit(
    device: DeviceRow, nsid: int, part: Part, priority: int, new_uuid: Callable[[], str]
) -> list[HoldingRow | MirrorRow]:
    """The namespace first, as its guest is to see it; then its copies, when there are several."""
    mirror = new_uuid() if part.copies > 1 else ""
    copies: list[HoldingRow | MirrorRow] = [
        HoldingRow(
            uuid=new_uuid(),
            vm=device.vm,
            device=device.name,
            nsid=nsid,
            size=part.size,
            block_size=part.block_size,
            placement=rule.placement_of_copy(part.placement, number),
            priority=priority,
            mirror=mirror,
        )
        for number in range(part.copies)
    ]
    if not mirror:
        return copies
    row = MirrorRow(
        uuid=mirror,
        vm=device.vm,
        device=device.name,
        nsid=nsid,
        size=part.size,
        block_size=part.block_size,
        copies=part.copies,
        placement=part.placement,
        priority=priority,
    )
    return [row, *copies]
