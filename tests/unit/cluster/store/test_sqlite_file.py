"""The database file: what is refused, each with one sentence."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from vhostnvme.cluster.store.sqlite_file import SCHEMA_VERSION, Database
from vhostnvme.errors import StoreError, StoreUnavailable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cluster.db"


def refusal(path: Path, kind: type[StoreError] = StoreError) -> str:
    with pytest.raises(kind) as error:
        Database(path, 0.1).create()
    assert type(error.value) is kind
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def make(path: Path) -> None:
    database = Database(path, 1)
    database.create()
    database.close()


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
        db.commit()


def test_it_is_made_once(path: Path) -> None:
    make(path)
    database = Database(path, 1)
    database.create()
    database.write(lambda db: db.execute("UPDATE meta SET revision = 7"))
    database.close()
    make(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT revision FROM meta").fetchall() == [(7,)]
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_of_another_version(path: Path) -> None:
    make(path)
    change(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    text = refusal(path)
    assert f"version {SCHEMA_VERSION + 1}, and this program of version {SCHEMA_VERSION}" in text


def test_a_database_of_something_else(path: Path) -> None:
    path.touch(0o600)
    change(path, "CREATE TABLE mine (id INTEGER)")
    assert "is not a cluster store" in refusal(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("mine",)]


def test_not_a_database(path: Path) -> None:
    path.touch(0o600)
    path.write_bytes(b"[card]\nname = 'a'\n" * 1000)
    assert "damaged or not a database" in refusal(path)
    assert path.read_bytes().startswith(b"[card]")


def test_damaged(path: Path) -> None:
    make(path)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3000)
    assert "damaged or not a database" in refusal(path)


def test_open_to_others(path: Path) -> None:
    make(path)
    path.chmod(0o640)
    assert f"chmod 600 {path}" in refusal(path)


def test_a_folder(path: Path) -> None:
    path.mkdir()
    assert "cannot be reached: Is a directory" in refusal(path, StoreUnavailable)


def test_no_folder_to_make_it_in(path: Path) -> None:
    path = path.parent / "none" / "cluster.db"
    assert "cannot be reached: No such file or directory" in refusal(path, StoreUnavailable)
    assert not path.parent.exists()


def test_what_raises_has_changed_nothing(path: Path) -> None:
    database = Database(path, 1)
    database.create()

    def fail(db: sqlite3.Connection) -> None:
        db.execute("UPDATE meta SET revision = 7")
        raise ValueError("enough")

    for _ in range(2):
        with pytest.raises(ValueError, match="enough"):
            database.write(fail)
    assert database.read(lambda db: db.execute("SELECT revision FROM meta").fetchone()) != (7,)
    database.close()
    database.close()


def test_the_stamp_tells_another_file_and_another_content(path: Path) -> None:
    database = Database(path, 1)
    assert database.stamp() == ()
    database.create()
    first = database.stamp()
    database.write(lambda db: db.execute("UPDATE meta SET probes = 1"))
    second = database.stamp()
    path.rename(path.with_suffix(".away"))
    assert database.stamp() == ()
    path.with_suffix(".away").rename(path)
    assert database.stamp() == second != first
    database.close()
