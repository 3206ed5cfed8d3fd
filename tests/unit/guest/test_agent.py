"""The agent and its client together, on the host, over a socket pair."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from subprocess import Popen

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhostnvme.errors import GuestError, ProtocolError
from vhostnvme.guest.protocol import (
    HELLO_MAGIC,
    SYNC_MAGIC,
    WINDOW_BYTES,
    AgentLink,
    Channel,
    Frame,
    FrameParser,
    FrameType,
    encode_frame,
)

HELLO = encode_frame(0, FrameType.HELLO, HELLO_MAGIC + struct.pack("<I", 1500))


@contextmanager
def running_agent(binary: Path) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, Popen([binary, "--fd", str(theirs.fileno())], pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        try:
            yield ours
        finally:
            process.kill()


@asynccontextmanager
async def linked(binary: Path) -> AsyncIterator[AgentLink]:
    with running_agent(binary) as ours:
        link = AgentLink(*await asyncio.open_connection(sock=ours.dup()))
        async with asyncio.timeout(30):
            await link.wait_ready()
            try:
                yield link
            finally:
                await link.close()


async def collect(channel: Channel) -> dict[FrameType, bytes]:
    parts = {FrameType.STDOUT: b"", FrameType.STDERR: b""}
    async for kind, data in channel.output():
        parts[kind] += data
    return parts


async def test_output_and_exit_code(agent_binary: Path) -> None:
    async with linked(agent_binary) as link:
        channel = link.open("echo out; echo err >&2; exit 3")
        assert await collect(channel) == {FrameType.STDOUT: b"out\n", FrameType.STDERR: b"err\n"}
        assert channel.exit_code == 3


async def test_environment_and_input(agent_binary: Path) -> None:
    async with linked(agent_binary) as link:
        channel = link.open('printf "%s:" "$WORD"; cat', env={"WORD": "a b=c"})
        await channel.write(b"in")
        channel.close_input()
        assert (await collect(channel))[FrameType.STDOUT] == b"a b=c:in"


async def test_more_than_every_window_both_ways(agent_binary: Path) -> None:
    data = bytes(range(256)) * 8192
    assert len(data) > 4 * WINDOW_BYTES

    async def feed(channel: Channel) -> None:
        await channel.write(data)
        channel.close_input()

    async with linked(agent_binary) as link:
        channel = link.open("cat")
        feeder = asyncio.create_task(feed(channel))
        assert (await collect(channel))[FrameType.STDOUT] == data
        await feeder


async def test_a_command_that_nobody_reads_stops_nothing_else(agent_binary: Path) -> None:
    async with linked(agent_binary) as link:
        unread = link.open("yes")
        for _ in range(3):
            other = link.open("seq 50000")
            assert len((await collect(other))[FrameType.STDOUT]) == 288894
        unread.kill(signal.SIGKILL)
        async for _ in unread.output():
            pass
        assert unread.exit_code == 128 + signal.SIGKILL


async def test_many_at_once(agent_binary: Path) -> None:
    async with linked(agent_binary) as link:
        channels = [link.open(f"sleep 0.1; exit {code}") for code in range(40)]
        await asyncio.gather(*(collect(channel) for channel in channels))
        assert [channel.exit_code for channel in channels] == list(range(40))


async def test_one_too_many_is_refused(agent_binary: Path) -> None:
    async with linked(agent_binary) as link:
        held = [link.open("cat") for _ in range(64)]
        with pytest.raises(GuestError, match="too many"):
            await collect(link.open("true"))
        for channel in held:
            channel.close_input()
        await asyncio.gather(*(collect(channel) for channel in held))
        assert (await collect(link.open("echo again")))[FrameType.STDOUT] == b"again\n"


async def test_kill_reaches_what_the_command_started(agent_binary: Path) -> None:
    async with linked(agent_binary) as link:
        channel = link.open("sleep 60 & sleep 60")
        await asyncio.sleep(0.2)
        channel.kill()
        await collect(channel)
        assert channel.exit_code == 128 + signal.SIGTERM


async def test_a_child_in_the_background_does_not_hold_the_command(agent_binary: Path) -> None:
    async with linked(agent_binary) as link:
        channel = link.open("sleep 5 & echo done")
        async with asyncio.timeout(3):
            assert (await collect(channel))[FrameType.STDOUT] == b"done\n"


async def test_a_terminal_has_a_size(agent_binary: Path) -> None:
    async with linked(agent_binary) as link:
        channel = link.open("sleep 0.2; stty size; test -t 0", pty=True)
        channel.resize(33, 77)
        assert (await collect(channel))[FrameType.STDOUT].strip() == b"33 77"
        assert channel.exit_code == 0


async def test_the_agents_death_ends_commands_with_an_error(agent_binary: Path) -> None:
    async with linked(agent_binary) as link:
        with pytest.raises(GuestError, match="gone"):
            await collect(link.open("kill -9 $PPID; sleep 5"))


def test_noise_before_the_greetings_answer_is_ignored(agent_binary: Path) -> None:
    with running_agent(agent_binary) as ours:
        ours.settimeout(5)
        assert HELLO_MAGIC in ours.recv(100)
        ours.sendall(b"\xff" * 200000 + SYNC_MAGIC[:7] + b"noise" + SYNC_MAGIC)
        ours.sendall(encode_frame(9, FrameType.EXEC, b"\0true\0"))
        assert FrameParserSynced().feed(ours.recv(1000)) == [Frame(9, FrameType.EXIT, b"\0" * 4)]


class FrameParserSynced:
    """A parser past its greeting."""

    def __init__(self) -> None:
        self._parser = FrameParser()
        list(self._parser.feed(HELLO))

    def feed(self, data: bytes) -> list[Frame]:
        return list(self._parser.feed(data))


@given(
    st.binary(max_size=100).filter(lambda noise: HELLO_MAGIC not in noise),
    st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=300)), max_size=5),
    st.integers(1, 50),
)
def test_frames_survive_any_cutting(
    noise: bytes, wanted: list[tuple[int, bytes]], size: int
) -> None:
    stream = noise + HELLO
    stream += b"".join(encode_frame(number, FrameType.STDOUT, data) for number, data in wanted)
    parser = FrameParser()
    found: list[Frame] = []
    for start in range(0, len(stream), size):
        found += parser.feed(stream[start : start + size])
    assert found[0].type is FrameType.HELLO
    assert [(frame.channel, frame.payload) for frame in found[1:]] == wanted


@pytest.mark.parametrize(
    "junk", [struct.pack("<IHBB", 1 << 31, 0, 0x81, 0), struct.pack("<IHBB", 0, 0, 0x77, 0)]
)
def test_nonsense_is_an_error(junk: bytes) -> None:
    with pytest.raises(ProtocolError):
        FrameParserSynced().feed(junk)
