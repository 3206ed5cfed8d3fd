"""The simulated store keeps the promises of the real ones: revisions, comparisons, leases."""

from __future__ import annotations

import pytest

from vhostnvme.cluster.store.base import (
    Absent,
    Change,
    CreatedAt,
    Delete,
    ModifiedAt,
    Present,
    Put,
    ValueIs,
)
from vhostnvme.errors import LeaseLost
from vhostnvme.testing.simulator.engine import Engine
from vhostnvme.testing.simulator.store import SimStore, bucket_of


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def store(engine: Engine) -> SimStore:
    return SimStore(engine)


def test_all_or_nothing(store: SimStore) -> None:
    assert store.txn([Absent("a")], [Put("a", b"1"), Put("b", b"2")]).succeeded
    assert not store.txn([Absent("a")], [Put("a", b"3"), Delete("b")]).succeeded
    assert [entry.value for entry in store.snapshot([""]).entries] == [b"1", b"2"]
    assert store.revision == 1


def test_comparisons(store: SimStore) -> None:
    store.txn([], [Put("a", b"1")])
    store.txn([], [Put("a", b"2")])
    for holds in (Present("a"), ModifiedAt("a", 2), CreatedAt("a", 1), ValueIs("a", b"2")):
        assert store.txn([holds], []).succeeded
    for fails in (Absent("a"), ModifiedAt("a", 1), CreatedAt("a", 2), ValueIs("a", b"1")):
        assert not store.txn([fails], []).succeeded
    assert store.txn([ModifiedAt("b", 0), CreatedAt("b", 0)], []).succeeded


def test_commits_are_told_with_what_was_there(store: SimStore) -> None:
    told: list[tuple[Change, bytes | None]] = []

    def commit(changes: object, before: object) -> None:
        for change in changes:  # type: ignore[attr-defined]
            old = before[change.key]  # type: ignore[index]
            told.append((change, old.value if old else None))

    store.commits.append(commit)
    store.txn([], [Put("a", b"1")])
    store.txn([], [Delete("a"), Delete("b")])
    assert told == [(Change("a", b"1", 1, 1), None), (Change("a", None, 2, 0), b"1")]


def test_a_lease_takes_its_keys_with_it(engine: Engine, store: SimStore) -> None:
    lease = store.grant(2.0)
    store.txn([], [Put("a", b"", lease), Put("b", b"")])
    engine.run_until(1.5)
    assert store.keep_alive(lease) == 2.0
    engine.run_until(3.4)
    assert "a" in store.entries
    engine.run_until(3.6)
    assert list(store.entries) == ["b"]
    with pytest.raises(LeaseLost):
        store.keep_alive(lease)
    with pytest.raises(LeaseLost):
        store.txn([], [Put("a", b"", lease)])


@pytest.mark.parametrize(("grace", "ends"), [(False, 11.0), (True, 12.0)])
def test_leases_wait_for_a_store_that_is_away(
    engine: Engine, store: SimStore, grace: bool, ends: float
) -> None:
    lease = store.grant(2.0)
    store.txn([], [Put("a", b"", lease)])
    engine.run_until(1.0)
    store.go_away()
    engine.run_until(10.0)
    assert "a" in store.entries
    store.come_back(grace=grace)
    engine.run_until(ends - 0.1)
    assert "a" in store.entries
    engine.run_until(ends + 0.1)
    assert "a" not in store.entries


def test_lists_by_prefix(store: SimStore) -> None:
    keys = ["cards/a", "held/a/1", "held/b/2", "space/a/1"]
    store.txn([], [Put(key, b"") for key in keys])
    assert [each.key for each in store.snapshot(["held/a/", "cards/"]).entries] == keys[:2]
    assert [each.key for each in store.snapshot(["held/"]).entries] == keys[1:3]
    assert [each.key for each in store.snapshot(["held/c/"]).entries] == []


def test_buckets() -> None:
    assert bucket_of("cards/a") == "cards/"
    assert bucket_of("space/a/1") == "space/a/"
