"""The database behind the SQLite store: its file, schema and transactions, for one thread.

Nothing here waits but for the write lock, and no longer than told. `sqlite.py` calls it from a
thread of its own. Times are in nanoseconds of CLOCK_BOOTTIME, which all processes of a host share.
"""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vhostnvme.errors import StoreError, StoreUnavailable

__all__ = ["SCHEMA_VERSION", "Database", "boot_time_ns"]

T = TypeVar("T")

SCHEMA_VERSION = 1
# "vnst", in the file's header: it is a store of ours.
APPLICATION_ID = 0x766E7374
_SCHEMA = """
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL,   -- of the last change
    compacted INTEGER NOT NULL,  -- changes up to this one are not kept
    grants INTEGER NOT NULL,     -- leases granted and ended so far
    probes INTEGER NOT NULL      -- writes that only show that one can write
);
CREATE TABLE entries (
    key TEXT PRIMARY KEY,
    value BLOB NOT NULL,
    revision INTEGER NOT NULL,
    created INTEGER NOT NULL,
    lease INTEGER NOT NULL
);
CREATE INDEX entries_of_lease ON entries (lease) WHERE lease <> 0;
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    revision INTEGER NOT NULL,
    created INTEGER NOT NULL,
    key TEXT NOT NULL,
    value BLOB
);
CREATE INDEX events_of_revision ON events (revision);
CREATE TABLE leases (
    id INTEGER PRIMARY KEY,
    ttl_ns INTEGER NOT NULL,
    ends_ns INTEGER NOT NULL,  -- by the clock of the boot
    boot TEXT NOT NULL
);
"""
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PAUSE_S_MIN, _PAUSE_S_MAX = 0.0002, 0.004


def boot_time_ns() -> int:
    """Nanoseconds since this host started, those in which it slept included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Database:
    """A connection that is made when it is needed, and again when the file has been replaced.

    Args:
        wait_s: for how long a transaction waits for the write lock.
    """

    def __init__(self, path: Path, wait_s: float) -> None:
        self.path = path
        self.wait_s = wait_s
        self._log_path = path.with_name(f"{path.name}-wal")
        self._connection: sqlite3.Connection | None = None
        self._connections = 0
        self._made = False
        self._file: tuple[int, int] = (0, 0)

    def create(self) -> None:
        """Makes the file when there is none, and makes sure that it is a store of this version.

        Raises:
            StoreUnavailable: it cannot be reached for now.
            StoreError: it is damaged, something else, or of another version.
        """
        self.close()
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._away(error.strerror or "") from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise StoreError(f"the store {self.path} is not a file: name another")
            if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise StoreError(
                    f"the store {self.path} may be read or changed by others: chmod 600 {self.path}"
                )
        finally:
            os.close(fd)
        self._connect(create=True)
        self._made = True

    def close(self) -> None:
        """A second call does nothing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs work, which only reads, on one revision.

        Raises:
            StoreUnavailable: the file cannot be read for now.
        """
        return self._within("BEGIN", work)

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs work, and makes what it changed durable; when it raises, nothing has changed.

        Raises:
            StoreUnavailable: the file cannot be changed for now; see `unknown`.
        """
        return self._within("BEGIN IMMEDIATE", work)

    def version_of_data(self) -> tuple[int, int]:
        """Another one when another connection has changed something.

        Raises:
            StoreUnavailable: the file cannot be read for now.
        """
        connection = self._current()
        try:
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            return self._connections, int(version)
        except sqlite3.Error as error:
            raise self._failed(error) from None

    def stamp(self) -> tuple[int, ...]:
        """Another one when the file was replaced, or written to some milliseconds ago.

        Asks the file system alone, and any thread may. What is written at the same time as the last
        change that was seen may have the same stamp.
        """
        try:
            file, log = self.path.stat(), self._log_path.stat()
        except OSError:
            return ()
        return file.st_dev, file.st_ino, log.st_ino, log.st_size, log.st_mtime_ns

    def _within(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._current()
        committing = False
        try:
            self._patiently(lambda: connection.execute(begin))
            answer = work(connection)
            # A commit that fails half-way may turn out to have been made.
            committing = begin != "BEGIN"
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error, unknown=committing) from None
        except BaseException:
            self._roll_back(connection)
            raise
        return answer

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self.close()

    def _current(self) -> sqlite3.Connection:
        """The connection to the file that has the path now."""
        try:
            if not self._made:
                self.create()
            status = self.path.stat()
            if self._connection is not None and self._file == (status.st_dev, status.st_ino):
                return self._connection
            self.close()
            return self._connect()
        except OSError as error:
            self.close()
            raise self._away(error.strerror or "") from None
        except StoreUnavailable:
            raise
        except StoreError as error:
            # Under our feet: somebody may yet put the right one back.
            raise StoreUnavailable(str(error)) from None

    def _connect(self, *, create: bool = False) -> sqlite3.Connection:
        connection = None
        try:
            status = self.path.stat()
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=0,
                isolation_level=None,
                check_same_thread=False,
            )
            self._prepare(connection, create)
        except (sqlite3.Error, OSError, StoreError) as error:
            if connection is not None:
                connection.close()
            if isinstance(error, StoreError):
                raise
            raise self._failed(error) from None
        self._connection, self._file = connection, (status.st_dev, status.st_ino)
        self._connections += 1
        return connection

    def _prepare(self, connection: sqlite3.Connection, create: bool) -> None:
        fresh = self._patiently(lambda: self._is_empty(connection))
        if fresh and not create:
            raise self._away("it is empty")
        if not fresh:
            self._check_version(connection)
        self._patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"))
        connection.execute("PRAGMA synchronous = FULL")
        if fresh:
            self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
            # Several may be the first at once.
            if self._is_empty(connection):
                self._fill(connection)
            connection.execute("COMMIT")
            self._check_version(connection)

    @staticmethod
    def _is_empty(connection: sqlite3.Connection) -> bool:
        version = connection.execute("PRAGMA schema_version").fetchone()[0]
        return int(version) == 0

    @staticmethod
    def _fill(connection: sqlite3.Connection) -> None:
        for statement in _SCHEMA.split(";\n"):
            connection.execute(statement)
        # Microseconds, faster than any commits: revisions grow even when a database is lost and a
        # new one takes its place. A watch that goes on from an old one is then told to list anew.
        start = time.time_ns() // 1000
        connection.execute("INSERT INTO meta VALUES (1, ?, ?, 0, 0)", (start, start))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _check_version(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise StoreError(f"the database {self.path} is not a cluster store: name another")
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"the store {self.path} is of version {version}, and this program of version"
                f" {SCHEMA_VERSION}: use the program that made it"
            )

    def _patiently(self, step: Callable[[], T]) -> T:
        """SQLite's own waiting begins with 1 ms and grows to 100; this wakes sooner."""
        until = time.monotonic() + self.wait_s
        pause = _PAUSE_S_MIN
        while True:
            try:
                return step()
            except sqlite3.OperationalError as error:
                if _code(error) not in _BUSY or time.monotonic() >= until:
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _PAUSE_S_MAX)

    def _away(self, reason: str, *, unknown: bool = False) -> StoreUnavailable:
        return StoreUnavailable(
            f"the store {self.path} cannot be reached: {reason}", unknown=unknown
        )

    def _failed(self, error: Exception, *, unknown: bool = False) -> StoreError:
        if isinstance(error, OSError):
            return self._away(error.strerror or "")
        code = _code(error)
        if code in _BUSY and not unknown:
            if self._connection is not None:
                self._roll_back(self._connection)
            return StoreUnavailable(
                f"another process has kept the store {self.path} locked for {self.wait_s:g} s:"
                " see who has it open"
            )
        opening = self._connection is None
        self.close()
        if code in _DAMAGED:
            kind = StoreError if opening else StoreUnavailable
            return kind(
                f"the store {self.path} is damaged or not a database: bring an older copy back,"
                " or remove it"
            )
        return self._away(str(error), unknown=unknown)


def _code(error: Exception) -> int:
    """The primary result code: what SQLite says, without its details."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
