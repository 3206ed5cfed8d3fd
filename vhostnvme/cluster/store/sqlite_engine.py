"""What the SQLite store does on its thread: transactions, leases, and looking what others did."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from vhostnvme.cluster.store import sqlite_rows
from vhostnvme.cluster.store.base import Change, Compare, Lease, Operation, Snapshot, TxnResult
from vhostnvme.cluster.store.sqlite_bell import Bell
from vhostnvme.cluster.store.sqlite_contact import Contact
from vhostnvme.cluster.store.sqlite_file import Database, boot_time_ns
from vhostnvme.cluster.store.sqlite_rows import LeaseRow, Log
from vhostnvme.errors import StoreUnavailable

__all__ = ["Engine"]

_LOOK_NS_MAX = 1_000_000_000
# How coarse a file system's time may be, and more.
_STAMP_NS = 50_000_000

T = TypeVar("T")


class Engine:
    """All that touches the database, for one thread at a time.

    Attributes:
        revision: the latest that it has seen.
        bell: rung after each commit that changed a key.
    """

    def __init__(self, path: Path, wait_s: float, events_max: int, bell: Bell) -> None:
        self.revision = 0
        self.bell = bell
        self._database = Database(path, wait_s)
        self._log = Log(events_max)
        self._contact = Contact()
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        self._version = (0, 0)
        self._grants = -1
        self._leases: list[LeaseRow] = []
        self._wrote_ns = 0
        self._look_ns = 0  # at the leases, at the latest
        self._looked_ns = 0
        self._stamp: tuple[int, ...] = ()

    def open(self) -> None:
        """See `Database.create`."""
        self._database.create()
        self._contact.lost()
        self.look()

    def close(self) -> None:
        self._database.close()

    def txn(
        self,
        compare: Sequence[Compare],
        then: Sequence[Operation],
        otherwise: Sequence[Operation],
        reads: Sequence[str],
    ) -> TxnResult:
        def work(db: sqlite3.Connection) -> tuple[TxnResult, list[str]]:
            return self._log.txn(db, compare, then, otherwise, reads)

        result, changed = self._write(work) if then or otherwise else self._read(work)
        self._told(result.revision, changed)
        return result

    def snapshot(self, prefixes: Sequence[str]) -> Snapshot:
        return self._read(lambda db: sqlite_rows.list_prefixes(db, prefixes))

    def events_after(self, prefixes: Sequence[str], after: int) -> tuple[int, list[Change]]:
        return self._read(lambda db: sqlite_rows.events_after(db, prefixes, after))

    def grant(self, ttl_s: float) -> Lease:
        ttl_ns = round(ttl_s * 1e9)
        return self._write(lambda db: self._log.grant(db, ttl_ns, boot_time_ns(), self._boot))

    def keep_alive(self, lease_id: int) -> float:
        # One that has run out is renewed as long as nobody has ended it: nobody has acted on it.
        return self._write(lambda db: self._log.renew(db, lease_id, boot_time_ns(), self._boot))

    def remaining(self, lease_ids: Sequence[int]) -> dict[int, float]:
        wanted, now_ns = set(lease_ids), boot_time_ns()
        _, rows = self._read(sqlite_rows.leases)
        return {
            row.id: max(0.0, (row.ends_ns - now_ns) / 1e9) if row.boot == self._boot else 0.0
            for row in rows
            if row.id in wanted
        }

    def revoke(self, lease_id: int) -> None:
        self._told(*self._write(lambda db: self._end(db, [lease_id])))

    def must_look(self) -> bool:
        """Whether `look` has something to do. It costs next to nothing; any thread may ask."""
        now_ns = boot_time_ns()
        # With a lease of TTL, contact is to be made much more often than every TTL / 4.
        often_ns = min((row.ttl_ns // 10 for row in self._leases), default=_LOOK_NS_MAX)
        return (
            now_ns >= min(self._look_ns, self._looked_ns + min(often_ns, _LOOK_NS_MAX))
            or self._stamp == ()
            or self._database.stamp() != self._stamp
        )

    def look(self) -> None:
        """What others have changed, and whose lease has ended; to be called often.

        Raises:
            StoreUnavailable: the file is out of reach.
        """
        stamp, self._stamp = self._database.stamp(), ()
        try:
            version = self._database.version_of_data()
        except StoreUnavailable:
            self._contact.lost()
            raise
        now_ns = boot_time_ns()
        self._contact.made(now_ns)
        if version != self._version:
            self.revision, grants = self._read(_numbers)
            self._version = version
            if grants != self._grants:
                self._look_ns = 0
        if now_ns >= self._look_ns:
            self._look_at_leases(now_ns)
        self._looked_ns = now_ns
        # What was just written may be written again without a change of the stamp.
        if not stamp or time.time_ns() - stamp[-1] > _STAMP_NS:
            self._stamp = stamp

    def _look_at_leases(self, now_ns: int) -> None:
        self._grants, self._leases = self._read(sqlite_rows.leases)
        late = [row for row in self._leases if self._is_late(row, now_ns)]
        if late:
            self._look_ns = 0
            self._end_those_over(late, now_ns)
        else:
            # Renewed in time, none is late before then.
            half_lives = (row.ends_ns - row.ttl_ns // 2 for row in self._leases)
            self._look_ns = min(half_lives, default=now_ns + 60 * 10**9)

    def _is_late(self, row: LeaseRow, now_ns: int) -> bool:
        return row.boot != self._boot or now_ns >= row.ends_ns - row.ttl_ns // 2

    def _end_those_over(self, late: Sequence[LeaseRow], now_ns: int) -> None:
        over = [row for row in late if self._contact.has_ended(row, now_ns, self._boot)]
        if over:
            known = {row.id: row for row in over}

            def work(db: sqlite3.Connection) -> tuple[int, list[str]]:
                _, rows = sqlite_rows.leases(db)
                same = [row.id for row in rows if known.get(row.id) == row]
                return self._end(db, same)

            self._told(*self._write(work))
        elif now_ns - self._wrote_ns > min(row.ttl_ns for row in late) // 4:
            # Who can read may still not be able to write, and nobody to renew a lease.
            self._write(lambda db: db.execute("UPDATE meta SET probes = probes + 1"))

    def _end(self, db: sqlite3.Connection, lease_ids: Sequence[int]) -> tuple[int, list[str]]:
        changed = [key for each in lease_ids for key in self._log.end_lease(db, each)]
        return sqlite_rows.revision(db), changed

    def _told(self, revision: int, changed: Sequence[str]) -> None:
        self.revision = max(self.revision, revision)
        if changed:
            self.bell.ring(changed)

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return self._database.read(work)
        except StoreUnavailable:
            self._contact.lost()
            raise

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            answer = self._database.write(work)
        except StoreUnavailable:
            self._contact.lost()
            raise
        self._wrote_ns = boot_time_ns()
        return answer


def _numbers(db: sqlite3.Connection) -> tuple[int, int]:
    revision, grants = db.execute("SELECT revision, grants FROM meta").fetchone()
    return int(revision), int(grants)
