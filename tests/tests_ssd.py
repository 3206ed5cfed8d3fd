"""What the tests of SSDs in folders share: a server with its controllers, and what hosts ask."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from vhostnvme.closable import Closable
from vhostnvme.testing import Completion, NvmeHost
from vhostnvme.testing.nvme import BROADCAST_NSID, PAGE_BYTES, Admin, Sqe
from vhostnvme.testing.server import ServerProcess

MIB = 1 << 20
CAPACITY = 64 * MIB
EVERY = BROADCAST_NSID


class SsdServer(Closable):
    """`vhostnvme serve --ssd FOLDER`, with a socket for each controller; a context manager.

    `query`: options of the SSD; others: of the command line.
    """

    def __init__(
        self,
        folder: Path,
        *,
        controllers: int = 1,
        query: str = "capacity=64M",
        others: tuple[str, ...] = (),
    ) -> None:
        self.folder = folder / "ssd"
        self.sockets = [folder / "run" / "cntrl"]
        self.sockets += [folder / f"c{number}" for number in range(2, controllers + 1)]
        options = ["--ssd", f"{self.folder}?{query}" if query else str(self.folder), *others]
        for path in self.sockets[1:]:
            options += ["--socket", str(path)]
        self.server = ServerProcess((), options, folder)
        self._hosts: list[NvmeHost] = []

    def connect(self, number: int = 1) -> NvmeHost:
        """A host that has enabled controller `number`."""
        host = NvmeHost.connect(self.sockets[number - 1], memory_bytes=8 * MIB)
        self._hosts.append(host)
        host.enable()
        return host

    @property
    def control(self) -> Path:
        return self.sockets[0].with_name("control")

    def kill(self) -> None:
        """SIGKILL, and all hosts go."""
        self.server.kill()
        self._disconnect()

    def restart(self) -> None:
        """Starts again, after `kill` or in order."""
        self._disconnect()
        self.server.stop()
        self.server.restart()

    def record(self) -> dict[str, object]:
        """What is in ssd.json."""
        found: dict[str, object] = json.loads((self.folder / "ssd.json").read_text())
        return found

    def images(self) -> list[Path]:
        return sorted(self.folder.glob("ns-*.img"))

    def close(self) -> None:
        self._disconnect()
        self.server.stop()

    def _disconnect(self) -> None:
        for host in self._hosts:
            host.close()
        self._hosts.clear()


def manage(host: NvmeHost, sqe: Sqe, data: bytes) -> Completion:
    """An admin command with a page of data for the controller."""
    with host.alloc(PAGE_BYTES) as buffer:
        buffer.put(data.ljust(PAGE_BYTES, b"\0"))
        return host.admin(sqe, buffer)


def new_namespace(
    blocks: int,
    *,
    capacity: int | None = None,
    flbas: int = 0,
    dps: int = 0,
    nmic: int = 0,
    group: int = 0,
    nvm_set: int = 0,
    endurance_group: int = 0,
) -> bytes:
    """The data of Namespace Management, create."""
    capacity = blocks if capacity is None else capacity
    return struct.pack("<QQ10xBxxBB", blocks, capacity, flbas, dps, nmic).ljust(
        92, b"\0"
    ) + struct.pack("<I4xHH", group, nvm_set, endurance_group)


def create(host: NvmeHost, blocks: int, *, csi: int = 0, **fields: int) -> Completion:
    return manage(host, Sqe(Admin.NS_MANAGEMENT, cdw11=csi << 24), new_namespace(blocks, **fields))


def created(host: NvmeHost, blocks: int, **fields: int) -> int:
    """The id of a new namespace."""
    done = create(host, blocks, **fields)
    assert done.ok, done
    return done.result


def delete(host: NvmeHost, nsid: int) -> Completion:
    return host.admin(Sqe(Admin.NS_MANAGEMENT, nsid=nsid, cdw10=1))


def attach(host: NvmeHost, nsid: int, *controllers: int, detach: bool = False) -> Completion:
    listed = struct.pack(f"<{len(controllers) + 1}H", len(controllers), *controllers)
    return manage(host, Sqe(Admin.NS_ATTACHMENT, nsid=nsid, cdw10=int(detach)), listed)


def detach(host: NvmeHost, nsid: int, *controllers: int) -> Completion:
    return attach(host, nsid, *controllers, detach=True)


def ids(page: bytes) -> list[int]:
    """A namespace list."""
    return [nsid for nsid in struct.unpack("<1024I", page) if nsid]


def controllers(page: bytes) -> list[int]:
    """A controller list."""
    (count,) = struct.unpack_from("<H", page)
    return list(struct.unpack_from(f"<{count}H", page, 2))


def allocated(host: NvmeHost) -> list[int]:
    return ids(host.identify(0x10))


def active(host: NvmeHost) -> list[int]:
    return ids(host.identify(0x02))


def capacities(host: NvmeHost) -> tuple[int, int]:
    """TNVMCAP and UNVMCAP, in bytes."""
    page = host.identify_controller()
    return int.from_bytes(page[280:296], "little"), int.from_bytes(page[296:312], "little")
