"""Stores to test: a file and a server, each as a place where stores are opened, lost and found."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aetcd import rpc

from vhostnvme.cluster.store import open_store
from vhostnvme.cluster.store.base import Put, Store
from vhostnvme.cluster.store.etcd import EtcdStore
from vhostnvme.cluster.store.sqlite import SqliteStore
from vhostnvme.testing.etcd import EtcdServer

KINDS = ("sqlite", "etcd")


class Place(ABC):
    """Where a store is. Each `opened` is one client more.

    Attributes:
        ttl_s: the shortest lease, in seconds.
    """

    url: str
    ttl_s: float

    def __init__(self) -> None:
        self.prefix = f"/test-{uuid.uuid4().hex}/"
        self._stack = AsyncExitStack()

    async def opened(self, prefix: str | None = None) -> Store:
        store = self.client(prefix or self.prefix)
        await self._stack.enter_async_context(store)
        return store

    def client(self, prefix: str) -> Store:
        return open_store(self.url, prefix, timeout_s=2)

    async def close(self) -> None:
        await self._stack.aclose()

    @abstractmethod
    def lose(self) -> None:
        """The store goes away, without a word."""

    @abstractmethod
    def find(self) -> None:
        """It is back, with all that it has acknowledged."""

    @abstractmethod
    async def forget(self, store: Store) -> None:
        """Makes it not keep the changes up to now; puts the key `forget`."""


class SqlitePlace(Place):
    ttl_s = 0.4

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.url = f"sqlite://{path}"

    def lose(self) -> None:
        self.path.parent.rename(self.path.parent.with_suffix(".away"))

    def find(self) -> None:
        self.path.parent.with_suffix(".away").rename(self.path.parent)

    async def forget(self, store: Store) -> None:
        async with SqliteStore(self.path, prefix=self.prefix, events_max=1) as forgetful:
            await forgetful.txn((), [Put("forget", b"")])


class EtcdPlace(Place):
    ttl_s = 1.0

    def __init__(self, server: EtcdServer) -> None:
        super().__init__()
        self.server = server
        self.url = server.url

    def lose(self) -> None:
        self.server.kill()

    def find(self) -> None:
        self.server.restart()

    async def forget(self, store: Store) -> None:
        assert isinstance(store, EtcdStore)
        now = (await store.txn((), [Put("forget", b"")])).revision
        await store._link.ask(
            lambda peer: peer.kv.Compact, rpc.CompactionRequest(revision=now, physical=True)
        )


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture(params=KINDS)
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    made: Place
    if request.param == "sqlite":
        folder = tmp_path / "shared"
        folder.mkdir()
        made = SqlitePlace(folder / "cluster.db")
    else:
        server = request.getfixturevalue("etcd_server")
        if not server.alive:
            server.restart()
        made = EtcdPlace(server)
    yield made
    await made.close()


@pytest.fixture
async def store(place: Place) -> Store:
    return await place.opened()
