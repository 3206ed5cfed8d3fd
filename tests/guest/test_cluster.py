"""A guest of a card in a cluster: one namespace of its disk lives on that card, one on another.

One boot serves all of these tests, in their order: the last two end the guest, and the VM.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests_cluster import wait_empty
from tests_fabric import (
    begin_verified_load,
    check_discard,
    check_file_system,
    check_verified,
    end_verified_load,
)
from tests_guest import GuestRig, fio_verify, verified_bytes

from vhostnvme.control.card import CreatedDevice, DeviceNamespace
from vhostnvme.testing.cards import CardPlan, CardProcess, Cards

MIB = 1 << 20
VM = "vm1"
LOCAL_BYTES, REMOTE_BYTES = 128 * MIB, 192 * MIB
GIVER, OWNER = "a", "b"


@dataclass(slots=True)
class Cluster:
    """Three cards; card b has a device, of which a guest has the disk."""

    cards: Cards
    device: CreatedDevice
    serial: str
    rig: GuestRig

    @property
    def owner(self) -> CardProcess:
        return self.cards[OWNER]

    @property
    def giver(self) -> CardProcess:
        return self.cards[GIVER]

    @property
    def local(self) -> DeviceNamespace:
        return self.device.namespaces[0]

    @property
    def remote(self) -> DeviceNamespace:
        return self.device.namespaces[1]

    def node(self, nsid: int) -> str:
        """The namespace's block device in the guest, as soon as it is there."""
        return self.rig.node(self.serial, nsid)

    def file(self, namespace: DeviceNamespace) -> Path:
        """Where its data is on this machine."""
        return self.cards[namespace.card].ssd_folders[0] / f"{namespace.uuid}.ns"

    def tell(self, *words: str) -> Any:
        """`vhostnvme WORDS --json` for card b; its answer."""
        done = self.owner.cli(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def cluster(disk_folder: Path) -> Iterator[Cluster]:
    with Cards(3, CardPlan(ssd_bytes=512 * MIB), disk_folder / "cards") as cards:
        placements = ["local", GIVER]
        owner = cards[OWNER]
        device = owner.create_device(VM, LOCAL_BYTES, REMOTE_BYTES, placements=placements)
        [info] = owner.devices()
        with GuestRig({}, sockets=[Path(device.socket)]) as rig:
            yield Cluster(cards, device, info.serial, rig)


def listed(cluster: Cluster) -> dict[int, dict[str, Any]]:
    """What `nvme list` says of the device's namespaces, by their ids."""
    return {
        int(each["NameSpace"]): each
        for each in cluster.rig.json("nvme list -o json")["Devices"]
        if each["SerialNumber"] == cluster.serial
    }


def test_one_disk_has_namespaces_of_two_cards(cluster: Cluster) -> None:
    device = cluster.device
    assert [(each.nsid, each.card, each.placement) for each in device.namespaces] == [
        (1, OWNER, "local"),
        (2, GIVER, "remote"),
    ]
    found = listed(cluster)
    sizes = {nsid: each["PhysicalSize"] for nsid, each in found.items()}
    assert sizes == {1: LOCAL_BYTES, 2: REMOTE_BYTES}
    for each in device.namespaces:
        node = cluster.node(each.nsid)
        assert found[each.nsid]["DevicePath"] == node
        assert cluster.rig.output(f"cat {cluster.rig.sysfs(cluster.serial, each.nsid)}/uuid") == (
            each.uuid
        )
    assert cluster.owner.devices()[0].state == "running"


def test_both_namespaces_at_once_read_back_right(cluster: Cluster) -> None:
    commands = [
        fio_verify(cluster.node(nsid), megabytes=2, depth=8, name=f"ns{nsid}") for nsid in (1, 2)
    ]
    with cluster.rig.quiet_kernel():
        cluster.rig.run(
            f"({commands[0]} >/tmp/ns1 2>&1) & ({commands[1]} >/tmp/ns2 2>&1) & wait", 300
        )
    for nsid in (1, 2):
        assert verified_bytes(cluster.rig.output(f"cat /tmp/ns{nsid}")) == 8 * MIB


def test_a_file_system_on_the_remote_namespace_stays_whole(cluster: Cluster) -> None:
    with cluster.rig.quiet_kernel():
        check_file_system(cluster.rig, cluster.node(2))
        check_discard(cluster.rig, cluster.node(2))


def test_what_the_guest_has_written_is_on_the_card_where_the_namespace_lives(
    cluster: Cluster,
) -> None:
    for each in cluster.device.namespaces:
        node = cluster.node(each.nsid)
        said = cluster.rig.output(
            f"head -c 4194304 /dev/urandom >/tmp/x && dd if=/tmp/x of={node} bs=256k oflag=direct"
            " && sha256sum </tmp/x"
        )
        with cluster.file(each).open("rb") as file:
            assert hashlib.sha256(file.read(4 * MIB)).hexdigest() == said.split()[0]


def test_a_giver_that_is_killed_and_comes_back_costs_time_only(cluster: Cluster) -> None:
    with cluster.rig.quiet_kernel():
        begin_verified_load(cluster.rig, cluster.node(2), 8)
        cluster.giver.kill()
        # The namespace of the own card goes on meanwhile.
        check_verified(cluster.rig, cluster.node(1), depth=8)
        cluster.giver.start()
        end_verified_load(cluster.rig)
        check_verified(cluster.rig, cluster.node(2), depth=8)
    cluster.cards.wait_together()


def test_a_namespace_is_added_and_deleted_under_the_running_guest(cluster: Cluster) -> None:
    device = cluster.device.device
    with cluster.rig.quiet_kernel():
        added = cluster.tell(
            *("namespace", "create", "--device", device, "--size", "64M"),
            *("--placement", "c"),
        )
        assert (added["nsid"], added["card"], added["placement"]) == (3, "c", "remote")
        node = cluster.node(3)
        assert listed(cluster)[3]["PhysicalSize"] == 64 * MIB
        check_verified(cluster.rig, node, depth=8)
        cluster.tell("namespace", "delete", added["uuid"])
        cluster.rig.run(
            f"for i in $(seq 100); do [ -e {node} ] || exit 0; usleep 100000; done; exit 1"
        )
    assert listed(cluster).keys() == {1, 2}
    assert cluster.cards["c"].namespace_files() == []


@pytest.mark.parametrize("nsid", [1, 2])
def test_the_guest_sees_that_a_namespace_has_grown(cluster: Cluster, nsid: int) -> None:
    rig, node = cluster.rig, cluster.node(nsid)
    before = cluster.device.namespaces[nsid - 1]
    size = before.size + 64 * MIB
    with rig.quiet_kernel():
        rig.run(f"mkfs.ext4 -q -F {node} && mkdir -p /tmp/m && mount {node} /tmp/m")
        rig.run("head -c 9000000 /dev/urandom >/tmp/m/f && sha256sum /tmp/m/f >/tmp/sum")
        answer = cluster.tell("namespace", "resize", before.uuid, "--size", f"{size // MIB}M")
        assert answer["size"] == size
        rig.run(
            f"for i in $(seq 100); do [ $(blockdev --getsize64 {node}) = {size} ] && exit 0;"
            " usleep 100000; done; exit 1"
        )
        end = size // MIB - 1
        rig.run(
            f"yes end | head -c 1048576 >/tmp/x; dd if=/tmp/x of={node} bs=1M seek={end}"
            f" oflag=direct && dd if={node} bs=1M skip={end} iflag=direct | cmp - /tmp/x"
        )
        rig.run("sha256sum -c /tmp/sum && umount /tmp/m")
        rig.run(f"fsck.ext4 -fn {node}")


def test_a_card_that_was_killed_has_the_same_disk_for_the_next_guest(cluster: Cluster) -> None:
    rig, before = cluster.rig, cluster.tell("device", "list")
    sums = {}
    for nsid in (1, 2):
        sums[nsid] = rig.output(
            f"head -c 4194304 /dev/urandom >/tmp/x && dd if=/tmp/x of={cluster.node(nsid)} bs=1M"
            " oflag=direct conv=fsync && sha256sum </tmp/x"
        )
    cluster.owner.kill()
    cluster.owner.start()
    rig.new_guest()
    for nsid in (1, 2):
        command = f"dd if={cluster.node(nsid)} bs=1M count=4 iflag=direct | sha256sum"
        assert rig.output(command) == sums[nsid]
        check_verified(rig, cluster.node(nsid), depth=8)
    assert cluster.tell("device", "list") == before


def test_the_pool_is_empty_again_when_the_vm_is_deleted(cluster: Cluster) -> None:
    cluster.rig.close()
    cluster.cards.wait(
        lambda: cluster.owner.devices()[0].state == "listening", "the guest has let go of its disk"
    )
    released = cluster.tell("vm", "delete", VM)
    assert released["pending"] == []
    assert sorted(released["namespaces"]) == sorted([cluster.local.uuid, cluster.remote.uuid])
    wait_empty(cluster.cards)
    assert cluster.tell("vm", "delete", VM)["already"]
