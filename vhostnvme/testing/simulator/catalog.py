"""A simulated catalog: the rows that are left after a crash."""

from __future__ import annotations

from collections.abc import Iterable

from vhostnvme.cluster.rows import (
    DeviceRow,
    DrainRow,
    HoldingRow,
    HoldingState,
    MirrorRow,
    RowState,
    SpaceRow,
)
from vhostnvme.storage.catalog import Deleted, Gone, Row


class Rows:
    """Of one card."""

    def __init__(self) -> None:
        self.tables: dict[type[Row], dict[str, Row]] = {
            SpaceRow: {}, DeviceRow: {}, HoldingRow: {}, MirrorRow: {}, DrainRow: {},
        }  # fmt: skip
        self.deleted: dict[tuple[str, str], Deleted] = {}

    @property
    def spaces(self) -> dict[str, SpaceRow]:
        return self.tables[SpaceRow]  # type: ignore[return-value]

    @property
    def devices(self) -> dict[str, DeviceRow]:
        return self.tables[DeviceRow]  # type: ignore[return-value]

    @property
    def holdings(self) -> dict[str, HoldingRow]:
        return self.tables[HoldingRow]  # type: ignore[return-value]

    @property
    def mirrors(self) -> dict[str, MirrorRow]:
        return self.tables[MirrorRow]  # type: ignore[return-value]

    @property
    def draining(self) -> bool:
        return bool(self.tables[DrainRow])

    def units_of(self, device: str) -> list[HoldingRow | MirrorRow]:
        """Its namespaces as its guest sees them, in the order of the NSIDs."""
        plain = [row for row in self.holdings_of(device) if not row.mirror]
        kept = [
            row
            for row in self.mirrors.values()
            if row.device == device and row.state is not RowState.DELETING
        ]
        return sorted([*plain, *kept], key=lambda row: row.nsid)

    def unit(self, uuid: str) -> HoldingRow | MirrorRow | None:
        return self.mirrors.get(uuid) or self.holdings.get(uuid)

    def holdings_of(self, device: str) -> list[HoldingRow]:
        """What it has or is to have, in the order of the NSIDs."""
        found = [
            row
            for row in self.holdings.values()
            if row.device == device and row.state is not HoldingState.RELEASING
        ]
        return sorted(found, key=lambda row: row.nsid)

    def write(self, changes: Iterable[Row | Gone | Deleted]) -> None:
        for change in changes:
            if isinstance(change, Deleted):
                self.deleted[change.kind, change.name] = change
            elif isinstance(change, Gone):
                self.tables[change.kind].pop(change.key, None)
            else:
                self.tables[type(change)][change.key()] = change

    def all(self) -> list[Row | Deleted]:
        found: list[Row | Deleted] = list(self.deleted.values())
        for table in self.tables.values():
            found += table.values()
        return found
