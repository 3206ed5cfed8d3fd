"""Every byte comes back as it was written: fio with checksums, and two file systems."""

from __future__ import annotations

import pytest
from tests_guest import LONG, GuestRig, fio_verify, verified_bytes

MEGABYTES = 40 if LONG else 6  # of each of four jobs
DEPTHS = (1, 2, 8, 32, 128) if LONG else (1, 16, 128)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("disk", ["FILE", "MEM"])
def test_mixed_blocks_at_any_depth_read_back_right(rig: GuestRig, disk: str, depth: int) -> None:
    with rig.quiet_kernel():
        output = rig.output(fio_verify(rig.node(disk), megabytes=MEGABYTES, depth=depth), 500)
    assert verified_bytes(output) == 4 * MEGABYTES << 20


def test_mixed_blocks_of_a_4096_byte_disk_read_back_right(rig: GuestRig) -> None:
    node = rig.node("FILE4K")
    words = (
        f"fio --name=v4k --filename={node} --rw=randwrite --bssplit=4k/50:12k/20:64k/15:68k/10:1m/5"
        f" --size={MEGABYTES}M --offset_increment={MEGABYTES}M --numjobs=4 --thread --iodepth=32"
        " --ioengine=libaio --direct=1 --group_reporting --verify=crc32c --verify_fatal=1"
        " --output-format=json"
    )
    assert verified_bytes(rig.output(words, 500)) == 4 * MEGABYTES << 20


@pytest.mark.parametrize("engine", ["io_uring", "psync"])
def test_reads_among_the_writes_are_right_too(rig: GuestRig, engine: str) -> None:
    command = fio_verify(
        rig.node("FILE"), megabytes=MEGABYTES, depth=32, more="--verify_backlog=16"
    )
    verified_bytes(rig.output(command.replace("libaio", engine), 500))


def test_several_disks_at_once_keep_their_bytes_apart(rig: GuestRig) -> None:
    nodes = [rig.node("FILE"), rig.node("MEM"), *(rig.node("THREE", nsid) for nsid in (1, 2, 3))]
    jobs = " ".join(f"--name=d{index} --filename={node}" for index, node in enumerate(nodes))
    command = (
        f"fio --rw=randwrite --bsrange=4k-64k --size=6M --iodepth=16 --ioengine=libaio"
        " --direct=1 --verify=crc32c --verify_fatal=1 --output-format=json"
        f" --thread {jobs}"
    )
    with rig.quiet_kernel():
        assert verified_bytes(rig.output(command, 500)) == len(nodes) * 6 << 20


def test_buffers_that_are_not_aligned_to_a_block(rig: GuestRig) -> None:
    """A data pointer may begin at any dword; O_DIRECT may not: such transfers are copied."""
    command = fio_verify(rig.node("FILE"), megabytes=2, depth=8, more="--iomem_align=512")
    verified_bytes(rig.output(command, 500))
    node = rig.node("FILE")
    # A passthrough buffer lies where malloc put it.
    rig.run(
        "head -c 512 /dev/urandom >/tmp/one"
        f" && nvme write {node} --force -s 7 -c 0 -z 512 -d /tmp/one"
        f" && nvme read {node} -s 7 -c 0 -z 512 -d /tmp/two && cmp /tmp/one /tmp/two"
    )


@pytest.mark.parametrize(
    ("mkfs", "fsck"),
    [("mkfs.ext4 -q -F", "fsck.ext4 -fn"), ("mkfs.xfs -q -f", "xfs_repair -n")],
)
def test_a_file_system_stays_whole(rig: GuestRig, mkfs: str, fsck: str) -> None:
    node = rig.node("FILE4K")
    steps = [
        f"{mkfs} {node}",
        f"mkdir -p /tmp/m && mount {node} /tmp/m",
        "cd /tmp/m && mkdir -p a/b",
        "for i in 1 2 3 4 5 6; do head -c 1000003 /dev/urandom >/tmp/m/a/b/f$i; done",
        "cd /tmp/m && rm a/b/f3 && sync && sha256sum a/b/* >/tmp/sums",
        "umount /tmp/m && echo 3 >/proc/sys/vm/drop_caches",
        f"mount {node} /tmp/m",
        "cd /tmp/m && sha256sum -c /tmp/sums && fstrim /tmp/m && sha256sum -c /tmp/sums",
        f"umount /tmp/m && {fsck} {node}",
    ]
    with rig.quiet_kernel():
        for step in steps:
            rig.run(step)
