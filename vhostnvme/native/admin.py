"""Admin commands to a controller over NVMe/TCP, on a connection that is made for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vhostnvme.native.library import check, ffi, lib
from vhostnvme.native.remote import native_remote
from vhostnvme.native.types import RemoteOptions

__all__ = ["AdminAnswer", "remote_admin"]

COMMAND_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class AdminAnswer:
    """`status` is 0, or SCT << 8 | SC; `result` dword 0 of the completion."""

    status: int
    result: int
    data: bytes


def remote_admin(
    options: RemoteOptions, commands: Sequence[tuple[bytes, int]]
) -> list[AdminAnswer]:
    """Sends them one after the other; each is 64 bytes, and how many bytes the controller answers.

    Blocks for the options' `connect_ms`, and `keep_alive_ms` more when the target falls silent.

    Raises:
        NativeError: there is no way to the controller, or it refused us; the message says which.
    """
    remote, alive = native_remote(options)
    raw = ffi.new("struct vn_remote_cmd[]", len(commands))
    for each, (sqe, length) in zip(raw, commands, strict=True):
        ffi.memmove(each.sqe, sqe, 64)
        alive.append(ffi.new("uint8_t[]", max(length, 1)))
        each.buf, each.bytes = alive[-1], length
    check(lib.vn_remote_admin(remote, raw, len(commands)))
    return [
        AdminAnswer(each.status, each.result, bytes(ffi.buffer(each.buf, each.bytes)))
        for each in raw
    ]
