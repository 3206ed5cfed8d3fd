"""A guest whose disks live elsewhere: on another card of ours, in a process of its own, and on the
Linux kernel's target in another guest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from tests_fabric import (
    LinuxPeer,
    begin_verified_load,
    check_discard,
    check_file_system,
    check_verified,
    end_verified_load,
    free_port,
)
from tests_guest import LONG, GuestRig

from vhostnvme.testing.server import ServerProcess

SUBNQN = "nqn.2026-11.test.vhostnvme:card-a"
MIB = 1 << 20
DEPTHS = (1, 8, 32, 128) if LONG else (1, 32, 128)
# Serial numbers, in the guest: what is behind, and with which digests.
OURS, OURS_CHECKED, OURS_4K, LINUX, LINUX_CHECKED = "OURS", "OURSCHK", "OURS4K", "LINUX", "LINUXCHK"
CHECKED = "hdgst=on&ddgst=on"


@pytest.fixture(scope="module")
def giver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, int]]:
    folder, port = tmp_path_factory.mktemp("giver"), free_port()
    disks = [
        f"file:{folder}/1.img?size=192M",
        f"file:{folder}/2.img?size=192M",
        f"file:{folder}/3.img?size=192M&block=4096",
    ]
    words = ["--tcp", f"127.0.0.1:{port}", "--subnqn", SUBNQN, "--allow-any-host"]
    with ServerProcess(disks, words, folder, with_socket=False) as server:
        yield server, port


@pytest.fixture(scope="module")
def linux() -> Iterator[LinuxPeer]:
    with LinuxPeer("--size", "192", "--size", "192") as peer:
        yield peer


@pytest.fixture(scope="module")
def rig(giver: tuple[ServerProcess, int], linux: LinuxPeer) -> Iterator[GuestRig]:
    ours = f"nvme+tcp://127.0.0.1:{giver[1]}/{SUBNQN}"
    theirs = f"nvme+tcp://127.0.0.1:{linux.port}/{linux.subnqn}"
    disks = {
        OURS: [f"{ours}/1"],
        OURS_CHECKED: [f"{ours}/2?{CHECKED}"],
        OURS_4K: [f"{ours}/3"],
        LINUX: [f"{theirs}/1?kato=2s"],
        LINUX_CHECKED: [f"{theirs}/2?{CHECKED}&queues=2"],
    }
    with GuestRig(disks) as running:
        yield running


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("disk", [OURS, OURS_CHECKED, LINUX, LINUX_CHECKED])
def test_mixed_blocks_at_any_depth_read_back_right(rig: GuestRig, disk: str, depth: int) -> None:
    with rig.quiet_kernel():
        check_verified(rig, rig.node(disk), depth=depth)


def test_blocks_of_4096_bytes_read_back_right(rig: GuestRig) -> None:
    with rig.quiet_kernel():
        check_verified(rig, rig.node(OURS_4K), depth=32, block_bytes=4096)
    assert rig.output(f"blockdev --getss {rig.node(OURS_4K)}") == "4096"


@pytest.mark.parametrize("disk", [OURS_CHECKED, OURS_4K, LINUX])
def test_a_file_system_stays_whole_and_discards_read_as_zeros(rig: GuestRig, disk: str) -> None:
    with rig.quiet_kernel():
        check_file_system(rig, rig.node(disk))
        check_discard(rig, rig.node(disk))


def test_disks_are_what_they_are_at_the_other_end(rig: GuestRig, linux: LinuxPeer) -> None:
    """Size and identity are those of the namespace that is forwarded, and what it promises."""
    folder = f"/sys/kernel/config/nvmet/subsystems/{linux.subnqn}/namespaces/1"
    uuid = linux.run(f"cat {folder}/device_uuid").strip()
    assert uuid in rig.output(f"cat {rig.sysfs(LINUX)}/wwid {rig.sysfs(LINUX)}/uuid")
    assert rig.output(f"blockdev --getsize64 {rig.node(LINUX)}") == str(192 * MIB)
    # Linux says nothing of what a deallocated block reads as; we say so of a file.
    reads = [
        rig.json(f"nvme id-ns {rig.node(disk)} -o json")["dlfeat"] & 7 for disk in (LINUX, OURS)
    ]
    assert reads == [0, 1]


def test_several_disks_at_once_keep_their_bytes_apart(rig: GuestRig) -> None:
    nodes = [rig.node(disk) for disk in (OURS, OURS_CHECKED, LINUX, LINUX_CHECKED)]
    for node in nodes:
        rig.run(f"yes {node} | head -c 1048576 | dd of={node} bs=1M iflag=fullblock oflag=direct")
    for node in nodes:
        rig.run(
            f"yes {node} | head -c 1048576 >/tmp/x && dd if={node} bs=1M count=1 iflag=direct"
            " | cmp - /tmp/x"
        )


def test_what_the_guest_has_written_is_in_the_giving_cards_file(
    rig: GuestRig, giver: tuple[ServerProcess, int]
) -> None:
    node = rig.node(OURS)
    said = rig.output(
        f"head -c 8388608 /dev/urandom >/tmp/x && dd if=/tmp/x of={node} bs=256k oflag=direct"
        " && sha256sum </tmp/x"
    )
    path = giver[0].log.parent / "1.img"
    with path.open("rb") as file:
        assert hashlib.sha256(file.read(8 * MIB)).hexdigest() == said.split()[0]


@pytest.mark.parametrize("fault", ["link", "port"])
def test_a_cut_link_to_linux_costs_time_only(rig: GuestRig, linux: LinuxPeer, fault: str) -> None:
    cut, heal = {"link": ("cut", "heal"), "port": ("stop", "start")}[fault]
    node = rig.node(LINUX)
    with rig.quiet_kernel():
        begin_verified_load(rig, node, 8)
        linux.run(f"nvmet {cut}; sleep 5; nvmet {heal}")
        end_verified_load(rig)
        check_verified(rig, node, depth=16)


def test_a_giving_card_that_is_killed_and_comes_back(
    rig: GuestRig, giver: tuple[ServerProcess, int]
) -> None:
    server, _ = giver
    node = rig.node(OURS)
    with rig.quiet_kernel():
        begin_verified_load(rig, node, 8)
        for _ in range(2):
            server.kill()
            rig.run("sleep 1")
            server.restart()
            rig.run("sleep 1")
        end_verified_load(rig)
        check_file_system(rig, node)
