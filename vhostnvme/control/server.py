"""The server of a control socket: methods by name, typed parameters, bounds on everything.

Only processes of the same user, or of root, are answered. A connection may ask any number of times;
its requests are answered one after the other.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from vhostnvme.control import messages
from vhostnvme.control.messages import Failure, Request, Response, decode, encode, raw_of
from vhostnvme.control.paths import PATH_BYTES_MAX
from vhostnvme.errors import ConfigError, NoSpace, ProtocolError, VhostNvmeError

_log = logging.getLogger(__name__)

CONNECTIONS_MAX = 16
IDLE_S_MAX = 30.0  # between two requests, and for a whole one to come
WRITE_S_MAX = 10.0

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class _Method:
    params: type[Any]
    handler: Callable[[Any], object | Awaitable[object]]


class ControlServer:
    """Listens from `start`, or `async with`, until `stop`.

    Args:
        path: of the socket; its folder exists.
        idle_s_max: how long a connection may say nothing.
        connections_max: how many may be open.
    """

    def __init__(
        self,
        path: Path,
        *,
        idle_s_max: float = IDLE_S_MAX,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self.path = path
        self._connections_max = connections_max
        self._idle_s_max = idle_s_max
        self._methods: dict[str, _Method] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def register(
        self, name: str, params: type[P], handler: Callable[[P], object | Awaitable[object]]
    ) -> None:
        """Has `handler` answer requests for `name`; `params` is a msgspec.Struct or dataclass.

        What the handler returns is encoded as JSON. A VhostNvmeError or OSError that it raises is
        the answer as well.
        """
        assert name not in self._methods, f"two methods are called {name}"
        self._methods[name] = _Method(params, handler)

    async def start(self) -> None:
        """Opens the socket, for its owner alone.

        Raises:
            ConfigError: the path cannot be used: too long, in use, or something else is there.
        """
        listening = _listen(self.path, self._connections_max)
        self._server = await asyncio.start_unix_server(
            self._on_connection, sock=listening, limit=messages.LINE_BYTES_MAX
        )

    async def stop(self) -> None:
        """Closes the socket and its connections. Safe to repeat."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self.path.unlink(missing_ok=True)
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def __aenter__(self) -> ControlServer:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if not _is_trusted(writer.get_extra_info("socket")):
                _log.warning("control socket: a process of another user was refused")
            elif len(self._connections) > self._connections_max:
                sentence = f"there are {self._connections_max} connections already: try again later"
                await _send(writer, _failure(0, messages.BUSY, sentence))
            else:
                await self._converse(reader, writer)
        except (TimeoutError, OSError) as error:
            _log.debug("control socket: a connection ended: %s", error)
        except asyncio.CancelledError:
            pass  # we stop; nobody waits for this task but `stop`
        finally:
            self._connections.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(self._idle_s_max):
                    line = await reader.readline()
            except ValueError:  # longer than the reader's limit
                sentence = f"a request has {messages.LINE_BYTES_MAX} bytes at most"
                await _send(writer, _failure(0, messages.PROTOCOL, sentence))
                return
            if not line.endswith(b"\n"):
                return
            await _send(writer, await self._answer(line))

    async def _answer(self, line: bytes) -> Response:
        try:
            request = decode(line, Request)
        except ProtocolError as error:
            return _failure(0, messages.PROTOCOL, str(error))
        if request.version != messages.VERSION:
            sentence = f"version {request.version} is not spoken here, but {messages.VERSION}"
            return _failure(request.id, messages.PROTOCOL, sentence)
        method = self._methods.get(request.method)
        if method is None:
            known = ", ".join(sorted(self._methods))
            sentence = f"there is no method {request.method[:80]!r} here: {known}"
            return _failure(request.id, messages.METHOD, sentence)
        try:
            result = method.handler(decode(request.params, method.params))
            if inspect.isawaitable(result):
                result = await result
            return Response(messages.VERSION, request.id, result=raw_of(result))
        except ProtocolError as error:
            return _failure(request.id, messages.PROTOCOL, str(error))
        except ConfigError as error:
            return _failure(request.id, messages.CONFIG, str(error))
        except NoSpace as error:
            return _failure(request.id, messages.NO_SPACE, str(error))
        except (VhostNvmeError, OSError) as error:
            return _failure(request.id, messages.FAILED, str(error))
        except Exception:
            _log.exception("control socket: %s failed", request.method)
            return _failure(request.id, messages.FAILED, "an error of ours: see the server's log")


def _failure(request_id: int, code: str, sentence: str) -> Response:
    return Response(messages.VERSION, request_id, error=Failure(code, sentence))


async def _send(writer: asyncio.StreamWriter, response: Response) -> None:
    writer.write(encode(response))
    async with asyncio.timeout(WRITE_S_MAX):
        await writer.drain()


def _is_trusted(connection: socket.socket) -> bool:
    """unix(7): the credentials are those of the process at the time of its connect."""
    size = struct.calcsize("3i")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, uid, _ = struct.unpack("3i", raw)
    return uid in (0, os.geteuid())


def _listen(path: Path, backlog: int) -> socket.socket:
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise ConfigError(f"control socket path {path} is longer than {PATH_BYTES_MAX} bytes")
    _clear(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    old = os.umask(0o177)  # before bind: it is never open to others
    try:
        listening.bind(os.fsencode(path))
        listening.listen(backlog)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen on control socket {path}: {error.strerror}") from None
    finally:
        os.umask(old)
    return listening


def _clear(path: Path) -> None:
    """Removes a socket that a killed server has left."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"control socket path {path} is taken by something that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fsencode(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass
    raise ConfigError(f"control socket {path} is in use by another server")
