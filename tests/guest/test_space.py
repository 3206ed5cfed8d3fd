"""Space is given back, zeros are zeros, and what must be durable gets to the backend as such."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests_guest import GuestRig

from vhostnvme.testing import replay

MIB = 1 << 20


@pytest.fixture
def image(disk_folder: Path) -> Path:
    """The file behind FILE."""
    return disk_folder / "file.img"


def used_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def fill(rig: GuestRig, node: str, mebibytes: int) -> None:
    rig.run(
        f"tr '\\0' x </dev/zero | dd of={node} bs=1M count={mebibytes} iflag=fullblock oflag=direct"
    )


def other_than_zero(rig: GuestRig, node: str, mebibytes_in: int, mebibytes: int) -> int:
    """How many bytes of a stretch of the disk are not zero."""
    read = f"dd if={node} bs=1M skip={mebibytes_in} count={mebibytes} iflag=direct 2>/dev/null"
    return int(rig.output(f"{read} | tr -d '\\0' | wc -c"))


@pytest.mark.parametrize("disk", ["FILE", "FILE4K"])
def test_blkdiscard_gives_space_back_and_reads_zeros(
    rig: GuestRig, disk: str, disk_folder: Path
) -> None:
    path, node = disk_folder / f"{disk.lower()}.img", rig.node(disk)
    rig.run(f"/usr/sbin/blkdiscard -f {node}")
    empty = used_bytes(path)
    fill(rig, node, 16)
    assert used_bytes(path) >= empty + 16 * MIB
    before = rig.info(disk)
    rig.run(f"/usr/sbin/blkdiscard -f -o 4M -l 8M {node}")
    assert used_bytes(path) <= empty + 8 * MIB + MIB
    assert rig.info(disk).deallocates > before.deallocates
    assert other_than_zero(rig, node, 4, 8) == 0
    # What was not discarded is as it was.
    assert other_than_zero(rig, node, 0, 16) == 8 * MIB


def test_fstrim_gives_the_space_of_deleted_files_back(rig: GuestRig, image: Path) -> None:
    node = rig.node("FILE")
    rig.run(
        f"mkfs.ext4 -q -F {node} && mkdir -p /tmp/t && mount {node} /tmp/t"
        " && head -c 20971520 /dev/urandom >/tmp/t/big && sync"
    )
    full = used_bytes(image)
    trimmed = rig.output("rm /tmp/t/big && sync && fstrim -v /tmp/t && umount /tmp/t")
    assert "trimmed" in trimmed
    assert used_bytes(image) <= full - 19 * MIB


@pytest.mark.parametrize("disk", ["FILE", "FILE4K", "MEM"])
def test_write_zeroes_makes_zeros(rig: GuestRig, disk: str) -> None:
    node = rig.node(disk)
    fill(rig, node, 6)
    before = rig.info(disk)
    rig.run(f"/usr/sbin/blkdiscard -f -z -o 1M -l 4M {node}")
    after = rig.info(disk)
    assert after.write_zeroes > before.write_zeroes
    assert after.writes == before.writes  # the zeros did not travel
    assert other_than_zero(rig, node, 1, 4) == 0
    assert other_than_zero(rig, node, 0, 6) == 2 * MIB


def test_a_flush_in_the_guest_reaches_the_backend(rig: GuestRig) -> None:
    node = rig.node("FILE")
    before = rig.info("FILE").flushes
    rig.run(f"dd if=/dev/zero of={node} bs=64k count=4 conv=fsync")
    once = rig.info("FILE").flushes
    assert once > before
    rig.run(f"nvme flush {node}")
    assert rig.info("FILE").flushes == once + 1


def test_fua_reaches_the_backend_as_such(rig: GuestRig, disk_folder: Path) -> None:
    node = rig.node("THREE", 3)
    rig.run(f"head -c 512 /dev/urandom >/tmp/one; nvme write {node} -s 11 -c 0 -z 512 -d /tmp/one")
    rig.run(f"nvme write {node} -s 12 -c 0 -z 512 -d /tmp/one --force-unit-access")
    fua = {
        event.offset // 512: event.fua
        for event in replay.read_log(disk_folder / "third.log").events
        if (event.kind, event.op) == (replay.Kind.SUBMIT, replay.Op.WRITE)
    }
    assert (fua[11], fua[12]) == (False, True)


def test_a_power_failure_under_a_file_system_would_break_no_promise(
    rig: GuestRig, disk_folder: Path
) -> None:
    """All that reached the backend is in a log; each state that a crash could leave is checked."""
    node = rig.node("THREE", 3)
    rig.run(
        f"mkfs.ext4 -q -F {node} && mkdir -p /tmp/p && mount {node} /tmp/p"
        " && for i in 1 2 3; do head -c 300000 /dev/urandom >/tmp/p/f$i; sync; done"
        " && rm /tmp/p/f2 && umount /tmp/p"
    )
    assert replay.check(disk_folder / "third.log") == []
    journal = [event for event in replay.read_log(disk_folder / "third.log").events if event.fua]
    assert journal  # ext4 commits with FUA


def test_counters_are_those_of_the_guest(rig: GuestRig) -> None:
    node = rig.node("MEM")
    before = rig.info("MEM")
    rig.run(f"dd if=/dev/zero of={node} bs=8k count=32 oflag=direct 2>/dev/null")
    rig.run(f"dd if={node} of=/dev/null bs=16k count=8 iflag=direct 2>/dev/null")
    after = rig.info("MEM")
    assert (after.writes - before.writes, after.write_bytes - before.write_bytes) == (32, 32 * 8192)
    assert (after.reads - before.reads, after.read_bytes - before.read_bytes) == (8, 8 * 16384)
    assert after.errors == before.errors


def test_what_the_guest_writes_is_where_it_should_be_in_the_file(
    rig: GuestRig, image: Path
) -> None:
    node = rig.node("FILE")
    rig.run(
        "printf 'the quick brown fox %.0s' $(seq 40) | head -c 512 >/tmp/pattern &&"
        f" dd if=/tmp/pattern of={node} bs=512 seek=54321 oflag=direct"
    )
    expected = (b"the quick brown fox " * 40)[:512]
    with image.open("rb") as file:
        file.seek(54321 * 512)
        assert file.read(512) == expected


def test_the_null_disk_reads_zeros_to_its_end(rig: GuestRig) -> None:
    node = rig.node("NULL")
    last = (1 << 40) - 4096
    rig.run(f"dd if=/dev/urandom of={node} bs=4096 seek={last // 4096} count=1 oflag=direct")
    data = f"dd if={node} bs=4096 skip={last // 4096} iflag=direct 2>/dev/null"
    assert rig.output(f"{data} | wc -c") == "4096"
    assert rig.output(f"{data} | tr -d '\\0' | wc -c") == "0"
