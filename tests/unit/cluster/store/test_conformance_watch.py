"""Watches: what every store holds to, whatever is behind."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from vhostnvme.cluster.store.base import Change, Delete, Put, Store
from vhostnvme.errors import Compacted, Disconnected

from .conftest import Place

BIG = bytes(range(256)) * 256


async def put(store: Store, key: str, value: bytes = b"") -> int:
    return (await store.txn((), [Put(key, value)])).revision


async def heard(
    store: Store, prefixes: Sequence[str], after: int, count: int
) -> list[list[Change]]:
    """The first lists of a watch, until they have that many changes."""
    lists: list[list[Change]] = []
    async with aclosing(store.watch(prefixes, after)) as watch:
        async for changes in watch:
            lists.append(changes)
            if sum(map(len, lists)) >= count:
                break
    return lists


def flat(lists: list[list[Change]]) -> list[Change]:
    return [change for changes in lists for change in changes]


async def test_what_has_been_and_what_comes(place: Place, store: Store) -> None:
    start = await put(store, "a/0", b"before")
    first = await put(store, "a/1", b"1")
    second = (await store.txn([], [Delete("a/1")])).revision
    await put(store, "b/1", b"other")
    hearing = asyncio.create_task(heard(store, ["a/"], start, 4))
    other = await place.opened()
    third = await put(other, "a/1", b"2")
    fourth = await put(store, "a/0", b"after")
    assert flat(await hearing) == [
        Change("a/1", b"1", first, first),
        Change("a/1", None, second, 0),
        Change("a/1", b"2", third, third),
        Change("a/0", b"after", fourth, start),
    ]


async def test_a_transaction_comes_in_one_list(store: Store) -> None:
    start = await put(store, "a/0")
    both = (await store.txn([], [Put("a/1", b""), Put("b/1", b""), Delete("a/0")])).revision
    lists = await heard(store, ["a/", "b/"], start, 3)
    assert len(lists[0]) == 3
    assert {change.revision for change in lists[0]} == {both}
    assert {change.key for change in lists[0]} == {"a/0", "a/1", "b/1"}


async def test_two_prefixes_in_the_order_of_revisions(place: Place, store: Store) -> None:
    start = await put(store, "x")
    hearing = asyncio.create_task(heard(store, ["z/", "a/"], start, 60))
    clients = [store, await place.opened(), await place.opened()]

    async def write(client: Store, name: str) -> None:
        for number in range(10):
            await put(client, f"a/{name}", str(number).encode())
            await put(client, f"m/{name}", b"not asked for, between the two")
            await put(client, f"z/{name}", str(number).encode())

    await asyncio.gather(*(write(client, f"{n}") for n, client in enumerate(clients)))
    changes = flat(await hearing)
    revisions = [change.revision for change in changes]
    assert revisions == sorted(set(revisions))
    assert len(changes) == 60
    for key in {change.key for change in changes}:
        assert key[:2] in ("a/", "z/")
        values = [int(change.value or b"") for change in changes if change.key == key]
        assert values == list(range(10))


async def test_a_long_history_and_big_values(store: Store) -> None:
    start = await put(store, "x")
    for number in range(30):
        await store.txn([], [Put(f"a/{number}/{each}", b"") for each in range(100)])
    await put(store, "a/big", BIG)
    lists = await heard(store, ["a/"], start, 3001)
    changes = flat(lists)
    assert len(changes) == 3001
    revisions = [change.revision for change in changes]
    assert revisions == sorted(revisions)
    # No transaction is in two lists.
    ends = [(changes[0].revision, changes[-1].revision) for changes in lists]
    assert all(last < first for (_, last), (first, _) in itertools.pairwise(ends))
    assert changes[-1].value == BIG


async def test_a_watch_that_hears_nothing_keeps_nobody(place: Place, store: Store) -> None:
    start = await put(store, "x")
    hearing = asyncio.create_task(heard(store, ["a/"], start, 1))
    for _ in range(20):
        await put(store, "b/1")
    assert not hearing.done()
    hearing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hearing
    # And the store goes on, and so do the watches of others.
    hearing = asyncio.create_task(heard(store, ["a/"], start, 1))
    await put(await place.opened(), "a/1", b"1")
    assert [change.value for change in flat(await hearing)] == [b"1"]


async def test_many_watches_of_one_client(store: Store) -> None:
    start = await put(store, "x")
    hearing = [asyncio.create_task(heard(store, [f"a/{n}"], start, 1)) for n in range(8)]
    await store.txn([], [Put(f"a/{number}", b"") for number in range(8)])
    for number, task in enumerate(hearing):
        assert [change.key for change in flat(await task)] == [f"a/{number}"]


async def test_changes_that_are_not_kept(place: Place, store: Store) -> None:
    start = await put(store, "a/1", b"1")
    for _ in range(3):
        await put(store, "a/1", b"2")
    await place.forget(store)
    with pytest.raises(Compacted) as error:
        await heard(store, ["a/"], start, 1)
    assert error.value.revision == start
    # What one does then.
    snapshot = await store.list("a/")
    hearing = asyncio.create_task(heard(store, ["a/"], snapshot.revision, 1))
    last = await put(store, "a/1", b"3")
    assert flat(await hearing) == [Change("a/1", b"3", last, start)]


async def test_a_deletion_is_not_lost_to_compaction(place: Place, store: Store) -> None:
    """The change right after the last one heard of, at the edge of what is kept."""
    start = await put(store, "a/1")
    await store.txn([], [Delete("a/1")])
    await place.forget(store)
    with pytest.raises(Compacted):
        await heard(store, ["a/"], start, 1)


async def test_a_revision_that_has_not_been_is_of_another_store(store: Store) -> None:
    now = await put(store, "a/1")
    with pytest.raises(Compacted):
        await heard(store, ["a/"], now + 1000, 1)


async def test_going_on_after_the_store_was_away(place: Place, store: Store) -> None:
    start = await put(store, "a/0")
    changes: list[Change] = []

    async def follow(revision: int, count: int) -> None:
        async with aclosing(store.watch(["a/", "b/"], revision)) as watch:
            async for more in watch:
                changes.extend(more)
                if len(changes) >= count:
                    break

    following = asyncio.create_task(follow(start, 100))
    written = [await put(store, "a/1"), await put(store, "b/1")]
    while len(changes) < 2:
        await asyncio.sleep(0.01)
    place.lose()
    with pytest.raises(Disconnected):
        await following
    with pytest.raises(Disconnected):
        await follow(changes[-1].revision, 100)
    place.find()
    other = await place.opened()
    written += [await put(other, "a/1"), await put(other, "b/2")]
    following = asyncio.create_task(follow(changes[-1].revision, 5))
    written.append(await put(store, "a/3"))
    await following
    assert [change.revision for change in changes] == written


async def test_closing_ends_watches(place: Place, store: Store) -> None:
    start = await put(store, "a/0")
    other = await place.opened()
    hearing = [asyncio.create_task(heard(other, ["a/"], start, 5)) for _ in range(2)]
    await put(store, "a/1")
    await asyncio.sleep(0)
    await other.close()
    for task in hearing:
        with pytest.raises(Disconnected):
            await task
    with pytest.raises(Disconnected, match="not open"):
        await heard(other, ["a/"], start, 1)
