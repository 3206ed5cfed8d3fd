"""The client of a control socket; it blocks, for a bounded time."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TypeVar

from vhostnvme.closable import Closable
from vhostnvme.control import messages
from vhostnvme.control.messages import Request, Response, decode, encode, raw_of
from vhostnvme.errors import ConfigError, NoSpace, PeerError, ProtocolError, VhostNvmeError

TIMEOUT_S = 10.0

T = TypeVar("T")

_ERRORS: dict[str, type[VhostNvmeError]] = {
    messages.CONFIG: ConfigError,
    messages.NO_SPACE: NoSpace,
}


class ControlClient(Closable):
    """A connection; a context manager.

    Raises:
        PeerError: nobody listens there, or we may not.
    """

    def __init__(self, path: Path, timeout_s: float = TIMEOUT_S) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._next_id = 0
        self._rest = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(os.fsencode(path))
        except OSError as error:
            self._socket.close()
            raise PeerError(
                f"no server answers on control socket {path}: {error.strerror or error}"
            ) from None

    def call(self, method: str, params: object, result: type[T]) -> T:
        """Asks, and waits for the answer.

        Raises:
            ConfigError: the server says that this cannot be.
            NoSpace: there is not as much space as was asked for.
            PeerError: it failed, went away, or did not answer in time.
            ProtocolError: the answer is none.
        """
        self._next_id += 1
        request = Request(method=method, id=self._next_id, params=raw_of(params))
        try:
            self._socket.sendall(encode(request))
            response = decode(self._read_line(), Response)
        except OSError as error:
            raise PeerError(f"control socket {self._path}: {error}") from None
        if response.error is not None:
            raise _ERRORS.get(response.error.code, PeerError)(response.error.message)
        if response.id != self._next_id:
            raise ProtocolError(f"control socket {self._path}: an answer to another request")
        return decode(response.result, result)

    def _read_line(self) -> bytes:
        deadline = time.monotonic() + self._timeout_s
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer in time")
            self._socket.settimeout(left)
            received = self._socket.recv(64 << 10)
            if not received:
                raise ConnectionResetError("the server has closed the connection")
            self._rest += received
            if len(self._rest) > messages.REPLY_BYTES_MAX:
                raise ProtocolError(f"control socket {self._path}: the answer never ends")
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def close(self) -> None:
        self._socket.close()


def call(
    path: Path, method: str, params: object, result: type[T], timeout_s: float = TIMEOUT_S
) -> T:
    """One request on a connection of its own; raises as ControlClient does."""
    with ControlClient(path, timeout_s) as client:
        return client.call(method, params, result)
