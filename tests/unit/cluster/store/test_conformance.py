"""Keys, transactions and lists: what every store holds to, whatever is behind.

With test_conformance_watch.py and test_conformance_lease.py the suite that each of them passes.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing

import pytest

from vhostnvme.cluster.store.base import (
    KEY_BYTES_MAX,
    OPERATIONS_MAX,
    VALUE_BYTES_MAX,
    Absent,
    Compare,
    CreatedAt,
    Delete,
    ModifiedAt,
    Operation,
    Present,
    Put,
    Store,
    ValueIs,
)
from vhostnvme.errors import StoreUnavailable

from .conftest import Place

BIG = bytes(range(256)) * 256

COUNT = """
import asyncio, sys
from vhostnvme.cluster.store import open_store
from vhostnvme.cluster.store.base import ModifiedAt, Put

async def count(url, prefix, times):
    async with open_store(url, prefix, timeout_s=30) as store:
        while times:
            entry = await store.get("count")
            put = Put("count", str(int(entry.value) + 1).encode())
            times -= (await store.txn([ModifiedAt("count", entry.revision)], [put])).succeeded

asyncio.run(count(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def put(store: Store, key: str, value: bytes = b"", lease: int = 0) -> int:
    return (await store.txn((), [Put(key, value, lease)])).revision


async def test_a_key_remembers_when_it_came_and_when_it_changed(store: Store) -> None:
    assert await store.get("a") is None
    first = await put(store, "a", b"1")
    second = await put(store, "a", b"2")
    assert second > first
    entry = await store.get("a")
    assert entry is not None
    assert (entry.key, entry.value, entry.lease) == ("a", b"2", 0)
    assert (entry.created, entry.revision) == (first, second)
    await store.txn((), [Delete("a")])
    assert await store.get("a") is None
    third = await put(store, "a", b"")
    entry = await store.get("a")
    assert entry is not None
    assert (entry.value, entry.created) == (b"", third)


async def test_every_comparison(store: Store) -> None:
    created = await put(store, "there", b"old")
    changed = await put(store, "there", b"new")
    cases: list[tuple[Compare, bool]] = [
        (Absent("there"), False),
        (Absent("not"), True),
        (Present("there"), True),
        (Present("not"), False),
        (ModifiedAt("there", changed), True),
        (ModifiedAt("there", created), False),
        (ModifiedAt("not", 0), True),
        (ModifiedAt("not", changed), False),
        (CreatedAt("there", created), True),
        (CreatedAt("there", changed), False),
        (CreatedAt("not", 0), True),
        (ValueIs("there", b"new"), True),
        (ValueIs("there", b"old"), False),
        (ValueIs("not", b""), False),
    ]
    for compare, holds in cases:
        assert (await store.txn([compare], [])).succeeded is holds, compare
    true, false = Present("there"), Absent("there")
    assert (await store.txn([true, true], [])).succeeded
    assert not (await store.txn([true, false], [])).succeeded
    assert not (await store.txn([false, true], [])).succeeded
    assert (await store.txn([], [])).succeeded


async def test_one_branch_is_done_whole_and_at_one_revision(store: Store) -> None:
    await put(store, "c", b"old")
    result = await store.txn(
        [Absent("a")], [Put("a", b"1"), Put("b", b"2"), Delete("c")], [Put("d", b"")]
    )
    assert result.succeeded
    entries = {entry.key: entry for entry in (await store.list("a", "b", "c", "d")).entries}
    assert {key: entry.value for key, entry in entries.items()} == {"a": b"1", "b": b"2"}
    assert {entry.revision for entry in entries.values()} == {result.revision}
    again = await store.txn([Absent("a")], [Put("x", b"")], [Put("e", b"3"), Delete("b")])
    assert not again.succeeded
    assert again.revision > result.revision
    assert [entry.key for entry in (await store.list("a", "b", "c", "d", "e", "x")).entries] == [
        "a",
        "e",
    ]


async def test_reads_come_back_from_either_branch_and_after_it(store: Store) -> None:
    await put(store, "a", b"1")
    result = await store.txn([Absent("a")], [Put("a", b"2")], reads=["a", "not"])
    assert not result.succeeded
    assert set(result.entries) == {"a"}
    assert result.entries["a"].value == b"1"
    result = await store.txn([Present("a")], [Put("a", b"2"), Put("b", b"")], reads=["a", "b"])
    assert result.entries["a"].value == b"2"
    assert result.entries["b"].created == result.entries["a"].revision == result.revision
    result = await store.txn([], [Delete("a")], reads=["a"])
    assert result.entries == {}


async def test_what_changes_nothing_has_no_revision_of_its_own(store: Store) -> None:
    now = await put(store, "a")
    for operations in ([], [Delete("not")]):
        assert (await store.txn([], operations)).revision == now
    assert (await store.list("a")).revision == now
    assert (await store.txn([Absent("a")], [Put("b", b"")])).revision == now


@pytest.mark.parametrize(
    "operations",
    [
        [Put("a", b""), Delete("a")],
        [Put("", b"")],
        [Put("a\0", b"")],
        [Put("k" * KEY_BYTES_MAX, b""), Put("k" * (KEY_BYTES_MAX + 1), b"")],
        [Put("a", bytes(VALUE_BYTES_MAX + 1))],
        [Put(f"{number}", b"") for number in range(OPERATIONS_MAX + 1)],
    ],
    ids=["twice", "no name", "NUL", "long key", "long value", "too many"],
)
async def test_a_callers_mistakes_are_refused_whole(
    store: Store, operations: list[Operation]
) -> None:
    with pytest.raises(ValueError, match=r"key|value"):
        await store.txn([], operations)
    with pytest.raises(ValueError, match=r"key|value"):
        await store.txn([], [], operations)
    assert (await store.list("a", "k", "1")).entries == ()


async def test_as_much_as_a_transaction_takes(store: Store) -> None:
    operations = [Put(f"many/{number:03}", b"x") for number in range(OPERATIONS_MAX)]
    compare = [Absent(each.key) for each in operations]
    assert (await store.txn(compare, operations)).succeeded
    assert len((await store.list("many/")).entries) == OPERATIONS_MAX


async def test_lists_are_by_prefix_in_order_and_of_one_revision(store: Store) -> None:
    for key in ("cards/b", "space/a/2", "cards/a", "space/a/1", "space/ab/1", "cardsx", "é/é"):
        await put(store, key, key.encode())
    now = await put(store, "other", b"")
    snapshot = await store.list("space/a/", "cards/")
    assert [entry.key for entry in snapshot.entries] == [
        "cards/a",
        "cards/b",
        "space/a/1",
        "space/a/2",
    ]
    assert [entry.value for entry in snapshot.entries] == [
        entry.key.encode() for entry in snapshot.entries
    ]
    assert snapshot.revision == now
    assert (await store.list("space/a/1", "space/a/")).entries == snapshot.entries[2:]
    assert [entry.key for entry in (await store.list("é")).entries] == ["é/é"]
    assert (await store.list("none/")).entries == ()


async def test_a_list_never_sees_half_a_transaction(place: Place, store: Store) -> None:
    other = await place.opened()
    writing = True

    async def write() -> None:
        for number in range(50):
            value = str(number).encode()
            await other.txn([], [Put("one/a", value), Put("two/b", value)])

    async def look() -> int:
        seen = 0
        while writing:
            snapshot = await store.list("two/", "one/")
            assert len({entry.value for entry in snapshot.entries}) <= 1
            assert len({entry.revision for entry in snapshot.entries}) <= 1
            seen += 1
        return seen

    looking = asyncio.create_task(look())
    await write()
    writing = False
    assert await looking > 0


async def test_prefixes_keep_stores_apart(place: Place, store: Store) -> None:
    other = await place.opened(prefix=f"{place.prefix}other/")
    await put(other, "a", b"other")
    assert await store.get("a") is None
    await put(store, "a", b"mine")
    entry = await other.get("a")
    assert entry is not None
    assert entry.value == b"other"


async def test_big_values(place: Place, store: Store) -> None:
    await store.txn([], [Put("big", BIG)])
    other = await place.opened()
    result = await other.txn([ValueIs("big", BIG)], [Put("copy", BIG[::-1])], reads=["big"])
    assert result.succeeded
    assert result.entries["big"].value == BIG
    assert [entry.value for entry in (await store.list("big", "copy")).entries] == [BIG, BIG[::-1]]


async def test_eight_processes_count_and_no_count_is_lost(place: Place, store: Store) -> None:
    await put(store, "count", b"0")
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", COUNT, place.url, place.prefix, "25"
        )
        for _ in range(8)
    ]
    assert [await child.wait() for child in children] == [0] * 8
    entry = await store.get("count")
    assert entry is not None
    assert entry.value == b"200"


async def test_clients_of_one_process_at_once(place: Place, store: Store) -> None:
    await put(store, "count", b"0")

    async def count(client: Store) -> None:
        times = 20
        while times:
            entry = await client.get("count")
            assert entry is not None
            more = Put("count", str(int(entry.value) + 1).encode())
            times -= (await client.txn([ValueIs("count", entry.value)], [more])).succeeded

    clients = [store, *[await place.opened() for _ in range(4)]]
    await asyncio.gather(*map(count, clients), count(store))
    entry = await store.get("count")
    assert entry is not None
    assert entry.value == b"120"


async def test_a_store_that_is_away_says_so_and_comes_back(place: Place, store: Store) -> None:
    await put(store, "a", b"1")
    place.lose()
    calls = [
        lambda: store.get("a"),
        lambda: store.list("a"),
        lambda: store.txn([], [Put("a", b"2")]),
        lambda: store.grant(5),
        lambda: store.keep_alive(1),
        lambda: store.remaining([1]),
        lambda: store.revoke(1),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="cannot be reached") as error:
            await call()
        assert not error.value.unknown
    place.find()
    entry = await store.get("a")
    assert entry is not None
    assert entry.value == b"1"
    await put(store, "a", b"2")


async def test_a_store_that_is_away_at_first_may_be_used_all_the_same(
    place: Place, store: Store
) -> None:
    await put(store, "a", b"1")
    late, cancelled = place.client(place.prefix), place.client(place.prefix)
    place.lose()
    for call in (late.open, late.open, lambda: late.get("a"), lambda: late.list("a")):
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await call()
    with pytest.raises(StoreUnavailable, match="not open"):
        await cancelled.get("a")
    place.find()
    opening = asyncio.create_task(cancelled.open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    for client in (late, cancelled):
        entry = await client.get("a")
        assert entry is not None
        async with aclosing(client.watch(["a"], entry.revision)) as watch:
            hearing = asyncio.create_task(anext(watch))
            await put(store, "a", b"2")
            assert [change.value for change in await hearing] == [b"2"]
        await client.close()


async def test_opening_and_closing_again(place: Place, store: Store) -> None:
    await put(store, "a", b"1")
    closed = place.client(place.prefix)
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable, match="not open"):
        await store.get("a")
    await closed.open()
    await closed.close()
    await closed.open()
    assert await closed.get("a") is not None
    await closed.close()
