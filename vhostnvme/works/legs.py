"""What the legs of a namespace are opened with, as far as they are there."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from vhostnvme.cluster.rows import HoldingRow
from vhostnvme.errors import ConfigError, NativeError
from vhostnvme.storage.common import DiskSpec

_log = logging.getLogger(__name__)

# What the data path opens of a holding.
SpecOf = Callable[[HoldingRow], Awaitable[DiskSpec]]


async def specs_of(spec: SpecOf, rows: Sequence[HoldingRow | None]) -> list[DiskSpec | None]:
    """Of each leg; None: there is none, or it is not there now, and the others do without it.

    Raises:
        NativeError, ConfigError: none of them is there.
    """
    specs: list[DiskSpec | None] = [None] * len(rows)
    missing: list[tuple[HoldingRow, NativeError | ConfigError]] = []
    for number, row in enumerate(rows):
        try:
            specs[number] = await spec(row) if row else None
        except (NativeError, ConfigError) as error:
            assert row is not None
            missing.append((row, error))
    if missing and not any(specs):
        raise missing[0][1]
    for row, why in missing:
        _log.warning("copy %s of namespace %s is missing: %s", row.uuid, row.mirror, why)
    return specs
