"""The store for cards of one host: a SQLite database that they all have open.

Every change is durable when its call answers (WAL, synchronous=FULL). The database is used from a
thread of its own, so that a slow disk, or another process that holds the write lock, never keeps
the event loop. The file must be on a file system of this host: SQLite's locks do not hold over NFS.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from vhostnvme.cluster.store import base
from vhostnvme.cluster.store.base import (
    Changes,
    Compare,
    Entry,
    Lease,
    Operation,
    Snapshot,
    Store,
    TxnResult,
)
from vhostnvme.cluster.store.sqlite_bell import Bell
from vhostnvme.cluster.store.sqlite_engine import Engine
from vhostnvme.errors import Disconnected, StoreError, StoreUnavailable

__all__ = ["SqliteStore"]

T = TypeVar("T")

LOOK_EVERY_S = 0.1
EVENTS_MAX = 10_000


@dataclass(eq=False, slots=True)
class _Watch:
    prefixes: tuple[str, ...]
    cursor: int
    wake: asyncio.Event
    lost: bool = False

    def concerns(self, keys: Iterable[str]) -> bool:
        return any(key.startswith(self.prefixes) for key in keys)


class SqliteStore(Store):
    """See `Store`.

    Args:
        path: of the database; made, with mode 0600, when it is not there.
        prefix: in front of all keys.
        timeout_s: within which a call answers.
        events_max: how many changes are kept for watches.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        prefix: str = base.PREFIX,
        timeout_s: float = base.TIMEOUT_S,
        events_max: int = EVENTS_MAX,
    ) -> None:
        self.path = Path(path)
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._bell = Bell(self.path.with_name(self.path.name + ".clients"))
        # Waiting for the lock ends before the call does: it is then known that nothing was done.
        self._engine = Engine(self.path, 0.8 * timeout_s, events_max, self._bell)
        self._thread: ThreadPoolExecutor | None = None
        self._tending: asyncio.Task[None] | None = None
        self._watches: set[_Watch] = set()
        self._bell_fd = -1

    async def open(self) -> None:
        await self.close()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._tending = asyncio.create_task(self._tend(self._thread))
        try:
            await self._call(self._engine.open)
        except StoreUnavailable:
            raise
        except StoreError:
            await self.close()
            raise
        await self._start_bell()

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
            self._tending = None
        self._stop_bell(thread)
        self._lose_watches()
        # In its order: behind what may still be under way.
        closed = asyncio.wrap_future(thread.submit(self._engine.close))
        thread.shutdown(wait=False)
        await asyncio.wait([closed], timeout=self._timeout_s)

    async def list(self, *prefixes: str) -> Snapshot:
        wanted = [self._prefix + prefix for prefix in prefixes]
        snapshot = await self._call(lambda: self._engine.snapshot(wanted))
        return Snapshot(snapshot.revision, tuple(map(self._outside, snapshot.entries)))

    async def txn(
        self,
        compare: Iterable[Compare],
        then: Iterable[Operation],
        otherwise: Iterable[Operation] = (),
        reads: Iterable[str] = (),
    ) -> TxnResult:
        compare, then, otherwise = tuple(compare), tuple(then), tuple(otherwise)
        reads = tuple(reads)
        base.check_txn(compare, then, otherwise)
        inner = (
            [self._inside(each) for each in compare],
            [self._inside(each) for each in then],
            [self._inside(each) for each in otherwise],
            [self._prefix + key for key in reads],
        )
        result = await self._call(lambda: self._engine.txn(*inner), changes=bool(then or otherwise))
        entries = {entry.key: entry for entry in map(self._outside, result.entries.values())}
        return replace(result, entries=entries)

    async def grant(self, ttl_s: float) -> Lease:
        return await self._call(lambda: self._engine.grant(ttl_s), changes=True)

    async def keep_alive(self, lease_id: int) -> float:
        return await self._call(lambda: self._engine.keep_alive(lease_id), changes=True)

    async def remaining(self, lease_ids: Sequence[int]) -> dict[int, float]:
        return await self._call(lambda: self._engine.remaining(lease_ids))

    async def revoke(self, lease_id: int) -> None:
        await self._call(lambda: self._engine.revoke(lease_id), changes=True)

    async def watch(
        self, prefixes: Sequence[str], from_revision: int
    ) -> AsyncGenerator[Changes, None]:
        wanted = tuple(self._prefix + prefix for prefix in prefixes)
        watch = _Watch(wanted, from_revision, asyncio.Event())
        self._watches.add(watch)
        try:
            while True:
                watch.wake.clear()
                changes = await self._changes(watch)
                if changes:
                    yield changes
                elif not watch.lost:
                    await watch.wake.wait()
                if watch.lost:
                    raise Disconnected(f"the store {self.path} went away: watch again")
        finally:
            self._watches.discard(watch)

    async def _changes(self, watch: _Watch) -> Changes:
        after = watch.cursor
        try:
            watch.cursor, changes = await self._call(
                lambda: self._engine.events_after(watch.prefixes, after)
            )
        except StoreUnavailable as error:
            raise Disconnected(str(error)) from None
        cut = len(self._prefix)
        return [replace(each, key=each.key[cut:]) for each in changes]

    async def _call(self, work: Callable[[], T], *, changes: bool = False) -> T:
        if self._thread is None:
            raise StoreUnavailable(f"the store {self.path} is not open")
        future = self._thread.submit(work)
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await asyncio.wrap_future(future)
        except TimeoutError:
            raise StoreUnavailable(
                f"the store {self.path} has not answered for {self._timeout_s:g} s: see whether its"
                " disk is stuck",
                unknown=changes and not future.cancelled(),
            ) from None
        self._wake_watches()
        return answer

    async def _tend(self, thread: ThreadPoolExecutor) -> None:
        """Looks what the others did, even when no bell rings, and whose lease has ended."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if not self._engine.must_look():
                continue
            try:
                await self._call(self._engine.look)
            except StoreUnavailable:
                self._lose_watches()
                self._stop_bell(thread)
            else:
                await self._start_bell()

    async def _start_bell(self) -> None:
        if self._bell_fd >= 0:
            return
        try:
            self._bell_fd = await self._call(self._bell.open)
        except (OSError, StoreUnavailable):
            return  # without it the others are heard a little later
        asyncio.get_running_loop().add_reader(self._bell_fd, self._rung)

    def _stop_bell(self, thread: ThreadPoolExecutor) -> None:
        if self._bell_fd >= 0:
            asyncio.get_running_loop().remove_reader(self._bell_fd)
            self._bell_fd = -1
            thread.submit(self._bell.close)  # there it may be ringing

    def _rung(self) -> None:
        keys = self._bell.heard()
        for watch in self._watches:
            if keys is None or watch.concerns(keys):
                watch.wake.set()

    def _wake_watches(self) -> None:
        for watch in self._watches:
            if self._engine.revision > watch.cursor:
                watch.wake.set()

    def _lose_watches(self) -> None:
        for watch in self._watches:
            watch.lost = True
            watch.wake.set()

    def _inside(self, each: T) -> T:
        return replace(each, key=self._prefix + each.key)  # type: ignore[attr-defined, type-var]

    def _outside(self, entry: Entry) -> Entry:
        return replace(entry, key=entry.key[len(self._prefix) :])
