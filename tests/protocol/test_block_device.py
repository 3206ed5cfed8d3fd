"""A namespace that is a block device: what the device does is its own matter. Needs root."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests_protocol import BLOCK, until

from vhostnvme.testing import NvmeHost, nvme
from vhostnvme.testing.faulty_ssd import FaultySsd
from vhostnvme.testing.server import ServerProcess


@pytest.mark.parametrize("kind", ["read", "write", "sync"])
def test_a_block_device_that_hangs_holds_up_nothing_else(tmp_path: Path, kind: str) -> None:
    """Its name is in /dev, whose files are in memory; the device is not."""
    with (
        FaultySsd(tmp_path / "ssd", 16 << 20) as ssd,
        ServerProcess([f"file:{ssd.device}", "mem:16M"], directory=tmp_path) as server,
        NvmeHost.connect(server.socket) as host,
    ):
        host.enable()
        queue = host.create_queue_pair()
        buffer = host.alloc(BLOCK)
        ssd.hang([kind])
        commands = {"read": nvme.read(1, 0, 1), "write": nvme.write(1, 0, 1)}
        cid = queue.submit(commands.get(kind) or nvme.flush(1), buffer)
        until(lambda: ssd.counts().hanging > 0, "it hangs", 10)
        other = host.create_queue_pair(2)
        other.write(0, b"a" * BLOCK, nsid=2)
        assert other.read(0, 1, nsid=2) == b"a" * BLOCK
        ssd.heal()
        assert queue.wait(cid).ok
