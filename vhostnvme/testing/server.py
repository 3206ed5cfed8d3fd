"""A server in a process of its own, for tests: `vhostnvme serve`, started, watched and ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from vhostnvme.errors import PeerError

__all__ = ["ServerProcess"]

SOCKET_NAME = "cntrl"


class ServerProcess:
    """`vhostnvme serve` with these namespaces; a context manager that ends it.

    Args:
        namespaces: SPECs, such as `mem:64M`.
        options: more arguments of `serve`.
        directory: for the socket and the log; a temporary one by default.
        timeout: seconds to wait for its start, and for its end.
        with_socket: whether it has a vfio-user socket; else `options` say where it listens.
        prefix: words in front of its command, such as those of a network namespace.

    Raises:
        PeerError: it did not start; the message holds what it wrote.
    """

    def __init__(
        self,
        namespaces: Sequence[str] = ("mem:64M",),
        options: Sequence[str] = (),
        directory: Path | None = None,
        timeout: float = 20.0,
        *,
        with_socket: bool = True,
        prefix: Sequence[str] = (),
    ) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="vhostnvme-")
            directory = Path(self._temporary.name)
        self.socket = directory / "run" / SOCKET_NAME
        self.log = directory / "serve.log"
        self.timeout = timeout
        self._prefix = list(prefix)
        self._arguments = ["--socket", str(self.socket)] if with_socket else []
        self._arguments += options
        for spec in namespaces:
            self._arguments += ["--namespace", spec]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        ready, told = os.pipe()
        program = [sys.executable, "-m", "vhostnvme", "serve", "--ready-fd", str(told)]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._prefix + program + self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(told,),
            )
        os.close(told)
        try:
            readable, _, _ = select.select([ready], [], [], self.timeout)
            if readable and os.read(ready, 64):
                return process
        finally:
            os.close(ready)
        process.kill()
        process.wait()
        raise PeerError(f"the server did not start: {self.log_text()}")

    def log_text(self) -> str:
        """All that it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL: what it had in flight is lost."""
        self.process.kill()
        self.process.wait(self.timeout)

    def restart(self) -> None:
        """Starts it again, on the same socket, after `kill` or `stop`."""
        self.process = self._start()

    def stop(self) -> int:
        """Ends it in order; returns its exit code."""
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + self.timeout
            while self.alive and time.monotonic() < deadline:
                time.sleep(0.01)
            if self.alive:
                self.process.kill()
        return self.process.wait(self.timeout)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()
