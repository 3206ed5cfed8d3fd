"""What goes over the control socket: one JSON object a line, a request and its response.

::

    {"version": 1, "id": 7, "method": "device.status", "params": {}}
    {"version": 1, "id": 7, "result": {...}}
    {"version": 1, "id": 7, "error": {"code": "config", "message": "one sentence"}}

What lies in `params` and `result` is the method's business: each has a type of its own.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec

from vhostnvme.errors import ProtocolError

VERSION: Final = 1
LINE_BYTES_MAX = 64 << 10  # of a request
REPLY_BYTES_MAX = 4 << 20
DEPTH_MAX = 16

T = TypeVar("T")

# Codes of errors.
PROTOCOL = "protocol"  # the request cannot be understood
METHOD = "method"  # there is no such method
CONFIG = "config"  # what was asked for cannot be: the command line exits with 2
NO_SPACE = "no-space"  # there is not as much space as was asked for
FAILED = "failed"
BUSY = "busy"  # too many connections


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """`version` is the first one that has all that the request means."""

    method: str
    version: int = VERSION
    id: int = 0
    params: msgspec.Raw = msgspec.Raw(b"{}")


class Failure(msgspec.Struct):
    """`message` is a sentence for a person."""

    code: str
    message: str


class Response(msgspec.Struct, omit_defaults=True):
    """Either `result` or `error`. `id` is that of the request, 0 when it could not be read."""

    version: int
    id: int
    result: msgspec.Raw = msgspec.Raw(b"")
    error: Failure | None = None


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(rb"[\[\]{}]")


def encode(message: object) -> bytes:
    """One line."""
    return msgspec.json.encode(message) + b"\n"


def decode(data: bytes | msgspec.Raw, kind: type[T]) -> T:
    """JSON of the type `kind`.

    Raises:
        ProtocolError: it is none, of another shape, or nested deeper than DEPTH_MAX.
    """
    raw = bytes(data)
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", raw)):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH_MAX:
            raise ProtocolError(f"JSON on the control socket is nested {DEPTH_MAX} deep at most")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ProtocolError(f"not understood: {error}") from None


def raw_of(value: Any) -> msgspec.Raw:
    """A result or parameters, ready to be put into a message."""
    return msgspec.Raw(msgspec.json.encode(value))
