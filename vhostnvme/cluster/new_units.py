"""The rows of a namespace that is wanted: one holding, or a mirror and a holding for each copy."""

from __future__ import annotations

from collections.abc import Callable

from vhostnvme.cluster import placement as rule
from vhostnvme.cluster.commands import Part
from vhostnvme.cluster.local_space import check_size
from vhostnvme.cluster.records import PRIORITY_MAX, PRIORITY_MIN
from vhostnvme.cluster.rows import DeviceRow, HoldingRow, MirrorRow
from vhostnvme.errors import ConfigError
from vhostnvme.storage.common import BLOCK_SIZES
from vhostnvme.storage.mirror import LEGS_MAX


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
            scratch=part.scratch,
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
        degraded=part.degraded,
    )
    return [row, *copies]


def check_part(part: Part, priority: int) -> None:
    """
    Raises:
        ConfigError: no namespace can be like this.
    """
    check_size(part.size, part.block_size)
    if not 1 <= part.copies < LEGS_MAX:
        raise ConfigError(f"a namespace is kept as 1 or {LEGS_MAX - 1} copies, not {part.copies}")
    if part.scratch and part.copies > 1:
        raise ConfigError("what is kept as copies is never replaced by something empty")
    if part.block_size not in BLOCK_SIZES:
        raise ConfigError(f"a block has 512 or 4096 bytes, not {part.block_size}")
    if not PRIORITY_MIN <= priority <= PRIORITY_MAX:
        raise ConfigError(f"a priority is from {PRIORITY_MIN} to {PRIORITY_MAX}, not {priority}")
