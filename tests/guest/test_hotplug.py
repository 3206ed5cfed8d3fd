"""Namespaces that come and go under a running guest: it finds out by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests_guest import GuestRig, fio_verify, verified_bytes

from vhostnvme.storage.spec import parse_spec


@contextmanager
def one_more(rig: GuestRig, spec: str) -> Iterator[int]:
    device = rig.device("THREE")
    nsid = rig.call(lambda: device.add_namespace(parse_spec(spec)))
    try:
        yield nsid
    finally:
        rig.call(lambda: device.remove_namespace(nsid))


def wait_gone(rig: GuestRig, node: str) -> None:
    rig.run(f"for i in $(seq 100); do [ -e {node} ] || exit 0; usleep 100000; done; exit 1")


def test_the_guest_finds_a_namespace_that_comes_and_loses_one_that_goes(rig: GuestRig) -> None:
    before = rig.output("ls /dev/nvme*n*")
    with rig.quiet_kernel():
        with one_more(rig, "mem:24M?block=4096") as nsid:
            assert nsid == 4
            node = rig.node("THREE", nsid)
            assert rig.output(f"blockdev --getsize64 {node}") == str(24 << 20)
            output = rig.output(
                fio_verify(node, megabytes=1, depth=8).replace("512/20:1536/10:", "")
            )
            assert verified_bytes(output) == 4 << 20
            listed = rig.json(f"nvme list-ns {rig.controller('THREE')} -o json")["nsid_list"]
            assert [entry["nsid"] for entry in listed] == [1, 2, 3, 4]
        wait_gone(rig, node)
    assert rig.output("ls /dev/nvme*n*") == before


def test_the_same_id_again_is_another_namespace(rig: GuestRig) -> None:
    """Its UUID differs, so Linux must not take it for the one that it knew."""
    seen = set()
    for size in (8, 12):
        with one_more(rig, f"mem:{size}M") as nsid:
            node = rig.node("THREE", nsid)
            assert rig.output(f"blockdev --getsize64 {node}") == str(size << 20)
            seen.add(rig.output(f"cat {rig.sysfs('THREE', nsid)}/wwid"))
        wait_gone(rig, node)
    assert len(seen) == 2


def test_a_namespace_that_goes_under_load_takes_nothing_with_it(rig: GuestRig) -> None:
    neighbour = rig.node("THREE", 1)
    # What the kernel says of the commands that come too late is meant.
    with rig.quiet_kernel("I/O error", "nvme_log_error"):
        with one_more(rig, "mem:24M") as nsid:
            node = rig.node("THREE", nsid)
            load = f"fio --name=l --filename={node} --rw=randrw --bs=4k --size=24M --iodepth=32"
            load += " --ioengine=libaio --direct=1 --time_based --runtime=60"
            rig.run(f"({load} >/dev/null 2>&1; echo $? >/tmp/load.code) & echo")
            rig.run("sleep 2")
        wait_gone(rig, node)
        rig.run("for i in $(seq 100); do [ -s /tmp/load.code ] && break; usleep 100000; done")
        assert rig.output("cat /tmp/load.code; rm /tmp/load.code") != "0"
        output = rig.output(fio_verify(neighbour, megabytes=1, depth=8))
        assert verified_bytes(output) == 4 << 20
    info = rig.call(rig.device("THREE").info)
    assert info.enabled
    assert not info.fatal


def test_a_namespace_that_grows_under_load_is_used_at_once(rig: GuestRig) -> None:
    device = rig.device("THREE")
    with rig.quiet_kernel("detected capacity change"), one_more(rig, "mem:8M") as nsid:
        node = rig.node("THREE", nsid)
        load = f"fio --name=l --filename={node} --rw=randrw --bs=4k --size=8M --iodepth=8"
        load += " --ioengine=libaio --direct=1 --time_based --runtime=60"
        rig.run(f"({load} >/dev/null 2>&1 & echo $! >/tmp/load.pid) & echo")
        for megabytes in (16, 40, 8):
            size = megabytes << 20
            rig.call(lambda size=size: device.resize_namespace(nsid, size))
            seen = f"[ $(blockdev --getsize64 {node}) = {size} ]"
            rig.run(f"for i in $(seq 100); do {seen} && exit 0; usleep 100000; done; exit 1")
            last = (size >> 12) - 1
            rig.run(f"dd if=/dev/zero of={node} bs=4k seek={last} count=1 oflag=direct 2>/dev/null")
        rig.run("kill $(cat /tmp/load.pid); rm /tmp/load.pid")
        rig.run("while pidof fio >/dev/null; do usleep 100000; done")
    wait_gone(rig, node)
