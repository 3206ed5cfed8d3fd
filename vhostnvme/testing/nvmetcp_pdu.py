"""The PDUs of NVMe/TCP as values to build, to bend and to read (TCP Transport 1.0c, 3.6).

Nothing is checked here but what one field says about another: tests send what is wrong, too.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from typing import ClassVar

from vhostnvme.errors import ProtocolError
from vhostnvme.testing.nvme import Completion, Sqe

F_HDGST, F_DDGST, F_LAST, F_SUCCESS = 1, 2, 4, 8


class PduType(enum.IntEnum):
    IC_REQ = 0
    IC_RESP = 1
    H2C_TERM = 2
    C2H_TERM = 3
    CMD = 4
    RESP = 5
    H2C_DATA = 6
    C2H_DATA = 7
    R2T = 9


class Fes(enum.IntEnum):
    """Why a connection is ended (3.6.2.4)."""

    INVALID_HEADER = 1
    SEQUENCE = 2
    HEADER_DIGEST = 3
    DATA_RANGE = 4
    DATA_LIMIT = 5
    UNSUPPORTED = 6


# Frozen: bent copies are made by dataclasses.replace.


@dataclass(frozen=True)
class Pdu:
    """What all have in common; `body` is the header behind its first eight bytes."""

    TYPE: ClassVar[PduType]
    HLEN: ClassVar[int]
    FLAGS: ClassVar[int] = 0  # that may be set, but for digests
    DIGESTS: ClassVar[bool] = True
    HAS_DATA: ClassVar[bool] = False

    @property
    def flags(self) -> int:
        return 0

    @property
    def body(self) -> bytes:
        raise NotImplementedError

    @property
    def payload(self) -> bytes:
        return b""

    @classmethod
    def parse(cls, flags: int, body: bytes, data: bytes) -> Pdu:
        raise NotImplementedError


_IC = struct.Struct("<HBBI112x")


@dataclass(frozen=True)
class IcReq(Pdu):
    """`maxr2t` is zero-based; `digest` bit 0 header, bit 1 data."""

    TYPE = PduType.IC_REQ
    HLEN = 128
    DIGESTS = False

    pfv: int = 0
    hpda: int = 0
    digest: int = 0
    maxr2t: int = 0

    @property
    def body(self) -> bytes:
        return _IC.pack(self.pfv, self.hpda, self.digest, self.maxr2t)

    @classmethod
    def parse(cls, flags: int, body: bytes, data: bytes) -> IcReq:
        return cls(*_IC.unpack(body))


@dataclass(frozen=True)
class IcResp(Pdu):
    TYPE = PduType.IC_RESP
    HLEN = 128
    DIGESTS = False

    pfv: int = 0
    cpda: int = 0
    digest: int = 0
    maxh2cdata: int = 128 << 10

    @property
    def body(self) -> bytes:
        return _IC.pack(self.pfv, self.cpda, self.digest, self.maxh2cdata)

    @classmethod
    def parse(cls, flags: int, body: bytes, data: bytes) -> IcResp:
        return cls(*_IC.unpack(body))


@dataclass(frozen=True)
class Term(Pdu):
    """Either direction's termination request; `data` is the start of the PDU that was wrong."""

    HLEN = 24
    DIGESTS = False
    HAS_DATA = True

    fes: int = 0
    info: int = 0
    data: bytes = b""

    @property
    def body(self) -> bytes:
        return struct.pack("<HI10x", self.fes, self.info)

    @property
    def payload(self) -> bytes:
        return self.data

    @classmethod
    def parse(cls, flags: int, body: bytes, data: bytes) -> Term:
        fes, info = struct.unpack("<HI10x", body)
        return cls(fes, info, data)


@dataclass(frozen=True)
class H2CTerm(Term):
    TYPE = PduType.H2C_TERM


@dataclass(frozen=True)
class C2HTerm(Term):
    TYPE = PduType.C2H_TERM


@dataclass(frozen=True)
class Command(Pdu):
    """A command capsule, with its in-capsule data."""

    TYPE = PduType.CMD
    HLEN = 72
    HAS_DATA = True

    sqe: Sqe = field(default_factory=lambda: Sqe(0))
    data: bytes = b""

    @property
    def body(self) -> bytes:
        return bytes(self.sqe)

    @property
    def payload(self) -> bytes:
        return self.data

    @classmethod
    def parse(cls, flags: int, body: bytes, data: bytes) -> Command:
        return cls(Sqe.of(body), data)


_CQE = struct.Struct("<IIHHHH")


@dataclass(frozen=True)
class Response(Pdu):
    """A response capsule; `status` is the 15-bit field, as in `nvme.Completion`."""

    TYPE = PduType.RESP
    HLEN = 24

    cid: int = 0
    status: int = 0
    result: int = 0
    dword1: int = 0
    sqhd: int = 0

    @property
    def body(self) -> bytes:
        return _CQE.pack(self.result, self.dword1, self.sqhd, 0, self.cid, self.status << 1)

    @property
    def completion(self) -> Completion:
        return Completion(self.result, self.sqhd, 0, self.cid, self.status, self.dword1)

    @classmethod
    def parse(cls, flags: int, body: bytes, data: bytes) -> Response:
        result, dword1, sqhd, _, cid, status = _CQE.unpack(body)
        return cls(cid, status >> 1, result, dword1, sqhd)


_DATA = struct.Struct("<HHII4x")


@dataclass(frozen=True)
class H2CData(Pdu):
    """`length` replaces DATAL, which is that of the data otherwise."""

    TYPE = PduType.H2C_DATA
    HLEN = 24
    FLAGS = F_LAST
    HAS_DATA = True

    cid: int = 0
    ttag: int = 0
    offset: int = 0
    data: bytes = b""
    last: bool = True
    length: int | None = None

    @property
    def flags(self) -> int:
        return F_LAST * self.last

    @property
    def body(self) -> bytes:
        length = len(self.data) if self.length is None else self.length
        return _DATA.pack(self.cid, self.ttag, self.offset, length)

    @property
    def payload(self) -> bytes:
        return self.data

    @classmethod
    def parse(cls, flags: int, body: bytes, data: bytes) -> H2CData:
        cid, ttag, offset, length = _DATA.unpack(body)
        _same_length(length, data)
        return cls(cid, ttag, offset, data, bool(flags & F_LAST))


@dataclass(frozen=True)
class C2HData(Pdu):
    TYPE = PduType.C2H_DATA
    HLEN = 24
    FLAGS = F_LAST | F_SUCCESS
    HAS_DATA = True

    cid: int = 0
    offset: int = 0
    data: bytes = b""
    last: bool = True
    success: bool = False
    length: int | None = None

    @property
    def flags(self) -> int:
        return F_LAST * self.last | F_SUCCESS * self.success

    @property
    def body(self) -> bytes:
        length = len(self.data) if self.length is None else self.length
        return _DATA.pack(self.cid, 0, self.offset, length)

    @property
    def payload(self) -> bytes:
        return self.data

    @classmethod
    def parse(cls, flags: int, body: bytes, data: bytes) -> C2HData:
        cid, _, offset, length = _DATA.unpack(body)
        _same_length(length, data)
        if flags & F_SUCCESS and not flags & F_LAST:
            raise ProtocolError("a C2HData PDU has SUCCESS without LAST")
        return cls(cid, offset, data, bool(flags & F_LAST), bool(flags & F_SUCCESS))


@dataclass(frozen=True)
class R2T(Pdu):
    TYPE = PduType.R2T
    HLEN = 24

    cid: int = 0
    ttag: int = 0
    offset: int = 0
    length: int = 0

    @property
    def body(self) -> bytes:
        return _DATA.pack(self.cid, self.ttag, self.offset, self.length)

    @classmethod
    def parse(cls, flags: int, body: bytes, data: bytes) -> R2T:
        return cls(*_DATA.unpack(body))


KINDS: dict[int, type[Pdu]] = {
    int(kind.TYPE): kind
    for kind in (IcReq, IcResp, H2CTerm, C2HTerm, Command, Response, H2CData, C2HData, R2T)
}
FROM_CONTROLLER = frozenset(
    {PduType.IC_RESP, PduType.C2H_TERM, PduType.RESP, PduType.C2H_DATA, PduType.R2T}
)


def _same_length(length: int, data: bytes) -> None:
    if length != len(data):
        raise ProtocolError(f"a data PDU says {length} bytes and holds {len(data)}")
