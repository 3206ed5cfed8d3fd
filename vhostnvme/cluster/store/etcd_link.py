"""The way to an etcd: its addresses, connections, tokens, and what its errors mean.

aetcd is used for its messages and stubs alone. Its client has no TLS, does not renew tokens, and
its watches end without a word when a server is restarted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from aetcd import rpc

from vhostnvme.cluster.store.etcd_access import Secrets
from vhostnvme.errors import LeaseLost, StoreError, StoreUnavailable

__all__ = ["CLOSED", "Link", "Peer"]

_MESSAGE_BYTES_MAX = 64 * 1024 * 1024
# A server that is away is tried again soon; one that says nothing more is noticed within 9 s (etcd
# does not take more than a ping in 5 s).
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.ping_timeout_ms", 3000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
]
_READY = grpc.ChannelConnectivity.READY
_FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE
# Calls of all tasks on a connection end with these when one of them closes it.
CLOSED = (asyncio.CancelledError, grpc.aio.UsageError)
# What a server says before it has looked at a request: the token is not, or no longer, good.
_TOKEN_WORDS = ("invalid auth token", "revision of auth store is old")
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
)
# A member that has no leader cannot tell what is new, and says so.
_LEADER = (("hasleader", "true"),)


class Peer:
    """One member: a connection that is made when it is needed, and the stubs on it."""

    def __init__(self, address: str, secrets: Secrets) -> None:
        self.address = address
        self.token: str | None = None  # empty: it wants none
        if secrets.ca is None:
            self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(secrets.ca, secrets.key, secrets.cert)
            self._channel = grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
        self.auth = rpc.AuthStub(self._channel)
        self.kv = rpc.KVStub(self._channel)
        self.lease = rpc.LeaseStub(self._channel)
        self.maintenance = rpc.MaintenanceStub(self._channel)
        self.watch = rpc.WatchStub(self._channel)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (*_LEADER, ("token", self.token)) if self.token else _LEADER

    @property
    def has_failed(self) -> bool:
        """Whether the last attempt to connect has failed."""
        return bool(self._channel.get_state() == _FAILED)

    async def reach(self, within_s: float) -> bool:
        """Whether there is a connection; nothing has been asked of the server yet."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    state = self._channel.get_state(try_to_connect=True)
                    if state in (_READY, _FAILED):
                        return bool(state == _READY)
                    await self._channel.wait_for_state_change(state)
        except TimeoutError:
            return False
        except CLOSED as error:
            if _is_ours(error):
                raise
            return False

    async def reason(self) -> str:
        """Why there is no connection."""
        try:
            await self.maintenance.Status(rpc.StatusRequest(), timeout=0.2)
        except grpc.aio.AioRpcError as error:
            return _words(error)
        except CLOSED as error:
            if _is_ours(error):
                raise
            return "the connection was closed"
        return "it answers again"

    async def close(self) -> None:
        await self._channel.close()


class Link:
    """Asks the members of an etcd, one after the other until one answers.

    Args:
        addresses: HOST:PORT of each.
        timeout_s: within which a call answers.
    """

    def __init__(self, addresses: Sequence[str], secrets: Secrets, timeout_s: float) -> None:
        self.addresses = list(addresses)
        self.timeout_s = timeout_s
        self._secrets = secrets
        self._peers: dict[str, Peer] = {}
        self._login = asyncio.Lock()
        self._open = False

    def __str__(self) -> str:
        return f"etcd at {', '.join(self.addresses)}"

    def open(self) -> None:
        self._open = True

    async def close(self) -> None:
        """Ends all that is under way; a second call does nothing."""
        self._open = False
        peers, self._peers = list(self._peers.values()), {}
        for peer in peers:
            await peer.close()

    async def ask(
        self, method: Callable[[Peer], Callable[..., Any]], request: Any, *, changes: bool = False
    ) -> Any:
        """The answer of the first member that has one.

        Args:
            changes: whether the request may change something. It is then sent once only.

        Raises:
            StoreUnavailable: none has answered; see its `unknown`.
            StoreError: it was refused.
            LeaseLost: it names a lease that is not there.
        """
        until = time.monotonic() + self.timeout_s
        tries = 1 if changes else max(2, len(self.addresses))
        while True:
            peer = await self.reach(until)
            token = peer.token
            try:
                left_s = max(until - time.monotonic(), 0.001)
                return await self._within(peer, method, request, left_s)
            except StoreUnavailable as error:
                tries -= 1
                if not tries or time.monotonic() >= until:
                    error.unknown = changes
                    raise
            except _TokenRefused:
                if token == peer.token:
                    peer.token = None
                if time.monotonic() >= until:
                    raise StoreUnavailable(f"{self} takes none of its own tokens") from None

    async def _within(
        self, peer: Peer, method: Callable[[Peer], Callable[..., Any]], request: Any, left_s: float
    ) -> Any:
        try:
            # Its own timeout comes a little late when the loop is busy.
            async with asyncio.timeout(left_s + 0.5):
                return await method(peer)(request, timeout=left_s, metadata=peer.metadata)
        except (grpc.aio.AioRpcError, TimeoutError, *CLOSED) as error:
            raise await self.failed(peer, error) from None

    async def reach(self, until: float | None = None) -> Peer:
        """A member that there is a connection to, logged in; the one that answered last first.

        Args:
            until: by the monotonic clock; None: the time of a call from now.

        Raises:
            StoreUnavailable: there is none; nothing was asked of any.
            StoreError: the password is wrong.
        """
        if until is None:
            until = time.monotonic() + self.timeout_s
        reasons = []
        for number, address in enumerate(list(self.addresses)):
            if not self._open:
                raise StoreUnavailable(f"the store, {self}, is not open")
            peer = await self._peer(address)
            share_s = (until - time.monotonic()) / (len(self.addresses) - number)
            if share_s > 0 and await peer.reach(share_s):
                self._prefer(address)
                await self._log_in(peer, until)
                return peer
            reasons.append(f"{address}: {await peer.reason()}")
        raise StoreUnavailable(f"etcd cannot be reached: {'; '.join(reasons)}")

    async def _peer(self, address: str) -> Peer:
        """One that has failed before is replaced: it would wait before it tries again."""
        old = self._peers.get(address)
        if old is not None and not old.has_failed:
            return old
        peer = self._peers[address] = Peer(address, self._secrets)
        if old is not None:
            await old.close()
        return peer

    def _prefer(self, address: str) -> None:
        if self.addresses[0] != address:
            self.addresses.remove(address)
            self.addresses.insert(0, address)

    async def _log_in(self, peer: Peer, until: float) -> None:
        if self._secrets.user is None:
            return
        async with self._login:  # once, for all who wait for it
            if peer.token is not None:
                return
            name, password = self._secrets.user
            request = rpc.AuthenticateRequest(name=name, password=password)
            left_s = max(until - time.monotonic(), 0.001)
            try:
                peer.token = (await peer.auth.Authenticate(request, timeout=left_s)).token
            except (grpc.aio.AioRpcError, *CLOSED) as error:
                words = _words(error) if isinstance(error, grpc.aio.AioRpcError) else ""
                if "authentication is not enabled" in words:
                    peer.token = ""  # whoever comes is let in
                elif "authentication failed" in words:
                    raise StoreError(
                        f"{self} does not let user {name} in: see the name and the password"
                    ) from None
                else:
                    raise await self.failed(peer, error) from None

    async def failed(self, peer: Peer, error: BaseException) -> BaseException:
        """What an exception out of a call means; the connection goes when it may be dead."""
        if isinstance(error, CLOSED):
            if _is_ours(error):
                return error
            return StoreUnavailable(f"the connection to {self} was closed")
        if isinstance(error, TimeoutError):
            await self._drop(peer)
            return StoreUnavailable(f"{self} has not answered for {self.timeout_s:g} s")
        assert isinstance(error, grpc.aio.AioRpcError), error
        code, words = error.code(), _words(error)
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            await self._drop(peer)
            return StoreUnavailable(f"{self} has not answered for {self.timeout_s:g} s")
        if any(each in words for each in _TOKEN_WORDS) and self._secrets.user is not None:
            return _TokenRefused()
        if code == grpc.StatusCode.NOT_FOUND and "lease not found" in words:
            return LeaseLost("the lease has ended: join again")
        if "user name is empty" in words:
            return StoreError(f"{self} wants a user and a password: give their file")
        if code == grpc.StatusCode.PERMISSION_DENIED:
            return StoreError(f"{self} does not let this user at the store's keys: grant it")
        if code in _REFUSALS or "larger than max" in words:
            return StoreError(f"{self} refused: {words}")
        return StoreUnavailable(f"{self} failed: {words}")

    async def _drop(self, peer: Peer) -> None:
        """What does not answer may never again: the next call makes a new connection."""
        if self._peers.get(peer.address) is peer:
            del self._peers[peer.address]
            self.addresses.append(self.addresses.pop(self.addresses.index(peer.address)))
        await peer.close()


class _TokenRefused(Exception):
    """The token has run out, or the server has forgotten it: nothing was done."""


def _is_ours(error: BaseException) -> bool:
    """Whether it is this task that is cancelled, and not the connection that was closed."""
    task = asyncio.current_task()
    cancelled = isinstance(error, asyncio.CancelledError)
    return cancelled and task is not None and task.cancelling() > 0


def _words(error: grpc.aio.AioRpcError) -> str:
    """What the server, or the library, says; the last cause when it tells many."""
    text = str(error.details() or error.code().name)
    return text.rpartition("last error: ")[2].removeprefix("etcdserver: ").rstrip(".")
