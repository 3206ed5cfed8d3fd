"""A guest from start to end: the QEMU process, its sockets, its agent, and the commands run in it.

Guest is an async context manager. Whatever happens, QEMU is gone when it exits, and also when this
process is killed; no socket and no file is left, because the sockets have no names.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient, QMPError
from qemu.qmp.events import EventListener

from vhostnvme.errors import GuestError
from vhostnvme.guest.accel import Accel, choose_accel, die_with_parent
from vhostnvme.guest.protocol import AgentLink, Channel, FrameType
from vhostnvme.guest.provision import Artifacts, provision
from vhostnvme.guest.qemu import BootFiles, MachineOptions, Wiring, command_line

CONSOLE_BYTES_KEPT = 65536
OUTPUT_BYTES_MAX = 64 << 20
BOOT_TIMEOUT_S = 180.0
QMP_TIMEOUT_S = 60.0
POWERDOWN_TIMEOUT_S = 30.0
STREAM_LIMIT_BYTES = 1 << 20
PANIC = b"Kernel panic - not syncing"


@dataclass(frozen=True)
class CommandResult:
    """How a command in the guest ended. Texts are decoded as UTF-8, with replacement."""

    exit_code: int
    stdout: str
    stderr: str

    def check(self) -> CommandResult:
        """Returns itself, or raises GuestError when the exit code is not 0."""
        if self.exit_code != 0:
            words = (self.stderr.strip() or self.stdout.strip()).splitlines()[-1:] or ["no output"]
            raise GuestError(f"A command in the guest failed with exit code {self.exit_code}: {words[0]}")
        return self


class Guest:
    """A VM. `disks` are vfio-user sockets; `extra_args` go to QEMU as they are.

    Attributes:
        boot_seconds: from the start of QEMU (or of the reboot) to the agent's greeting.
        accel: what the guest runs on and why; set by start().
    """

    def __init__(
        self,
        disks: Sequence[Path | str] = (),
        *,
        memory: str = "1G",
        cpus: int = 2,
        network: bool = True,
        network_options: Sequence[str] = (),
        extra_args: Sequence[str] = (),
        kernel_args: Sequence[str] = (),
        firmware: str = "qboot",
        boot_timeout: float = BOOT_TIMEOUT_S,
        artifacts: Artifacts | None = None,
        accel: Accel | None = None,
    ) -> None:
        self.options = MachineOptions(
            memory=memory,
            cpus=cpus,
            disks=tuple(Path(disk) for disk in disks),
            network=network,
            network_options=tuple(network_options),
            firmware=firmware,
            kernel_arguments=tuple(kernel_args),
            extra=tuple(extra_args),
        )
        self.boot_timeout = boot_timeout
        self.boot_seconds = 0.0
        self.accel = accel
        self.artifacts = artifacts
        self._process: asyncio.subprocess.Process | None = None
        self._link: AgentLink | None = None
        self._qmp: QMPClient | None = None
        self._console: deque[bytes] = deque()
        self._console_bytes = 0
        self._stderr = b""
        self._panicked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._qmp_sockets: list[socket.socket] = []

    # -- life ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Guest:
        try:
            await self.start()
        except BaseException:
            await asyncio.shield(self._clean_up())
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self.running:
            with contextlib.suppress(GuestError):
                await self.powerdown()
        await asyncio.shield(self._clean_up())

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._need_process().pid

    @property
    def console_log(self) -> str:
        """The last part of what the guest's kernel wrote on its serial console."""
        return b"".join(self._console).decode(errors="replace").replace("\r\n", "\n")

    async def start(self) -> None:
        """Starts QEMU and returns when the agent in the guest has greeted.

        Raises GuestError when QEMU dies, the kernel panics, or boot_timeout has passed;
        ProvisionError when there is no QEMU or no image.
        """
        if self.artifacts is None:
            self.artifacts = await asyncio.to_thread(provision)
        if self.accel is None:
            self.accel = await asyncio.to_thread(
                choose_accel, self.artifacts.qemu, self.artifacts.kernel
            )
        started = time.monotonic()
        await self._spawn(self.artifacts, replace(self.options, accel=self.accel.name))
        await self._wait_booted(started)

    async def _spawn(self, artifacts: Artifacts, options: MachineOptions) -> None:
        pairs = [socket.socketpair() for _ in range(3)]
        (qmp_ours, qmp), (agent_ours, agent), (console_ours, console) = pairs
        try:
            words = command_line(
                artifacts.qemu,
                BootFiles(artifacts.kernel, artifacts.initramfs),
                options,
                Wiring(qmp.fileno(), agent.fileno(), console.fileno()),
            )
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *words,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    pass_fds=(qmp.fileno(), agent.fileno(), console.fileno()),
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )
            except OSError as error:
                for ours, _ in pairs:
                    ours.close()
                raise GuestError(f"QEMU could not be started: {error}") from None
        finally:
            for _, theirs in pairs:
                theirs.close()
        self._qmp_sockets = [qmp_ours]
        console_reader, console_writer = await asyncio.open_connection(sock=console_ours)
        agent_reader, agent_writer = await asyncio.open_connection(
            sock=agent_ours, limit=STREAM_LIMIT_BYTES
        )
        self._writers = [console_writer]
        self._link = AgentLink(agent_reader, agent_writer)
        assert self._process.stderr is not None
        self._tasks = [
            asyncio.create_task(self._keep_console(console_reader), name="guest-console"),
            asyncio.create_task(self._keep_stderr(self._process.stderr), name="qemu-stderr"),
        ]

    async def _keep_console(self, reader: asyncio.StreamReader) -> None:
        tail = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                self._console.append(data)
                self._console_bytes += len(data)
                while self._console_bytes > CONSOLE_BYTES_KEPT:
                    self._console_bytes -= len(self._console.popleft())
                if PANIC in tail + data:
                    self._panicked.set()
                tail = (tail + data)[-len(PANIC) :]

    async def _keep_stderr(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(4096):
            self._stderr = (self._stderr + data)[-16384:]

    async def _wait_booted(self, started: float) -> None:
        link, process = self._need_link(), self._need_process()
        waits = [
            asyncio.create_task(link.wait_ready()),
            asyncio.create_task(process.wait()),
            asyncio.create_task(self._panicked.wait()),
        ]
        try:
            done, _ = await asyncio.wait(
                waits, timeout=self.boot_timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise GuestError(
                    f"The guest did not boot within {self.boot_timeout:.0f} s{self._last_words()}"
                )
            if waits[2] in done:
                raise GuestError(f"The guest's kernel panicked while booting{self._last_words()}")
            if waits[0] not in done or waits[0].exception():
                raise await self._died("while the guest was booting")
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        self.boot_seconds = time.monotonic() - started

    async def _died(self, when: str) -> GuestError:
        """What to say when QEMU has ended by itself."""
        process = self._need_process()
        try:
            async with asyncio.timeout(5):
                code = await process.wait()
                await asyncio.gather(*self._tasks, return_exceptions=True)
        except TimeoutError:
            return GuestError(f"The guest's agent went away {when}{self._last_words()}")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        lines = self._stderr.decode(errors="replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else self._last_words()
        return GuestError(f"QEMU ended with {how} {when}{said}")

    def _last_words(self) -> str:
        lines = [line for line in self.console_log.splitlines() if line.strip()]
        if not lines:
            return "; its console is empty."
        return "; its console ends with:\n" + "\n".join(lines[-15:])

    async def powerdown(self, timeout: float = POWERDOWN_TIMEOUT_S) -> None:
        """Powers the guest off from within, so that its file systems and disks are left in order.

        Raises GuestError when it did not end in time; QEMU has been killed then.
        """
        process, link = self._need_process(), self._need_link()
        try:
            async with asyncio.timeout(timeout):
                link.open("sync; umount -a -r 2>/dev/null; poweroff -f")
                await process.wait()
        except TimeoutError:
            await self.kill()
            raise GuestError(
                f"The guest did not power off within {timeout:.0f} s and was killed."
            ) from None

    async def kill(self) -> None:
        """Ends QEMU at once, as if the power were cut."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    async def wait_ended(self) -> int:
        """Returns QEMU's exit code once it has ended by itself."""
        return await self._need_process().wait()

    async def reboot(self, *, hard: bool = False) -> None:
        """Reboots the guest in the same QEMU, and returns when its agent is back.

        hard: by QEMU's reset, as the reset button does; else by the guest's own kernel.
        """
        link = self._need_link()
        client = await self._qmp_client()
        resets = EventListener(names={"RESET"})
        client.register_listener(resets)
        started = time.monotonic()
        try:
            async with asyncio.timeout(POWERDOWN_TIMEOUT_S):
                if hard:
                    await self.qmp("system_reset")
                else:
                    link.open("sync; reboot -f")
                await resets.get()
        except TimeoutError:
            raise GuestError(f"The guest did not reboot{self._last_words()}") from None
        finally:
            client.remove_listener(resets)
        # The greeting of the new boot is seconds away: nothing of it can be lost here.
        link.restart()
        await self._wait_booted(started)

    async def _clean_up(self) -> None:
        await self.kill()
        if self._link:
            await self._link.close()
        if self._qmp:
            with contextlib.suppress(QMPError, OSError, EOFError):
                await self._qmp.disconnect()
        for ours in self._qmp_sockets:
            ours.close()
        for writer in self._writers:
            writer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- commands -----------------------------------------------------------------------------

    async def run(
        self,
        command: str,
        *,
        timeout: float = 60.0,
        input: bytes | str = b"",  # noqa: A002
        env: Mapping[str, str] | None = None,
    ) -> CommandResult:
        """Runs a shell command as root and collects its output.

        Raises GuestError when it takes longer than `timeout` seconds (it is killed then), writes more
        than OUTPUT_BYTES_MAX, or the guest goes away.
        """
        parts: dict[FrameType, bytearray] = {FrameType.STDOUT: bytearray(), FrameType.STDERR: bytearray()}

        def keep(kind: FrameType, data: bytes) -> None:
            parts[kind] += data
            if len(parts[kind]) > OUTPUT_BYTES_MAX:
                raise GuestError(
                    f"A command in the guest wrote more than {OUTPUT_BYTES_MAX >> 20} MiB: '{command[:80]}'."
                )

        data = input.encode() if isinstance(input, str) else input
        code = await self._run(command, keep, timeout, data, env)
        out, err = (bytes(parts[kind]).decode(errors="replace") for kind in parts)
        return CommandResult(code, out, err)

    async def stream(
        self,
        command: str,
        on_output: Callable[[str, bytes], None],
        *,
        timeout: float | None = None,
        input: bytes | str = b"",  # noqa: A002
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Runs a command and hands on its output as it comes: on_output("stdout" or "stderr", bytes).

        Returns its exit code. Raises as run() does.
        """
        data = input.encode() if isinstance(input, str) else input

        def pass_on(kind: FrameType, piece: bytes) -> None:
            on_output("stdout" if kind is FrameType.STDOUT else "stderr", piece)

        return await self._run(command, pass_on, timeout, data, env)

    async def _run(
        self,
        command: str,
        take: Callable[[FrameType, bytes], None],
        timeout: float | None,
        data: bytes,
        env: Mapping[str, str] | None,
    ) -> int:
        channel = self.open(command, env=env)
        feeder = asyncio.create_task(_feed(channel, data))
        try:
            async with asyncio.timeout(timeout):
                async for kind, piece in channel.output():
                    take(kind, piece)
        except TimeoutError:
            raise GuestError(
                f"A command in the guest did not end within {timeout:g} s and was killed:"
                f" '{command[:80]}'."
            ) from None
        except GuestError:
            if not self.running:
                raise await self._died(f"while '{command[:80]}' ran") from None
            raise
        finally:
            feeder.cancel()
            if channel.exit_code is None and channel.failure is None:
                channel.kill(signal.SIGKILL)
        assert channel.exit_code is not None
        return channel.exit_code

    def open(
        self, command: str, *, env: Mapping[str, str] | None = None, pty: bool = False
    ) -> Channel:
        """Starts a command without waiting: for callers who feed and read it themselves."""
        return self._need_link().open(command, env=env, pty=pty)

    # -- QMP ----------------------------------------------------------------------------------

    async def qmp(self, command: str, **arguments: Any) -> Any:
        """One QMP command; returns its answer. Raises GuestError when QEMU refuses."""
        client = await self._qmp_client()
        try:
            async with asyncio.timeout(QMP_TIMEOUT_S):
                return await client.execute(command, arguments or None)
        except (QMPError, TimeoutError) as error:
            raise GuestError(f"QEMU refused '{command}': {error or 'no answer'}") from None

    async def events(self, *names: str) -> AsyncIterator[dict[str, Any]]:
        """QMP events from now on, by name; all of them when no name is given."""
        client = await self._qmp_client()
        listener = EventListener(names=set(names) or None)
        client.register_listener(listener)
        try:
            while True:
                yield dict(await listener.get())
        finally:
            client.remove_listener(listener)

    async def _qmp_client(self) -> QMPClient:
        if self._qmp is None:
            client = QMPClient("vhostnvme")
            try:
                async with asyncio.timeout(QMP_TIMEOUT_S):
                    await client.connect(self._qmp_sockets.pop())
            except (QMPError, OSError, TimeoutError, IndexError) as error:
                raise GuestError(f"QEMU's control socket does not answer: {error}") from None
            self._qmp = client
        return self._qmp

    # -- small --------------------------------------------------------------------------------

    def _need_process(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise GuestError("The guest has not been started.")
        return self._process

    def _need_link(self) -> AgentLink:
        if self._link is None:
            raise GuestError("The guest has not been started.")
        return self._link


async def _feed(channel: Channel, data: bytes) -> None:
    if data:
        await channel.write(data)
    channel.close_input()
