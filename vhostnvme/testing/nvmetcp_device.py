"""What a scripted NVMe/TCP target serves: namespaces in memory, and the commands on them.

No sockets here: a whole command comes in and its outcome goes out. Tests change the fields of a
namespace or of the device at any moment; what hosts see changes with them.
"""

from __future__ import annotations

import struct
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from vhostnvme.testing.nvme import BROADCAST_NSID, Admin, Io, Reg, Sqe, Status
from vhostnvme.testing.nvmetcp_fabrics import CROSS_RESET, LOG_ANA, Ana, AnaGroup, AnaLog, Fctype

SUBNQN = "nqn.2026-11.test:scripted"
CAP = 0x7F | 1 << 16 | 20 << 24 | 1 << 37  # MQES 128, CQR, 10 s, NVM command set
DNR = 0x4000
FEATURE_QUEUES, FEATURE_VWC, FEATURE_KATO = 0x07, 0x06, 0x0F
LOG_EFFECTS = 0x05
CSTS_RDY = 1


@dataclass
class Outcome:
    """How a command ends; `status` has DNR in bit 14."""

    status: int = 0
    result: int = 0
    data: bytes = b""
    dword1: int = 0


def failed(code: int, *, dnr: bool = True) -> Outcome:
    return Outcome(code | DNR * dnr)


@dataclass
class MemoryNamespace:
    """Bytes that are read and written; `group` is its ANA group."""

    size: int = 4 << 20
    block_bytes: int = 512
    uuid: uuid.UUID = field(default_factory=uuid.uuid4)
    group: int = 1
    data: bytearray = field(init=False)

    def __post_init__(self) -> None:
        self.data = bytearray(self.size)

    def resize(self, size: int) -> None:
        """What is cut off is lost; what is added is zero."""
        self.data = self.data[:size] + bytes(max(size - len(self.data), 0))
        self.size = size

    @property
    def nr_blocks(self) -> int:
        return self.size // self.block_bytes


@dataclass
class ControllerState:
    """One controller of the device: an association with a host."""

    cntlid: int
    port: int
    hostnqn: str
    hostid: bytes
    kato_ms: int
    instance: int  # CIU
    instance_random: int  # CIRN
    cc: int = 0
    features: dict[int, int] = field(default_factory=dict)


class Device:
    """The subsystem: namespaces, identities, ANA states of its ports, and what commands do."""

    def __init__(self, namespaces: dict[int, MemoryNamespace]) -> None:
        self.namespaces = namespaces
        self.subnqn = SUBNQN
        self.serial, self.model = "scripted", "scripted target"
        self.mdts = 5
        self.oncs = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 7  # compare, DSM, write zeroes, verify
        self.vwc = 1 | 3 << 1
        self.max_queues = 8
        self.ready = True  # False: CSTS.RDY never comes
        self.cross_reset = True  # CIU and CIRN are told
        self.ana: dict[tuple[int, int], int] = {}  # (port, group): state; optimized by default
        self.ana_changes = 1
        self.lock = threading.RLock()

    def ana_state(self, port: int, group: int) -> int:
        return self.ana.get((port, group), Ana.OPTIMIZED)

    # --- Properties ---

    def property_get(self, ctrl: ControllerState, offset: int) -> int | None:
        ready = CSTS_RDY if ctrl.cc & 1 and self.ready else 0
        shutdown = 0x8 if ctrl.cc >> 14 & 3 else 0
        values = {Reg.CAP: CAP, Reg.VS: 0x20000, Reg.CC: ctrl.cc, Reg.CSTS: ready | shutdown}
        return {int(reg): value for reg, value in values.items()}.get(offset)

    def fabrics(self, ctrl: ControllerState, sqe: Sqe) -> Outcome:
        """Fabrics commands of a connected queue."""
        kind = sqe.nsid & 0xFF
        if kind == Fctype.PROPERTY_SET and sqe.cdw11 == Reg.CC:
            ctrl.cc = sqe.cdw12
            return Outcome()
        if kind == Fctype.PROPERTY_GET:
            value = self.property_get(ctrl, sqe.cdw11)
            if value is not None:
                return Outcome(result=value & 0xFFFFFFFF, dword1=value >> 32)
            return failed(Status.INVALID_FIELD)
        return failed(Status.INVALID_OPCODE if kind != Fctype.PROPERTY_SET else 2)

    # --- Admin ---

    def admin(self, ctrl: ControllerState, sqe: Sqe) -> Outcome:
        """All but events, aborts and cross-controller resets: those are the target's."""
        commands: dict[int, Callable[[ControllerState, Sqe], Outcome]] = {
            Admin.IDENTIFY: self._identify,
            Admin.GET_LOG_PAGE: self._log_page,
            Admin.SET_FEATURES: self._set_feature,
            Admin.GET_FEATURES: self._get_feature,
            Admin.KEEP_ALIVE: lambda ctrl, sqe: Outcome(),
        }
        command = commands.get(sqe.opcode)
        return command(ctrl, sqe) if command else failed(Status.INVALID_OPCODE)

    def _set_feature(self, ctrl: ControllerState, sqe: Sqe) -> Outcome:
        fid, value = sqe.cdw10 & 0xFF, sqe.cdw11
        if fid == FEATURE_QUEUES:
            value = min(value & 0xFFFF, self.max_queues - 1) * 0x10001
        if fid == FEATURE_KATO:
            ctrl.kato_ms = value
        ctrl.features[fid] = value
        return Outcome(result=value if fid == FEATURE_QUEUES else 0)

    def _get_feature(self, ctrl: ControllerState, sqe: Sqe) -> Outcome:
        fid = sqe.cdw10 & 0xFF
        default = {FEATURE_QUEUES: (self.max_queues - 1) * 0x10001, FEATURE_VWC: self.vwc & 1}
        if fid == FEATURE_KATO:
            return Outcome(result=ctrl.kato_ms)
        return Outcome(result=ctrl.features.get(fid, default.get(fid, 0)))

    def _log_page(self, ctrl: ControllerState, sqe: Sqe) -> Outcome:
        length = ((sqe.cdw10 >> 16 | (sqe.cdw11 & 0xFFFF) << 16) + 1) * 4
        offset = sqe.cdw12 | sqe.cdw13 << 32
        pages = {0x01: 64, 0x02: 512, 0x03: 512, 0x04: 4096}
        lid = sqe.cdw10 & 0xFF
        if lid == LOG_ANA:
            page = bytes(self.ana_log(ctrl.port))
        elif lid == LOG_EFFECTS:
            page = self.effects_log()
        elif lid in pages:
            page = bytes(pages[lid])
        else:
            return failed(Status.INVALID_LOG_PAGE)
        return Outcome(data=page[offset : offset + length].ljust(length, b"\0"))

    def effects_log(self) -> bytes:
        """Which commands there are: bit 0 of a dword each, admin commands first (Base 5.16.1.6)."""
        page = bytearray(4096)
        for opcode in (*Admin, CROSS_RESET):
            page[4 * opcode] = opcode in self.admin_commands()
        for opcode in (Io.FLUSH, Io.WRITE, Io.READ, Io.COMPARE, Io.WRITE_ZEROES, Io.DSM, Io.VERIFY):
            page[1024 + 4 * opcode] = 1
        return bytes(page)

    def admin_commands(self) -> set[int]:
        commands = {Admin.IDENTIFY, Admin.GET_LOG_PAGE, Admin.SET_FEATURES, Admin.GET_FEATURES}
        commands |= {Admin.KEEP_ALIVE, Admin.ABORT, Admin.ASYNC_EVENT}
        return {*map(int, commands), CROSS_RESET} if self.cross_reset else {*map(int, commands)}

    def ana_log(self, port: int) -> AnaLog:
        numbers = sorted({namespace.group for namespace in self.namespaces.values()})
        groups = []
        for number in numbers:
            nsids = (nsid for nsid, ns in sorted(self.namespaces.items()) if ns.group == number)
            state = self.ana_state(port, number)
            groups.append(AnaGroup(number, self.ana_changes, state, tuple(nsids)))
        return AnaLog(self.ana_changes, tuple(groups))

    def _identify(self, ctrl: ControllerState, sqe: Sqe) -> Outcome:
        cns = sqe.cdw10 & 0xFF
        if cns == 1:
            return Outcome(data=self.identify_controller(ctrl))
        if cns in (2, 7):
            nsids = sorted(nsid for nsid in self.namespaces if nsid > sqe.nsid)
            return Outcome(data=struct.pack(f"<{len(nsids)}I", *nsids).ljust(4096, b"\0"))
        if cns == 0x1C:
            return Outcome(data=struct.pack("<Q", 1).ljust(4096, b"\0"))
        if cns == 6:
            return Outcome(data=bytes(4096))
        namespace = self.namespaces.get(sqe.nsid)
        if namespace is None:
            return Outcome(data=bytes(4096)) if cns == 0 else failed(Status.INVALID_NAMESPACE)
        pages: dict[int, Callable[[MemoryNamespace], bytes]] = {
            0: self.identify_namespace,
            3: lambda ns: (b"\3\x10\0\0" + ns.uuid.bytes + b"\4\1\0\0\0").ljust(4096, b"\0"),
            5: lambda ns: bytes(4096),
            8: lambda ns: struct.pack("<BBBBIBxHHB", 0, 1, 0, 0, ns.group, 0, 0, 0, 1).ljust(
                4096, b"\0"
            ),
        }
        page = pages.get(cns)
        return Outcome(data=page(namespace)) if page else failed(Status.INVALID_FIELD)

    def identify_namespace(self, namespace: MemoryNamespace) -> bytes:
        """CNS 00h: no NGUID and no EUI64, the UUID is what it is known by."""
        raw = bytearray(4096)
        struct.pack_into("<QQQ", raw, 0, *[namespace.nr_blocks] * 3)
        raw[30], raw[33] = 1, 1  # NMIC: shared; DLFEAT: zeros
        struct.pack_into("<I", raw, 92, namespace.group)
        raw[130] = namespace.block_bytes.bit_length() - 1
        return bytes(raw)

    def identify_controller(self, ctrl: ControllerState) -> bytes:
        raw = bytearray(4096)
        raw[4:24] = self.serial.encode().ljust(20)
        raw[24:64] = self.model.encode().ljust(40)
        raw[64:72] = b"1".ljust(8)
        raw[76], raw[77] = 1 | 2 | 8, self.mdts
        struct.pack_into("<H", raw, 78, ctrl.cntlid)
        struct.pack_into("<I", raw, 80, 0x20000)
        struct.pack_into("<II", raw, 92, 1 << 8 | 1 << 11, 1 << 6)  # OAES; CTRATT: TBKAS
        raw[111] = 1
        if self.cross_reset:
            raw[135] = ctrl.instance
            struct.pack_into("<Q", raw, 136, ctrl.instance_random)
        raw[258], raw[259] = 3, 3  # ACL, AERL
        struct.pack_into("<H", raw, 320, 1)  # KAS: 100 ms
        raw[342], raw[343] = 10, 0x1F
        struct.pack_into("<II", raw, 344, 16, 16)
        raw[512], raw[513] = 0x66, 0x44
        struct.pack_into("<HI", raw, 514, 128, max(self.namespaces, default=1))
        struct.pack_into("<H", raw, 520, self.oncs)
        raw[525] = self.vwc
        struct.pack_into("<II", raw, 536, 1 | 1 << 20, max(self.namespaces, default=1))
        raw[768:1024] = self.subnqn.encode().ljust(256, b"\0")
        struct.pack_into("<IIHBB", raw, 1792, (64 + 8192) // 16, 1, 0, 0, 1)
        return bytes(raw)

    # --- I/O ---

    def io(self, ctrl: ControllerState, sqe: Sqe, data: bytes) -> Outcome:
        """Executes an I/O command, under the device's lock."""
        with self.lock:
            if sqe.opcode == Io.FLUSH and sqe.nsid == BROADCAST_NSID:
                return Outcome()
            namespace = self.namespaces.get(sqe.nsid)
            if namespace is None:
                return failed(Status.INVALID_NAMESPACE)
            access = {
                Ana.INACCESSIBLE: Status.ANA_INACCESSIBLE,
                Ana.PERSISTENT_LOSS: Status.ANA_LOSS,
                Ana.CHANGE: Status.ANA_TRANSITION,
            }.get(Ana(self.ana_state(ctrl.port, namespace.group)))
            if access is not None:
                return failed(access, dnr=False)
            return self._ranged(namespace, sqe, data)

    def _ranged(self, namespace: MemoryNamespace, sqe: Sqe, data: bytes) -> Outcome:
        if sqe.opcode == Io.FLUSH:
            return Outcome()
        if sqe.opcode == Io.DSM:
            for at in range(0, len(data) - len(data) % 16, 16):
                _, blocks, lba = struct.unpack_from("<IIQ", data, at)
                if lba + blocks > namespace.nr_blocks:
                    return failed(Status.LBA_RANGE)
                start = lba * namespace.block_bytes
                length = blocks * namespace.block_bytes
                namespace.data[start : start + length] = bytes(length)
            return Outcome()
        lba, blocks = sqe.cdw10 | sqe.cdw11 << 32, (sqe.cdw12 & 0xFFFF) + 1
        if lba + blocks > namespace.nr_blocks:
            return failed(Status.LBA_RANGE)
        start, length = lba * namespace.block_bytes, blocks * namespace.block_bytes
        here = slice(start, start + length)
        if sqe.opcode == Io.READ:
            return Outcome(data=bytes(namespace.data[here]))
        if sqe.opcode == Io.WRITE_ZEROES:
            namespace.data[here] = bytes(length)
        elif sqe.opcode == Io.WRITE:
            namespace.data[here] = data
        elif sqe.opcode == Io.COMPARE:
            same = namespace.data[here] == data
            return Outcome() if same else failed(Status.COMPARE_FAILURE)
        elif sqe.opcode != Io.VERIFY:
            return failed(Status.INVALID_OPCODE)
        return Outcome()
