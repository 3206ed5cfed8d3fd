"""A guest from start to end, and the commands run in it.

Guest is an async context manager. Whatever happens, QEMU is gone when it exits, and also when this
process is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vhostnvme.errors import GuestError
from vhostnvme.guest.accel import Accel, choose_accel
from vhostnvme.guest.machine import Machine
from vhostnvme.guest.protocol import Channel, FrameType
from vhostnvme.guest.provision import Artifacts, provision
from vhostnvme.guest.qemu import MachineOptions

_log = logging.getLogger(__name__)

OUTPUT_BYTES_MAX = 64 << 20
BOOT_TIMEOUT_S = 180.0
POWERDOWN_TIMEOUT_S = 30.0
BOOTS_MAX = 3  # of one start, when QEMU has lost an instruction
_LOST_TRAP = re.compile(r"\bint3: 0000 \[#1\]")


@dataclass(frozen=True)
class CommandResult:
    """How a command in the guest ended. Texts are decoded as UTF-8, with replacement."""

    exit_code: int
    stdout: str
    stderr: str

    def check(self) -> CommandResult:
        """Returns itself, or raises GuestError when the exit code is not 0."""
        if self.exit_code != 0:
            said = (self.stderr.strip() or self.stdout.strip()).splitlines()[-1:] or ["no output"]
            raise GuestError(
                f"A command in the guest failed with exit code {self.exit_code}: {said[0]}"
            )
        return self


class LostTrap(GuestError):
    """The guest's kernel fell over a breakpoint of its own while it was changing its code.

    Linux puts one there for as long as that takes, and QEMU's translator, with several processors,
    may show it to one of them when it is not there any more. Nothing of ours has run by then.
    """


def is_lost_trap(console: str) -> bool:
    """Whether a guest that has panicked did so for that."""
    return _LOST_TRAP.search(console) is not None


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
        self._machine: Machine | None = None

    # -- life ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Guest:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self.running:
                with contextlib.suppress(GuestError):
                    await self.powerdown()
        finally:
            await self.close()

    async def start(self) -> None:
        """Starts QEMU and returns when the agent in the guest has greeted.

        A kernel that QEMU itself has led astray (see LostTrap) is booted again.

        Raises GuestError when QEMU dies, the kernel panics, or boot_timeout has passed;
        ProvisionError when there is no QEMU or no image. Nothing runs any more then.
        """
        if self.artifacts is None:
            self.artifacts = await asyncio.to_thread(provision)
        if self.accel is None:
            self.accel = await asyncio.to_thread(
                choose_accel, self.artifacts.qemu, self.artifacts.kernel
            )
        for attempt in range(BOOTS_MAX):
            try:
                await self._boot(self.artifacts, self.accel.name)
                return
            except LostTrap as error:
                if attempt == BOOTS_MAX - 1:
                    raise
                _log.warning("%s; booting it again", error)

    async def _boot(self, artifacts: Artifacts, accel: str) -> None:
        started = time.monotonic()
        self._machine = await Machine.start(artifacts, replace(self.options, accel=accel))
        try:
            await self._wait_booted(started)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the guest, if it still runs, without asking it. May be called again."""
        if self._machine:
            await asyncio.shield(self._machine.close())

    @property
    def running(self) -> bool:
        return self._machine is not None and self._machine.running

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return self._need().process.pid

    @property
    def console_log(self) -> str:
        """The last part of what the guest's kernel wrote on its serial console."""
        return self._need().console_log

    async def _wait_booted(self, started: float) -> None:
        machine = self._need()
        greeted = asyncio.create_task(machine.link.wait_ready())
        ended = asyncio.create_task(machine.process.wait())
        panicked = asyncio.create_task(machine.panicked.wait())
        waits: set[asyncio.Task[Any]] = {greeted, ended, panicked}
        try:
            done, _ = await asyncio.wait(
                waits, timeout=self.boot_timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise GuestError(
                    f"The guest did not boot within {self.boot_timeout:g} s{machine.last_words()}"
                )
            if panicked in done and is_lost_trap(machine.console_log):
                raise LostTrap(
                    f"QEMU lost a breakpoint of the guest's kernel{machine.last_words()}"
                )
            if panicked in done:
                raise GuestError(f"The guest's kernel panicked{machine.last_words()}")
            if greeted not in done or greeted.exception():
                raise await machine.death("while the guest was booting")
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        self.boot_seconds = time.monotonic() - started

    async def powerdown(self, timeout: float = POWERDOWN_TIMEOUT_S) -> None:
        """Powers the guest off from within, so that its file systems and disks are left in order.

        Raises GuestError when it did not end in time; QEMU has been killed then.
        """
        machine = self._need()
        try:
            async with asyncio.timeout(timeout):
                machine.link.open("sync; umount -a -r 2>/dev/null; poweroff -f")
                await machine.process.wait()
        except TimeoutError:
            await machine.kill()
            raise GuestError(
                f"The guest did not power off within {timeout:g} s and was killed."
            ) from None

    async def kill(self) -> None:
        """Ends QEMU at once, as if the power were cut."""
        await self._need().kill()

    async def wait_ended(self) -> int:
        """Returns QEMU's exit code once it has ended by itself."""
        return await self._need().process.wait()

    async def reboot(self, *, hard: bool = False) -> None:
        """Reboots the guest in the same QEMU, and returns when its agent is back.

        hard: by QEMU's reset, as the reset button does; else by the guest's own kernel.
        """
        machine = self._need()
        async with machine.listen("RESET") as resets:
            started = time.monotonic()
            try:
                async with asyncio.timeout(POWERDOWN_TIMEOUT_S):
                    if hard:
                        await machine.execute("system_reset")
                    else:
                        machine.link.open("sync; reboot -f")
                    await resets.get()
            except TimeoutError:
                raise GuestError(f"The guest did not reboot{machine.last_words()}") from None
        # The greeting of the new boot is seconds away: nothing of it can be lost here.
        machine.link.restart()
        await self._wait_booted(started)

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

        Raises GuestError when it takes longer than `timeout` seconds (it is killed then), writes
        more than OUTPUT_BYTES_MAX, or the guest goes away.
        """
        parts = {"stdout": bytearray(), "stderr": bytearray()}

        def keep(name: str, data: bytes) -> None:
            parts[name] += data
            if len(parts[name]) > OUTPUT_BYTES_MAX:
                raise GuestError(
                    f"A command in the guest wrote more than {OUTPUT_BYTES_MAX >> 20} MiB:"
                    f" '{command[:80]}'."
                )

        code = await self.stream(command, keep, timeout=timeout, input=input, env=env)
        texts = {name: bytes(data).decode(errors="replace") for name, data in parts.items()}
        return CommandResult(code, **texts)

    async def stream(
        self,
        command: str,
        on_output: Callable[[str, bytes], None],
        *,
        timeout: float | None = None,
        input: bytes | str = b"",  # noqa: A002
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Runs a command, hands on what it writes: on_output("stdout" or "stderr", bytes).

        Returns its exit code. Raises as run() does. A cancelled call kills the command.
        """
        machine = self._need()
        channel = machine.link.open(command, env=env)
        data = input.encode() if isinstance(input, str) else input
        feeder = asyncio.create_task(_feed(channel, data))
        try:
            async with asyncio.timeout(timeout):
                async for kind, piece in channel.output():
                    on_output("stdout" if kind is FrameType.STDOUT else "stderr", piece)
        except TimeoutError:
            raise GuestError(
                f"A command in the guest did not end within {timeout:g} s and was killed:"
                f" '{command[:80]}'."
            ) from None
        except GuestError:
            if not machine.running:
                raise await machine.death(f"while '{command[:80]}' ran") from None
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
        return self._need().link.open(command, env=env, pty=pty)

    async def qmp(self, command: str, **arguments: object) -> Any:
        """One QMP command; returns its answer. Raises GuestError when QEMU refuses."""
        return await self._need().execute(command, arguments)

    def _need(self) -> Machine:
        if self._machine is None:
            raise GuestError("The guest has not been started.")
        return self._machine


async def _feed(channel: Channel, data: bytes) -> None:
    if data:
        await channel.write(data)
    channel.close_input()
