"""What the SQLite store does to its rows, each within a transaction that the caller has begun.

Every change of an entry is written twice: to the entry, and to the log of events that watches read.
The log has a bound; what falls out of it is remembered as compacted.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from vhostnvme.cluster.store.base import (
    Absent,
    Change,
    Compare,
    CreatedAt,
    Delete,
    Entry,
    Lease,
    ModifiedAt,
    Operation,
    Present,
    Put,
    Snapshot,
    TxnResult,
    ValueIs,
)
from vhostnvme.errors import Compacted, LeaseLost

__all__ = ["LeaseRow", "Log", "events_after", "leases", "list_prefixes", "lost", "prefix_end"]

_ENTRY = "SELECT key, value, revision, created, lease FROM entries"
_EVENTS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """ends_ns: by the clock of the host since the start that `boot` names."""

    id: int
    ttl_ns: int
    ends_ns: int
    boot: str


def lost(lease_id: int) -> LeaseLost:
    return LeaseLost(f"lease {lease_id:x} has ended: join again")


def prefix_end(prefix: str) -> str:
    """The first string after all that begin with the prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def revision(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT revision FROM meta").fetchone()[0])


def get(db: sqlite3.Connection, key: str) -> Entry | None:
    row = db.execute(f"{_ENTRY} WHERE key = ?", (key,)).fetchone()
    return None if row is None else Entry(*row)


def list_prefixes(db: sqlite3.Connection, prefixes: Sequence[str]) -> Snapshot:
    found: dict[str, Entry] = {}
    for prefix in prefixes:
        rows = db.execute(f"{_ENTRY} WHERE key >= ? AND key < ?", (prefix, prefix_end(prefix)))
        found |= {row[0]: Entry(*row) for row in rows}
    return Snapshot(revision(db), tuple(found[key] for key in sorted(found)))


def events_after(
    db: sqlite3.Connection, prefixes: Sequence[str], after: int
) -> tuple[int, list[Change]]:
    """Changes after a revision, and the revision up to which they are complete.

    Raises:
        Compacted: some are not kept any more, or there is no such revision yet.
    """
    now, compacted = db.execute("SELECT revision, compacted FROM meta").fetchone()
    if after < compacted or after > now:
        raise Compacted(after)
    where = " OR ".join(["key >= ? AND key < ?"] * len(prefixes))
    bounds = [bound for prefix in prefixes for bound in (prefix, prefix_end(prefix))]
    rows = db.execute(
        f"SELECT key, value, revision, created FROM events WHERE revision > ? AND ({where})"
        " ORDER BY number",
        (after, *bounds),
    )
    changes: list[Change] = []
    for row in rows:
        change = Change(*row)
        if len(changes) >= _EVENTS_AT_ONCE and change.revision > changes[-1].revision:
            return changes[-1].revision, changes
        changes.append(change)
    return int(now), changes


def leases(db: sqlite3.Connection) -> tuple[int, list[LeaseRow]]:
    """All leases, and the number that changes when one comes or goes."""
    (grants,) = db.execute("SELECT grants FROM meta").fetchone()
    rows = db.execute("SELECT id, ttl_ns, ends_ns, boot FROM leases")
    return int(grants), [LeaseRow(*row) for row in rows]


class Log:
    """Changes entries and logs it.

    Args:
        events_max: how many changes are kept for watches.
    """

    def __init__(self, events_max: int) -> None:
        self.events_max = events_max

    def txn(
        self,
        db: sqlite3.Connection,
        compare: Sequence[Compare],
        then: Sequence[Operation],
        otherwise: Sequence[Operation],
        reads: Sequence[str],
    ) -> tuple[TxnResult, list[str]]:
        """See `Store.txn`; with the keys that have changed."""
        succeeded = all(_holds(db, each) for each in compare)
        changed = self.change(db, then if succeeded else otherwise)
        entries = {key: entry for key in reads if (entry := get(db, key)) is not None}
        return TxnResult(succeeded, revision(db), entries), changed

    def change(self, db: sqlite3.Connection, operations: Sequence[Operation]) -> list[str]:
        """Does these at one new revision; answers the keys that have changed.

        Raises:
            LeaseLost: a key is to be bound to a lease that is not there.
        """
        new = revision(db) + 1
        changed = []
        for each in operations:
            old = db.execute("SELECT created FROM entries WHERE key = ?", (each.key,)).fetchone()
            if isinstance(each, Put):
                if each.lease and not _has_lease(db, each.lease):
                    raise lost(each.lease)
                created = new if old is None else old[0]
                db.execute(
                    "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)",
                    (each.key, each.value, new, created, each.lease),
                )
                _log(db, Change(each.key, each.value, new, created))
            elif old is None:
                continue
            else:
                db.execute("DELETE FROM entries WHERE key = ?", (each.key,))
                _log(db, Change(each.key, None, new, 0))
            changed.append(each.key)
        if changed:
            db.execute("UPDATE meta SET revision = ?", (new,))
            self._forget(db)
        return changed

    def _forget(self, db: sqlite3.Connection) -> None:
        (last,) = db.execute("SELECT max(number) FROM events").fetchone()
        least = last - self.events_max
        (gone,) = db.execute(
            "SELECT max(revision) FROM events WHERE number <= ?", (least,)
        ).fetchone()
        if gone is not None:
            db.execute("UPDATE meta SET compacted = ?", (gone,))
            db.execute("DELETE FROM events WHERE number <= ?", (least,))

    def grant(self, db: sqlite3.Connection, ttl_ns: int, now_ns: int, boot: str) -> Lease:
        # Unlike any other, in another database too; 0 stands for none.
        lease_id = secrets.randbits(62) | 1 << 61
        db.execute("INSERT INTO leases VALUES (?, ?, ?, ?)", (lease_id, ttl_ns, now_ns, boot))
        self.renew(db, lease_id, now_ns, boot)
        db.execute("UPDATE meta SET grants = grants + 1")
        return Lease(lease_id, ttl_ns / 1e9)

    def renew(self, db: sqlite3.Connection, lease_id: int, now_ns: int, boot: str) -> float:
        """Seconds that it is good for now.

        Raises:
            LeaseLost: there is no such lease.
        """
        row = db.execute("SELECT ttl_ns FROM leases WHERE id = ?", (lease_id,)).fetchone()
        if row is None:
            raise lost(lease_id)
        db.execute(
            "UPDATE leases SET ends_ns = ?, boot = ? WHERE id = ?",
            (now_ns + row[0], boot, lease_id),
        )
        return float(row[0] / 1e9)

    def end_lease(self, db: sqlite3.Connection, lease_id: int) -> list[str]:
        """Removes it and its keys, at one revision; answers the keys."""
        rows = db.execute("SELECT key FROM entries WHERE lease = ? ORDER BY key", (lease_id,))
        changed = self.change(db, [Delete(key) for (key,) in rows.fetchall()])
        db.execute("DELETE FROM leases WHERE id = ?", (lease_id,))
        db.execute("UPDATE meta SET grants = grants + 1")
        return changed


def _log(db: sqlite3.Connection, change: Change) -> None:
    db.execute(
        "INSERT INTO events (revision, created, key, value) VALUES (?, ?, ?, ?)",
        (change.revision, change.created, change.key, change.value),
    )


def _has_lease(db: sqlite3.Connection, lease_id: int) -> bool:
    return db.execute("SELECT 1 FROM leases WHERE id = ?", (lease_id,)).fetchone() is not None


def _holds(db: sqlite3.Connection, compare: Compare) -> bool:
    entry = get(db, compare.key)
    match compare:
        case Absent():
            return entry is None
        case Present():
            return entry is not None
        case ModifiedAt(revision=wanted):
            return wanted == (0 if entry is None else entry.revision)
        case CreatedAt(revision=wanted):
            return wanted == (0 if entry is None else entry.created)
        case ValueIs(value=value):
            return entry is not None and entry.value == value
