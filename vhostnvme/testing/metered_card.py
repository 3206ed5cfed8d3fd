"""A card that counts what it asks of its store, for measurements.

`python -m vhostnvme.testing.metered_card CARD.toml [--ready-fd N]`

runs the card. For each line on its standard input it appends a line of JSON to the file `meter`
beside CARD.toml: `transactions` (those that change something), `renewals` of its lease, `reads`
(lists, times of leases), `events` (changes that its watch has told), and `bytes_out` and
`bytes_in`, the keys and values of all these without any protocol's own; all since its start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from vhostnvme.card import run_card
from vhostnvme.cluster.store import open_store
from vhostnvme.cluster.store.base import (
    Changes,
    Compare,
    Entry,
    Lease,
    Operation,
    Put,
    Snapshot,
    Store,
    TxnResult,
)
from vhostnvme.config import load_card
from vhostnvme.errors import VhostNvmeError
from vhostnvme.works import card_store

METER_NAME = "meter"


class MeteredStore(Store):
    """Counts, and passes everything on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.counts = dict.fromkeys(
            ("transactions", "renewals", "reads", "events", "bytes_out", "bytes_in"), 0
        )

    def _count(self, name: str, number: int = 1) -> None:
        self.counts[name] += number

    async def open(self) -> None:
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()

    async def list(self, *prefixes: str) -> Snapshot:
        snapshot = await self._store.list(*prefixes)
        self._count("reads")
        self._count("bytes_in", _bytes_of(snapshot.entries))
        return snapshot

    async def txn(
        self,
        compare: Iterable[Compare],
        then: Iterable[Operation],
        otherwise: Iterable[Operation] = (),
        reads: Iterable[str] = (),
    ) -> TxnResult:
        then, otherwise = tuple(then), tuple(otherwise)
        self._count("transactions" if then or otherwise else "reads")
        for each in then:
            value = each.value if isinstance(each, Put) else b""
            self._count("bytes_out", len(each.key) + len(value))
        result = await self._store.txn(compare, then, otherwise, reads)
        self._count("bytes_in", _bytes_of(result.entries.values()))
        return result

    async def grant(self, ttl_s: float) -> Lease:
        self._count("renewals")
        return await self._store.grant(ttl_s)

    async def keep_alive(self, lease_id: int) -> float:
        self._count("renewals")
        return await self._store.keep_alive(lease_id)

    async def remaining(self, lease_ids: Sequence[int]) -> dict[int, float]:
        self._count("reads", len(lease_ids))
        return await self._store.remaining(lease_ids)

    async def revoke(self, lease_id: int) -> None:
        await self._store.revoke(lease_id)

    async def watch(
        self, prefixes: Sequence[str], from_revision: int
    ) -> AsyncGenerator[Changes, None]:
        async with aclosing(self._store.watch(prefixes, from_revision)) as watching:
            async for changes in watching:
                self._count("events", len(changes))
                size = sum(len(each.key) + len(each.value or b"") for each in changes)
                self._count("bytes_in", size)
                yield changes


def _bytes_of(entries: Iterable[Entry]) -> int:
    return sum(len(each.key) + len(each.value) for each in entries)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A card that counts what it asks of its store.")
    parser.add_argument("file", type=Path, metavar="CARD.toml")
    parser.add_argument("--ready-fd", type=int)
    args = parser.parse_args(arguments)
    stores: list[MeteredStore] = []
    original = open_store

    def metered(*given: Any, **options: Any) -> MeteredStore:
        stores.append(MeteredStore(original(*given, **options)))
        return stores[-1]

    def tell() -> None:
        meter = args.file.with_name(METER_NAME)
        for _ in sys.stdin:
            with meter.open("a", encoding="ascii") as file:
                file.write(json.dumps(stores[0].counts) + "\n")

    card_store.open_store = metered  # type: ignore[attr-defined]
    threading.Thread(target=tell, daemon=True).start()
    try:
        asyncio.run(run_card(load_card(args.file), ready_fd=args.ready_fd))
    except VhostNvmeError as error:
        sys.stderr.write(f"metered_card: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
