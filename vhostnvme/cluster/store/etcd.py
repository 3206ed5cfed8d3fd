"""The store for cards of many hosts: etcd, 3.4 or newer.

A watch is one stream over the range that its prefixes span, and what is not wanted is left out
here: etcd does not keep the order between two ranges, and so one could not tell where to go on.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any

import grpc.aio
from aetcd import rpc

from vhostnvme.cluster.store import base
from vhostnvme.cluster.store.base import (
    Absent,
    Change,
    Changes,
    Compare,
    CreatedAt,
    Entry,
    Lease,
    ModifiedAt,
    Operation,
    Present,
    Put,
    Snapshot,
    Store,
    TxnResult,
    ValueIs,
)
from vhostnvme.cluster.store.etcd_access import EtcdAccess
from vhostnvme.cluster.store.etcd_link import CLOSED, Link, Peer
from vhostnvme.errors import (
    Compacted,
    Disconnected,
    LeaseLost,
    StoreError,
    StoreUnavailable,
)

__all__ = ["FORMAT", "FORMAT_KEY", "EtcdStore"]

VERSION_LEAST = (3, 4)
# What the records under the prefix are like, beside them.
FORMAT_KEY = "format"
FORMAT = b"1"
_ASKS_AT_ONCE = 16


class EtcdStore(Store):
    """See `Store`. Leases last whole seconds, and no less than the servers allow (2 s by default).

    Args:
        addresses: HOST:PORT of its members.
        prefix: in front of all keys.
        timeout_s: within which a call answers.

    Raises:
        ConfigError: a file of `access` cannot be used.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        access: EtcdAccess | None = None,
        *,
        prefix: str = base.PREFIX,
        timeout_s: float = base.TIMEOUT_S,
    ) -> None:
        self._prefix = prefix.encode()
        self._link = Link(addresses, (access or EtcdAccess()).read(), timeout_s)
        self._checked = False
        self._checking = asyncio.Lock()

    async def open(self) -> None:
        self._link.open()
        self._checked = False
        try:
            await self._make_sure()
        except StoreUnavailable:
            raise
        except StoreError:
            await self.close()
            raise

    async def _make_sure(self) -> None:
        async with self._checking:
            if self._checked:
                return
            status = await self._link.ask(lambda peer: peer.maintenance.Status, rpc.StatusRequest())
            self._check_version(status.version)
            request = self._request(
                [Absent(FORMAT_KEY)], [Put(FORMAT_KEY, FORMAT)], (), [FORMAT_KEY]
            )
            result = self._result(await self._link.ask(lambda peer: peer.kv.Txn, request))
            self._check_format(result.entries[FORMAT_KEY].value)
            self._checked = True

    async def _ask(
        self, method: Callable[[Peer], Callable[..., Any]], request: Any, *, changes: bool = False
    ) -> Any:
        if not self._checked:
            try:
                await self._make_sure()
            except StoreUnavailable as error:
                error.unknown = False
                raise
            except StoreError as error:
                # It was out of reach when it was opened: somebody may yet put the right one there.
                raise StoreUnavailable(str(error)) from None
        return await self._link.ask(method, request, changes=changes)

    def _check_version(self, text: str) -> None:
        match = re.match(r"(\d+)\.(\d+)", text)
        if match is None or (int(match[1]), int(match[2])) < VERSION_LEAST:
            wanted = ".".join(map(str, VERSION_LEAST))
            raise StoreError(f"{self._link} is of version {text}: it must be {wanted} or newer")

    def _check_format(self, form: bytes) -> None:
        if form != FORMAT:
            raise StoreError(
                f"the store under {self._prefix.decode()} of {self._link} is of version"
                f" {form.decode(errors='replace')!r}, and this program of version"
                f" {FORMAT.decode()!r}: use the program that made it"
            )

    async def close(self) -> None:
        await self._link.close()

    async def list(self, *prefixes: str) -> Snapshot:
        ranges = [self._range(prefix) for prefix in prefixes]
        reads = [rpc.RequestOp(request_range=each) for each in ranges]
        answer = await self._ask(lambda peer: peer.kv.Txn, rpc.TxnRequest(success=reads))
        found = {
            entry.key: entry
            for response in answer.responses
            for entry in map(self._entry, response.response_range.kvs)
        }
        return Snapshot(answer.header.revision, tuple(found[key] for key in sorted(found)))

    async def txn(
        self,
        compare: Iterable[Compare],
        then: Iterable[Operation],
        otherwise: Iterable[Operation] = (),
        reads: Iterable[str] = (),
    ) -> TxnResult:
        compare, then, otherwise = tuple(compare), tuple(then), tuple(otherwise)
        base.check_txn(compare, then, otherwise)
        request = self._request(compare, then, otherwise, reads)
        changes = bool(then or otherwise)
        return self._result(await self._ask(lambda peer: peer.kv.Txn, request, changes=changes))

    async def grant(self, ttl_s: float) -> Lease:
        request = rpc.LeaseGrantRequest(TTL=math.ceil(ttl_s))
        answer = await self._ask(lambda peer: peer.lease.LeaseGrant, request, changes=True)
        return Lease(int(answer.ID), float(answer.TTL))

    async def keep_alive(self, lease_id: int) -> float:
        request = rpc.LeaseKeepAliveRequest(ID=lease_id)
        answer = await self._ask(_first_answer, request, changes=True)
        if answer.TTL <= 0:
            raise LeaseLost(f"lease {lease_id:x} has ended: join again")
        return float(answer.TTL)

    async def remaining(self, lease_ids: Sequence[int]) -> dict[int, float]:
        gate = asyncio.Semaphore(_ASKS_AT_ONCE)

        async def ask(lease_id: int) -> int:
            request = rpc.LeaseTimeToLiveRequest(ID=lease_id)
            async with gate:
                answer = await self._ask(lambda peer: peer.lease.LeaseTimeToLive, request)
            return int(answer.TTL)

        wanted = sorted(set(lease_ids))
        left_s = await asyncio.gather(*(ask(each) for each in wanted))
        return {each: float(s) for each, s in zip(wanted, left_s, strict=True) if s >= 0}

    async def revoke(self, lease_id: int) -> None:
        request = rpc.LeaseRevokeRequest(ID=lease_id)
        try:
            await self._ask(lambda peer: peer.lease.LeaseRevoke, request, changes=True)
        except LeaseLost:
            pass

    async def watch(
        self, prefixes: Sequence[str], from_revision: int
    ) -> AsyncGenerator[Changes, None]:
        wanted = tuple(self._inside(prefix) for prefix in prefixes)
        # From the revision that is known already: at the next, a deletion may be lost to compaction
        # without a word.
        create = rpc.WatchCreateRequest(
            key=min(wanted),
            range_end=max(map(_range_end, wanted)),
            start_revision=max(from_revision, 1),
        )
        try:
            peer = await self._link.reach()
        except StoreUnavailable as error:
            raise Disconnected(str(error)) from None
        stream = None
        try:
            stream = peer.watch.Watch(metadata=peer.metadata)
            await stream.write(rpc.WatchRequest(create_request=create))
            async with asyncio.timeout(self._link.timeout_s):
                first = await stream.read()
            self._check_answer(first, from_revision)
            if from_revision > first.header.revision:
                raise Compacted(from_revision)
            while True:
                changes = self._changes(await self._next(stream, from_revision), wanted)
                if changes := [each for each in changes if each.revision > from_revision]:
                    yield changes
        except (grpc.aio.AioRpcError, TimeoutError, *CLOSED) as error:
            cause = await self._link.failed(peer, error)
            if isinstance(cause, asyncio.CancelledError | StoreError) and not isinstance(
                cause, StoreUnavailable
            ):
                raise cause from None
            raise Disconnected(f"the watch has ended: {cause}") from None
        except Disconnected:
            # It may not have known the token, and does not say so.
            peer.token = None
            raise
        finally:
            if stream is not None:
                stream.cancel()

    async def _next(self, stream: Any, from_revision: int) -> Any:
        answer = await stream.read()
        self._check_answer(answer, from_revision)
        return answer

    def _check_answer(self, answer: Any, from_revision: int) -> None:
        if answer is grpc.aio.EOF:
            raise Disconnected(f"{self._link} has ended the watch: watch again")
        if answer.compact_revision:
            raise Compacted(from_revision)
        if answer.canceled:
            reason = answer.cancel_reason or "no reason given"
            raise Disconnected(f"{self._link} has ended the watch: {reason}")

    def _changes(self, answer: Any, wanted: tuple[bytes, ...]) -> Changes:
        return [
            Change(
                self._outside(event.kv.key),
                None if event.type == event.DELETE else bytes(event.kv.value),
                int(event.kv.mod_revision),
                int(event.kv.create_revision),
            )
            for event in answer.events
            if event.kv.key.startswith(wanted)
        ]

    def _request(
        self,
        compare: Iterable[Compare],
        then: Iterable[Operation],
        otherwise: Iterable[Operation],
        reads: Iterable[str],
    ) -> Any:
        last = [
            rpc.RequestOp(request_range=rpc.RangeRequest(key=self._inside(key))) for key in reads
        ]
        return rpc.TxnRequest(
            compare=[self._compare(each) for each in compare],
            success=[*(self._operation(each) for each in then), *last],
            failure=[*(self._operation(each) for each in otherwise), *last],
        )

    def _result(self, answer: Any) -> TxnResult:
        kvs = [kv for each in answer.responses for kv in each.response_range.kvs]
        entries = {entry.key: entry for entry in map(self._entry, kvs)}
        return TxnResult(bool(answer.succeeded), int(answer.header.revision), entries)

    def _compare(self, compare: Compare) -> Any:
        key, equal = self._inside(compare.key), rpc.Compare.EQUAL
        match compare:
            case Absent():
                return rpc.Compare(
                    key=key, target=rpc.Compare.CREATE, result=equal, create_revision=0
                )
            case Present():
                return rpc.Compare(
                    key=key,
                    target=rpc.Compare.CREATE,
                    result=rpc.Compare.GREATER,
                    create_revision=0,
                )
            case ModifiedAt(revision=revision):
                return rpc.Compare(
                    key=key, target=rpc.Compare.MOD, result=equal, mod_revision=revision
                )
            case CreatedAt(revision=revision):
                return rpc.Compare(
                    key=key, target=rpc.Compare.CREATE, result=equal, create_revision=revision
                )
            case ValueIs(value=value):
                return rpc.Compare(key=key, target=rpc.Compare.VALUE, result=equal, value=value)

    def _operation(self, operation: Operation) -> Any:
        key = self._inside(operation.key)
        if isinstance(operation, Put):
            put = rpc.PutRequest(key=key, value=operation.value, lease=operation.lease)
            return rpc.RequestOp(request_put=put)
        return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))

    def _range(self, prefix: str) -> Any:
        key = self._inside(prefix)
        return rpc.RangeRequest(key=key, range_end=_range_end(key))

    def _entry(self, kv: Any) -> Entry:
        return Entry(
            self._outside(kv.key),
            bytes(kv.value),
            int(kv.mod_revision),
            int(kv.create_revision),
            int(kv.lease),
        )

    def _inside(self, key: str) -> bytes:
        return self._prefix + key.encode()

    def _outside(self, key: bytes) -> str:
        return key[len(self._prefix) :].decode()


def _range_end(prefix: bytes) -> bytes:
    """The first key after all that begin with the prefix, which is text: no byte of it is 255."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _first_answer(peer: Peer) -> Any:
    """Renewing is a stream; one request and its answer are taken of it."""

    async def ask(request: Any, **options: Any) -> Any:
        stream = peer.lease.LeaseKeepAlive(**options)
        try:
            await stream.write(request)
            answer = await stream.read()
            if answer is grpc.aio.EOF:
                raise StoreUnavailable(f"etcd at {peer.address} has ended a renewal")
            return answer
        finally:
            stream.cancel()

    return ask
