"""The SQLite store: many processes on one file, which is lost, replaced, full or stuck."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path

import pytest

from vhostnvme.cluster.store.base import Absent, Put, Store, ValueIs
from vhostnvme.cluster.store.sqlite import SqliteStore
from vhostnvme.errors import Compacted, Disconnected, StoreUnavailable

WRITE = """
import asyncio, sys
from vhostnvme.cluster.store.base import Put
from vhostnvme.cluster.store.sqlite import SqliteStore

async def write():
    async with SqliteStore(sys.argv[1]) as store:
        for number in range(100_000):
            await store.txn([], [Put("count", str(number).encode())])
            print(number, flush=True)

asyncio.run(write())
"""
HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cluster.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with SqliteStore(path) as opened:
        yield opened


@contextmanager
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 32 MiB of ext4."""
    image, folder = tmp_path / "image", tmp_path / "mounted"
    folder.mkdir()
    for command in (
        ["truncate", "-s", "32M", image],
        ["mkfs.ext4", "-q", image],
        ["mount", "-o", "loop", image, folder],
    ):
        subprocess.run(command, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


async def put(store: Store, key: str, value: bytes = b"") -> int:
    return (await store.txn((), [Put(key, value)])).revision


async def value_of(store: Store, key: str) -> bytes | None:
    entry = await store.get(key)
    return None if entry is None else entry.value


async def test_only_its_user_reads_it(store: SqliteStore, path: Path) -> None:
    await put(store, "a")
    for name in ("cluster.db", "cluster.db-wal", "cluster.db-shm"):
        assert stat.S_IMODE(path.with_name(name).stat().st_mode) == 0o600
    assert stat.S_IMODE(path.with_name("cluster.db.clients").stat().st_mode) == 0o700


async def test_a_path_that_no_socket_could_have(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    async with SqliteStore(folder / "c.db") as store, SqliteStore(folder / "c.db") as other:
        now = await put(store, "a")
        async with aclosing(other.watch(["a"], now)) as watch:
            hearing = asyncio.create_task(anext(watch))
            await put(store, "a", b"2")
            assert [change.value for change in await hearing] == [b"2"]
        assert len(list((folder / "c.db.clients").iterdir())) == 2
    assert list((folder / "c.db.clients").iterdir()) == []


async def test_twenty_begin_at_once(path: Path) -> None:
    stores = [SqliteStore(path) for _ in range(20)]

    async def begin(store: SqliteStore) -> bool:
        await store.open()
        return (await store.txn([Absent("first")], [Put("first", b"")])).succeeded

    won = await asyncio.gather(*map(begin, stores))
    assert sorted(won) == [False] * 19 + [True]
    await asyncio.gather(*(store.close() for store in stores))


async def test_what_was_acknowledged_survives_a_kill(store: SqliteStore, path: Path) -> None:
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITE, path], stdout=subprocess.PIPE, text=True
        )
        with child:
            assert child.stdout is not None
            for _ in range(50):
                line = await asyncio.to_thread(child.stdout.readline)
            child.kill()
            last = int((child.stdout.read().split() or [line])[-1])
        found = await value_of(store, "count")
        assert found is not None
        assert int(found) >= last
        assert (await store.txn([ValueIs("count", found)], [Put("count", b"0")])).succeeded
    # Each left its socket, and the next one who rang took it away.
    assert len(list(path.with_name("cluster.db.clients").iterdir())) == 1


async def test_another_one_who_keeps_the_lock(path: Path) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async with SqliteStore(path, timeout_s=0.5) as store:
        await put(store, "a", b"1")
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            ticking = asyncio.create_task(tick())
            with pytest.raises(StoreUnavailable, match="locked for") as error:
                await put(store, "a", b"2")
            assert not error.value.unknown
            assert ticks > 0
            assert await value_of(store, "a") == b"1"
            waiting = asyncio.create_task(put(store, "a", b"3"))
            await asyncio.sleep(0.05)
            holder.communicate()
        await waiting
        ticking.cancel()
        assert await value_of(store, "a") == b"3"


async def test_a_disk_that_is_stuck(tmp_path: Path) -> None:
    """Nothing is known of what was under way, and the event loop goes on."""
    with mounted(tmp_path) as folder:
        async with SqliteStore(folder / "c.db", timeout_s=0.5) as store:
            await put(store, "a", b"1")
            subprocess.run(["fsfreeze", "-f", folder], check=True)
            try:
                with pytest.raises(StoreUnavailable, match="has not answered") as first:
                    await put(store, "a", b"2")
                with pytest.raises(StoreUnavailable, match="has not answered") as second:
                    await put(store, "b", b"never begun")
            finally:
                subprocess.run(["fsfreeze", "-u", folder], check=True)
            assert first.value.unknown
            assert not second.value.unknown
            while await value_of(store, "a") != b"2":
                await asyncio.sleep(0.01)
            assert await value_of(store, "b") is None


async def test_a_disk_that_is_full(tmp_path: Path) -> None:
    with mounted(tmp_path) as folder:
        async with SqliteStore(folder / "c.db") as store:
            await put(store, "a", b"1")
            with (folder / "rest").open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(65536)):
                        pass
                except OSError:
                    pass
            with pytest.raises(StoreUnavailable, match="full"):
                await put(store, "a", bytes(1024 * 1024))
            assert await value_of(store, "a") == b"1"
            (folder / "rest").unlink()
            await put(store, "a", bytes(1024 * 1024))
            assert await value_of(store, "a") == bytes(1024 * 1024)


async def test_another_database_in_its_place(store: SqliteStore, path: Path) -> None:
    """Revisions only grow, and nobody takes the new one's changes for the old one's."""
    before = await put(store, "a")
    async with aclosing(store.watch(["a"], before)) as watch:
        hearing = asyncio.create_task(anext(watch))
        for each in path.parent.glob("cluster.db*"):
            if not each.is_dir():
                each.unlink()
        async with SqliteStore(path) as other:
            after = await put(other, "b")
            assert after > before
            with pytest.raises((Disconnected, Compacted)):
                await hearing
            with pytest.raises(Compacted):
                await anext(store.watch(["a"], before))
            assert [entry.key for entry in (await store.list("a", "b")).entries] == ["b"]


async def test_something_else_in_its_place(store: SqliteStore, path: Path, tmp_path: Path) -> None:
    await put(store, "a", b"1")
    away = tmp_path / "away"
    away.mkdir()
    names = [f"cluster.db{end}" for end in ("", "-wal", "-shm")]
    for name in names:
        (path.parent / name).rename(away / name)
    for wrong, words in ((b"something else " * 1000, "not a database"), (b"", "empty")):
        path.write_bytes(wrong)
        with pytest.raises(StoreUnavailable, match=words):
            await store.get("a")
    for name in names:
        (path.parent / name).unlink(missing_ok=True)
        (away / name).rename(path.parent / name)
    assert await value_of(store, "a") == b"1"


async def test_without_bells_the_others_are_heard_all_the_same(
    store: SqliteStore, path: Path
) -> None:
    async with SqliteStore(path) as other:
        shutil.rmtree(path.with_name("cluster.db.clients"))
        now = await put(store, "a")
        async with aclosing(other.watch(["a"], now)) as watch:
            hearing = asyncio.create_task(anext(watch))
            await asyncio.sleep(0.05)
            await put(store, "a", b"2")
            assert [change.value for change in await hearing] == [b"2"]


async def test_a_lease_from_before_the_host_was_started_anew(
    store: SqliteStore, path: Path
) -> None:
    kept, gone = await store.grant(0.4), await store.grant(0.4)
    await store.txn([], [Put("kept", b"", kept.id), Put("gone", b"", gone.id)])
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE leases SET boot = 'another', ends_ns = 1 << 62")
        db.execute("UPDATE meta SET grants = grants + 1")
        db.commit()
    assert await store.remaining([kept.id]) == {kept.id: 0}
    while await store.get("gone") is not None:
        assert await store.keep_alive(kept.id) == 0.4
        await asyncio.sleep(0.02)
    assert await store.get("kept") is not None


async def test_the_log_of_changes_has_a_bound(path: Path) -> None:
    async with SqliteStore(path, events_max=100) as store:
        for number in range(150):
            await put(store, "a", str(number).encode())
        now = await put(store, "a")
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT count(*) FROM events").fetchone() == (100,)
        assert len(await anext(store.watch(["a"], now - 100))) == 100
        with pytest.raises(Compacted):
            await anext(store.watch(["a"], now - 101))
