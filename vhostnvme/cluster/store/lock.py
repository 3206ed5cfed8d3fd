"""Locks over any store, made of keys that are bound to leases.

Who wants a lock puts a key of its own under the lock's name. The oldest key holds the lock, and the
revision at which it came to be is the fencing token; the others wait for those before them to go.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from urllib.parse import quote

from vhostnvme.cluster.store.base import Absent, Delete, Put, Store
from vhostnvme.errors import Compacted, Disconnected, LeaseLost, StoreError

__all__ = ["acquire", "release"]

_AGAIN_S = 0.1


def _folder(name: str) -> str:
    return f"locks/{quote(name, safe='')}/"


def _key(name: str, lease_id: int) -> str:
    return f"{_folder(name)}{lease_id:016x}"


async def acquire(store: Store, name: str, lease_id: int) -> int:
    """See `Store.lock`."""
    key = _key(name, lease_id)
    result = await store.txn([Absent(key)], [Put(key, b"", lease_id)], reads=[key])
    try:
        return await _wait(store, name, key, result.entries[key].created)
    except BaseException:
        if result.succeeded:
            await _withdraw(store, key)
        raise


async def _wait(store: Store, name: str, key: str, token: int) -> int:
    while True:
        snapshot = await store.list(_folder(name))
        keys = {entry.key: entry.created for entry in snapshot.entries}
        if keys.get(key) != token:
            raise LeaseLost(f"the lease ended while lock {name} was waited for: join again")
        before = {other for other, created in keys.items() if created < token}
        if not before:
            return token
        try:
            async with aclosing(store.watch([_folder(name)], snapshot.revision)) as watch:
                async for changes in watch:
                    if any(each.value is None for each in changes if each.key in {*before, key}):
                        break
        except Disconnected:
            await asyncio.sleep(_AGAIN_S)
        except Compacted:
            pass


async def _withdraw(store: Store, key: str) -> None:
    """Not to leave a key that nobody waits with; the lease's end takes it if this fails."""
    try:
        await asyncio.shield(asyncio.ensure_future(store.txn((), [Delete(key)])))
    except (StoreError, asyncio.CancelledError):
        pass


async def release(store: Store, name: str, lease_id: int) -> None:
    """See `Store.unlock`."""
    await store.txn((), [Delete(_key(name, lease_id))])
