"""The simulated store: linearizable, with revisions and with leases that end in true time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vhostnvme.cluster.store.base import (
    Absent,
    Change,
    Compare,
    CreatedAt,
    Delete,
    Entry,
    ModifiedAt,
    Operation,
    Present,
    Put,
    Snapshot,
    TxnResult,
    ValueIs,
    check_txn,
)
from vhostnvme.errors import LeaseLost
from vhostnvme.testing.simulator.engine import Engine


@dataclass(slots=True)
class SimLease:
    id: int
    ttl_s: float
    ends: float  # in true time


# The changes of one transaction, with what was there before.
Commit = Callable[[Sequence[Change], dict[str, Entry | None]], None]


class SimStore:
    """The values of `commits` are called for each change, at once.

    `buckets`: those of the last changes, in their order (see `bucket_of`).

    Leases do not run out while the store is away: on its return they have what they had left, or,
    with `grace`, all of their time.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.revision = 0
        self.entries: dict[str, Entry] = {}
        self.up = True
        self.commits: list[Commit] = []
        self.buckets: list[str] = []
        self.writes = self.reads = 0
        self._buckets: dict[str, dict[str, Entry]] = {}
        self._leases: dict[int, SimLease] = {}
        self._numbers = itertools.count(1001)
        self._down_since = 0.0

    # --- What a card may ask ---

    def txn(self, compare: Sequence[Compare], then: Sequence[Operation]) -> TxnResult:
        """
        Raises:
            LeaseLost: a key was to be bound to a lease that has ended.
        """
        check_txn(compare, then, ())
        self.writes += 1
        if not all(self._holds(each) for each in compare):
            return TxnResult(False, self.revision, {})
        for each in then:
            if isinstance(each, Put) and each.lease and each.lease not in self._leases:
                raise LeaseLost(f"the lease {each.lease} has ended")
        self._apply(then)
        return TxnResult(True, self.revision, {})

    def snapshot(self, prefixes: Iterable[str]) -> Snapshot:
        self.reads += 1
        found: dict[str, Entry] = {}
        for prefix in prefixes:
            bucket = self._buckets.get(prefix)
            found.update(bucket if bucket is not None else self._below(prefix))
        return Snapshot(self.revision, tuple(found[key] for key in sorted(found)))

    def grant(self, ttl_s: float) -> int:
        lease = SimLease(next(self._numbers), ttl_s, self._engine.now + ttl_s)
        self._leases[lease.id] = lease
        self._wait_for(lease)
        return lease.id

    def keep_alive(self, number: int) -> float:
        """
        Raises:
            LeaseLost: it has ended.
        """
        lease = self._leases.get(number)
        if lease is None:
            raise LeaseLost(f"the lease {number} has ended")
        lease.ends = self._engine.now + lease.ttl_s
        return lease.ttl_s

    def revoke(self, number: int) -> None:
        if self._leases.pop(number, None) is not None:
            self._end_keys_of(number)

    # --- What befalls it ---

    def go_away(self) -> None:
        if self.up:
            self.up = False
            self._down_since = self._engine.now

    def come_back(self, *, grace: bool) -> None:
        if self.up:
            return
        self.up = True
        away = self._engine.now - self._down_since
        for lease in self._leases.values():
            lease.ends = self._engine.now + lease.ttl_s if grace else lease.ends + away
            self._wait_for(lease)

    def _wait_for(self, lease: SimLease) -> None:
        def check() -> None:
            if not self.up or self._leases.get(lease.id) is not lease:
                return
            if self._engine.now >= lease.ends - 1e-9:
                self.revoke(lease.id)
            else:
                self._wait_for(lease)

        self._engine.after(max(lease.ends - self._engine.now, 0.0), check)

    # --- Inside ---

    def _holds(self, compare: Compare) -> bool:
        entry = self.entries.get(compare.key)
        match compare:
            case Absent():
                return entry is None
            case Present():
                return entry is not None
            case ModifiedAt():
                return (entry.revision if entry else 0) == compare.revision
            case CreatedAt():
                return (entry.created if entry else 0) == compare.revision
            case ValueIs():
                return entry is not None and entry.value == compare.value

    def _apply(self, operations: Iterable[Operation]) -> None:
        revision = self.revision + 1
        changes: list[Change] = []
        before: dict[str, Entry | None] = {}
        self.buckets = []
        for each in operations:
            old = self.entries.get(each.key)
            name = bucket_of(each.key)
            bucket = self._buckets.setdefault(name, {})
            if isinstance(each, Put):
                created = old.created if old else revision
                entry = Entry(each.key, each.value, revision, created, each.lease)
                self.entries[each.key] = bucket[each.key] = entry
                changes.append(Change(each.key, each.value, revision, created))
            elif old is not None:
                del self.entries[each.key], bucket[each.key]
                changes.append(Change(each.key, None, revision, 0))
            else:
                continue
            before[each.key] = old
            self.buckets.append(name)
        if changes:
            self.revision = revision
            for commit in self.commits:
                commit(changes, before)

    def _end_keys_of(self, number: int) -> None:
        keys = sorted(key for key, entry in self.entries.items() if entry.lease == number)
        self._apply([Delete(key) for key in keys])

    def _below(self, prefix: str) -> dict[str, Entry]:
        return {
            key: entry
            for name, bucket in self._buckets.items()
            if name.startswith(prefix) or prefix.startswith(name)
            for key, entry in bucket.items()
            if key.startswith(prefix)
        }


def bucket_of(key: str) -> str:
    """The prefix by which keys are listed and watched: `space/a/` of `space/a/<uuid>`."""
    parts = key.split("/", 2)
    return "/".join(parts[: max(len(parts) - 1, 1)]) + "/"
