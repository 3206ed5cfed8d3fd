"""Resets, rescans, drivers that come and go: the disk works, and what it held is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests_guest import GuestRig, fio_verify, verified_bytes

# What the kernel says of each reset that it was asked for.
ASKED_FOR = ("resetting controller", "restart after", "Shutdown timeout set")


def stamp(rig: GuestRig, node: str) -> None:
    """Writes something to be found again, far from where the tests write."""
    rig.run(f"head -c 65536 /dev/urandom >/tmp/stamp; dd if=/tmp/stamp of={node} bs=64k seek=1000"
            " oflag=direct")  # fmt: skip


def check_works(rig: GuestRig, disk: str) -> None:
    """The stamp is there, and new data goes out and comes back."""
    node = rig.node(disk)
    rig.run(f"dd if={node} bs=64k skip=1000 count=1 iflag=direct | cmp - /tmp/stamp")
    assert verified_bytes(rig.output(fio_verify(node, megabytes=1, depth=16))) == 4 << 20


def shutdowns(rig: GuestRig) -> int:
    rig.wait(asyncio.sleep(0.2))  # events take a moment
    said = [sentence for sentence in rig.sentences if "/FILE/" in sentence]
    return sum("has shut the controller down" in sentence for sentence in said)


def reset_by_ioctl(rig: GuestRig) -> None:
    rig.run(f"nvme reset {rig.controller('FILE')}")


def reset_by_sysfs(rig: GuestRig) -> None:
    rig.run(f"echo 1 >/sys/class/nvme/{rig.controller('FILE')[5:]}/reset_controller")


def function_level_reset(rig: GuestRig) -> None:
    path = f"/sys/class/nvme/{rig.controller('FILE')[5:]}/device"
    assert "flr" in rig.output(f"cat {path}/reset_method")
    rig.run(f"echo flr >{path}/reset_method && echo 1 >{path}/reset")


@pytest.mark.parametrize("reset", [reset_by_ioctl, reset_by_sysfs, function_level_reset])
def test_a_reset_under_load_loses_nothing(rig: GuestRig, reset: Callable[[GuestRig], None]) -> None:
    """Linux keeps what was in flight and sends it again: fio notices nothing."""
    node = rig.node("FILE")
    stamp(rig, node)
    enabled = sum("has enabled" in sentence for sentence in rig.sentences)
    with rig.quiet_kernel(*ASKED_FOR):
        # At this rate it lasts for longer than the resets, however fast the machine is.
        load = f"{fio_verify(node, megabytes=6, depth=32, more='--rate=3m')} >/tmp/fio.json 2>&1"
        rig.run(f"({load}; echo $? >/tmp/fio.code) & echo")
        for _ in range(3):
            rig.run("usleep 400000")
            reset(rig)
        rig.run("for i in $(seq 600); do [ -s /tmp/fio.code ] && break; usleep 100000; done", 120)
        assert rig.output("cat /tmp/fio.code; rm /tmp/fio.code") == "0", rig.output(
            "cat /tmp/fio.json"
        )
        check_works(rig, "FILE")
    assert sum("has enabled" in sentence for sentence in rig.sentences) >= enabled + 3
    assert not rig.call(rig.device("FILE").info).fatal


def test_a_rescan_changes_nothing(rig: GuestRig) -> None:
    controller = rig.controller("THREE")
    before = rig.output("ls /dev/nvme*")
    with rig.quiet_kernel():
        rig.run(f"echo 1 >/sys/class/nvme/{controller[5:]}/rescan_controller")
        rig.run(f"nvme ns-rescan {controller}")
        rig.node("THREE", 3)
    assert rig.output("ls /dev/nvme*") == before


def test_the_driver_may_leave_and_come_back(rig: GuestRig) -> None:
    stamp(rig, rig.node("FILE"))
    address = rig.output(f"cat /sys/class/nvme/{rig.controller('FILE')[5:]}/address")
    driver = "/sys/bus/pci/drivers/nvme"
    with rig.quiet_kernel():
        for _ in range(3):
            downs = shutdowns(rig)
            rig.run(f"echo {address} >{driver}/unbind")
            assert shutdowns(rig) == downs + 1
            rig.run(f"echo {address} >{driver}/bind")
        check_works(rig, "FILE")


def test_the_function_may_be_removed_and_found_again(rig: GuestRig) -> None:
    stamp(rig, rig.node("FILE"))
    address = rig.output(f"cat /sys/class/nvme/{rig.controller('FILE')[5:]}/address")
    with rig.quiet_kernel():
        rig.run(f"echo 1 >/sys/bus/pci/devices/{address}/remove && echo 1 >/sys/bus/pci/rescan")
        check_works(rig, "FILE")


def test_a_subsystem_reset_is_refused(rig: GuestRig) -> None:
    """CAP.NSSRS is 0: there is none."""
    with rig.quiet_kernel():
        refused = rig.run(f"nvme subsystem-reset {rig.controller('FILE')}", check=False)
        assert refused.exit_code != 0
        assert "not supported" in refused.stdout + refused.stderr
        rig.run(f"dd if={rig.node('FILE')} of=/dev/null bs=4k count=1 iflag=direct")
