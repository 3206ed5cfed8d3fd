"""Fabrics commands to build and what comes back to read, for scripted peers (Base 6, 5.16.1.23)."""

from __future__ import annotations

import enum
import struct
import uuid
from dataclasses import dataclass
from typing import Any

from vhostnvme.testing.nvme import Completion, Sqe

DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
FABRICS = 0x7F
CROSS_RESET = 0x38
CNTLID_DYNAMIC = 0xFFFF
NO_SQ_FLOW = 1 << 2  # CATTR
LOG_ANA, LOG_DISCOVERY = 0x0C, 0x70
DISCOVERY_ENTRY_BYTES = 1024
# SGL descriptors on TCP: type and subtype (TCP 3.3.2)
IN_CAPSULE = {"kind": 0, "subtype": 1}
TRANSPORT = {"kind": 5, "subtype": 0xA}


class Fctype(enum.IntEnum):
    PROPERTY_SET = 0
    CONNECT = 1
    PROPERTY_GET = 4
    AUTH_SEND = 5
    AUTH_RECV = 6
    DISCONNECT = 8


class FabricsStatus(enum.IntEnum):
    """Type and code as SCT << 8 | SC, of fabrics commands only."""

    CONNECT_FORMAT = 0x180
    CONNECT_BUSY = 0x181
    CONNECT_PARAMETER = 0x182
    CONNECT_RESTART = 0x183
    CONNECT_HOST = 0x184
    DISCOVERY_RESTART = 0x190
    AUTH_REQUIRED = 0x191


class Ana(enum.IntEnum):
    OPTIMIZED = 1
    NON_OPTIMIZED = 2
    INACCESSIBLE = 3
    PERSISTENT_LOSS = 4
    CHANGE = 15


# --- Commands ---


def fabrics(fctype: int, **fields: int) -> Sqe:
    return Sqe(FABRICS, nsid=fctype, **fields)


def connect(
    qid: int, sqsize: int, *, kato_ms: int = 0, cattr: int = 0, recfmt: int = 0, priority: int = 0
) -> Sqe:
    """`sqsize` is zero-based, as on the wire."""
    return fabrics(
        Fctype.CONNECT,
        cdw10=recfmt | qid << 16,
        cdw11=sqsize | (cattr | priority) << 16,
        cdw12=kato_ms,
    )


def property_get(offset: int, *, eight: bool = False) -> Sqe:
    return fabrics(Fctype.PROPERTY_GET, cdw10=int(eight), cdw11=offset)


def property_set(offset: int, value: int, *, eight: bool = False) -> Sqe:
    return fabrics(
        Fctype.PROPERTY_SET,
        cdw10=int(eight),
        cdw11=offset,
        cdw12=value & 0xFFFFFFFF,
        cdw13=value >> 32,
    )


def disconnect(recfmt: int = 0) -> Sqe:
    return fabrics(Fctype.DISCONNECT, cdw10=recfmt)


def cross_reset(cntlid: int, instance: int, random: int) -> Sqe:
    """`instance` is the impacted controller's CIU, `random` its CIRN."""
    return Sqe(
        CROSS_RESET,
        cdw10=cntlid | instance << 16,
        cdw12=random & 0xFFFFFFFF,
        cdw13=random >> 32,
    )


@dataclass(frozen=True)
class ConnectData:
    """The data of Connect (Base 6.3); names that are bytes are taken as they are, unterminated."""

    hostnqn: str | bytes
    subnqn: str | bytes
    hostid: bytes = bytes(range(1, 17))
    cntlid: int = CNTLID_DYNAMIC

    def __bytes__(self) -> bytes:
        head = self.hostid + struct.pack("<H", self.cntlid)
        return head.ljust(256, b"\0") + _name(self.subnqn) + _name(self.hostnqn) + bytes(256)

    @classmethod
    def of(cls, raw: bytes) -> ConnectData:
        return cls(
            hostnqn=text(raw[512:768]),
            subnqn=text(raw[256:512]),
            hostid=raw[:16],
            cntlid=int.from_bytes(raw[16:18], "little"),
        )


def _name(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return raw.ljust(256, b"\0")[:256]


def text(raw: bytes) -> str:
    """A NUL-terminated or space-padded name."""
    return raw.split(b"\0")[0].decode("ascii", "replace").strip()


# Where a Connect's parameters stand: IPO, and IATTR in bit 16 for its data (Base 6.3).
IN_DATA = 1 << 16
AT_QID, AT_SQSIZE, AT_CATTR = 42, 44, 46
AT_HOSTID, AT_CNTLID = IN_DATA | 0, IN_DATA | 16
AT_SUBNQN, AT_HOSTNQN = IN_DATA | 256, IN_DATA | 512


# --- What comes back ---


@dataclass(frozen=True)
class DiscoveryEntry:
    """One record of the discovery log page; `subtype` 1 referral, 2 NVM subsystem, 3 this one."""

    trtype: int
    adrfam: int
    subtype: int
    treq: int
    portid: int
    cntlid: int
    asqsz: int
    eflags: int
    trsvcid: str
    subnqn: str
    traddr: str
    sectype: int

    @classmethod
    def of(cls, raw: bytes) -> DiscoveryEntry:
        numbers = struct.unpack_from("<BBBBHHHH", raw)
        names = text(raw[32:64]), text(raw[256:512]), text(raw[512:768])
        values: tuple[Any, ...] = (*numbers, *names, raw[768])
        return cls(*values)


@dataclass(frozen=True)
class DiscoveryLog:
    genctr: int
    numrec: int
    recfmt: int
    entries: tuple[DiscoveryEntry, ...]

    @classmethod
    def of(cls, raw: bytes) -> DiscoveryLog:
        """As many entries as `raw` holds."""
        genctr, numrec, recfmt = struct.unpack_from("<QQH", raw)
        count = min(numrec, len(raw) // DISCOVERY_ENTRY_BYTES - 1)
        size = DISCOVERY_ENTRY_BYTES
        pieces = (raw[size * (i + 1) : size * (i + 2)] for i in range(count))
        return cls(genctr, numrec, recfmt, tuple(map(DiscoveryEntry.of, pieces)))


@dataclass(frozen=True)
class AnaGroup:
    group: int
    change_count: int
    state: int
    nsids: tuple[int, ...]


@dataclass(frozen=True)
class AnaLog:
    change_count: int
    groups: tuple[AnaGroup, ...]

    @classmethod
    def of(cls, raw: bytes) -> AnaLog:
        count, nr_groups = struct.unpack_from("<QH", raw)
        at, groups = 16, []
        for _ in range(nr_groups):
            group, nr_nsids, changes, state = struct.unpack_from("<IIQB", raw, at)
            nsids = struct.unpack_from(f"<{nr_nsids}I", raw, at + 32)
            groups.append(AnaGroup(group, changes, state, nsids))
            at += 32 + 4 * nr_nsids
        return cls(count, tuple(groups))

    def __bytes__(self) -> bytes:
        out = struct.pack("<QH6x", self.change_count, len(self.groups))
        for group in self.groups:
            head = (group.group, len(group.nsids), group.change_count, group.state)
            out += struct.pack("<IIQB15x", *head)
            out += struct.pack(f"<{len(group.nsids)}I", *group.nsids)
        return out


@dataclass(frozen=True)
class AsyncEvent:
    """What an Asynchronous Event Request's completion says (Base 5.2.1)."""

    kind: int
    info: int
    log: int

    @classmethod
    def of(cls, completion: Completion) -> AsyncEvent:
        result = completion.result
        return cls(result & 7, result >> 8 & 0xFF, result >> 16 & 0xFF)

    @property
    def result(self) -> int:
        return self.kind | self.info << 8 | self.log << 16


NS_CHANGED = AsyncEvent(2, 0x00, 0x04)
ANA_CHANGED = AsyncEvent(2, 0x03, LOG_ANA)
DISCOVERY_CHANGED = AsyncEvent(2, 0xF0, LOG_DISCOVERY)


@dataclass(frozen=True)
class ControllerIdentity:
    """Identify Controller (CNS 01h), as far as fabrics need it."""

    serial: str
    model: str
    cmic: int
    mdts: int
    cntlid: int
    oaes: int
    ctratt: int
    cntrltype: int
    instance: int
    instance_random: int
    kas: int
    anacap: int
    nanagrpid: int
    maxcmd: int
    oncs: int
    vwc: int
    sgls: int
    subnqn: str
    ioccsz: int
    iorcsz: int
    icdoff: int
    raw: bytes

    @classmethod
    def of(cls, raw: bytes) -> ControllerIdentity:
        def number(at: int, size: int) -> int:
            return int.from_bytes(raw[at : at + size], "little")

        return cls(
            serial=text(raw[4:24]),
            model=text(raw[24:64]),
            cmic=raw[76],
            mdts=raw[77],
            cntlid=number(78, 2),
            oaes=number(92, 4),
            ctratt=number(96, 4),
            cntrltype=raw[111],
            instance=raw[135],
            instance_random=number(136, 8),
            kas=number(320, 2),
            anacap=raw[343],
            nanagrpid=number(348, 4),
            maxcmd=number(514, 2),
            oncs=number(520, 2),
            vwc=raw[525],
            sgls=number(536, 4),
            subnqn=text(raw[768:1024]),
            ioccsz=number(1792, 4),
            iorcsz=number(1796, 4),
            icdoff=number(1800, 2),
            raw=raw,
        )


def uuid_of(descriptors: bytes) -> uuid.UUID | None:
    """The UUID in a namespace identification descriptor list (CNS 03h)."""
    at = 0
    while at + 4 <= len(descriptors) and descriptors[at]:
        kind, length = descriptors[at], descriptors[at + 1]
        if kind == 3:
            return uuid.UUID(bytes=descriptors[at + 4 : at + 20])
        at += 4 + length
    return None
