"""One guest, two controllers on one SSD: Linux goes the way that is open, and follows namespaces
that come, grow and go."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests_guest import GuestRig
from tests_ssd import MIB, SsdServer

NODE_S = 20


@pytest.fixture(scope="module")
def ssd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SsdServer]:
    folder = tmp_path_factory.mktemp("ssd")
    with SsdServer(folder, controllers=2, query="capacity=256M&namespaces=0") as server:
        yield server


@pytest.fixture(scope="module")
def paths(ssd: SsdServer) -> Iterator[GuestRig]:
    """The guest."""
    with GuestRig({}, sockets=ssd.sockets) as rig:
        yield rig


@pytest.fixture
def node(ssd: SsdServer, paths: GuestRig) -> Iterator[str]:
    """A namespace of 64 MiB on both controllers, as the guest sees it."""
    nsid = drive(ssd, "add", "64M")["nsid"]
    yield wait_node(paths, nsid)
    for number in (1, 2):
        drive(ssd, "ana", "optimized", "--controller", str(number))
    drive(ssd, "remove", str(nsid))
    wait_gone(paths, nsid)


def drive(ssd: SsdServer, verb: str, *arguments: str) -> Any:
    """`vhostnvme drive`, with its answer."""
    command = [sys.executable, "-m", "vhostnvme", "drive", verb, str(ssd.control.parent)]
    done = subprocess.run(
        [*command, *arguments, "--json"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def head_of(nsid: int) -> str:
    """A shell function that says the multipath node of a namespace, if there is one."""
    return (
        "head() { for n in /sys/class/nvme-subsystem/*/nvme*n*; do"
        f' [ -e $n/nsid ] && [ "$(cat $n/nsid)" = {nsid} ] && [ -b /dev/${{n##*/}} ]'
        " && echo /dev/${n##*/} && return; done; return 1; };"
    )


def wait_node(rig: GuestRig, nsid: int) -> str:
    script = f"for i in $(seq {NODE_S * 10}); do head && exit 0; usleep 100000; done; exit 1"
    return rig.output(head_of(nsid) + script)


def wait_gone(rig: GuestRig, nsid: int) -> None:
    script = f"for i in $(seq {NODE_S * 10}); do head || exit 0; usleep 100000; done; exit 1"
    rig.run(head_of(nsid) + script)


def wait_true(rig: GuestRig, condition: str) -> None:
    rig.run(f"for i in $(seq {NODE_S * 10}); do {condition} && exit 0; usleep 100000; done; exit 1")


def ana_states(rig: GuestRig, node: str) -> list[str]:
    """Of the paths to a namespace, by the number of their controller."""
    name = node.removeprefix("/dev/")
    nsid = f"$(cat /sys/block/{name}/nsid)"
    script = (
        "for c in /sys/class/nvme/nvme*; do for p in $c/nvme*c*n*; do"
        f' [ -e $p/nsid ] && [ "$(cat $p/nsid)" = "{nsid}" ]'
        " && echo $(cat $c/cntlid) $(cat $p/ana_state); done; done | sort"
    )
    return [line.split()[1] for line in rig.output(script).splitlines()]


def controller(rig: GuestRig, number: int) -> str:
    """/dev/nvme0, …, by its CNTLID."""
    script = (
        "for c in /sys/class/nvme/nvme*; do"
        f' [ "$(cat $c/cntlid)" = {number} ] && echo /dev/${{c##*/}}; done; true'
    )
    return rig.output(script)


class Load:
    """fio, which writes and checks what it has written until it is told to end."""

    def __init__(self, rig: GuestRig, node: str) -> None:
        self._rig = rig
        words = f"fio --name=l --filename={node} --rw=randrw --bs=4k --size=16M --iodepth=16"
        words += " --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1"
        words += " --verify_backlog=64 --time_based --runtime=600 --output=/tmp/load.json"
        words += " --output-format=json"
        rig.run(f"rm -f /tmp/load.*; ({words} 2>/tmp/load.err; echo $? >/tmp/load.code) & sleep 2")

    def goes_on(self, node: str) -> None:
        """Commands end while we look."""
        stat = f"awk '{{print $1 + $5}}' /sys/block/{node.removeprefix('/dev/')}/stat"
        before = int(self._rig.output(stat))
        wait_true(self._rig, f'[ "$({stat})" -gt {before + 100} ]')

    def end(self) -> None:
        """It has found no error."""
        self._rig.run("kill -INT $(pidof fio)")
        wait_true(self._rig, "[ -s /tmp/load.code ]")
        said = self._rig.output("cat /tmp/load.err")
        assert "verify" not in said, said
        text = self._rig.output("cat /tmp/load.json")
        report = json.loads(text[text.index("{") :])
        assert [job["error"] for job in report["jobs"]] == [0]


def test_linux_sees_two_paths(paths: GuestRig, node: str) -> None:
    subsystem = paths.json("nvme list-subsys -o json")[0]["Subsystems"]
    assert len(subsystem) == 1
    assert [path["State"] for path in subsystem[0]["Paths"]] == ["live", "live"]
    assert ana_states(paths, node) == ["optimized", "optimized"]
    name = node.removeprefix("/dev/")
    assert paths.output("ls /dev/nvme*n*") == node
    assert paths.output(f"blockdev --getsize64 /dev/{name}") == str(64 * MIB)


def test_io_goes_the_way_that_is_open(ssd: SsdServer, paths: GuestRig, node: str) -> None:
    load = Load(paths, node)
    for number, other in ((1, 2), (2, 1)):
        drive(ssd, "ana", "inaccessible", "--controller", str(number))
        expected = ["inaccessible", "optimized"] if number == 1 else ["optimized", "inaccessible"]
        wait_true(paths, "true")
        for _ in range(50):
            if ana_states(paths, node) == expected:
                break
            paths.run("usleep 100000")
        assert ana_states(paths, node) == expected
        load.goes_on(node)
        drive(ssd, "ana", "non-optimized", "--controller", str(number))
        drive(ssd, "ana", "inaccessible", "--controller", str(other))
        load.goes_on(node)
        drive(ssd, "ana", "optimized")
        load.goes_on(node)
    load.end()


def test_io_outlives_the_reset_of_a_controller(paths: GuestRig, node: str) -> None:
    load = Load(paths, node)
    for number in (1, 2, 1):
        paths.run(f"nvme reset {controller(paths, number)}")
        load.goes_on(node)
    load.end()


def test_when_no_way_is_open_io_waits(ssd: SsdServer, paths: GuestRig, node: str) -> None:
    drive(ssd, "ana", "inaccessible")
    read = f"dd if={node} of=/dev/null bs=4k count=1 iflag=direct"
    waits = f"rm -f /tmp/dd.code; ({read} 2>/tmp/dd.err; echo $? >/tmp/dd.code) & sleep 2;"
    paths.run(waits + " [ ! -s /tmp/dd.code ] || (cat /tmp/dd.err; exit 1)")
    drive(ssd, "ana", "optimized", "--controller", "2")
    wait_true(paths, "[ -s /tmp/dd.code ]")
    assert paths.output("cat /tmp/dd.code") == "0"


def test_a_namespace_grows_and_loses_a_path(ssd: SsdServer, paths: GuestRig, node: str) -> None:
    nsid = paths.output(f"cat /sys/block/{node.removeprefix('/dev/')}/nsid")
    drive(ssd, "resize", nsid, "96M")
    wait_true(paths, f"[ $(blockdev --getsize64 {node}) = {96 * MIB} ]")
    load = Load(paths, node)
    drive(ssd, "ana", "inaccessible", "--controller", "1")
    load.goes_on(node)  # no command goes to that controller any more
    drive(ssd, "detach", nsid, "--controller", "1")
    load.goes_on(node)
    assert len(ana_states(paths, node)) == 1
    drive(ssd, "attach", nsid, "--controller", "1")
    drive(ssd, "ana", "optimized", "--controller", "1")
    load.goes_on(node)
    load.end()


def test_reservations_hold_between_the_controllers(
    ssd: SsdServer, paths: GuestRig, node: str
) -> None:
    """The guest gives no host identifier, so each controller stands for a host."""

    def over(number: int) -> None:
        drive(ssd, "ana", "optimized", "--controller", str(number))
        drive(ssd, "ana", "inaccessible", "--controller", str(3 - number))
        wanted = ["optimized", "inaccessible"][:: 1 if number == 1 else -1]
        for _ in range(NODE_S * 10):
            if ana_states(paths, node) == wanted:
                return
            paths.run("usleep 100000")
        raise AssertionError(f"the guest does not go over controller {number}")

    write = f"dd if=/dev/zero of={node} bs=4k count=1 oflag=direct 2>/dev/null"
    over(1)
    paths.run(f"nvme resv-register {node} --nrkey=1 --rrega=0")
    paths.run(f"nvme resv-acquire {node} --crkey=1 --rtype=1 --racqa=0")
    paths.run(write)
    over(2)
    assert paths.run(write, check=False).exit_code != 0
    report = paths.json(f"nvme resv-report {node} -o json")
    assert (report["rtype"], report["regctl"]) == (1, 1)
    paths.run(f"nvme resv-register {node} --nrkey=2 --rrega=0")
    paths.run(f"nvme resv-acquire {node} --crkey=2 --prkey=1 --rtype=1 --racqa=1")
    paths.run(write)
    over(1)
    assert paths.run(write, check=False).exit_code != 0
    over(2)
    paths.run(f"nvme resv-release {node} --crkey=2 --rtype=1 --rrela=0")
    over(1)
    paths.run(write)


def test_the_guest_carves_a_namespace_and_gives_it_back(ssd: SsdServer, paths: GuestRig) -> None:
    first = controller(paths, 1)
    paths.run(f"nvme create-ns {first} -s 16384 -c 16384 -f 0 -m 1")
    nsid = paths.json(f"nvme list-ns {first} --all -o json")["nsid_list"][-1]["nsid"]
    paths.run(f"nvme attach-ns {first} -n {nsid} -c 1,2")
    node = wait_node(paths, nsid)
    assert paths.output(f"blockdev --getsize64 {node}") == str(8 * MIB)
    paths.run(
        f"dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null; cp /tmp/data {node}; sync"
    )
    paths.run(f"echo 3 >/proc/sys/vm/drop_caches; cmp -n {8 * MIB} /tmp/data {node}")
    paths.run(f"nvme delete-ns {first} -n {nsid}")
    wait_gone(paths, nsid)
    assert drive(ssd, "show")["unallocated"] == 256 * MIB
