"""One QEMU process: its start, what it says, its control socket, its end. Used by vm.py.

The sockets to it are pairs without names, so that nothing is left behind in any file system.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from qemu.qmp import QMPClient, QMPError
from qemu.qmp.events import EventListener

from vhostnvme.errors import GuestError
from vhostnvme.guest.accel import die_with_parent
from vhostnvme.guest.protocol import AgentLink
from vhostnvme.guest.provision import Artifacts
from vhostnvme.guest.qemu import BootFiles, MachineOptions, Wiring, command_line

CONSOLE_BYTES_KEPT = 65536
STDERR_BYTES_KEPT = 16384
STREAM_LIMIT_BYTES = 1 << 20
QMP_TIMEOUT_S = 60.0
LAST_LINES = 15
PANIC = b"Kernel panic - not syncing"


class Machine:
    """A running QEMU. Made by start(); close() ends it, whatever state it is in."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        link: AgentLink,
        console: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        qmp: socket.socket,
    ) -> None:
        self.process = process
        self.link = link
        self.panicked = asyncio.Event()
        self._console_writer = console[1]
        self._console: deque[bytes] = deque()
        self._console_bytes = 0
        self._stderr = b""
        self._qmp_socket: socket.socket | None = qmp
        self._qmp: QMPClient | None = None
        assert process.stderr is not None
        self._tasks = [
            asyncio.create_task(self._keep_console(console[0]), name="guest-console"),
            asyncio.create_task(self._keep_stderr(process.stderr), name="qemu-stderr"),
        ]

    @classmethod
    async def start(cls, artifacts: Artifacts, options: MachineOptions) -> Machine:
        """Starts QEMU. Raises GuestError when it cannot be executed at all."""
        ours, theirs = zip(*(socket.socketpair() for _ in range(3)), strict=True)
        try:
            words = command_line(
                artifacts.qemu,
                BootFiles(artifacts.kernel, artifacts.initramfs),
                options,
                Wiring(*(end.fileno() for end in theirs)),
            )
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=[end.fileno() for end in theirs],
                # Away from the terminal's Ctrl-C, which is for us to handle.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            for end in ours:
                end.close()
            raise GuestError(f"QEMU could not be started: {error}") from None
        finally:
            for end in theirs:
                end.close()
        qmp, agent, console = ours
        link = AgentLink(*await asyncio.open_connection(sock=agent, limit=STREAM_LIMIT_BYTES))
        return cls(process, link, await asyncio.open_connection(sock=console), qmp)

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    @property
    def console_log(self) -> str:
        """The last part of what the guest wrote on its serial console."""
        return b"".join(self._console).decode(errors="replace").replace("\r\n", "\n")

    async def _keep_console(self, reader: asyncio.StreamReader) -> None:
        tail = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                self._console.append(data)
                self._console_bytes += len(data)
                while self._console_bytes > CONSOLE_BYTES_KEPT:
                    self._console_bytes -= len(self._console.popleft())
                if PANIC in tail + data:
                    self.panicked.set()
                tail = (tail + data)[-len(PANIC) :]

    async def _keep_stderr(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(4096):
            self._stderr = (self._stderr + data)[-STDERR_BYTES_KEPT:]

    def last_words(self) -> str:
        """The end of the console, for the end of an error's sentence."""
        lines = [line for line in self.console_log.splitlines() if line.strip()]
        if not lines:
            return "; its console is empty."
        return "; its console ends with:\n" + "\n".join(lines[-LAST_LINES:])

    async def death(self, when: str) -> GuestError:
        """What to say when QEMU, or the agent's stream, has ended by itself."""
        try:
            async with asyncio.timeout(5):
                code = await self.process.wait()
                await asyncio.gather(*self._tasks, return_exceptions=True)
        except TimeoutError:
            return GuestError(f"The guest's agent went away {when}{self.last_words()}")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        lines = self._stderr.decode(errors="replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else self.last_words()
        return GuestError(f"QEMU ended with {how} {when}{said}")

    async def kill(self) -> None:
        """Ends QEMU at once, as if the power were cut."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    async def close(self) -> None:
        """Ends QEMU and lets go of everything."""
        await self.kill()
        await self.link.close()
        if self._qmp:
            with contextlib.suppress(QMPError, OSError, EOFError):
                await self._qmp.disconnect()
        if self._qmp_socket:
            self._qmp_socket.close()
        self._console_writer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> Any:
        """One QMP command; returns its answer. Raises GuestError when QEMU refuses."""
        client = await self._client()
        try:
            async with asyncio.timeout(QMP_TIMEOUT_S):
                return await client.execute(command, arguments or None)
        except (QMPError, TimeoutError) as error:
            raise GuestError(f"QEMU refused '{command}': {error or 'no answer'}") from None

    @contextlib.asynccontextmanager
    async def listen(self, *names: str) -> AsyncIterator[EventListener]:
        """QMP events from now on, by name; all of them when no name is given."""
        client = await self._client()
        listener = EventListener(names=set(names) or None)
        client.register_listener(listener)
        try:
            yield listener
        finally:
            client.remove_listener(listener)

    async def _client(self) -> QMPClient:
        if self._qmp is None:
            ours, self._qmp_socket = self._qmp_socket, None
            client = QMPClient("vhostnvme")
            try:
                if ours is None:
                    raise ConnectionError("an earlier connection failed")
                async with asyncio.timeout(QMP_TIMEOUT_S):
                    await client.connect(ours)
            except (QMPError, OSError, TimeoutError) as error:
                raise GuestError(f"QEMU's control socket does not answer: {error}") from None
            self._qmp = client
        return self._qmp
