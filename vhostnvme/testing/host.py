"""A vfio-user NVMe host for tests and tools: a controller driven from Python, without a VM.

::

    with NvmeHost.connect(path) as host:
        host.enable()
        queue = host.create_queue_pair(1, depth=64)
        queue.write(0, b"\\0" * 4096)
        assert queue.read(0, 8) == b"\\0" * 4096
        completion = queue.command(nvme.Sqe(0x7F, nsid=1))   # anything goes

Convenience methods raise `CommandFailed` for a status other than success; `command`, `submit` and
`wait` hand every completion back. Offsets and sizes are in bytes, LBAs in blocks, times in seconds.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from vhostnvme.closable import Closable
from vhostnvme.errors import NativeError
from vhostnvme.native.host import HostFlags, HostHandle, HostInfo, HostOptions, RawCompletion
from vhostnvme.testing import nvme
from vhostnvme.testing.nvme import PAGE_BYTES, Completion, Reg, Sqe, succeeded
from vhostnvme.testing.queues import Buffer, QueuePair

__all__ = ["HostFlags", "Identity", "NvmeHost"]

INTX, MSIX = 0, 2
PCI_CONFIG_REGION = 7


def _completion(raw: RawCompletion) -> Completion:
    return Completion(raw.result, raw.sqhd, raw.sqid, raw.cid, raw.status, raw.dword1)


@dataclass(frozen=True)
class Identity:
    """What Identify Namespace says, as far as I/O needs it; `raw` is all 4096 bytes."""

    nsid: int
    nr_blocks: int
    block_bytes: int
    raw: bytes


class NvmeHost(Closable):
    """A connection to a vfio-user NVMe server, and the controller behind it."""

    def __init__(self, path: str | Path, options: HostOptions | None = None) -> None:
        self.path = Path(path)
        self.handle = HostHandle(path, options)
        self.info: HostInfo = self.handle.info()
        self.timeout = 10.0
        self._identities: dict[int, Identity] = {}

    @classmethod
    def connect(
        cls,
        path: str | Path,
        *,
        flags: HostFlags = HostFlags(0),  # noqa: B008
        timeout: float = 5.0,
        memory_bytes: int = 64 << 20,
        iova_base: int = 0,
        map_chunk_bytes: int = 0,
    ) -> NvmeHost:
        """Connects, negotiates and shares memory; the controller is left as it is.

        Raises:
            PeerError: nobody listens there, or the server is busy or gone.
            ProtocolError: the server does not speak vfio-user soundly.
        """
        options = HostOptions(
            int(flags), round(timeout * 1000), memory_bytes, iova_base, map_chunk_bytes
        )
        return cls(path, options)

    def close(self) -> None:
        """Drops the connection without telling the controller, as a dying host does."""
        self.handle.close()

    @property
    def memory(self) -> memoryview:
        """All of the shared memory; the controller sees byte n at `info.iova_base` + n."""
        return self.handle.memory

    def alloc(self, size: int) -> Buffer:
        """Zeroed, page-aligned shared memory."""
        return Buffer(self, size)

    # --- Registers and PCI config ---

    def read32(self, offset: int) -> int:
        return self.handle.reg_read(offset, 4)

    def read64(self, offset: int) -> int:
        return self.handle.reg_read(offset, 8)

    def write32(self, offset: int, value: int) -> None:
        self.handle.reg_write(offset, 4, value)

    def write64(self, offset: int, value: int) -> None:
        self.handle.reg_write(offset, 8, value)

    @property
    def csts(self) -> int:
        return self.read32(Reg.CSTS)

    @property
    def fatal(self) -> bool:
        """CSTS.CFS."""
        return bool(self.csts & 2)

    def config_read(self, offset: int, length: int) -> bytes:
        return self.handle.region_read(PCI_CONFIG_REGION, offset, length)

    def config_write(self, offset: int, data: bytes) -> None:
        self.handle.region_write(PCI_CONFIG_REGION, offset, data)

    def ring(self, qid: int, value: int, completion: bool = False) -> None:
        """Writes any value to a doorbell, of a queue that may not exist."""
        stride = 4 << (self.info.cap >> 32 & 0xF)
        self.handle.doorbell_write(Reg.DOORBELLS + (2 * qid + int(completion)) * stride, value)

    # --- Life of the controller ---

    def enable(
        self, *, asq_entries: int = 32, acq_entries: int = 32, cc: int = 0, timeout: float = 0
    ) -> None:
        """Resets and enables; `cc` replaces the default CC.

        Raises:
            PeerTimeout: CSTS.RDY did not come within CAP.TO, or `timeout`.
            NativeError: EIO: the controller reports CSTS.CFS.
        """
        self._identities.clear()
        self.handle.enable(asq_entries, acq_entries, cc, round(timeout * 1000))

    def disable(self) -> None:
        self.handle.disable()

    def shutdown(self, abrupt: bool = False) -> None:
        self.handle.shutdown(abrupt)

    def reset(self) -> None:
        """The vfio-user device reset, as at a reboot of the VM."""
        self.handle.device_reset()

    def enable_interrupts(self, vectors: int | None = None) -> None:
        """MSI-X with one eventfd a vector; all of them by default."""
        self.handle.irqs_enable(MSIX, self.info.nr_msix if vectors is None else vectors)

    def wait_interrupt(self, vector: int, timeout: float = 5.0) -> int:
        """How often the vector fired since the last look, at least once.

        Raises:
            PeerTimeout: it did not.
        """
        return self.handle.irq_wait(vector, round(timeout * 1e6))

    def enable_shadow_doorbells(self) -> bool:
        """Doorbell Buffer Config for I/O queues; False when the controller has none."""
        try:
            succeeded("Doorbell Buffer Config", _completion(self.handle.shadow_doorbells()))
        except NativeError:
            return False
        self.info = self.handle.info()
        return True

    # --- Admin commands ---

    def admin(self, sqe: Sqe, data: Buffer | None = None, length: int | None = None) -> Completion:
        """Submits to the admin queue and waits; without `data` the SQE goes as it is."""
        return self.command(0, sqe, data, length)

    def command(
        self, sqid: int, sqe: Sqe, data: Buffer | None = None, length: int | None = None
    ) -> Completion:
        """Submits to any queue and waits for this command's completion."""
        if data is not None:
            sqe = data.point(sqe, length)
        raw = self.handle.command(sqid, bytes(sqe), 0, 0, round(self.timeout * 1000))
        return _completion(raw)

    def admin_data(self, what: str, sqe: Sqe, length: int) -> bytes:
        """An admin command that returns `length` bytes.

        Raises:
            CommandFailed: with `what` in its message.
        """
        with self.alloc(length) as buffer:
            succeeded(what, self.admin(sqe, buffer, length))
            return buffer.get(length)

    def identify(self, cns: int, nsid: int = 0, cntid: int = 0, csi: int = 0) -> bytes:
        sqe = nvme.identify(cns, nsid, cntid, csi)
        return self.admin_data(f"Identify CNS {cns:02X}h", sqe, PAGE_BYTES)

    def identify_controller(self) -> bytes:
        """The 4096 bytes of CNS 01h."""
        return self.identify(1)

    def identify_namespace(self, nsid: int = 1) -> Identity:
        raw = self.identify(0, nsid)
        flbas = raw[26]
        shift = raw[128 + 4 * (flbas & 0xF | flbas >> 1 & 0x30) + 2]
        identity = Identity(nsid, int.from_bytes(raw[:8], "little"), 1 << shift, raw)
        self._identities[nsid] = identity
        return identity

    def block_bytes(self, nsid: int = 1) -> int:
        """The namespace's block size, asked for once an enable."""
        return (self._identities.get(nsid) or self.identify_namespace(nsid)).block_bytes

    def active_namespaces(self) -> list[int]:
        return [nsid for nsid in struct.unpack("<1024I", self.identify(2)) if nsid]

    def log_page(
        self,
        lid: int,
        length: int,
        nsid: int = nvme.BROADCAST_NSID,
        offset: int = 0,
        rae: bool = False,
    ) -> bytes:
        sqe = nvme.get_log_page(lid, length, nsid, offset, rae)
        return self.admin_data(f"Get Log Page {lid:02X}h", sqe, length)

    def get_feature(self, fid: int, select: int = 0, nsid: int = 0) -> int:
        sqe = nvme.get_features(fid, select, nsid)
        return succeeded(f"Get Features {fid:02X}h", self.admin(sqe)).result

    def set_feature(self, fid: int, value: int, nsid: int = 0) -> int:
        sqe = nvme.set_features(fid, value, nsid)
        return succeeded(f"Set Features {fid:02X}h", self.admin(sqe)).result

    def submit_async_event(self) -> int:
        """Leaves an Asynchronous Event Request with the controller; returns its CID."""
        return self.handle.submit(0, bytes(nvme.async_event()))

    def wait_async_event(self, cid: int, timeout: float = 5.0) -> Completion:
        return self.wait(0, cid, timeout)

    # --- Queues ---

    def create_cq(
        self, qid: int, entries: int, vector: int = 0, interrupts: bool = False
    ) -> Completion:
        return _completion(self.handle.create_cq(qid, entries, vector, interrupts))

    def create_sq(self, qid: int, entries: int, cqid: int, priority: int = 0) -> Completion:
        return _completion(self.handle.create_sq(qid, entries, cqid, priority))

    def delete_sq(self, qid: int) -> Completion:
        return _completion(self.handle.delete_sq(qid))

    def delete_cq(self, qid: int) -> Completion:
        return _completion(self.handle.delete_cq(qid))

    def create_queue_pair(
        self,
        qid: int = 1,
        depth: int = 64,
        vector: int = 0,
        interrupts: bool = False,
        nsid: int = 1,
    ) -> QueuePair:
        """A completion queue and a submission queue of one id, with `depth` entries each.

        Raises:
            CommandFailed: the controller refused one of them.
        """
        completion = self.create_cq(qid, depth, vector, interrupts)
        succeeded(f"creating completion queue {qid}", completion)
        completion = self.create_sq(qid, depth, qid)
        succeeded(f"creating submission queue {qid}", completion)
        return QueuePair(self, qid, depth, nsid)

    def submit(self, sqid: int, sqe: Sqe, *, keep_cid: bool = False, doorbell: bool = True) -> int:
        """Puts any SQE on the queue; returns its CID. NativeError EAGAIN: the queue is full."""
        return self.handle.submit(sqid, bytes(sqe), keep_cid, doorbell)

    def poll(self, cqid: int) -> list[Completion]:
        """What has completed by now."""
        return [_completion(raw) for raw in self.handle.poll(cqid)]

    def wait(self, sqid: int, cid: int, timeout: float = 5.0) -> Completion:
        """The completion of this command; those of others are kept for `poll`."""
        return _completion(self.handle.wait_cid(sqid, cid, round(timeout * 1e6)))

    def wait_any(self, cqid: int, timeout: float = 5.0) -> Completion:
        return _completion(self.handle.wait(cqid, round(timeout * 1e6)))
