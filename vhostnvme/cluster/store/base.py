"""The cluster store: what a card may ask of it, whatever is behind.

A store holds keys and values. Each transaction that changes something gets a revision, a number
that only grows; all its changes have that one. A key may be bound to a lease and goes with it. A
watch tells the changes after a revision, in their order, and none is left out: when it cannot go on
it raises, `Disconnected` (watch again from the last revision heard of) or `Compacted` (list anew).

`sqlite.py` is the store for cards of one host, `etcd.py` the one for many hosts. One suite of tests
holds for both (tests/unit/cluster/store/test_conformance.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeAlias

__all__ = [
    "KEY_BYTES_MAX",
    "OPERATIONS_MAX",
    "PREFIX",
    "TIMEOUT_S",
    "VALUE_BYTES_MAX",
    "Absent",
    "Change",
    "Changes",
    "Compare",
    "CreatedAt",
    "Delete",
    "Entry",
    "Lease",
    "ModifiedAt",
    "Operation",
    "Present",
    "Put",
    "Snapshot",
    "Store",
    "TxnResult",
    "ValueIs",
    "check_key",
    "check_txn",
]

PREFIX = "/vhostnvme/v1/"
TIMEOUT_S = 3.0
KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 1024 * 1024
# What etcd takes in one transaction unless it is told otherwise (--max-txn-ops).
OPERATIONS_MAX = 128


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as it is at some revision.

    Attributes:
        revision: of its last change.
        created: the revision at which it came to be; a key that was deleted and put again has a
            new one.
        lease: that it goes with; 0: none.
    """

    key: str
    value: bytes = field(repr=False)
    revision: int
    created: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one key.

    Attributes:
        value: None when the key was deleted.
        created: see `Entry`; 0 when the key was deleted.
    """

    key: str
    value: bytes | None = field(repr=False)
    revision: int
    created: int


Changes: TypeAlias = list[Change]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything under some prefixes at one revision, in the order of the keys."""

    revision: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Lease:
    """ttl_s: what the store has granted, which may be more than was asked for."""

    id: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Absent:
    """There is no such key."""

    key: str


@dataclass(frozen=True, slots=True)
class Present:
    """There is such a key."""

    key: str


@dataclass(frozen=True, slots=True)
class ModifiedAt:
    """The key's last change is this one; 0: there is no such key."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class CreatedAt:
    """The key is there since this revision, changed or not; 0: there is no such key."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class ValueIs:
    """The key is there with just this value."""

    key: str
    value: bytes = field(repr=False)


Compare: TypeAlias = Absent | Present | ModifiedAt | CreatedAt | ValueIs


@dataclass(frozen=True, slots=True)
class Put:
    """Makes or replaces a key. lease: that it goes with from now on; 0: none."""

    key: str
    value: bytes = field(repr=False)
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes a key; when there is none, nothing happens."""

    key: str


Operation: TypeAlias = Put | Delete


@dataclass(frozen=True, slots=True)
class TxnResult:
    """How a transaction ended.

    Attributes:
        succeeded: every comparison held: `then` was done, else `otherwise`.
        revision: of the store after it; when it changed something, that of its changes.
        entries: those of the keys in `reads` that are there after it.
    """

    succeeded: bool
    revision: int
    entries: dict[str, Entry]


class Store(ABC):
    """A connection to a store; `async with` opens and closes it.

    Every call answers within the store's timeout (`TIMEOUT_S`), but for `lock` and `watch`.

    Raises (any call):
        StoreUnavailable: the store cannot be reached now. Its `unknown` says that a change which
            was asked for may have been made nevertheless, or may be made yet.
        StoreError: the store refuses for good.
    """

    @abstractmethod
    async def open(self) -> None:
        """Connects, and makes sure that it is a store of this version.

        After `StoreUnavailable`, or when it was cancelled, the store may be used all the same: each
        call tries to connect, and makes sure. A store that goes away and comes back needs no second
        `open` either. After `StoreError` it is closed.
        """

    @abstractmethod
    async def close(self) -> None:
        """Ends all watches with `Disconnected`; a second call does nothing. Leases stay."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def get(self, key: str) -> Entry | None:
        """The key as it is now; None: there is none."""
        return (await self.txn((), (), reads=(key,))).entries.get(key)

    @abstractmethod
    async def list(self, *prefixes: str) -> Snapshot:
        """All keys that begin with one of these, as they are at one revision."""

    @abstractmethod
    async def txn(
        self,
        compare: Iterable[Compare],
        then: Iterable[Operation],
        otherwise: Iterable[Operation] = (),
        reads: Iterable[str] = (),
    ) -> TxnResult:
        """Does `then` when all comparisons hold, else `otherwise`: wholly or not at all.

        A key may be changed once in a transaction. What is read is read after the changes.

        Raises:
            LeaseLost: a key was to be bound to a lease that is not there; nothing has changed.
        """

    @abstractmethod
    async def grant(self, ttl_s: float) -> Lease:
        """A new lease, which ends `ttl_s` after its last `keep_alive`."""

    @abstractmethod
    async def keep_alive(self, lease_id: int) -> float:
        """Renews a lease; answers for how many seconds it is good from the time of the call.

        Raises:
            LeaseLost: it has ended.
        """

    @abstractmethod
    async def remaining(self, lease_ids: Sequence[int]) -> dict[int, float]:
        """Seconds that each of these leases has left; one that has ended is not in the answer.

        etcd tells whole seconds, rounded down.
        """

    @abstractmethod
    async def revoke(self, lease_id: int) -> None:
        """Ends a lease, and its keys with it; when it has ended already, nothing happens."""

    @abstractmethod
    def watch(self, prefixes: Sequence[str], from_revision: int) -> AsyncGenerator[Changes, None]:
        """The changes after a revision of keys that begin with one of these.

        They come in the order of their revisions, those of one transaction in one list. It is a
        generator: it is left early within `contextlib.aclosing`.

        Raises:
            Disconnected: the store went away, or was closed. Nothing was left out up to the last
                list.
            Compacted: the changes after `from_revision` are not kept any more, or the store has
                not come to that revision: it is another one.
        """

    async def lock(self, name: str, lease_id: int) -> int:
        """Waits for a lock; answers its fencing token, which is greater than all before it.

        It is held until `unlock` or the end of the lease. A holder must show its token, for the
        lease may end while it works. With one lease a lock is held once: who asks again with
        the same lease gets the same token.

        Raises:
            LeaseLost: the lease has ended while it waited.
        """
        from vhostnvme.cluster.store import lock

        return await lock.acquire(self, name, lease_id)

    async def unlock(self, name: str, lease_id: int) -> None:
        """Gives a lock back, or stops waiting for it; when it is not held, nothing happens."""
        from vhostnvme.cluster.store import lock

        await lock.release(self, name, lease_id)


def check_txn(
    compare: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation]
) -> None:
    """Refuses what no store takes: a caller's mistake.

    Raises:
        ValueError: a key that is empty, too long or has a NUL, a value that is too long, a key
            that is changed twice, or too many operations.
    """
    for each in (*compare, *then, *otherwise):
        check_key(each.key)
    if len(compare) > OPERATIONS_MAX:
        raise ValueError(f"a transaction has at most {OPERATIONS_MAX} comparisons")
    for branch in (then, otherwise):
        if len(branch) > OPERATIONS_MAX:
            raise ValueError(f"a transaction changes at most {OPERATIONS_MAX} keys")
        if len({each.key for each in branch}) < len(branch):
            raise ValueError("a transaction changes each key once")
        for each in branch:
            if isinstance(each, Put) and len(each.value) > VALUE_BYTES_MAX:
                raise ValueError(f"the value of {each.key} has more than {VALUE_BYTES_MAX} bytes")


def check_key(key: str) -> None:
    """Raises ValueError; see `check_txn`."""
    if not key or "\0" in key or len(key.encode()) > KEY_BYTES_MAX:
        raise ValueError(f"{key!r} is no key: it needs 1 to {KEY_BYTES_MAX} bytes and no NUL")
