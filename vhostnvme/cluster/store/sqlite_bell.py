"""How the clients of a SQLite store wake each other: a datagram socket each, in one folder.

After a commit a client sends the changed keys to the sockets of the others, so that their watches
look at once. This is only a hint: nothing is lost when it does not arrive, for everybody also looks
by itself from time to time.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Bell"]

_BYTES_MAX = 8192
_DATAGRAMS_AT_ONCE = 256


class Bell:
    """One client's socket, and the way to those of the others.

    `open`, `ring` and `close` belong to one thread, `heard` to any.

    Args:
        folder: made when it is not there, for this user alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._folder_fd = -1
        self._socket: socket.socket | None = None

    def open(self) -> int:
        """Answers the descriptor that becomes readable when it rings; a second call does nothing.

        Raises:
            OSError: there can be no such socket.
        """
        if self._socket is not None:
            return self._socket.fileno()
        self.folder.mkdir(mode=0o700, exist_ok=True)
        folder_fd = os.open(self.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._folder_fd = folder_fd
        try:
            bell.bind(self._path(self._name))
        except OSError:
            bell.close()
            os.close(folder_fd)
            raise
        self._socket = bell
        return bell.fileno()

    def close(self) -> None:
        """A second call does nothing."""
        if self._socket is None:
            return
        self._unlink(self._name)
        bell, self._socket = self._socket, None
        bell.close()
        os.close(self._folder_fd)

    def ring(self, keys: Iterable[str]) -> None:
        """Tells all others that these keys have changed; removes the sockets of the dead."""
        if self._socket is None:
            return
        text = "\0".join(keys).encode()
        message = text if len(text) <= _BYTES_MAX else b""
        try:
            names = [path.name for path in Path(self._path("")).iterdir()]
        except OSError:
            return
        for name in names:
            if name == self._name:
                continue
            try:
                self._socket.sendto(message, self._path(name))
            except ConnectionRefusedError:
                if Path(self._path(name)).is_socket():  # a file would say the same
                    self._unlink(name)
            except OSError:
                pass  # it is full, and its owner awake, or it has just gone

    def heard(self) -> set[str] | None:
        """The keys that the others have told since the last call; None: too many to tell."""
        keys: set[str] = set()
        bell = self._socket
        if bell is None:
            return keys
        everything = False
        for _ in range(_DATAGRAMS_AT_ONCE):
            try:
                message = bell.recv(_BYTES_MAX)
            except OSError:
                break
            everything |= not message
            keys.update(message.decode(errors="replace").split("\0"))
        return None if everything else keys

    def _path(self, name: str) -> str:
        # A socket's path has at most 107 bytes, and the folder's may have more.
        return f"/proc/self/fd/{self._folder_fd}/{name}"

    def _unlink(self, name: str) -> None:
        try:
            Path(self._path(name)).unlink()
        except OSError:
            pass
