"""A guest's life as its disks see it: reboots, resets, a power-off, a QEMU that is killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests_guest import GuestRig, complaints, fio_verify, verified_bytes

DISKS = ("KEEP", "MEM")
STAMP_AT = 8000  # blocks of 4 KiB


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestRig]:
    """A guest that these tests reboot, kill and start again."""
    folder = tmp_path_factory.mktemp("life")
    disks = {"KEEP": [f"file:{folder}/keep.img?size=64M"], "MEM": ["mem:64M"]}
    with GuestRig(disks, memory="512M") as running:
        for disk in DISKS:
            running.run(f"yes {disk} | dd of={running.node(disk)} bs=4k seek={STAMP_AT} count=16"
                        " iflag=fullblock oflag=direct")  # fmt: skip
        yield running


def identities(rig: GuestRig) -> list[str]:
    return [rig.output(f"cat {rig.sysfs(disk)}/wwid") for disk in DISKS]


def begin_load(rig: GuestRig) -> None:
    """Writes to the first half of each disk until the end of the world."""
    for disk in DISKS:
        rig.run(
            f"(fio --name=load --filename={rig.node(disk)} --rw=randwrite --bs=4k-64k --size=24M"
            " --iodepth=32 --ioengine=libaio --direct=1 --time_based --runtime=600"
            " >/dev/null 2>&1) & echo"
        )
    rig.run("sleep 1")


def check_works(rig: GuestRig) -> None:
    for index, disk in enumerate(DISKS):
        node = rig.node(disk)
        assert node == f"/dev/nvme{index}n1"
        rig.run(f"yes {disk} | head -c 65536 >/tmp/stamp")
        rig.run(f"dd if={node} bs=4k skip={STAMP_AT} count=16 iflag=direct | cmp - /tmp/stamp")
        assert verified_bytes(rig.output(fio_verify(node, megabytes=1, depth=16))) == 4 << 20
        info = rig.call(rig.device(disk).info)
        assert info.enabled
        assert not info.fatal
    assert complaints(rig.kernel_log()) == []


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
def test_reboots_under_load(own: GuestRig, hard: bool) -> None:
    before = identities(own)
    for _ in range(2):
        begin_load(own)
        own.wait(own.guest.reboot(hard=hard))
        check_works(own)
    assert identities(own) == before


def test_a_power_off_shuts_the_controllers_down(own: GuestRig) -> None:
    counts = {disk: shutdowns(own, disk) for disk in DISKS}
    own.wait(own.guest.powerdown())
    for disk in DISKS:
        own.wait_sentence(disk, "the client has disconnected")
        assert shutdowns(own, disk) == counts[disk] + 1
        info = own.call(own.device(disk).info)
        assert not info.attached
        assert not info.enabled
    own.new_guest()
    check_works(own)
    assert unsafe_shutdowns(own) == 0


def test_a_qemu_that_is_killed_under_load(own: GuestRig) -> None:
    begin_load(own)
    own.wait(own.guest.kill())
    own.new_guest()
    check_works(own)
    assert unsafe_shutdowns(own) == 1


def shutdowns(rig: GuestRig, disk: str) -> int:
    said = [sentence for sentence in rig.sentences if f"/{disk}/" in sentence]
    return sum("has shut the controller down" in sentence for sentence in said)


def unsafe_shutdowns(rig: GuestRig) -> int:
    log = rig.json(f"nvme smart-log {rig.controller('KEEP')} -o json")
    return int(log["unsafe_shutdowns"])
