"""Linux on zoned namespaces: it sees zones, keeps to them, and finds them again.

Each disk has its own kind of use; VHOSTNVME_LONG=1 writes more of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_guest import LONG, GuestRig

MIB = 1 << 20
ZONE_MIB = 4
BLKZONE = "/usr/sbin/blkzone"
FILE_MIB = 256
FIO_RUNS = 4 if LONG else 1


@pytest.fixture(scope="module")
def zones(disk_folder: Path) -> Iterator[GuestRig]:
    options = f"zoned=on&zone-size={ZONE_MIB}M"
    limits = "max-open=6&max-active=8&zone-append=64K&zone-extension=64"
    disks = {
        "ZMEM": [f"mem:64M?{options}&zone-capacity=3M&{limits}"],
        "ZFILE": [f"file:{disk_folder}/zoned.img?size={FILE_MIB}M&{options}"],
    }
    with GuestRig(disks) as running:
        yield running


def queue_limit(rig: GuestRig, node: str, name: str) -> str:
    return rig.output(f"cat /sys/block/{node.removeprefix('/dev/')}/queue/{name}").strip()


def states(rig: GuestRig, node: str) -> list[str]:
    """What blkzone says of each zone, such as `em` or `fu`."""
    report = rig.output(f"{BLKZONE} report {node}").splitlines()
    return [line.split("zcond:")[1].split("(")[1].split(")")[0].strip() for line in report]


def test_linux_sees_a_host_managed_device(zones: GuestRig) -> None:
    for disk, nr in (("ZMEM", 16), ("ZFILE", FILE_MIB // ZONE_MIB)):
        node = zones.node(disk)
        assert queue_limit(zones, node, "zoned") == "host-managed"
        assert queue_limit(zones, node, "chunk_sectors") == str(ZONE_MIB * MIB // 512)
        assert queue_limit(zones, node, "nr_zones") == str(nr)
        assert len(states(zones, node)) == nr
    node = zones.node("ZMEM")
    assert queue_limit(zones, node, "max_open_zones") == "6"
    assert queue_limit(zones, node, "max_active_zones") == "8"
    assert queue_limit(zones, node, "zone_append_max_bytes") == str(64 << 10)


def test_blkzone_acts_on_zones(zones: GuestRig) -> None:
    node = zones.node("ZMEM")
    zones.run(f"{BLKZONE} reset {node}")
    assert set(states(zones, node)) == {"em"}
    sectors = ZONE_MIB * MIB // 512
    zones.run(f"dd if=/dev/urandom of={node} bs=64k count=1 oflag=direct")
    zones.run(f"{BLKZONE} open -o {sectors} -c 1 {node}")
    zones.run(f"{BLKZONE} finish -o {2 * sectors} -c 1 {node}")
    zones.run(f"{BLKZONE} open -o {3 * sectors} -c 1 {node}")
    zones.run(f"{BLKZONE} close -o {3 * sectors} -c 1 {node}")
    assert states(zones, node)[:2] == ["oi", "oe"]
    assert states(zones, node)[2] == "fu"
    elsewhere = f"dd if=/dev/zero of={node} bs=64k seek=9 count=1 oflag=direct"
    assert zones.run(elsewhere, check=False).exit_code
    zones.run(f"{BLKZONE} reset {node}")
    assert set(states(zones, node)) == {"em"}


def test_nvme_cli_knows_them(zones: GuestRig) -> None:
    node = zones.node("ZMEM")
    assert "zsze:0x2000" in zones.output(f"nvme zns id-ns {node}").replace(" ", "")
    assert "zasl:4" in zones.output(f"nvme zns id-ctrl {node}").replace(" ", "")
    zones.run(f"nvme zns reset-zone -a {node}")
    zones.run("head -c 4096 /dev/urandom >/tmp/block")
    zones.run(f"nvme zns zone-append {node} -s 0 -z 4096 -d /tmp/block")
    zones.run(f"dd if={node} of=/tmp/back bs=4k count=1 iflag=direct && cmp /tmp/block /tmp/back")
    assert "WP: 0x8" in zones.output(f"nvme zns report-zones {node} -d 1")
    zones.run(f"nvme zns changed-zone-list {node}")


def fio(rig: GuestRig, node: str, more: str) -> None:
    rig.run(
        f"fio --name=zones --filename={node} --direct=1 --ioengine=libaio --zonemode=zbd"
        f" --max_open_zones=6 --bs=16k --verify=crc32c --verify_fatal=1 {more}",
        timeout=300,
    )


@pytest.mark.parametrize("disk", ["ZMEM", "ZFILE"])
@pytest.mark.parametrize("how", ["write", "randwrite"])
def test_fio_verifies_what_it_writes(zones: GuestRig, disk: str, how: str) -> None:
    node = zones.node(disk)
    zones.run(f"{BLKZONE} reset {node}")
    for run in range(FIO_RUNS):
        fio(zones, node, f"--rw={how} --iodepth=16 --size=32M --randseed={run} --do_verify=1")


def test_a_new_guest_finds_what_the_old_one_left(zones: GuestRig) -> None:
    node = zones.node("ZFILE")
    zones.run(f"{BLKZONE} reset {node}")
    fio(zones, node, "--rw=write --iodepth=8 --size=24M --do_verify=0")
    zones.run(f"dd if=/dev/zero of={node} bs=64k count=3 seek=512 oflag=direct")  # zone 8
    before = zones.output(f"{BLKZONE} report {node}")
    digest = zones.output(f"dd if={node} bs=1M count=40 iflag=direct 2>/dev/null | sha256sum")
    zones.new_guest()
    node = zones.node("ZFILE")
    assert zones.output(f"{BLKZONE} report {node}") == before
    again = zones.output(f"dd if={node} bs=1M count=40 iflag=direct 2>/dev/null | sha256sum")
    assert again == digest
