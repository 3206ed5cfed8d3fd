"""The etcd store: who is let in, what is said when not, and what a silent server leaves unknown."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import grpc.aio
import pytest
from aetcd import rpc

from vhostnvme.cluster.store import EtcdAccess, open_store
from vhostnvme.cluster.store.base import PREFIX, Put
from vhostnvme.cluster.store.etcd import FORMAT_KEY, EtcdStore
from vhostnvme.errors import Disconnected, StoreError, StoreUnavailable
from vhostnvme.testing.etcd import EtcdServer

LONG_S = 60


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    return f"/{tmp_path.name}/"


@pytest.fixture(scope="module")
def guarded() -> Iterator[EtcdServer]:
    """A server with TLS, certificates of clients, and passwords."""
    with EtcdServer(tls=True, password=True) as server:
        yield server


def access_of(server: EtcdServer) -> EtcdAccess:
    files = {name: Path(path) for name, [path] in parse_qs(urlsplit(server.url).query).items()}
    return EtcdAccess(
        ca=files["ca"], cert=files["cert"], key=files["key"], credentials=files["credentials"]
    )


async def refusal(store: EtcdStore) -> str:
    with pytest.raises(StoreError) as error:
        await store.open()
    assert "\n" not in str(error.value)
    await store.close()
    return f"{type(error.value).__name__}: {error.value}"


@asynccontextmanager
async def silent(server: EtcdServer) -> AsyncIterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


async def test_with_certificates_and_a_password(guarded: EtcdServer) -> None:
    async with open_store(guarded.url) as store:
        lease = await store.grant(LONG_S)
        now = (await store.txn([], [Put("a", b"1", lease.id)])).revision
        assert await store.keep_alive(lease.id) == LONG_S
        assert set(await store.remaining([lease.id])) == {lease.id}
        async with aclosing(store.watch(["a"], now)) as watch:
            hearing = asyncio.create_task(anext(watch))
            await store.revoke(lease.id)
            assert [change.value for change in await hearing] == [None]


async def test_a_token_that_the_server_has_forgotten_is_renewed(guarded: EtcdServer) -> None:
    """It keeps them in its memory. Whatever is asked first gets a new one."""
    async with open_store(guarded.url) as store:
        for first in ("txn", "watch"):
            now = (await store.txn([], [Put("a", b"1")])).revision
            guarded.kill()
            guarded.restart()
            if first == "watch":
                for _ in range(2):
                    try:
                        async with aclosing(store.watch(["a"], now - 1)) as watch:
                            assert len(await anext(watch)) == 1
                        break
                    except Disconnected:
                        continue
                else:
                    pytest.fail("the watch never got a new token")
            await store.txn([], [Put("a", b"2")])


async def test_a_user_with_a_file_for_the_password_alone(
    guarded: EtcdServer, tmp_path: Path
) -> None:
    access = access_of(guarded)
    assert access.credentials is not None
    user, _, password = access.credentials.read_text().strip().partition(":")
    file = tmp_path / "password"
    file.touch(0o600)
    file.write_text(password)
    async with EtcdStore([guarded.endpoint], replace(access, user=user, credentials=file)) as store:
        assert await store.get("none") is None


async def test_who_is_not_let_in(guarded: EtcdServer, tmp_path: Path) -> None:
    access, endpoint = access_of(guarded), guarded.endpoint
    wrong = tmp_path / "wrong"
    wrong.touch(0o600)
    wrong.write_text("card:wrong")
    text = await refusal(EtcdStore([endpoint], replace(access, credentials=wrong)))
    assert text.startswith("StoreError: etcd at")
    assert "does not let user card in" in text
    text = await refusal(EtcdStore([endpoint], access, prefix="/of another/"))
    assert "does not let this user at the store's keys" in text
    with EtcdServer(tls=True) as other:
        stranger = access_of_tls(other)
        text = await refusal(EtcdStore([endpoint], stranger, timeout_s=1))
        assert "StoreUnavailable" in text
        assert "CERTIFICATE_VERIFY_FAILED" in text
    text = await refusal(EtcdStore([endpoint], replace(access, cert=None, key=None), timeout_s=1))
    assert "StoreUnavailable" in text
    text = await refusal(EtcdStore([endpoint], timeout_s=1))
    assert "StoreUnavailable" in text


async def test_who_has_no_password_and_no_certificate() -> None:
    with EtcdServer(password=True) as server:
        assert "wants a user and a password" in await refusal(EtcdStore([server.endpoint]))
        async with open_store(server.url) as store:
            assert await store.get("none") is None


def access_of_tls(server: EtcdServer) -> EtcdAccess:
    files = {name: Path(path) for name, [path] in parse_qs(urlsplit(server.url).query).items()}
    return EtcdAccess(ca=files["ca"], cert=files["cert"], key=files["key"])


async def test_a_password_that_nobody_asks_for(
    etcd_server: EtcdServer, tmp_path: Path, prefix: str
) -> None:
    file = tmp_path / "credentials"
    file.touch(0o600)
    file.write_text("card:any")
    access = EtcdAccess(credentials=file)
    async with EtcdStore([etcd_server.endpoint], access, prefix=prefix) as store:
        assert await store.get("none") is None


async def test_nobody_there(prefix: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    text = await refusal(EtcdStore([f"127.0.0.1:{port}"], prefix=prefix, timeout_s=1))
    assert f"StoreUnavailable: etcd cannot be reached: 127.0.0.1:{port}: " in text
    assert "Connection refused" in text
    text = await refusal(EtcdStore([f"host.invalid:{port}"], prefix=prefix, timeout_s=1))
    assert "StoreUnavailable: etcd cannot be reached: host.invalid" in text


async def test_somebody_else_there(prefix: str) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(mute, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        text = await refusal(EtcdStore([f"127.0.0.1:{port}"], prefix=prefix, timeout_s=0.5))
        assert f"StoreUnavailable: etcd cannot be reached: 127.0.0.1:{port}: " in text


async def test_of_several_servers_one_is_enough(etcd_server: EtcdServer, prefix: str) -> None:
    with EtcdServer() as other, socket.create_server(("127.0.0.1", 0)) as mute:
        away = f"127.0.0.1:{mute.getsockname()[1]}"
        addresses = [away, other.endpoint, etcd_server.endpoint]
        async with EtcdStore(addresses, prefix=prefix, timeout_s=1.5) as store:
            now = (await store.txn([], [Put("a", b"1")])).revision
            watch = store.watch(["a"], now - 1)
            assert len(await anext(watch)) == 1
            hearing = asyncio.create_task(anext(watch))
            other.kill()
            with pytest.raises(Disconnected):
                await hearing
            await store.txn([], [Put("b", b"2")])
            assert [entry.key for entry in (await store.list("a", "b")).entries] == ["b"]


async def test_of_another_version() -> None:
    class Old(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            assert details.method == "/etcdserverpb.Maintenance/Status"
            return grpc.unary_unary_rpc_method_handler(
                self.status,
                rpc.StatusRequest.FromString,
                rpc.StatusResponse.SerializeToString,
            )

        async def status(self, request: object, context: object) -> rpc.StatusResponse:
            return rpc.StatusResponse(version="3.3.27")

    server = grpc.aio.server()
    server.add_generic_rpc_handlers([Old()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    text = await refusal(EtcdStore([f"127.0.0.1:{port}"]))
    await server.stop(None)
    assert text.endswith("is of version 3.3.27: it must be 3.4 or newer")


async def test_records_of_another_version(etcd_server: EtcdServer, prefix: str) -> None:
    async with EtcdStore([etcd_server.endpoint], prefix=prefix) as store:
        await store.txn([], [Put(FORMAT_KEY, b"2")])
    text = await refusal(EtcdStore([etcd_server.endpoint], prefix=prefix))
    assert f"the store under {prefix} of etcd at" in text
    assert "is of version '2', and this program of version '1'" in text


async def test_what_a_silent_server_does_is_not_known(etcd_server: EtcdServer, prefix: str) -> None:
    async with EtcdStore([etcd_server.endpoint], prefix=prefix, timeout_s=0.5) as store:
        now = (await store.txn([], [Put("a", b"1")])).revision
        hearing = asyncio.create_task(anext(store.watch(["b"], now)))
        await asyncio.sleep(0.05)
        async with silent(etcd_server):
            with pytest.raises(StoreUnavailable, match="has not answered for") as error:
                await store.txn([], [Put("a", b"2")])
            assert error.value.unknown
            # Its connection may be dead, and with it the watches on it.
            with pytest.raises(Disconnected):
                await hearing
            # Nothing has been sent to a server that does not even greet.
            with pytest.raises(StoreUnavailable, match="cannot be reached") as error:
                await store.txn([], [Put("a", b"3")])
            assert not error.value.unknown
        entry = await store.get("a")
        assert entry is not None
        assert entry.value in (b"1", b"2")


async def test_a_call_that_is_cancelled_is_cancelled(etcd_server: EtcdServer, prefix: str) -> None:
    async with EtcdStore([etcd_server.endpoint], prefix=prefix, timeout_s=5) as store:
        async with silent(etcd_server):
            calls = [
                asyncio.create_task(store.txn([], [Put("a", b"")])),
                asyncio.create_task(store.keep_alive(1)),
                asyncio.create_task(anext(store.watch(["a"], 1))),
            ]
            await asyncio.sleep(0.05)
            for call in calls:
                call.cancel()
            for call in calls:
                with pytest.raises(asyncio.CancelledError):
                    await call
        await store.txn([], [Put("a", b"")])


async def test_a_transaction_that_is_too_large(etcd_server: EtcdServer, prefix: str) -> None:
    async with EtcdStore([etcd_server.endpoint], prefix=prefix) as store:
        for count, words in ((2, "too large"), (3, "larger than max")):
            many = [Put(f"{number}", bytes(1000 * 1000)) for number in range(count)]
            with pytest.raises(StoreError, match=words) as error:
                await store.txn([], many)
            assert not isinstance(error.value, StoreUnavailable)
        assert (await store.list("0", "1", "2")).entries == ()


async def test_leases_have_whole_seconds_and_no_less_than_the_server_wants(
    etcd_server: EtcdServer, prefix: str
) -> None:
    async with EtcdStore([etcd_server.endpoint], prefix=prefix) as store:
        assert [(await store.grant(ttl_s)).ttl_s for ttl_s in (0.1, 1, 1.5)] == [1, 1, 2]
    assert PREFIX.endswith("/")


async def test_many_tasks_at_a_server_that_is_away(prefix: str) -> None:
    """One that closed a failed connection cancelled the calls of the others, or broke them."""
    with EtcdServer() as server:
        async with open_store(server.url, prefix, timeout_s=1.0) as store:
            server.kill()

            async def ask(number: int) -> object:
                await asyncio.sleep(number * 0.003)
                try:
                    return await store.list("a/")
                except (Exception, asyncio.CancelledError) as error:
                    return type(error)

            for _ in range(10):
                ended = await asyncio.gather(*(ask(number) for number in range(40)))
                assert set(ended) == {StoreUnavailable}
