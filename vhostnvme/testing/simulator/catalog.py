"""A simulated catalog: the rows that are left after a crash."""

from __future__ import annotations

from collections.abc import Iterable

from vhostnvme.cluster.rows import DeviceRow, HoldingRow, HoldingState, SpaceRow
from vhostnvme.storage.catalog import Deleted, Gone, Row


class Rows:
    """Of one card."""

    def __init__(self) -> None:
        self.tables: dict[type[Row], dict[str, Row]] = {
            SpaceRow: {}, DeviceRow: {}, HoldingRow: {},
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
