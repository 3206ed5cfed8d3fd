"""The card's durable record: rows of a few kinds, in an SQLite file of the card's state folder.

A write that has returned survives a power failure; one that has not is there as a whole or not at
all. One card has the folder at a time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import msgspec

from vhostnvme.closable import Closable
from vhostnvme.errors import ConfigError, NativeError

FILE_NAME = "catalog.db"
VERSION = 1
TOMBSTONES_MAX = 1000  # of each kind
_APPLICATION_ID = 0x76486E56  # "vHnV": whose SQLite file this is
_OWN_TABLES = ("about", "deleted")


class Row(msgspec.Struct, frozen=True):
    """Something that a card remembers. A kind is a subclass, and has a table of its own."""

    TABLE: ClassVar[str]

    def key(self) -> str:
        """What tells it from the others of its kind."""
        raise NotImplementedError


R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class Gone:
    """A change: the row of this kind and key is deleted; it need not be there."""

    kind: type[Row]
    key: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """A change: it is remembered that a thing of this kind and name was deleted by its user.

    `kind` is any word, such as `device`. Of each kind the last TOMBSTONES_MAX are kept.
    """

    kind: str
    name: str


class Catalog(Closable):
    """Rows by kind and key. All methods may be called by any thread, and block.

    Args:
        folder: the card's state folder; made, for this user alone, when it is not there.
        kinds: of which there are rows; those of other kinds in the file are left alone.

    Raises:
        ConfigError: in use by another card, corrupt, of a newer version, not writable.
    """

    def __init__(self, folder: Path, kinds: Sequence[type[Row]]) -> None:
        self._path = folder / FILE_NAME
        self._kinds = tuple(kinds)
        self._mutex = threading.Lock()  # one statement or transaction at a time on _db
        self._db: sqlite3.Connection | None = None
        self._lock_fd = _lock(folder)
        try:
            self._db = _connect(self._path)
            self._open(self._db)
        except sqlite3.Error as error:
            self.close()
            raise ConfigError(_unusable(self._path, error)) from None
        except OSError as error:
            self.close()
            raise ConfigError(
                f"cannot open the catalog {self._path} ({error.strerror}): name a state folder that"
                " this user may write to"
            ) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with self._mutex:
            if self._db is not None:
                self._db.close()
                self._db = None
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
                self._lock_fd = -1

    @property
    def path(self) -> Path:
        return self._path

    @property
    def card_uuid(self) -> str:
        """Made when the catalog was; stays."""
        return self._card_uuid

    def write(self, *changes: Row | Gone | Deleted) -> None:
        """All of them or none, in this order; durable on return.

        Raises:
            NativeError: the file cannot be written; nothing has changed.
        """
        statements = [statement for change in changes for statement in _statements(change)]
        if not statements:
            return
        for change in changes:
            kind = change.kind if isinstance(change, Gone) else type(change)
            assert isinstance(change, Deleted) or kind in self._kinds, f"{kind} is unknown here"
        with self._using() as db, _transaction(db):
            for text, values in statements:
                db.execute(text, values)

    def all(self, kind: type[R]) -> list[R]:
        """Every row of a kind, by key.

        Raises:
            ConfigError: one of them cannot be read.
            NativeError: the file cannot be read.
        """
        assert kind in self._kinds
        with self._using() as db:
            found = db.execute(f'SELECT key, value FROM "{kind.TABLE}" ORDER BY key').fetchall()
        return [self._decoded(kind, key, value) for key, value in found]

    def get(self, kind: type[R], key: str) -> R | None:
        """One row, None when it is not there.

        Raises:
            ConfigError: it cannot be read.
            NativeError: the file cannot be read.
        """
        assert kind in self._kinds
        with self._using() as db:
            query = f'SELECT value FROM "{kind.TABLE}" WHERE key = ?'
            found = db.execute(query, (key,)).fetchone()
        return None if found is None else self._decoded(kind, key, found[0])

    def remember_deleted(self, kind: str, name: str) -> None:
        """`write(Deleted(kind, name))`, for when nothing else changes."""
        self.write(Deleted(kind, name))

    def was_deleted(self, kind: str, name: str) -> bool:
        """Whether it is among those that are remembered.

        Raises:
            NativeError: the file cannot be read.
        """
        with self._using() as db:
            query = "SELECT 1 FROM deleted WHERE kind = ? AND name = ?"
            return db.execute(query, (kind, name)).fetchone() is not None

    def deleted(self) -> list[Deleted]:
        """All that is remembered as deleted.

        Raises:
            NativeError: the file cannot be read.
        """
        with self._using() as db:
            return [Deleted(*row) for row in db.execute("SELECT kind, name FROM deleted")]

    def _decoded(self, kind: type[R], key: str, value: str) -> R:
        try:
            row = msgspec.json.decode(value, type=kind)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise self._bad_row(kind, key, str(error)) from None
        if row.key() != key:
            raise self._bad_row(kind, key, f"its key inside is {row.key()!r}")
        return row

    def _bad_row(self, kind: type[Row], key: str, why: str) -> ConfigError:
        return ConfigError(
            f"the catalog {self._path} has a row in {kind.TABLE}, {key!r}, that cannot be read"
            f" ({why}): put back a copy of the file, or delete this row with the program sqlite3"
        )

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._mutex:
            assert self._db is not None, "the catalog is closed"
            try:
                yield self._db
            except sqlite3.Error as error:
                number = _errno_of(error)
                raise NativeError(
                    number,
                    f"cannot use the catalog {self._path} ({error}): {_advice(number)}",
                ) from None

    def _open(self, db: sqlite3.Connection) -> None:
        # Anything that reads the file comes after the check of whose it is.
        application = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        new = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if not new and application != _APPLICATION_ID:
            raise ConfigError(f"{self._path} is no catalog of a card: name another state folder")
        if version > VERSION:
            raise ConfigError(
                f"the catalog {self._path} was written by a newer version of this program (format"
                f" {version}, this one knows {VERSION}): install that version again"
            )
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise ConfigError(_corrupt(self._path, found))
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        with _transaction(db):
            for text in _schema(self._kinds):
                db.execute(text)
            db.execute(
                "INSERT INTO about VALUES ('card_uuid', ?) ON CONFLICT DO NOTHING",
                (str(uuid.uuid4()),),
            )
        # As a whole only now: the file's own name is in the folder, and the folder is on the medium
        os.fsync(self._lock_fd)
        query = "SELECT value FROM about WHERE name = 'card_uuid'"
        self._card_uuid: str = db.execute(query).fetchone()[0]


def _lock(folder: Path) -> int:
    """A descriptor of the folder, locked until it is closed."""
    try:
        _make_folder(folder)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"cannot open the state folder {folder} ({error.strerror}): name one that this user"
            " may write to"
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EWOULDBLOCK:
            raise ConfigError(
                f"the state folder {folder} is in use by another card: stop that one, or name"
                " another folder"
            ) from None
        raise ConfigError(
            f"cannot lock the state folder {folder} ({error.strerror}): name one on a local disk"
        ) from None
    return fd


def _make_folder(folder: Path) -> None:
    """With the folders above it, each of them durable."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _connect(path: Path) -> sqlite3.Connection:
    # SQLite gives its other files the mode of this one.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.fchmod(fd, 0o600)
    finally:
        os.close(fd)
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)


def _schema(kinds: Sequence[type[Row]]) -> Iterator[str]:
    yield f"PRAGMA application_id = {_APPLICATION_ID}"
    yield f"PRAGMA user_version = {VERSION}"
    yield "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT"
    yield (
        "CREATE TABLE IF NOT EXISTS deleted (number INTEGER PRIMARY KEY AUTOINCREMENT,"
        " kind TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (kind, name)) STRICT"
    )
    for kind in kinds:
        assert re.fullmatch(r"[a-z][a-z_]*", kind.TABLE) and kind.TABLE not in _OWN_TABLES
        yield (
            f'CREATE TABLE IF NOT EXISTS "{kind.TABLE}"'
            " (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID"
        )


def _statements(change: Row | Gone | Deleted) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    if isinstance(change, Gone):
        yield f'DELETE FROM "{change.kind.TABLE}" WHERE key = ?', (change.key,)
    elif isinstance(change, Deleted):
        names = (change.kind, change.name)
        yield "INSERT OR REPLACE INTO deleted (kind, name) VALUES (?, ?)", names
        yield (
            "DELETE FROM deleted WHERE kind = ? AND number <= (SELECT number FROM deleted"
            " WHERE kind = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (change.kind, change.kind, TOMBSTONES_MAX),
        )
    else:
        value = msgspec.json.encode(change).decode()
        yield f'INSERT OR REPLACE INTO "{change.TABLE}" VALUES (?, ?)', (change.key(), value)


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _unusable(path: Path, error: sqlite3.Error) -> str:
    code = _code_of(error)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _corrupt(path, str(error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"the catalog {path} is in use by another program: stop that one"
    return f"cannot open the catalog {path} ({error}): {_advice(_errno_of(error))}"


def _corrupt(path: Path, why: str) -> str:
    return (
        f"the catalog {path} is corrupt ({why}): put back a copy of it, or move it away with its"
        " -wal and -shm files to begin anew"
    )


def _code_of(error: sqlite3.Error) -> int:
    """SQLite's primary result code; what it adds stands in the higher bits."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF


def _errno_of(error: sqlite3.Error) -> int:
    return {
        sqlite3.SQLITE_FULL: errno.ENOSPC,
        sqlite3.SQLITE_READONLY: errno.EROFS,
        sqlite3.SQLITE_BUSY: errno.EBUSY,
        sqlite3.SQLITE_PERM: errno.EACCES,
        sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    }.get(_code_of(error), errno.EIO)


def _advice(number: int) -> str:
    return {
        errno.ENOSPC: "free space on its file system",
        errno.EROFS: "make its file system writable",
        errno.EBUSY: "stop the program that holds it",
        errno.EACCES: "give this user the right to write to it and its folder",
    }.get(number, "check its disk")
