"""Linux's own use of metadata and protection information: as a disk, through its block layer."""

from __future__ import annotations

import pytest
from tests_guest import GuestRig


@pytest.mark.parametrize("lbaf", [1, 2, 4, 5])
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_a_protected_disk_is_a_disk(cli: GuestRig, lbaf: int, kind: int) -> None:
    """The kernel makes and checks protection information, or has the device do it (PRACT)."""
    node = cli.node("FORMAT")
    with cli.quiet_kernel():
        cli.run(f"nvme format {node} --force -l {lbaf} -i {kind}")
        if cli.output(f"blockdev --getsize64 {node}") == "0":
            assert lbaf in (2, 5)  # more metadata than this kernel handles: it makes no disk of it
            return
        cli.run("head -c 1000k /dev/urandom >/tmp/data; truncate -s 1M /tmp/data")
        cli.run(f"dd if=/tmp/data of={node} bs=64k oflag=direct seek=3")
        cli.run(f"dd if=/tmp/data of={node} bs=4k count=1 oflag=direct seek=777")
        cli.run(f"dd if={node} of=/tmp/back bs=64k iflag=direct skip=3 count=16")
        cli.run("cmp /tmp/data /tmp/back")
        cli.run(f"dd if={node} of=/tmp/back bs=4k iflag=direct skip=777 count=1")
        cli.run("cmp -n 4096 /tmp/data /tmp/back")
        cli.run(f"dd if={node} of=/dev/null bs=1M count=32 iflag=direct")  # never written
        cli.run(f"nvme format {node} --force -l 0")
