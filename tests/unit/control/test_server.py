"""The control socket: requests, refusals and bounds, on a server in this process."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhostnvme.control import client, messages
from vhostnvme.control.paths import control_path, find_control
from vhostnvme.control.server import CONNECTIONS_MAX, ControlServer
from vhostnvme.errors import ConfigError, NativeError, NoSpace, PeerError, ProtocolError


class Word(msgspec.Struct, forbid_unknown_fields=True):
    word: str
    times: int = 1


def shout(params: Word) -> dict[str, str]:
    if params.word == "config":
        raise ConfigError("not this word")
    if params.word == "failed":
        raise NativeError(5, "it broke")
    if params.word == "full":
        raise NoSpace("no space")
    if params.word == "bug":
        raise KeyError("bug")
    return {"said": params.word.upper() * params.times}


async def shout_later(params: Word) -> dict[str, str]:
    await asyncio.sleep(0)
    return shout(params)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vn-") as name:
        yield Path(name)


@asynccontextmanager
async def running(folder: Path, **options: Any) -> AsyncIterator[Path]:
    server = ControlServer(folder / "control", **options)
    server.register("shout", Word, shout)
    server.register("shout.later", Word, shout_later)
    async with server:
        yield server.path


class Peer:
    """Speaks raw lines."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path) -> Peer:
        return cls(*await asyncio.open_unix_connection(path))

    async def ask(self, line: bytes) -> dict[str, Any]:
        self.writer.write(line)
        answer: dict[str, Any] = json.loads(await self.reader.readline())
        return answer

    async def ended(self) -> bool:
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True


def request(method: str = "shout", **params: object) -> bytes:
    return json.dumps({"id": 3, "method": method, "params": params}).encode() + b"\n"


async def test_requests_are_answered_one_after_the_other(folder: Path) -> None:
    async with running(folder) as path:
        peer = await Peer.connect(path)
        for method in ("shout", "shout.later"):
            answer = await peer.ask(request(method, word="a", times=3))
            assert answer == {"version": 1, "id": 3, "result": {"said": "AAA"}}
        peer.writer.write(request(word="x") + request(word="y"))
        for letter in "XY":
            assert json.loads(await peer.reader.readline())["result"]["said"] == letter


@pytest.mark.parametrize(
    ("line", "code", "part"),
    [
        (b"hello\n", "protocol", "not understood"),
        (b"\n", "protocol", "not understood"),
        (b"\xff\xfe\n", "protocol", "not understood"),
        (b"[]\n", "protocol", "Expected `object`"),
        (b'{"params": {}}\n', "protocol", "method"),
        (b'{"method": "shout", "more": 1}\n', "protocol", "more"),
        (b'{"method": "shout", "version": 2}\n', "protocol", "version 2"),
        (b'{"method": "whisper"}\n', "method", "shout, shout.later"),
        (request(), "protocol", "word"),
        (request(word=1), "protocol", "word"),
        (request(word="a", loud=True), "protocol", "loud"),
        (b"[" * 2000 + b"]" * 2000 + b"\n", "protocol", "16 deep"),
        (b'{"method": "shout", "params": ' + b'{"a":' * 17 + b"1" + b"}" * 18 + b"\n",
         "protocol", "16 deep"),
        (request(word="config"), "config", "not this word"),
        (request(word="failed"), "failed", "it broke"),
        (request(word="full"), "no-space", "no space"),
        (request(word="bug"), "failed", "see the server's log"),
    ],
)  # fmt: skip
async def test_what_is_wrong_gets_an_error_and_the_connection_lives(
    folder: Path, line: bytes, code: str, part: str
) -> None:
    async with running(folder) as path:
        peer = await Peer.connect(path)
        answer = await peer.ask(line)
        assert answer["error"]["code"] == code
        assert part in answer["error"]["message"]
        assert "result" not in answer
        assert (await peer.ask(request(word="a")))["result"] == {"said": "A"}


async def test_brackets_in_strings_are_no_depth(folder: Path) -> None:
    async with running(folder) as path:
        peer = await Peer.connect(path)
        assert (await peer.ask(request(word='[{"' * 40)))["result"]["said"] == '[{"' * 40


async def test_a_line_without_end_is_cut_off(folder: Path) -> None:
    async with running(folder) as path:
        peer = await Peer.connect(path)
        answer = await peer.ask(b"x" * (messages.LINE_BYTES_MAX + 1))
        assert "bytes at most" in answer["error"]["message"]
        assert await peer.ended()


async def test_a_connection_that_says_nothing_is_closed(folder: Path) -> None:
    async with running(folder, idle_s_max=0.05) as path:
        peer = await Peer.connect(path)
        assert await peer.ended()
        half = await Peer.connect(path)
        half.writer.write(b'{"method"')
        assert await half.ended()


async def test_connections_have_a_bound(folder: Path) -> None:
    async with running(folder) as path:
        peers = [await Peer.connect(path) for _ in range(CONNECTIONS_MAX)]
        for peer in peers:
            await peer.ask(request(word="a"))
        late = await Peer.connect(path)
        assert json.loads(await late.reader.readline())["error"]["code"] == "busy"
        assert await late.ended()
        peers[0].writer.close()
        await peers[0].writer.wait_closed()
        assert (await peers[1].ask(request(word="a")))["result"]


async def test_the_end_closes_connections_and_removes_the_socket(folder: Path) -> None:
    async with running(folder) as path:
        peer = await Peer.connect(path)
        await peer.ask(request(word="a"))
    assert await peer.ended()
    assert list(folder.iterdir()) == []


async def test_the_socket_is_its_owners_alone(folder: Path) -> None:
    old = os.umask(0)
    try:
        async with running(folder) as path:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert os.umask(0) == 0
    finally:
        os.umask(old)


async def test_a_stale_socket_is_replaced_and_nothing_else(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "control"))
    async with running(folder):
        with pytest.raises(ConfigError, match="in use by another server"):
            async with running(folder):
                pass
        assert (folder / "control").is_socket()
    (folder / "control").write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        async with running(folder):
            pass
    with pytest.raises(ConfigError, match="longer than"):
        await ControlServer(folder / ("x" * 108)).start()


# --- the client ---


async def test_the_client_gets_answers_and_exceptions(folder: Path) -> None:
    async with running(folder) as path:

        def talk() -> None:
            with client.ControlClient(path) as one:
                for _ in range(2):
                    said = one.call("shout", Word("a"), dict[str, str])
                    assert said == {"said": "A"}
                with pytest.raises(ConfigError, match="not this word"):
                    one.call("shout", Word("config"), dict[str, str])
                with pytest.raises(PeerError, match="it broke"):
                    one.call("shout", Word("failed"), dict[str, str])
                with pytest.raises(PeerError, match="no method"):
                    one.call("whisper", Word("a"), dict[str, str])
                with pytest.raises(ProtocolError, match="Expected `array`"):
                    one.call("shout", Word("a"), list[int])

        await asyncio.to_thread(talk)


def test_a_server_that_is_not_there(folder: Path) -> None:
    with pytest.raises(PeerError, match="no server answers on control socket"):
        client.call(folder / "control", "shout", Word("a"), dict[str, str])


def test_a_server_that_does_not_answer(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(folder / "control"))
        deaf.listen(1)
        with (
            client.ControlClient(folder / "control", timeout_s=0.05) as one,
            pytest.raises(PeerError, match="time"),
        ):
            one.call("shout", Word("a"), dict[str, str])


# --- messages and paths ---


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_request_or_a_protocol_error(data: bytes) -> None:
    try:
        messages.decode(data, messages.Request)
    except ProtocolError as error:
        assert "\n" not in str(error)


def test_where_the_control_socket_is(folder: Path) -> None:
    assert control_path(Path("/run/d/cntrl")) == Path("/run/d/control")
    assert control_path(Path("/run/d/vm1")) == Path("/run/d/vm1.control")
    assert find_control(folder) == folder / "control"
    assert find_control(Path("/run/d/cntrl")) == Path("/run/d/control")
    assert find_control(Path("/run/d/control")) == Path("/run/d/control")
    assert find_control(Path("/run/d/vm1")) == Path("/run/d/vm1.control")
    assert find_control(Path("/run/d/vm1.control")) == Path("/run/d/vm1.control")
