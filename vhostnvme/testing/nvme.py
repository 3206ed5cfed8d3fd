"""NVMe commands to build and completions to read, for tests: names and layouts of NVMe Base 2.0c.

Nothing is checked on purpose: tests send what is wrong, too.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

from vhostnvme.errors import PeerError

ADMIN_QUEUE = 0
BROADCAST_NSID = 0xFFFFFFFF
PAGE_BYTES = 4096


class Reg(enum.IntEnum):
    """Offsets of controller registers in BAR0 (Base 3.1.3)."""

    CAP = 0x00
    VS = 0x08
    INTMS = 0x0C
    INTMC = 0x10
    CC = 0x14
    CSTS = 0x1C
    NSSR = 0x20
    AQA = 0x24
    ASQ = 0x28
    ACQ = 0x30
    DOORBELLS = 0x1000


class Admin(enum.IntEnum):
    """Admin opcodes."""

    DELETE_SQ = 0x00
    CREATE_SQ = 0x01
    GET_LOG_PAGE = 0x02
    DELETE_CQ = 0x04
    CREATE_CQ = 0x05
    IDENTIFY = 0x06
    ABORT = 0x08
    SET_FEATURES = 0x09
    GET_FEATURES = 0x0A
    ASYNC_EVENT = 0x0C
    NS_MANAGEMENT = 0x0D
    NS_ATTACHMENT = 0x15
    KEEP_ALIVE = 0x18
    DOORBELL_CONFIG = 0x7C
    FORMAT_NVM = 0x80
    SANITIZE = 0x84


class Io(enum.IntEnum):
    """Opcodes of the NVM command set."""

    FLUSH = 0x00
    WRITE = 0x01
    READ = 0x02
    WRITE_UNCORRECTABLE = 0x04
    COMPARE = 0x05
    WRITE_ZEROES = 0x08
    DSM = 0x09
    VERIFY = 0x0C
    RESERVATION_REGISTER = 0x0D
    RESERVATION_REPORT = 0x0E
    RESERVATION_ACQUIRE = 0x11
    RESERVATION_RELEASE = 0x15
    COPY = 0x19


class Status(enum.IntEnum):
    """Status type and code, as SCT << 8 | SC (Base 3.3.3.2.1)."""

    SUCCESS = 0x000
    INVALID_OPCODE = 0x001
    INVALID_FIELD = 0x002
    CID_CONFLICT = 0x003
    DATA_TRANSFER_ERROR = 0x004
    INTERNAL = 0x006
    ABORT_REQUESTED = 0x007
    ABORT_SQ_DELETED = 0x008
    ABORT_FAILED_FUSED = 0x009
    ABORT_MISSING_FUSED = 0x00A
    INVALID_NAMESPACE = 0x00B
    COMMAND_SEQUENCE = 0x00C
    INVALID_SGL_SEGMENT = 0x00D
    INVALID_SGL_COUNT = 0x00E
    SGL_DATA_LENGTH = 0x00F
    SGL_METADATA_LENGTH = 0x010
    SGL_TYPE = 0x011
    INVALID_PRP_OFFSET = 0x013
    OPERATION_DENIED = 0x015
    SGL_OFFSET = 0x016
    HOST_IDENTIFIER_FORMAT = 0x018
    ABORT_PREEMPTED = 0x01B
    WRITE_PROTECTED = 0x020
    TRANSIENT_TRANSPORT = 0x022
    LBA_RANGE = 0x080
    CAPACITY_EXCEEDED = 0x081
    NAMESPACE_NOT_READY = 0x082
    RESERVATION_CONFLICT = 0x083
    FORMAT_IN_PROGRESS = 0x084
    CQ_INVALID = 0x100
    QID_INVALID = 0x101
    QUEUE_SIZE = 0x102
    ABORT_LIMIT = 0x103
    AER_LIMIT = 0x105
    INVALID_VECTOR = 0x108
    INVALID_LOG_PAGE = 0x109
    INVALID_FORMAT = 0x10A
    INVALID_QUEUE_DELETION = 0x10C
    FEATURE_NOT_SAVEABLE = 0x10D
    FEATURE_NOT_CHANGEABLE = 0x10E
    FEATURE_NOT_NS_SPECIFIC = 0x10F
    CONFLICTING_ATTRIBUTES = 0x180
    INVALID_PROTECTION_INFORMATION = 0x181
    READ_ONLY_RANGE = 0x182
    COMMAND_SIZE_LIMIT = 0x183
    WRITE_FAULT = 0x280
    UNRECOVERED_READ = 0x281
    GUARD_CHECK = 0x282
    APPLICATION_TAG_CHECK = 0x283
    REFERENCE_TAG_CHECK = 0x284
    COMPARE_FAILURE = 0x285
    ACCESS_DENIED = 0x286
    PATH_INTERNAL = 0x300
    ANA_LOSS = 0x301
    ANA_INACCESSIBLE = 0x302
    ANA_TRANSITION = 0x303
    HOST_PATH = 0x370


def status_name(code: int) -> str:
    """A name for SCT << 8 | SC, such as `LBA_RANGE (0/80)`."""
    numbers = f"{code >> 8 & 7:X}/{code & 0xFF:02X}"
    try:
        return f"{Status(code).name} ({numbers})"
    except ValueError:
        return f"status {numbers}"


_SQE = struct.Struct("<BBHIIIQQQ6I")
_SGL = struct.Struct("<QI3xB")


@dataclass(frozen=True)
class Sqe:
    """A submission queue entry, field by field; `bytes(sqe)` is its 64 bytes.

    `flags` holds FUSE in bits 1:0 and PSDT in bits 7:6. The host replaces `cid` unless it is told
    to keep it.
    """

    opcode: int
    nsid: int = 0
    cdw10: int = 0
    cdw11: int = 0
    cdw12: int = 0
    cdw13: int = 0
    cdw14: int = 0
    cdw15: int = 0
    prp1: int = 0
    prp2: int = 0
    flags: int = 0
    cid: int = 0
    cdw2: int = 0
    cdw3: int = 0
    mptr: int = 0

    def __bytes__(self) -> bytes:
        return _SQE.pack(
            *(self.opcode, self.flags, self.cid, self.nsid, self.cdw2, self.cdw3, self.mptr),
            *(self.prp1, self.prp2, self.cdw10, self.cdw11, self.cdw12),
            *(self.cdw13, self.cdw14, self.cdw15),
        )

    @classmethod
    def of(cls, raw: bytes) -> Sqe:
        """The fields of 64 bytes."""
        order = "opcode flags cid nsid cdw2 cdw3 mptr prp1 prp2 cdw10 cdw11 cdw12 cdw13 cdw14 cdw15"
        return cls(**dict(zip(order.split(), _SQE.unpack(raw), strict=True)))

    def with_fields(self, **changes: int) -> Sqe:
        """A copy with other values in these fields."""
        unknown = set(changes) - {field.name for field in fields(self)}
        if unknown:
            raise TypeError(f"an SQE has no field {', '.join(sorted(unknown))}")
        return replace(self, **changes)

    def with_sgl(self, address: int, length: int, kind: int = 0, subtype: int = 0) -> Sqe:
        """A copy whose data pointer is one SGL descriptor (PSDT 01b)."""
        prp1, prp2 = struct.unpack("<QQ", sgl(address, length, kind, subtype))
        return replace(self, flags=self.flags & 0x3F | 0x40, prp1=prp1, prp2=prp2)


def sgl(address: int, length: int, kind: int = 0, subtype: int = 0) -> bytes:
    """An SGL descriptor; kind 0 data block, 1 bit bucket, 2 segment, 3 last segment."""
    return _SGL.pack(address, length, kind << 4 | subtype)


@dataclass(frozen=True)
class Completion:
    """A completion queue entry. `status` is the 15-bit field without the phase."""

    result: int
    sqhd: int
    sqid: int
    cid: int
    status: int
    dword1: int = 0

    @property
    def status_type(self) -> int:
        return self.status >> 8 & 7

    @property
    def status_code(self) -> int:
        return self.status & 0xFF

    @property
    def code(self) -> int:
        """Type and code as SCT << 8 | SC; equal to a `Status`."""
        return self.status & 0x7FF

    @property
    def dnr(self) -> bool:
        """Do Not Retry: the same command would fail again."""
        return bool(self.status & 0x4000)

    @property
    def more(self) -> bool:
        """The error log has an entry about this."""
        return bool(self.status & 0x2000)

    @property
    def ok(self) -> bool:
        return self.code == Status.SUCCESS

    def __str__(self) -> str:
        return f"{status_name(self.code)}{' DNR' if self.dnr else ''}{' M' if self.more else ''}"


class CommandFailed(PeerError):
    """The controller completed a command with an error; `completion` says which."""

    def __init__(self, what: str, completion: Completion) -> None:
        super().__init__(f"{what} failed: {completion}")
        self.completion = completion


def succeeded(what: str, completion: Completion) -> Completion:
    """Passes a completion with status 0 through.

    Raises:
        CommandFailed: any other, with `what` in its message.
    """
    if not completion.ok:
        raise CommandFailed(what, completion)
    return completion


# --- Commands ---


def identify(cns: int, nsid: int = 0, cntid: int = 0, csi: int = 0) -> Sqe:
    return Sqe(Admin.IDENTIFY, nsid=nsid, cdw10=cns | cntid << 16, cdw11=csi << 24)


def get_log_page(
    lid: int, length: int, nsid: int = BROADCAST_NSID, offset: int = 0, rae: bool = False
) -> Sqe:
    """`length` in bytes, a multiple of 4."""
    numd = length // 4 - 1
    return Sqe(
        Admin.GET_LOG_PAGE,
        nsid=nsid,
        cdw10=lid | int(rae) << 15 | (numd & 0xFFFF) << 16,
        cdw11=numd >> 16,
        cdw12=offset & 0xFFFFFFFF,
        cdw13=offset >> 32,
    )


def get_features(fid: int, select: int = 0, nsid: int = 0, cdw11: int = 0) -> Sqe:
    """select: 0 current, 1 default, 2 saved, 3 capabilities."""
    return Sqe(Admin.GET_FEATURES, nsid=nsid, cdw10=fid | select << 8, cdw11=cdw11)


def set_features(fid: int, value: int, nsid: int = 0, save: bool = False) -> Sqe:
    return Sqe(Admin.SET_FEATURES, nsid=nsid, cdw10=fid | int(save) << 31, cdw11=value)


def abort(sqid: int, cid: int) -> Sqe:
    return Sqe(Admin.ABORT, cdw10=sqid | cid << 16)


def async_event() -> Sqe:
    return Sqe(Admin.ASYNC_EVENT)


def format_nvm(nsid: int, index: int, *, ses: int = 0, settings: int = 0) -> Sqe:
    """`settings`: MSET, PI and PIL as they stand in CDW10 (bits 8:4)."""
    cdw10 = index & 0xF | settings | ses << 9 | (index >> 4 & 3) << 12
    return Sqe(Admin.FORMAT_NVM, nsid=nsid, cdw10=cdw10)


def _ranged(opcode: int, nsid: int, lba: int, blocks: int, control: int) -> Sqe:
    return Sqe(
        opcode,
        nsid=nsid,
        cdw10=lba & 0xFFFFFFFF,
        cdw11=lba >> 32,
        cdw12=(blocks - 1) & 0xFFFF | control,
    )


def read(nsid: int, lba: int, blocks: int, control: int = 0) -> Sqe:
    return _ranged(Io.READ, nsid, lba, blocks, control)


def write(nsid: int, lba: int, blocks: int, fua: bool = False, control: int = 0) -> Sqe:
    return _ranged(Io.WRITE, nsid, lba, blocks, control | int(fua) << 30)


def compare(nsid: int, lba: int, blocks: int) -> Sqe:
    return _ranged(Io.COMPARE, nsid, lba, blocks, 0)


def verify(nsid: int, lba: int, blocks: int) -> Sqe:
    return _ranged(Io.VERIFY, nsid, lba, blocks, 0)


def write_zeroes(nsid: int, lba: int, blocks: int, deallocate: bool = False) -> Sqe:
    return _ranged(Io.WRITE_ZEROES, nsid, lba, blocks, int(deallocate) << 25)


def flush(nsid: int) -> Sqe:
    return Sqe(Io.FLUSH, nsid=nsid)


def dataset_management(nsid: int, nr_ranges: int, deallocate: bool = True) -> Sqe:
    return Sqe(Io.DSM, nsid=nsid, cdw10=(nr_ranges - 1) & 0xFF, cdw11=int(deallocate) << 2)


def dsm_ranges(ranges: Iterable[tuple[int, int]]) -> bytes:
    """The data of Dataset Management: (first LBA, number of blocks) each."""
    return b"".join(struct.pack("<IIQ", 0, blocks, lba) for lba, blocks in ranges)
