"""A scripted NVMe/TCP host for tests and tools: an association, driven byte by byte if need be.

::

    with TcpHost(address, "nqn.2026-11.test:one", options=HostOptions(digest=3)) as host:
        queue = host.create_queue(1, entries=64)
        queue.write(0, b"\\0" * 4096)
        assert queue.read(0, 8) == b"\\0" * 4096
        host.admin.send(b"anything")

Convenience methods raise `CommandFailed` for a status other than success, as `NvmeHost`'s do.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from vhostnvme.closable import Closable
from vhostnvme.errors import PeerError
from vhostnvme.testing import nvme
from vhostnvme.testing import nvmetcp_fabrics as fabrics
from vhostnvme.testing.nvme import Completion, Reg, Sqe, succeeded
from vhostnvme.testing.nvmetcp_fabrics import (
    CNTLID_DYNAMIC,
    AnaLog,
    AsyncEvent,
    ConnectData,
    ControllerIdentity,
    DiscoveryLog,
)
from vhostnvme.testing.nvmetcp_queue import Address, Reply, TcpQueue

CC_ENABLE = 0x00460001  # EN, IOSQES 64 bytes, IOCQES 16 bytes
CC_SHUTDOWN = 0x4000
HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:6a1b5c1e-1f0a-4d2b-9a44-0d6f5a3c2b01"


Kind = TypeVar("Kind", bound=TcpQueue)


@dataclass(frozen=True)
class HostOptions:
    """How a host presents itself; `entries` of the admin queue count from one."""

    hostnqn: str = HOSTNQN
    hostid: bytes = bytes(range(1, 17))
    kato_ms: int = 0
    entries: int = 32
    hpda: int = 0
    digest: int = 0
    maxr2t: int = 3
    no_sq_flow: bool = False
    timeout: float = 5.0


class IoQueue(TcpQueue):
    """An I/O queue with the usual commands, of one namespace unless told otherwise."""

    nsid = 1
    block_bytes = 512

    def read_sqe(self, lba: int, blocks: int, nsid: int | None = None) -> Sqe:
        return nvme.read(self.nsid if nsid is None else nsid, lba, blocks)

    def read(self, lba: int, blocks: int, nsid: int | None = None) -> bytes:
        sqe = self.read_sqe(lba, blocks, nsid)
        return self.data(f"reading {blocks} blocks at {lba}", sqe, blocks * self.block_bytes)

    def submit_read(self, lba: int, blocks: int, nsid: int | None = None) -> int:
        return self.submit(self.read_sqe(lba, blocks, nsid), read=blocks * self.block_bytes)

    def submit_write(
        self, lba: int, data: bytes, nsid: int | None = None, in_capsule: bool | None = None
    ) -> int:
        nsid = self.nsid if nsid is None else nsid
        blocks = len(data) // self.block_bytes
        return self.submit(nvme.write(nsid, lba, blocks), data, in_capsule=in_capsule)

    def write(
        self, lba: int, data: bytes, nsid: int | None = None, in_capsule: bool | None = None
    ) -> Reply:
        """`data` is a whole number of blocks."""
        reply = self.wait(self.submit_write(lba, data, nsid, in_capsule))
        succeeded(f"writing {len(data)} bytes at {lba}", reply.completion)
        return reply

    def flush(self) -> None:
        succeeded("Flush", self.command(nvme.flush(self.nsid)).completion)

    def write_zeroes(self, lba: int, blocks: int, deallocate: bool = False) -> None:
        sqe = nvme.write_zeroes(self.nsid, lba, blocks, deallocate)
        succeeded(f"zeroing {blocks} blocks at {lba}", self.command(sqe).completion)

    def deallocate(self, ranges: Iterable[tuple[int, int]]) -> None:
        data = nvme.dsm_ranges(ranges)
        sqe = nvme.dataset_management(self.nsid, len(data) // 16)
        succeeded("Dataset Management", self.command(sqe, data).completion)


class TcpHost(Closable):
    """An association: the admin queue, connected, and what is created over it.

    Raises:
        PeerError: nobody listens there, or it refused (`CommandFailed`).
        ProtocolError: it does not speak NVMe/TCP soundly.
    """

    def __init__(
        self,
        address: Address,
        subnqn: str,
        options: HostOptions = HostOptions(),
        *,
        enable: bool = True,
    ) -> None:
        self.address = address
        self.subnqn = subnqn
        self.options = options
        self.queues: list[TcpQueue] = []
        self.cntlid = CNTLID_DYNAMIC
        self._events: list[int] = []
        self.admin = self._open(TcpQueue)
        try:
            completion = self.admin.connect(
                self.connect_data(),
                entries=options.entries,
                kato_ms=options.kato_ms,
                no_sq_flow=options.no_sq_flow,
            )
            self.connected = succeeded("Connect", completion)
            self.cntlid = completion.result & 0xFFFF
            if enable:
                self.enable()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drops all connections without a word."""
        for queue in self.queues:
            queue.close()

    def connect_data(self) -> ConnectData:
        options = self.options
        return ConnectData(options.hostnqn, self.subnqn, options.hostid, self.cntlid)

    def _open(self, kind: type[Kind]) -> Kind:
        options = self.options
        queue = kind(self.address, options.timeout)
        self.queues.append(queue)
        queue.initialize(hpda=options.hpda, digest=options.digest, maxr2t=options.maxr2t)
        return queue

    def create_queue(
        self, qid: int = 1, entries: int = 32, *, no_sq_flow: bool | None = None, nsid: int = 1
    ) -> IoQueue:
        """Connects an I/O queue."""
        queue, completion = self.try_queue(qid, entries, no_sq_flow=no_sq_flow)
        succeeded(f"connecting queue {qid}", completion)
        queue.nsid = nsid
        return queue

    def try_queue(
        self,
        qid: int,
        entries: int = 32,
        *,
        no_sq_flow: bool | None = None,
        data: ConnectData | None = None,
    ) -> tuple[IoQueue, Completion]:
        """Connects an I/O queue, with any data; the completion may be a refusal."""
        queue = self._open(IoQueue)
        completion = queue.connect(
            self.connect_data() if data is None else data,
            qid=qid,
            entries=entries,
            no_sq_flow=self.options.no_sq_flow if no_sq_flow is None else no_sq_flow,
        )
        return queue, completion

    def again(self, **changes: object) -> HostOptions:
        """The options of this host, with some of them changed."""
        return replace(self.options, **changes)  # type: ignore[arg-type]

    # --- Properties ---

    def property_get(self, offset: int, *, eight: bool = False) -> int:
        completion = self.admin.command(fabrics.property_get(offset, eight=eight)).completion
        succeeded(f"Property Get {offset:#x}", completion)
        return completion.result | (completion.dword1 << 32 if eight else 0)

    def property_set(self, offset: int, value: int, *, eight: bool = False) -> None:
        sqe = fabrics.property_set(offset, value, eight=eight)
        succeeded(f"Property Set {offset:#x}", self.admin.command(sqe).completion)

    @property
    def csts(self) -> int:
        return self.property_get(Reg.CSTS)

    def _until(self, mask: int, value: int) -> None:
        deadline = time.monotonic() + self.options.timeout
        while self.csts & mask != value:
            if time.monotonic() > deadline:
                raise PeerError(f"CSTS is {self.csts:#x}, and stays so")
            time.sleep(0.001)

    def enable(self) -> None:
        self.property_set(Reg.CC, CC_ENABLE)
        self._until(1, 1)

    def disable(self) -> None:
        self.property_set(Reg.CC, CC_ENABLE & ~1)
        self._until(1, 0)

    def shutdown(self) -> None:
        self.property_set(Reg.CC, CC_ENABLE | CC_SHUTDOWN)
        self._until(0xC, 0x8)

    # --- Admin commands ---

    def identify(self, cns: int, nsid: int = 0, csi: int = 0) -> bytes:
        sqe = nvme.identify(cns, nsid, csi=csi)
        return self.admin.data(f"Identify CNS {cns:02X}h", sqe, 4096)

    def identify_controller(self) -> ControllerIdentity:
        return ControllerIdentity.of(self.identify(1))

    def active_namespaces(self) -> list[int]:
        raw = self.identify(2)
        nsids = (int.from_bytes(raw[at : at + 4], "little") for at in range(0, 4096, 4))
        return [nsid for nsid in nsids if nsid]

    def log_page(self, lid: int, length: int, offset: int = 0, rae: bool = False) -> bytes:
        sqe = nvme.get_log_page(lid, length, 0, offset, rae)
        return self.admin.data(f"Get Log Page {lid:02X}h", sqe, length)

    def ana_log(self, rae: bool = False) -> AnaLog:
        return AnaLog.of(self.log_page(fabrics.LOG_ANA, 4096, rae=rae))

    def discovery_log(self, rae: bool = False) -> DiscoveryLog:
        """As a careful host does: the header first, then all of it, both of one generation."""
        while True:
            head = DiscoveryLog.of(self.log_page(fabrics.LOG_DISCOVERY, 1024, rae=True))
            size = fabrics.DISCOVERY_ENTRY_BYTES * (head.numrec + 1)
            log = DiscoveryLog.of(self.log_page(fabrics.LOG_DISCOVERY, size, rae=rae))
            if log.genctr == head.genctr:
                return log

    def get_feature(self, fid: int, select: int = 0) -> int:
        completion = self.admin.command(nvme.get_features(fid, select)).completion
        return succeeded(f"Get Features {fid:02X}h", completion).result

    def set_feature(self, fid: int, value: int) -> int:
        completion = self.admin.command(nvme.set_features(fid, value)).completion
        return succeeded(f"Set Features {fid:02X}h", completion).result

    def keep_alive(self) -> None:
        succeeded("Keep Alive", self.admin.command(Sqe(nvme.Admin.KEEP_ALIVE)).completion)

    def expect_events(self, count: int = 1) -> None:
        """Leaves so many Asynchronous Event Requests with the controller."""
        self._events += [self.admin.submit(nvme.async_event()) for _ in range(count)]

    def next_event(self, timeout: float | None = None) -> AsyncEvent:
        """The next event; whoever it came to is not submitted anew.

        Raises:
            Silent: none came in time.
        """
        limit = self.options.timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        while True:
            for cid in self._events:
                if cid in self.admin.completed:
                    self._events.remove(cid)
                    completion = succeeded("Async Event", self.admin.wait(cid).completion)
                    return AsyncEvent.of(completion)
            self.admin.step(max(deadline - time.monotonic(), 0.001))
