"""nvme-cli in the guest on a drive of two controllers: namespaces come and go, and are shared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests_guest import GuestRig

CAPACITY = 64 << 20
BLOCK = 512
SMALL = 8192  # blocks


def asked(rig: GuestRig, command: str, **options: Any) -> Any:
    """What an nvme command with a controller in its place {c} says as JSON."""
    return rig.json(f"nvme {command.format(c=rig.controllers('DRIVE')[0], **options)} -o json")


def numbers(rig: GuestRig) -> str:
    """The CNTLIDs of the drive, as nvme-cli takes them."""
    listed = asked(rig, "list-ctrl {c}")["ctrl_list"]
    return ",".join(str(one["ctrl_id"]) for one in listed)


def allocated(rig: GuestRig) -> list[int]:
    return [one["nsid"] for one in asked(rig, "list-ns {c} --all")["nsid_list"]]


def unallocated(rig: GuestRig) -> int:
    return int(asked(rig, "id-ctrl {c}")["unvmcap"])


def create(rig: GuestRig, blocks: int = SMALL, options: str = "--flbas=0 --nmic=1") -> int:
    controller = rig.controllers("DRIVE")[0]
    said = rig.output(f"nvme create-ns {controller} -s {blocks} -c {blocks} {options}")
    match = re.search(r"created nsid:(\d+)", said)
    assert match, said
    return int(match.group(1))


@pytest.fixture
def empty(cli: GuestRig) -> Iterator[GuestRig]:
    """The drive without a namespace, before and after."""
    controller = cli.controllers("DRIVE")[0]
    cli.run(f"nvme delete-ns {controller} -n 0xffffffff")
    assert (allocated(cli), unallocated(cli)) == ([], CAPACITY)
    yield cli
    cli.run(f"nvme delete-ns {controller} -n 0xffffffff")


def test_a_namespace_from_its_creation_to_its_end(empty: GuestRig) -> None:
    """It is created, attached, used, detached, deleted; and its space is back."""
    first = empty.controllers("DRIVE")[0]
    with empty.quiet_kernel():
        nsid = create(empty)
        assert allocated(empty) == [nsid]
        assert unallocated(empty) == CAPACITY - SMALL * BLOCK
        assert asked(empty, "list-ns {c}")["nsid_list"] == []
        empty.run(f"nvme attach-ns {first} -n {nsid} -c {numbers(empty)}")
        node = empty.node("DRIVE", nsid)
        assert empty.output(f"blockdev --getsize64 {node}") == str(SMALL * BLOCK)
        empty.run(f"yes | dd of={node} bs=64k count=4 iflag=fullblock oflag=direct")
        assert empty.output(f"dd if={node} bs=2 count=1 skip=1000") == "y"
        empty.run(f"nvme detach-ns {first} -n {nsid} -c {numbers(empty)}")
        empty.run(f"for i in $(seq 50); do [ -b {node} ] || exit 0; usleep 100000; done; exit 1")
        empty.run(f"nvme delete-ns {first} -n {nsid}")
    assert (allocated(empty), unallocated(empty)) == ([], CAPACITY)


def test_the_lowest_number_that_is_free_is_taken(empty: GuestRig) -> None:
    assert [create(empty) for _ in range(3)] == [1, 2, 3]
    empty.run(f"nvme delete-ns {empty.controllers('DRIVE')[0]} -n 2")
    assert [create(empty) for _ in range(2)] == [2, 4]


def test_more_than_there_is_is_refused(empty: GuestRig) -> None:
    controller = empty.controllers("DRIVE")[0]
    create(empty, CAPACITY // BLOCK - SMALL)
    said = empty.run(f"nvme create-ns {controller} -s {SMALL + 1} -c {SMALL + 1} -f 0", check=False)
    assert said.exit_code != 0
    assert "Insufficient Capacity" in said.stdout + said.stderr
    create(empty, SMALL)
    assert unallocated(empty) == 0


@pytest.mark.parametrize("lbaf", range(6))
def test_a_namespace_of_each_format(empty: GuestRig, lbaf: int) -> None:
    nsid = create(empty, SMALL // 8, f"--flbas={lbaf} --nmic=1")
    empty.run(f"nvme attach-ns {empty.controllers('DRIVE')[0]} -n {nsid} -c {numbers(empty)}")
    page = asked(empty, "id-ns {c} -n 1")
    assert (page["flbas"] & 0xF, page["nsze"]) == (lbaf, SMALL // 8)


def test_an_attached_namespace_is_told_of(empty: GuestRig) -> None:
    """The other controller sees it by the event, without being asked to rescan."""
    first, second = empty.controllers("DRIVE")
    nsid = create(empty)
    mine, other = numbers(empty).split(",")
    empty.run(f"nvme attach-ns {first} -n {nsid} -c {other}")
    found = f"ls /sys/class/nvme/{second[5:]}/ | grep -q 'nvme.*n[0-9]'"
    empty.run(f"for i in $(seq 50); do {found} && exit 0; usleep 100000; done; exit 1")
    assert asked(empty, "list-ns {c}")["nsid_list"] == []
    again = empty.run(f"nvme attach-ns {first} -n {nsid} -c {other}", check=False)
    assert "Already Attached" in again.stdout + again.stderr
    missing = empty.run(f"nvme detach-ns {first} -n {nsid} -c {mine}", check=False)
    assert "Not Attached" in missing.stdout + missing.stderr


def test_a_private_namespace_has_one_controller(empty: GuestRig) -> None:
    nsid = create(empty, options="--flbas=0 --nmic=0")
    controller = empty.controllers("DRIVE")[0]
    both = empty.run(f"nvme attach-ns {controller} -n {nsid} -c {numbers(empty)}", check=False)
    assert "Namespace Is Private" in both.stdout + both.stderr
    empty.run(f"nvme attach-ns {controller} -n {nsid} -c {numbers(empty).split(',')[0]}")
    assert asked(empty, "list-ctrl {c} -n 1")["num_ctrl"] == 1


def test_a_shared_namespace_has_two_paths(empty: GuestRig) -> None:
    """Linux makes one disk of them, and uses it when one controller is reset."""
    nsid = create(empty)
    first, second = empty.controllers("DRIVE")
    empty.run(f"nvme attach-ns {first} -n {nsid} -c {numbers(empty)}")
    node = empty.node("DRIVE", nsid)
    assert asked(empty, "list-ctrl {c} -n 1")["num_ctrl"] == 2
    subsystems = empty.json(f"nvme list-subsys {node} -o json")[0]["Subsystems"]
    paths = {path["Name"]: path["ANAState"] for one in subsystems for path in one["Paths"]}
    assert paths == {first[5:]: "optimized", second[5:]: "optimized"}
    assert asked(empty, "id-ns {c} -n 1")["nmic"] & 1
    with empty.quiet_kernel("resetting controller", "failover"):
        empty.run(f"yes | dd of={node} bs=4k count=64 iflag=fullblock oflag=direct")
        empty.run(
            f"nvme reset {first} & dd if={node} of=/dev/null bs=4k count=64 iflag=direct; wait"
        )


def test_ana_log(empty: GuestRig) -> None:
    nsid = create(empty)
    empty.run(f"nvme attach-ns {empty.controllers('DRIVE')[0]} -n {nsid} -c {numbers(empty)}")
    groups = asked(empty, "ana-log {c}")["ANA DESC LIST "]
    mine = [group for group in groups if {"nsid": nsid} in group["NSIDS"]]
    assert [group["state"] for group in mine] == ["optimized"]
