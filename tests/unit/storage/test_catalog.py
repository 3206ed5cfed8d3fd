"""The card's catalog: what is written is there again, whole, also after kill -9."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import pytest

from vhostnvme.errors import ConfigError, NativeError
from vhostnvme.storage.catalog import TOMBSTONES_MAX, Catalog, Deleted, Gone, Row

OTHER = "11111111-2222-4333-8444-555555555555"


class Space(Row, frozen=True, kw_only=True):
    TABLE: ClassVar[str] = "spaces"

    uuid: str
    size: int
    owners: tuple[str, ...] = ()

    def key(self) -> str:
        return self.uuid


class Device(Row, frozen=True, kw_only=True):
    TABLE: ClassVar[str] = "devices"

    name: str

    def key(self) -> str:
        return self.name


KINDS = (Space, Device)


def spoil(folder: Path, text: str, *values: object) -> None:
    """Changes the file behind the catalog's back."""
    db = sqlite3.connect(folder / "catalog.db", isolation_level=None)
    db.execute(text, values)
    db.close()


def test_rows_are_there_again(tmp_path: Path) -> None:
    first, second = Space(uuid="b", size=2, owners=("x", "y")), Space(uuid="a", size=1)
    with Catalog(tmp_path, KINDS) as catalog:
        catalog.write(first, second, Device(name="d"))
        assert catalog.all(Space) == [second, first]
        assert catalog.get(Space, "b") == first
        assert catalog.get(Space, "c") is None
    with Catalog(tmp_path, KINDS) as catalog:
        assert catalog.all(Space) == [second, first]
        assert catalog.all(Device) == [Device(name="d")]


def test_changes_are_made_in_order(tmp_path: Path) -> None:
    with Catalog(tmp_path, KINDS) as catalog:
        catalog.write(Space(uuid="a", size=1), Space(uuid="a", size=2), Gone(Space, "never"))
        assert catalog.all(Space) == [Space(uuid="a", size=2)]
        catalog.write(Gone(Space, "a"), Device(name="a"))
        assert catalog.all(Space) == []
        assert catalog.all(Device) == [Device(name="a")]
        catalog.write()


def test_a_write_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    with Catalog(tmp_path, KINDS) as catalog:
        catalog.write(Space(uuid="a", size=1))
        spoil(
            tmp_path,
            "CREATE TRIGGER refuse BEFORE INSERT ON devices"
            " BEGIN SELECT RAISE(ABORT, 'out of order'); END",
        )
        with pytest.raises(NativeError, match=r"cannot use the catalog .*out of order"):
            catalog.write(Space(uuid="a", size=2), Gone(Space, "a"), Device(name="d"))
        assert catalog.all(Space) == [Space(uuid="a", size=1)]
        spoil(tmp_path, "DROP TRIGGER refuse")
        catalog.write(Device(name="d"))


def test_the_cards_uuid_stays(tmp_path: Path) -> None:
    with Catalog(tmp_path / "a", KINDS) as a, Catalog(tmp_path / "b", KINDS) as b:
        assert a.card_uuid != b.card_uuid
        first = a.card_uuid
    with Catalog(tmp_path / "a", KINDS) as again:
        assert again.card_uuid == first


def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Catalog(tmp_path / "new" / "card", KINDS) as catalog:
            catalog.write(Device(name="d"))
            names = sorted(path.name for path in catalog.path.parent.iterdir())
            modes = {stat.S_IMODE(path.stat().st_mode) for path in catalog.path.parent.iterdir()}
            assert stat.S_IMODE((tmp_path / "new" / "card").stat().st_mode) == 0o700
    finally:
        os.umask(before)
    assert names == ["catalog.db", "catalog.db-shm", "catalog.db-wal"]
    assert modes == {0o600}


def test_one_card_at_a_time(tmp_path: Path) -> None:
    with (
        Catalog(tmp_path, KINDS),
        pytest.raises(ConfigError, match="in use by another card: stop that one"),
    ):
        Catalog(tmp_path, KINDS)
    Catalog(tmp_path, KINDS).close()


def test_fields_and_kinds_of_a_later_version_are_no_harm(tmp_path: Path) -> None:
    with Catalog(tmp_path, KINDS) as catalog:
        catalog.write(Device(name="d"))
    spoil(tmp_path, 'INSERT INTO spaces VALUES (\'a\', \'{"uuid":"a","size":1,"colour":3}\')')
    with Catalog(tmp_path, (Space,)) as catalog:
        assert catalog.all(Space) == [Space(uuid="a", size=1)]
    with Catalog(tmp_path, KINDS) as catalog:
        assert catalog.all(Device) == [Device(name="d")]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('{"uuid":"a","size":"much"}', "Expected `int`"),
        ('{"uuid":"a"}', "missing required field `size`"),
        ("{", "truncated"),
        ('{"uuid":"b","size":1}', "its key inside is 'b'"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, value: str, why: str) -> None:
    with Catalog(tmp_path, KINDS) as catalog:
        spoil(tmp_path, "INSERT INTO spaces VALUES ('a', ?)", value)
        message = f"has a row in spaces, 'a', that cannot be read .*{why}"
        with pytest.raises(ConfigError, match=message):
            catalog.all(Space)
        with pytest.raises(ConfigError, match=message):
            catalog.get(Space, "a")


def test_the_last_that_were_deleted_are_remembered(tmp_path: Path) -> None:
    with Catalog(tmp_path, KINDS) as catalog:
        catalog.remember_deleted("vm", "old")
        catalog.write(*(Deleted("device", f"d{number}") for number in range(TOMBSTONES_MAX)))
        assert catalog.was_deleted("device", "d0")
        catalog.write(Gone(Device, "d"), Deleted("device", "d"))
        catalog.remember_deleted("device", "d2")
    with Catalog(tmp_path, KINDS) as catalog:
        assert catalog.was_deleted("vm", "old")
        assert not catalog.was_deleted("vm", "d")
        assert not catalog.was_deleted("device", "d0")
        assert all(catalog.was_deleted("device", name) for name in ("d1", "d2", "d999", "d"))


def test_many_threads_write(tmp_path: Path) -> None:
    with Catalog(tmp_path, KINDS) as catalog:

        def work(name: str) -> None:
            for number in range(20):
                catalog.write(Space(uuid=f"{name}{number}", size=number), Device(name=name))
                assert catalog.get(Device, name) is not None

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(catalog.all(Space)) == 80


def test_a_corrupt_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(ConfigError, match=r"catalog\.db is corrupt .*move it away"):
        Catalog(tmp_path, KINDS)


def test_a_damaged_page_is_found_at_open(tmp_path: Path) -> None:
    with Catalog(tmp_path, KINDS) as catalog:
        catalog.write(*(Space(uuid=str(number), size=number) for number in range(2000)))
    path = tmp_path / "catalog.db"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(range(64))
    data[-4096:] = b"\xff" * 4096
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"catalog\.db is corrupt"):
        Catalog(tmp_path, KINDS)


def test_the_file_of_another_program_is_refused(tmp_path: Path) -> None:
    spoil(tmp_path, "CREATE TABLE songs (name TEXT)")
    with pytest.raises(ConfigError, match="is no catalog of a card: name another state folder"):
        Catalog(tmp_path, KINDS)


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    Catalog(tmp_path, KINDS).close()
    spoil(tmp_path, "PRAGMA user_version = 2")
    with pytest.raises(ConfigError, match=r"newer version of this program \(format 2"):
        Catalog(tmp_path, KINDS)


@pytest.mark.parametrize("place", ["file/below", "/proc/state"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigError, match=r"cannot open the state folder .*name one that this user"
    ):
        Catalog(tmp_path / place, KINDS)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").mkdir()
    with pytest.raises(
        ConfigError, match=r"cannot open the catalog .*catalog\.db \(Is a directory"
    ):
        Catalog(tmp_path, KINDS)


def test_a_full_file_system(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
    try:
        with Catalog(folder, KINDS) as catalog:
            number = 0
            with pytest.raises(NativeError, match="cannot use the catalog") as told:
                for number in range(1000):
                    catalog.write(Space(uuid=f"{number:04}", size=number, owners=("x" * 500,)))
            assert told.value.errno in (errno.ENOSPC, errno.EIO)
            assert [row.size for row in catalog.all(Space)] == list(range(number))
    finally:
        subprocess.run(["umount", folder], check=True)


# Each write changes two rows; the number on a line is of one that has returned.
WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_catalog import Catalog, Device, KINDS, Space
with Catalog(Path(sys.argv[1]), KINDS) as catalog:
    for number in range(100_000):
        catalog.write(Space(uuid="total", size=number + 1), Device(name=f"{number:06}"))
        print(number, flush=True)
"""


@pytest.mark.parametrize("cut", [1, 2, 7, 40, 150])
def test_kill_keeps_all_that_was_acknowledged(tmp_path: Path, cut: int) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(cut)]
        writer.kill()
        told += [int(line) for line in writer.stdout if line.endswith("\n")]
    with Catalog(tmp_path, KINDS) as catalog:
        names = [row.name for row in catalog.all(Device)]
        total = catalog.get(Space, "total")
    assert names == [f"{number:06}" for number in range(len(names))]
    assert len(names) in (len(told), len(told) + 1)
    assert total == Space(uuid="total", size=len(names))
