"""NVMe/TCP on the wire, for scripted peers: PDUs to bytes and back (TCP Transport 1.0c, 3.6).

`encode` sends whatever it is told to; `read_pdu` takes nothing that is not exactly right, so that a
scripted peer is also a judge of whoever it talks to.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from vhostnvme.crc32c import crc32c
from vhostnvme.errors import ProtocolError
from vhostnvme.testing.nvmetcp_pdu import (
    F_DDGST,
    F_HDGST,
    FROM_CONTROLLER,
    KINDS,
    Pdu,
    PduType,
    Term,
)

COMMON = struct.Struct("<BBBBI")
DIGEST_BYTES = 4
PLEN_MAX = 16 << 20  # more than any peer of a test sends: a length beyond is a mistake


@dataclass(frozen=True)
class Wire:
    """What a connection has agreed on, for one direction; `align` is in bytes."""

    hdgst: bool = False
    ddgst: bool = False
    align: int = 4


PLAIN = Wire()


@dataclass(frozen=True)
class Crooked:
    """A PDU whose header says something else than what is so. None: as it should be.

    `hdgst` and `ddgst` are xored onto the digests; `tail` is appended, uncounted by PLEN.
    """

    pdu: Pdu
    type: int | None = None
    flags: int | None = None
    hlen: int | None = None
    pdo: int | None = None
    plen: int | None = None
    hdgst: int = 0
    ddgst: int = 0
    tail: bytes = b""


Sendable: TypeAlias = Pdu | Crooked | bytes


def data_offset(hlen: int, wire: Wire) -> int:
    """Where the data of a PDU begins: behind the header and its digest, aligned as agreed."""
    end = hlen + DIGEST_BYTES * wire.hdgst
    return -(-end // wire.align) * wire.align


def encode(item: Sendable, wire: Wire = PLAIN) -> bytes:
    """What goes onto the wire. Bytes are left as they are."""
    if isinstance(item, bytes):
        return item
    bent = item if isinstance(item, Crooked) else Crooked(item)
    pdu = bent.pdu
    if not pdu.DIGESTS:
        wire = PLAIN
    data, flags = pdu.payload, pdu.flags | F_HDGST * wire.hdgst
    pdo, plen = 0, pdu.HLEN + DIGEST_BYTES * wire.hdgst
    if data:
        # Termination requests have no PDO field: their data follows the header.
        pdo = data_offset(pdu.HLEN, wire)
        flags |= F_DDGST * wire.ddgst
        plen = pdo + len(data) + DIGEST_BYTES * wire.ddgst
    common = (
        pdu.TYPE if bent.type is None else bent.type,
        flags if bent.flags is None else bent.flags,
        pdu.HLEN if bent.hlen is None else bent.hlen,
        (0 if isinstance(pdu, Term) else pdo) if bent.pdo is None else bent.pdo,
        plen if bent.plen is None else bent.plen,
    )
    out = COMMON.pack(*common) + pdu.body
    if wire.hdgst:
        out += struct.pack("<I", crc32c(out) ^ bent.hdgst)
    if data:
        out += bytes(pdo - len(out)) + data
        if wire.ddgst:
            out += struct.pack("<I", crc32c(data) ^ bent.ddgst)
    return out + bent.tail


def _check_common(kind: type[Pdu], wire: Wire, common: tuple[int, int, int, int, int]) -> None:
    type_, flags, hlen, pdo, plen = common
    name = PduType(type_).name
    allowed = kind.FLAGS | (F_HDGST * wire.hdgst) | (F_DDGST * wire.ddgst * kind.HAS_DATA)
    if flags & ~allowed:
        raise ProtocolError(f"{name} has the flags {flags:#x}")
    if wire.hdgst and not flags & F_HDGST:
        raise ProtocolError(f"{name} lacks its header digest")
    if hlen != kind.HLEN:
        raise ProtocolError(f"{name} has an HLEN of {hlen}, not {kind.HLEN}")
    least = hlen + DIGEST_BYTES * wire.hdgst
    if plen > PLEN_MAX or plen < least or (not kind.HAS_DATA and plen != least):
        raise ProtocolError(f"{name} has a PLEN of {plen}")
    expected = 0 if plen == least or issubclass(kind, Term) else data_offset(hlen, wire)
    if pdo != expected:
        raise ProtocolError(f"{name} has a PDO of {pdo}, not {expected}")
    has_digest = bool(flags & F_DDGST)
    if has_digest != (wire.ddgst and plen > least):
        raise ProtocolError(f"{name} {'has a needless' if has_digest else 'lacks its'} data digest")


def read_pdu(
    take: Callable[[int], bytes], wire: Wire, *, from_controller: bool, check_data: bool = True
) -> Pdu:
    """The next PDU of a stream; `take(n)` hands out exactly n bytes, or raises.

    Raises:
        ProtocolError: anything about it is not as the standard has it, digests included.
    """
    first = take(COMMON.size)
    common: tuple[int, int, int, int, int] = COMMON.unpack(first)
    kind = KINDS.get(common[0])
    if kind is None or (common[0] in FROM_CONTROLLER) is not from_controller:
        raise ProtocolError(f"a PDU of type {common[0]:#x} came")
    if not kind.DIGESTS:
        wire = PLAIN
    _check_common(kind, wire, common)
    _, flags, hlen, pdo, plen = common
    rest = take(plen - COMMON.size)
    header, at = first + rest[: hlen - COMMON.size], hlen - COMMON.size
    if wire.hdgst and rest[at : at + DIGEST_BYTES] != struct.pack("<I", crc32c(header)):
        raise ProtocolError(f"{PduType(common[0]).name} has a wrong header digest")
    start = (pdo or hlen + DIGEST_BYTES * wire.hdgst) - COMMON.size
    stop = len(rest) - (DIGEST_BYTES if flags & F_DDGST else 0)
    data = rest[start:stop]
    if flags & F_DDGST and check_data and rest[stop:] != struct.pack("<I", crc32c(data)):
        raise ProtocolError(f"{PduType(common[0]).name} has a wrong data digest")
    return kind.parse(flags, header[COMMON.size :], data)
