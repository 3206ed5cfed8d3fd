"""Ways to ask a controller: a vfio-user socket, or NVMe/TCP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vhostnvme.errors import PeerError
from vhostnvme.native.admin import AdminAnswer, remote_admin
from vhostnvme.native.types import RemoteOptions
from vhostnvme.testing.host import NvmeHost
from vhostnvme.testing.nvme import Sqe, status_name


class Asker(Protocol):
    """Takes admin commands that only read, each with the bytes of its answer."""

    def ask(self, commands: Sequence[tuple[Sqe, int]]) -> list[AdminAnswer]: ...


class RemoteAsker:
    """Over NVMe/TCP; each call is a connection of its own."""

    def __init__(self, options: RemoteOptions) -> None:
        self._options = options

    def ask(self, commands: Sequence[tuple[Sqe, int]]) -> list[AdminAnswer]:
        return remote_admin(self._options, [(bytes(sqe), length) for sqe, length in commands])


class SocketAsker:
    """Over an open vfio-user socket, whose controller has been enabled."""

    def __init__(self, host: NvmeHost) -> None:
        self._host = host

    def ask(self, commands: Sequence[tuple[Sqe, int]]) -> list[AdminAnswer]:
        return [self._one(sqe, length) for sqe, length in commands]

    def _one(self, sqe: Sqe, length: int) -> AdminAnswer:
        with self._host.alloc(length) as buffer:
            completion = self._host.admin(sqe, buffer, length)
            return AdminAnswer(completion.code, completion.result, buffer.get(length))


def good(what: str, answer: AdminAnswer) -> bytes:
    """The data of a command that succeeded.

    Raises:
        PeerError: it did not, with `what` in the message.
    """
    if answer.status:
        raise PeerError(f"{what} failed: {status_name(answer.status)}")
    return answer.data


def shown_text(raw: bytes) -> str:
    """Text of a peer: up to the first zero, without padding, control characters replaced."""
    text = raw.partition(b"\0")[0].decode("utf-8", "replace").strip()
    return "".join(letter if letter.isprintable() else "?" for letter in text)
