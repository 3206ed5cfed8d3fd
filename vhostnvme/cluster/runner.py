"""Runs a card's managers for real: the only place of theirs with a clock, a socket and a disk.

Messages are handled one after the other on the event loop. A `Write` is durable before the next
effect is begun; all others run as tasks, and their ends come back as messages.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

from vhostnvme.cluster.commands import Command
from vhostnvme.cluster.messages import (
    TICK_S,
    Changed,
    Done,
    Effect,
    EndCard,
    Failure,
    FailureKind,
    GrantLease,
    KeepAlive,
    ListStore,
    Log,
    Message,
    Reply,
    RevokeLease,
    StoreLost,
    Synced,
    Tick,
    Txn,
    Write,
)
from vhostnvme.cluster.pool import Pool
from vhostnvme.cluster.records import CARDS, HELD, MEMBERS, MIRRORS, OFFERS, SPACE
from vhostnvme.cluster.store.base import Snapshot, Store, TxnResult
from vhostnvme.errors import (
    ClusterError,
    LeaseLost,
    NoSpace,
    StoreError,
    StoreUnavailable,
    VhostNvmeError,
)
from vhostnvme.storage.catalog import Catalog

_log = logging.getLogger(__name__)

FOLLOW_AGAIN_S = 0.25
FOLLOW_AGAIN_S_MAX = 2.0
_BUSY = (errno.EBUSY, errno.EAGAIN)

# Carries out effects of one type; what it answers goes into Done.
Work = Callable[[Any], Awaitable[Any]]


class Runner:
    """Of one card: `start`, then messages by `post` and commands by `command`, until `stop`.

    Args:
        works: who carries out the effects on SSDs, exports and devices, by their types.
        store: open; None: the card is in no cluster.
    """

    def __init__(
        self,
        pool: Pool,
        catalog: Catalog,
        store: Store | None,
        works: Mapping[type[Effect], Work],
    ) -> None:
        self._pool = pool
        self._catalog = catalog
        self._store = store
        self._works = dict(works)
        if store is not None:
            self._works |= {
                Txn: self._txn,
                ListStore: self._list,
                GrantLease: self._grant,
                KeepAlive: self._keep_alive,
                RevokeLease: self._revoke,
            }
        self._messages: deque[Message] = deque()
        self._handling = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._commands = 0
        self._lost = ""  # why the store was lost last
        self._stopping = False
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """The managers take up what the last life of the card has left."""
        self._carry_out_all(self._pool.start(time.monotonic()))
        self._spawn(self._tick())
        if self._store is not None:
            self._spawn(self._follow(self._store))

    async def wait(self) -> None:
        """Until the card cannot go on.

        Raises:
            VhostNvmeError: why.
        """
        await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Ends what is under way; who waits for a command is told. Safe to repeat."""
        self._stopping = True
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(ClusterError("the card is ending: ask again when it is back"))
        if not self._ended.done():
            self._ended.set_result(None)

    def post(self, message: Message) -> None:
        """Has the managers handle a message, after those that came before."""
        self._messages.append(message)
        if self._handling:
            return
        self._handling = True
        try:
            while self._messages:
                effects = self._pool.step(self._messages.popleft(), time.monotonic())
                self._carry_out_all(effects)
        except Exception as error:
            self._end(error)
        finally:
            self._handling = False

    async def command(self, make: Callable[[int], Command]) -> Any:
        """Carries out the command that `make` makes of a number; answers what it says.

        Raises:
            VhostNvmeError: as the managers have it.
        """
        self._commands += 1
        number = self._commands
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        try:
            self.post(make(number))
            return await reply
        finally:
            del self._replies[number]

    # --- Effects ---

    def _carry_out_all(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Write(changes):
                self._catalog.write(*changes)
            case Reply(command, value, error):
                reply = self._replies.get(command)
                if reply is not None and not reply.done():
                    if error is None:
                        reply.set_result(value)
                    else:
                        reply.set_exception(error)
            case Log(level, text):
                _log.log(level, "%s", text)
            case EndCard(error):
                self._end(error)
            case _:
                self._spawn(self._work(effect, self._works[type(effect)]))

    async def _work(self, effect: Any, work: Work) -> None:
        value, failure = None, None
        try:
            value = await work(effect)
        except (VhostNvmeError, OSError) as error:
            failure = Failure(_kind_of(error), str(error) or type(error).__name__)
        except asyncio.CancelledError:
            if self._stopping:
                raise
            # A library may break off its calls so. Whoever waits for the end must hear of one.
            failure = Failure(FailureKind.UNAVAILABLE, "it was broken off")
        self.post(Done(effect.op, value, failure))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_end_of_task)

    def _on_end_of_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._end(error)

    def _end(self, error: BaseException) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    # --- The clock and the store ---

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.post(Tick())

    async def _follow(self, store: Store) -> None:
        """Lists and watches what concerns this card, again and again."""
        me = self._pool.name
        prefixes = (CARDS, MEMBERS, OFFERS, f"{SPACE}{me}/", f"{HELD}{me}/", f"{MIRRORS}{me}/")
        delay_s = FOLLOW_AGAIN_S
        while True:
            try:
                snapshot = await store.list(*prefixes)
                self.post(Synced(snapshot.revision, snapshot.entries))
                delay_s, self._lost = FOLLOW_AGAIN_S, ""
                async with aclosing(store.watch(prefixes, snapshot.revision)) as watch:
                    async for changes in watch:
                        self.post(Changed(changes))
                reason = "the watch has ended"
            except StoreError as error:
                reason = str(error)
            if reason != self._lost:
                _log.warning("%s: this card goes on with what it has", reason)
            self._lost = reason
            self.post(StoreLost(reason))
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, FOLLOW_AGAIN_S_MAX)

    def _opened(self) -> Store:
        assert self._store is not None, "a card without a store asks for nothing of it"
        return self._store

    async def _txn(self, effect: Txn) -> TxnResult:
        return await self._opened().txn(effect.compare, effect.then)

    async def _list(self, effect: ListStore) -> Snapshot:
        return await self._opened().list(*effect.prefixes)

    async def _grant(self, effect: GrantLease) -> int:
        return (await self._opened().grant(effect.ttl_s)).id

    async def _keep_alive(self, effect: KeepAlive) -> float:
        return await self._opened().keep_alive(effect.lease)

    async def _revoke(self, effect: RevokeLease) -> None:
        await self._opened().revoke(effect.lease)


def _kind_of(error: Exception) -> FailureKind:
    if isinstance(error, NoSpace):
        return FailureKind.NO_SPACE
    if isinstance(error, LeaseLost):
        return FailureKind.LEASE_LOST
    if isinstance(error, StoreUnavailable):
        return FailureKind.UNAVAILABLE
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return FailureKind.NO_SPACE
    if isinstance(error, OSError) and error.errno in _BUSY:
        return FailureKind.BUSY
    return FailureKind.FAILED
