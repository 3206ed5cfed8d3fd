"""Leases and locks: what every store holds to, whatever is behind."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from vhostnvme.cluster.store.base import Change, Delete, Present, Put, Store
from vhostnvme.errors import LeaseLost, StoreUnavailable

from .conftest import Place

LONG_S = 60.0


async def next_changes(store: Store, prefix: str, after: int) -> list[Change]:
    async with aclosing(store.watch([prefix], after)) as watch:
        return await anext(watch)


async def test_a_lease_that_is_not_renewed_takes_its_keys_along(place: Place, store: Store) -> None:
    lease = await store.grant(place.ttl_s)
    assert lease.ttl_s == place.ttl_s
    keeping = await store.grant(LONG_S)
    now = (
        await store.txn(
            [],
            [Put("m/a", b"1", lease.id), Put("m/b", b"2", lease.id), Put("m/c", b"", keeping.id)],
        )
    ).revision
    entry = await store.get("m/a")
    assert entry is not None
    assert entry.lease == lease.id
    # Another client, who only looks on, finds out.
    other = await place.opened()
    changes = await next_changes(other, "m/", now)
    assert [(change.key, change.value) for change in changes] == [("m/a", None), ("m/b", None)]
    assert len({change.revision for change in changes}) == 1
    assert [entry.key for entry in (await store.list("m/")).entries] == ["m/c"]
    with pytest.raises(LeaseLost):
        await store.keep_alive(lease.id)
    with pytest.raises(LeaseLost):
        await store.txn([], [Put("m/d", b""), Put("m/a", b"", lease.id)])
    assert await store.get("m/d") is None
    assert lease.id not in await store.remaining([lease.id, keeping.id])
    await store.revoke(lease.id)


async def test_a_lease_that_is_renewed_stays(place: Place, store: Store) -> None:
    other = await place.opened()
    lease = await store.grant(2 * place.ttl_s)
    await store.txn([], [Put("m/a", b"", lease.id)])
    for _ in range(10):
        await asyncio.sleep(lease.ttl_s / 8)
        assert await store.keep_alive(lease.id) == lease.ttl_s
    assert await other.get("m/a") is not None


async def test_what_a_lease_has_left(store: Store) -> None:
    first, second = await store.grant(LONG_S), await store.grant(2 * LONG_S)
    left_s = await store.remaining([first.id, second.id, 12345])
    assert set(left_s) == {first.id, second.id}
    assert LONG_S - 20 < left_s[first.id] <= LONG_S < left_s[second.id] <= 2 * LONG_S
    assert await store.remaining([]) == {}


async def test_revoking_is_like_running_out_and_may_be_repeated(store: Store) -> None:
    lease = await store.grant(LONG_S)
    now = (await store.txn([], [Put("m/b", b"", lease.id), Put("m/a", b"", lease.id)])).revision
    await store.revoke(lease.id)
    assert await store.get("m/a") is None
    assert [change.key for change in await next_changes(store, "m/", now)] == ["m/a", "m/b"]
    await store.revoke(lease.id)
    with pytest.raises(LeaseLost):
        await store.keep_alive(lease.id)


async def test_the_last_put_says_which_lease_a_key_goes_with(store: Store) -> None:
    first, second = await store.grant(LONG_S), await store.grant(LONG_S)
    await store.txn([], [Put(key, b"", first.id) for key in ("a", "b", "c", "d")])
    await store.txn([], [Put("b", b""), Put("c", b"", second.id), Delete("d")])
    await store.txn([], [Put("d", b"")])
    await store.revoke(first.id)
    assert [entry.key for entry in (await store.list("a", "b", "c", "d")).entries] == [
        "b",
        "c",
        "d",
    ]
    await store.revoke(second.id)
    assert [entry.key for entry in (await store.list("a", "b", "c", "d")).entries] == ["b", "d"]


async def test_a_lease_outlives_its_client(place: Place, store: Store) -> None:
    other = await place.opened()
    lease = await other.grant(LONG_S)
    await other.txn([], [Put("m/a", b"", lease.id)])
    await other.close()
    assert await store.keep_alive(lease.id) == LONG_S
    assert await store.get("m/a") is not None


async def test_nobody_is_declared_dead_while_the_store_was_away(place: Place, store: Store) -> None:
    """The holder could not renew, and so it is given the whole time anew."""
    other = await place.opened()
    lease = await store.grant(2 * place.ttl_s)
    await store.txn([], [Put("m/a", b"", lease.id)])
    await store.keep_alive(lease.id)
    place.lose()
    await asyncio.sleep(1.5 * lease.ttl_s)
    for client in (store, other):
        with pytest.raises(StoreUnavailable):
            await client.get("m/a")
    place.find()
    assert await other.get("m/a") is not None
    assert await store.keep_alive(lease.id) == lease.ttl_s
    assert (await other.txn([Present("m/a")], [])).succeeded
    # And when it does not use the time, it is over as always.
    now = (await store.list("m/")).revision
    for _ in range(2):
        try:
            changes = await next_changes(other, "m/", now)
            break
        except StoreUnavailable:
            continue
    assert [change.value for change in changes] == [None]


async def test_a_lock_goes_round_in_the_order_of_asking(place: Place, store: Store) -> None:
    clients = [store, await place.opened(), await place.opened()]
    leases = [await client.grant(LONG_S) for client in clients]
    held: list[int] = []

    async def work(client: Store, lease_id: int) -> int:
        token = await client.lock("pool", lease_id)
        held.append(token)
        assert len(held) == 1
        await asyncio.sleep(0.01)
        held.remove(token)
        await client.unlock("pool", lease_id)
        return token

    tasks = []
    for number, (client, lease) in enumerate(zip(clients, leases, strict=True)):
        tasks.append(asyncio.create_task(work(client, lease.id)))
        while len((await store.list("locks/pool/")).entries) + sum(map(_done, tasks)) <= number:
            await asyncio.sleep(0.005)
    tokens = [await task for task in tasks]
    assert tokens == sorted(set(tokens))
    assert (await store.list("locks/")).entries == ()
    assert await work(store, leases[0].id) > tokens[-1]


def _done(task: asyncio.Task[int]) -> bool:
    return task.done()


async def test_a_lock_falls_to_the_next_when_its_holders_lease_ends(
    place: Place, store: Store
) -> None:
    other = await place.opened()
    lease, next_lease = await store.grant(LONG_S), await other.grant(LONG_S)
    token = await store.lock("pool", lease.id)
    assert await store.lock("pool", lease.id) == token
    assert await other.lock("pool/of another name", next_lease.id) > token
    waiting = asyncio.create_task(other.lock("pool", next_lease.id))
    while len((await store.list("locks/pool/")).entries) < 2:
        await asyncio.sleep(0.005)
    assert not waiting.done()
    await store.revoke(lease.id)
    assert await waiting > token


async def test_who_does_not_wait_any_more_is_out_of_the_way(place: Place, store: Store) -> None:
    other = await place.opened()
    leases = [await store.grant(LONG_S) for _ in range(3)]
    await store.lock("pool", leases[0].id)
    waiting = [asyncio.create_task(other.lock("pool", lease.id)) for lease in leases[1:]]
    while len((await store.list("locks/pool/")).entries) < 3:
        await asyncio.sleep(0.005)
    await store.revoke(leases[1].id)
    with pytest.raises(LeaseLost):
        await waiting[0]
    waiting[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[1]
    assert [entry.lease for entry in (await store.list("locks/")).entries] == [leases[0].id]
