"""The host's end of the stream to the agent in the guest, images/agent.c; frames: images/README.md.

One stream carries many commands: each frame names its channel. Flow is by credit, in both
directions and per channel: a command whose output nobody reads stops, and nothing else does.
"""

from __future__ import annotations

import asyncio
import enum
import signal
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

from vhostnvme.errors import GuestError, ProtocolError

HELLO_MAGIC = b"vhostnvme-hello1"
SYNC_MAGIC = b"vhostnvme-sync01"
HEADER = struct.Struct("<IHBB")
PAYLOAD_BYTES_MAX = 65536
WINDOW_BYTES = 262144
STDIN_WINDOW_BYTES = 65536
STDIN_CHUNK_BYTES = 16384
EXEC_PTY = 1


class FrameType(enum.IntEnum):
    EXEC = 1
    STDIN = 2
    KILL = 3
    CREDIT = 4
    RESIZE = 5
    HELLO = 0x80
    STDOUT = 0x81
    STDERR = 0x82
    EXIT = 0x83
    ERROR = 0x84


@dataclass(frozen=True)
class Frame:
    channel: int
    type: FrameType
    payload: bytes


def encode_frame(channel: int, kind: FrameType, payload: bytes = b"") -> bytes:
    return HEADER.pack(len(payload), channel, kind, 0) + payload


class FrameParser:
    """Bytes in, frames out. Skips to a greeting first: a reboot leaves half a frame behind."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._synced = False

    def restart(self) -> None:
        """The guest was reset: what follows is noise until the next greeting."""
        self._synced = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yields the frames that are complete now. Raises ProtocolError on nonsense."""
        self._data += data
        while True:
            if not self._synced and not self._find_hello():
                return
            if len(self._data) < HEADER.size:
                return
            length, channel, kind, _ = HEADER.unpack_from(self._data)
            if length > PAYLOAD_BYTES_MAX:
                raise ProtocolError(f"The guest's agent sent a frame of {length} bytes.")
            if len(self._data) < HEADER.size + length:
                return
            payload = bytes(self._data[HEADER.size : HEADER.size + length])
            del self._data[: HEADER.size + length]
            try:
                frame = Frame(channel, FrameType(kind), payload)
            except ValueError:
                raise ProtocolError(f"The guest's agent sent a frame of type {kind:#x}.") from None
            yield frame

    def _find_hello(self) -> bool:
        at = self._data.find(HELLO_MAGIC)
        if at < HEADER.size:
            # Keep what may be the beginning of a greeting.
            del self._data[: max(0, len(self._data) - HEADER.size - len(HELLO_MAGIC))]
            return False
        del self._data[: at - HEADER.size]
        self._synced = True
        return True


class Channel:
    """One command in the guest."""

    def __init__(self, link: AgentLink, number: int) -> None:
        self._link = link
        self.number = number
        self._items: asyncio.Queue[tuple[FrameType, bytes] | None] = asyncio.Queue()
        self._stdin_credit = STDIN_WINDOW_BYTES
        self._stdin_ready = asyncio.Event()
        self.exit_code: int | None = None
        self.failure: Exception | None = None

    async def output(self) -> AsyncIterator[tuple[FrameType, bytes]]:
        """What the command writes, as (STDOUT or STDERR, bytes), until it has ended.

        Raises GuestError when the guest goes away or the command could not be started.
        """
        while (item := await self._items.get()) is not None:
            kind, data = item
            yield kind, data
            self._link.send(self.number, FrameType.CREDIT, struct.pack("<I", len(data)))
        if self.failure:
            raise self.failure

    async def write(self, data: bytes) -> None:
        """Gives input to the command; waits while the command does not read."""
        view = memoryview(data)
        while view and self.exit_code is None and self.failure is None:
            if self._stdin_credit == 0:
                self._stdin_ready.clear()
                await self._stdin_ready.wait()
                continue
            part = view[: min(self._stdin_credit, STDIN_CHUNK_BYTES)]
            self._stdin_credit -= len(part)
            self._link.send(self.number, FrameType.STDIN, bytes(part))
            await self._link.drain()
            view = view[len(part) :]

    def close_input(self) -> None:
        """The end of the command's input."""
        self._link.send(self.number, FrameType.STDIN)

    def kill(self, number: int = signal.SIGTERM) -> None:
        """Sends a signal to the command and all it started."""
        self._link.send(self.number, FrameType.KILL, bytes([number]))

    def resize(self, rows: int, columns: int) -> None:
        """Tells the command's terminal its size."""
        self._link.send(self.number, FrameType.RESIZE, struct.pack("<HH", rows, columns))

    def take(self, frame: Frame) -> bool:
        """Handles a frame of this channel; returns whether it was the last."""
        if frame.type in (FrameType.STDOUT, FrameType.STDERR):
            self._items.put_nowait((frame.type, frame.payload))
            return False
        if frame.type is FrameType.CREDIT:
            self._stdin_credit += struct.unpack("<I", frame.payload)[0]
            self._stdin_ready.set()
            return False
        if frame.type is FrameType.EXIT:
            self.exit_code = struct.unpack("<i", frame.payload)[0]
            self._end()
            return True
        if frame.type is FrameType.ERROR:
            text = frame.payload.decode(errors="replace")
            self.fail(GuestError(f"The guest could not start the command: {text}."))
            return True
        raise ProtocolError(f"The guest's agent sent an unexpected {frame.type.name}.")

    def fail(self, failure: Exception) -> None:
        if self.exit_code is None and self.failure is None:
            self.failure = failure
            self._end()

    def _end(self) -> None:
        self._items.put_nowait(None)
        self._stdin_ready.set()


class AgentLink:
    """The stream itself: hands frames to their channels, and knows when the guest has booted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = FrameParser()
        self._channels: dict[int, Channel] = {}
        self._next = 0
        self._failure: Exception | None = None
        self._ready = asyncio.Event()
        self.greetings = 0
        self.guest_uptime_seconds = 0.0
        self._task = asyncio.create_task(self._read(), name="agent-link")

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._writer.close()
        self._drop(GuestError("The guest is gone."))

    def restart(self) -> None:
        """The guest was reset: its commands are lost, and the next greeting is awaited."""
        self._ready.clear()
        self._parser.restart()
        self._drop(GuestError("The guest was reset while the command ran."))

    async def wait_ready(self) -> None:
        """Returns when the agent has greeted since the last reset."""
        await self._ready.wait()
        if self._failure:
            raise self._failure

    def open(
        self, command: str, *, env: Mapping[str, str] | None = None, pty: bool = False
    ) -> Channel:
        """Starts a shell command; an empty one is a login shell."""
        if self._failure:
            raise self._failure
        if not self._ready.is_set():
            raise GuestError("The guest has not booted: wait for it before running a command.")
        words = [command, *(f"{name}={value}" for name, value in (env or {}).items())]
        if any("\0" in word for word in words):
            raise GuestError("A command for the guest must not contain a NUL character.")
        payload = bytes([EXEC_PTY if pty else 0]) + b"".join(w.encode() + b"\0" for w in words)
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise GuestError(
                f"The command for the guest has {len(payload)} bytes with its environment,"
                f" {PAYLOAD_BYTES_MAX} at most are taken: write it to a file in the guest first."
            )
        while True:
            self._next = self._next % 0xFFFF + 1
            if self._next not in self._channels:
                break
        channel = Channel(self, self._next)
        self._channels[channel.number] = channel
        self.send(channel.number, FrameType.EXEC, payload)
        return channel

    def send(self, channel: int, kind: FrameType, payload: bytes = b"") -> None:
        if kind is FrameType.EXEC or channel in self._channels:
            self._writer.write(encode_frame(channel, kind, payload))

    async def drain(self) -> None:
        await self._writer.drain()

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(65536):
                for frame in self._parser.feed(data):
                    self._handle(frame)
            self._failure = GuestError("The guest is gone.")
        except (OSError, ProtocolError) as error:
            self._failure = GuestError(f"The stream to the guest's agent broke: {error}")
        self._drop(self._failure)
        self._ready.set()

    def _handle(self, frame: Frame) -> None:
        if frame.type is FrameType.HELLO:
            if frame.payload[:16] != HELLO_MAGIC or len(frame.payload) != 20:
                raise ProtocolError("The guest's agent is of another version than this program.")
            self._drop(GuestError("The guest was reset while the command ran."))
            self.guest_uptime_seconds = struct.unpack_from("<I", frame.payload, 16)[0] / 1000
            self._writer.write(SYNC_MAGIC)
            self.greetings += 1
            self._ready.set()
            return
        channel = self._channels.get(frame.channel)
        if channel and channel.take(frame):
            del self._channels[frame.channel]

    def _drop(self, failure: Exception) -> None:
        for channel in self._channels.values():
            channel.fail(failure)
        self._channels.clear()
