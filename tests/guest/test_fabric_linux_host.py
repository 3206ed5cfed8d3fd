"""The Linux kernel's NVMe/TCP host in a guest, on our target."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests_fabric import (
    DISCOVERY_NQN,
    HOSTNQN,
    Served,
    begin_verified_load,
    check_discard,
    check_file_system,
    check_refused,
    check_verified,
    connect_words,
    connected,
    discover,
    disk,
    end_verified_load,
    free_port,
    listening,
    set_link,
)
from tests_guest import GuestRig

from vhostnvme.fabric.options import HostOptions, SubsystemOptions, TargetOptions
from vhostnvme.storage.disk import open_disk
from vhostnvme.storage.spec import parse_spec
from vhostnvme.testing.server import ServerProcess

OPEN = "nqn.2026-11.test.vhostnvme:open"
OURS = "nqn.2026-11.test.vhostnvme:ours"
STRANGER = "nqn.2026-11.test.vhostnvme:stranger"
MEM, FILE, SMALL = 1, 2, 3  # the namespaces of OPEN
MIB = 1 << 20


@pytest.fixture(scope="module")
def rig(networked: GuestRig) -> GuestRig:
    return networked


@pytest.fixture(scope="module")
def served(rig: GuestRig, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A subsystem for everybody, and one for a single host."""
    file = f"file:{tmp_path_factory.mktemp('target')}/file.img?size=192M&block=4096"
    options = TargetOptions(
        listeners=(listening(),),
        subsystems=(
            SubsystemOptions(
                nqn=OPEN,
                serial="OPEN",
                model="a disk of the network",
                any_host=True,
                namespaces=(disk("mem:192M", MEM), disk(file, FILE), disk("mem:16M", SMALL)),
            ),
            SubsystemOptions(
                nqn=OURS, hosts=(HostOptions(nqn=HOSTNQN),), namespaces=(disk("mem:64M"),)
            ),
        ),
    )
    return Served.of(rig.wait(rig.services.add_target(options)))


def test_discovery_names_what_this_host_may_use(rig: GuestRig, served: Served) -> None:
    records = discover(rig, served.port)
    named = {record["subnqn"] for record in records}
    assert {OPEN, OURS} <= named <= {OPEN, OURS, DISCOVERY_NQN}
    assert {record["trtype"] for record in records} == {"tcp"}
    ports = {int(record["trsvcid"]) for record in records if record["subnqn"] == OPEN}
    assert served.port in ports
    strange = discover(rig, served.port, f"-q {STRANGER}")
    assert {record["subnqn"] for record in strange} - {DISCOVERY_NQN} == {OPEN}


@pytest.mark.parametrize(
    ("options", "depth"), [("", 128), ("-g", 1), ("-G", 32), ("-g -G -i 1 -Q 16", 128)]
)
def test_mixed_blocks_read_back_right(
    rig: GuestRig, served: Served, options: str, depth: int
) -> None:
    with rig.quiet_kernel(), connected(rig, served.port, OPEN, options) as connection:
        check_verified(rig, connection.node(MEM), depth=depth)
    assert rig.call(served.target.info).controllers == 0


def test_file_systems_and_discards(rig: GuestRig, served: Served) -> None:
    with rig.quiet_kernel(), connected(rig, served.port, OPEN, "-g -G") as connection:
        check_verified(rig, connection.node(FILE), depth=32, block_bytes=4096)
        check_file_system(rig, connection.node(FILE))
        check_discard(rig, connection.node(FILE))
        check_discard(rig, connection.node(MEM))


def test_what_the_tools_show_makes_sense(rig: GuestRig, served: Served) -> None:
    with rig.quiet_kernel(), connected(rig, served.port, OPEN) as connection:
        node, controller = connection.node(FILE), connection.controller
        identity = rig.json(f"nvme id-ctrl {controller} -o json")
        assert identity["subnqn"] == OPEN
        assert identity["sn"].strip() == "OPEN"
        assert identity["mn"].strip() == "a disk of the network"
        assert identity["cntrltype"] == 1
        assert identity["ioccsz"] >= 4
        assert identity["kas"] > 0
        assert identity["sgls"] & 1
        namespace = rig.json(f"nvme id-ns {node} -o json")
        assert namespace["nsze"] == 192 * MIB // 4096
        assert namespace["nmic"] & 1
        listed = rig.json(f"nvme list-ns {controller} -o json")["nsid_list"]
        assert [entry["nsid"] for entry in listed] == [MEM, FILE, SMALL]
        health = rig.json(f"nvme smart-log {controller} -o json")
        assert health["critical_warning"] == 0
        assert health["percent_used"] == 0
        groups = rig.json(f"nvme ana-log {controller} -o json")["ANA DESC LIST "]
        assert [group["state"] for group in groups] == ["optimized"]
        assert {entry["nsid"] for entry in groups[0]["NSIDS"]} == {MEM, FILE, SMALL}
        assert f"{node} " in rig.output("nvme list") + " "
        assert rig.json(f"nvme error-log {controller} -o json")["errors"] is not None
        rig.run(f"nvme show-topology; nvme list -v; nvme flush {node}")
        assert connection.attribute("cntrltype") == "io"
        assert connection.attribute("transport") == "tcp"


def test_namespaces_come_and_go_under_the_host(rig: GuestRig, served: Served) -> None:
    subsystem = served.target.subsystem(OPEN)
    with rig.quiet_kernel(), connected(rig, served.port, OPEN) as connection:
        connection.node(MEM)
        more = rig.call(lambda: open_disk(served.target.runtime, parse_spec("mem:24M")))
        try:
            rig.call(lambda: subsystem.attach(more, 9))
            node = connection.node(9)
            assert rig.output(f"blockdev --getsize64 {node}") == str(24 * MIB)
            check_verified(rig, node, depth=8)
            rig.call(lambda: subsystem.detach(9))
            rig.run(f"for i in $(seq 100); do [ -e {node} ] || exit 0; usleep 100000; done; exit 1")
        finally:
            rig.call(more.close)


def test_a_cut_link_costs_time_only(rig: GuestRig, served: Served) -> None:
    """Longer than the keep-alive: both sides give the connection up, and the host comes back."""
    with connected(rig, served.port, OPEN, "-k 2 -g -G") as connection:
        node = connection.node(MEM)
        with rig.quiet_kernel("nvme"):
            begin_verified_load(rig, node, 11)
            set_link(rig, False)
            connection.wait_state("connecting")
            wait_controllers(rig, served, 0)
            set_link(rig, True)
            connection.wait_state("live")
            end_verified_load(rig)
        check_verified(rig, node, depth=16)


def wait_controllers(rig: GuestRig, served: Served, count: int) -> None:
    deadline = time.monotonic() + 30
    while rig.call(served.target.info).controllers != count:
        assert time.monotonic() < deadline, "the target holds on to a host that is gone"
        time.sleep(0.1)


def test_a_target_that_is_killed_and_comes_back(rig: GuestRig, tmp_path: Path) -> None:
    port = free_port()
    words = ["--tcp", f"127.0.0.1:{port}", "--subnqn", STRANGER, "--allow-any-host"]
    file = f"file:{tmp_path}/disk.img?size=64M"
    with (
        ServerProcess([file], words, tmp_path, with_socket=False) as server,
        connected(rig, port, STRANGER, "-k 5") as connection,
    ):
        node = connection.node()
        with rig.quiet_kernel("nvme"):
            begin_verified_load(rig, node, 8)
            for _ in range(2):
                server.kill()
                connection.wait_state("connecting")
                server.restart()
                connection.wait_state("live")
            end_verified_load(rig)
        check_file_system(rig, node)


def test_hosts_that_are_not_named_stay_outside(rig: GuestRig, served: Served) -> None:
    check_refused(rig, served, connect_words(served.port, OURS, hostnqn=STRANGER))
    check_refused(rig, served, connect_words(served.port, "nqn.2026-11.test:none"))
