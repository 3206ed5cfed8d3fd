"""A server that pins its guests' memory: right bytes, nothing kept, and no harm in refusals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests_protocol import BLOCK, PAGE, pattern, until

from vhostnvme.testing import NvmeHost
from vhostnvme.testing.server import ServerProcess

MIB = 1 << 20
MEMORY = 40 * MIB


def server_of(folder: Path, prefix: Sequence[str] = ()) -> ServerProcess:
    disk = f"file:{folder / 'disk'}?size=64M"
    return ServerProcess([disk], options=["--pin-memory"], prefix=prefix)


def pinned_bytes(server: ServerProcess) -> int:
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmPin:"))
    return int(line.split()[1]) << 10


def expect_pinned(server: ServerProcess, wanted: int) -> None:
    until(lambda: pinned_bytes(server) == wanted, f"{wanted} bytes of memory are pinned")


def write_and_read(host: NvmeHost, seed: int) -> None:
    """One page, some pages, and as many as one command may have."""
    queue = host.create_queue_pair(1, depth=64)
    for at, length in ((0, PAGE), (PAGE, 32 * PAGE), (MIB, MIB)):
        queue.write(at // BLOCK, data := pattern(seed + at, length))
        assert queue.read(at // BLOCK, length // BLOCK) == data
    queue.delete()


def test_memory_is_pinned_while_it_is_mapped(tmp_path: Path) -> None:
    with server_of(tmp_path) as server:
        before = pinned_bytes(server)
        with NvmeHost.connect(server.socket, memory_bytes=MEMORY) as host:
            expect_pinned(server, before + MEMORY)
            host.enable()
            write_and_read(host, 1)
            host.handle.dma_unmap(host.info.iova_base, MEMORY)
            expect_pinned(server, before)
            host.handle.dma_map(0, host.info.iova_base, MEMORY)
            write_and_read(host, 2)
            expect_pinned(server, before + MEMORY)
            write_and_read(host, 3)
        expect_pinned(server, before)


def test_what_the_kernel_refuses_is_served_without(tmp_path: Path) -> None:
    limits = ["prlimit", f"--memlock={8 * MIB}", "setpriv", "--bounding-set=-ipc_lock"]
    with server_of(tmp_path, limits) as server:
        with NvmeHost.connect(server.socket, memory_bytes=MEMORY) as host:
            until(lambda: "MiB of the client's memory" in server.log_text(), "it is told")
            host.enable()
            write_and_read(host, 1)
        assert "the kernel pins 0 MiB of 40 MiB" in server.log_text()
        assert "'ulimit -l' sets how much may be pinned" in server.log_text()
