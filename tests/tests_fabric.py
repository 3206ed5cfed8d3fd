"""What the fabric's guest tests share: the Linux kernel as a host, and what each disk must bear."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests_guest import LONG, GuestRig, fio_verify, verified_bytes

from vhostnvme.closable import Closable
from vhostnvme.fabric.address import Address
from vhostnvme.fabric.options import ExportOptions, ListenerOptions
from vhostnvme.fabric.target import FabricTarget
from vhostnvme.storage.spec import parse_spec

HOST_ADDRESS = "10.0.2.2"  # the host, as a guest's user-mode network calls it
HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:7b4a0b6e-0d5f-4d5e-9d5c-1f0f5b0a0001"
HOSTID = "7b4a0b6e-0d5f-4d5e-9d5c-1f0f5b0a0001"
DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
NETWORK = "net0"  # the guest's network device, as QEMU knows it


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Connection:
    """The kernel's host in a guest, connected to a subsystem."""

    rig: GuestRig
    name: str  # of its controller: nvme0

    @property
    def controller(self) -> str:
        return f"/dev/{self.name}"

    def attribute(self, name: str) -> str:
        return self.rig.output(f"cat /sys/class/nvme/{self.name}/{name}")

    def node(self, nsid: int = 1) -> str:
        """A namespace's block device, as soon as it is there."""
        script = (
            "for i in $(seq 100); do"
            f" for n in /sys/class/nvme/{self.name}/nvme*n* /sys/class/nvme/{self.name}/device/"
            "nvme-subsys*/nvme*n*; do"
            f' [ -e $n/nsid ] && read -r id <$n/nsid && [ "$id" = {nsid} ] || continue;'
            # A namespace of several controllers is a device of their subsystem: nvme0c1n1, nvme0n1.
            " d=$(echo ${n##*/} | sed s/c[0-9]*n/n/); [ -b /dev/$d ] && echo /dev/$d && exit;"
            " done; usleep 100000; done; exit 1"
        )
        return self.rig.output(script)

    def wait_state(self, state: str, seconds: int = 60) -> None:
        """Waits for live, connecting, ..."""
        self.rig.run(
            f"for i in $(seq {10 * seconds}); do read -r s </sys/class/nvme/{self.name}/state;"
            f' [ "$s" = {state} ] && exit 0; usleep 100000; done; echo "it is $s"; exit 1',
            seconds + 30,
        )


def connect_words(port: int, subnqn: str, *options: str, hostnqn: str = HOSTNQN) -> str:
    words = f"-t tcp -a {HOST_ADDRESS} -s {port} -n {subnqn} -q {hostnqn} -I {HOSTID} -c 1"
    return " ".join([f"nvme connect {words}", *options])


@contextlib.contextmanager
def connected(
    rig: GuestRig, port: int, subnqn: str, *options: str, hostnqn: str = HOSTNQN
) -> Iterator[Connection]:
    """Connects the guest's kernel to a subsystem on the host; options as of `nvme connect`."""
    rig.run("modprobe nvme-tcp")
    command = connect_words(port, subnqn, *options, "-o json", hostnqn=hostnqn)
    name = json.loads(rig.output(command))["device"]
    try:
        yield Connection(rig, name)
    finally:
        rig.run(f"nvme disconnect -d {name}")


def discover(rig: GuestRig, port: int, *options: str) -> list[dict[str, Any]]:
    """The records of the discovery log page that the kernel's host was given."""
    rig.run("modprobe nvme-tcp")
    words = f"-t tcp -a {HOST_ADDRESS} -s {port} -q {HOSTNQN} -I {HOSTID}"
    answer = rig.json(" ".join([f"nvme discover {words} -o json", *options]))
    records: list[dict[str, Any]] = answer["records"]
    return records


def set_link(rig: GuestRig, up: bool) -> None:
    """Plugs the guest's network cable in, or pulls it out."""
    rig.wait(rig.guest.qmp("set_link", name=NETWORK, up=up))


# -- what every disk must bear ------------------------------------------------------------------


def check_verified(rig: GuestRig, node: str, *, depth: int, block_bytes: int = 512) -> None:
    """Blocks of 512 bytes to 1 MiB, each with a checksum, read back."""
    megabytes = 24 if LONG else 2
    command = fio_verify(node, megabytes=megabytes, depth=depth)
    if block_bytes != 512:
        command = command.replace("512/20:1536/10:4k/25", "4k/55")
    assert verified_bytes(rig.output(command, 500)) == 4 * megabytes << 20


def check_file_system(rig: GuestRig, node: str) -> None:
    """ext4 with some files on it: the same after a remount and a trim, and clean."""
    steps = [
        f"mkfs.ext4 -q -F {node}",
        f"mkdir -p /tmp/m && mount {node} /tmp/m",
        "mkdir /tmp/m/a && for i in 1 2 3 4; do head -c 1000003 /dev/urandom >/tmp/m/a/f$i; done",
        "cd /tmp/m && rm a/f3 && sync && sha256sum a/* >/tmp/sums",
        "umount /tmp/m && echo 3 >/proc/sys/vm/drop_caches",
        f"mount {node} /tmp/m",
        "cd /tmp/m && sha256sum -c /tmp/sums && fstrim /tmp/m && sha256sum -c /tmp/sums",
        f"umount /tmp/m && fsck.ext4 -fn {node}",
    ]
    for step in steps:
        rig.run(step)


def check_discard(rig: GuestRig, node: str) -> None:
    """What has been discarded, or zeroed, reads as zeros; what is beside it stays."""
    rig.run(f"yes data | head -c 3145728 >/tmp/x && dd if=/tmp/x of={node} bs=1M oflag=direct")
    discard = "/usr/sbin/blkdiscard -f -l 1M"
    rig.run(f"{discard} -z -o 0 {node} && {discard} -o 1M {node}")
    rig.run(
        f"head -c 2097152 /dev/zero >/tmp/y && tail -c 1048576 /tmp/x >>/tmp/y"
        f" && dd if={node} bs=1M count=3 iflag=direct | cmp - /tmp/y; code=$?;"
        " rm /tmp/x /tmp/y; exit $code"
    )


def begin_verified_load(rig: GuestRig, node: str, seconds: int, more: str = "") -> None:
    """Starts writes that are read back and checked for so long; `end_verified_load` judges."""
    command = (
        f"fio --name=load --filename={node} --rw=randrw --rwmixread=30 --size=32M"
        " --bssplit=4k/60:16k/30:128k/10 --iodepth=16 --ioengine=libaio --direct=1 --time_based"
        f" --runtime={seconds}"
        f" --verify=crc32c --verify_fatal=1 --verify_backlog=64 --output-format=json {more}"
    )
    rig.run(f"rm -f /tmp/load.code; ({command} >/tmp/load 2>&1; echo $? >/tmp/load.code) & echo")
    rig.run("sleep 1")


def end_verified_load(rig: GuestRig, seconds: int = 90) -> None:
    """Waits for the load's end: no error, and nothing read that was not written."""
    rig.run(
        f"for i in $(seq {10 * seconds}); do [ -s /tmp/load.code ] && exit; usleep 100000; done;"
        " exit 1",
        seconds + 30,
    )
    output = rig.output("cat /tmp/load")
    assert rig.output("cat /tmp/load.code") == "0", output
    assert verified_bytes(output) > 0


class LinuxPeer(Closable):
    """The Linux kernel's target in a guest, in a process of its own."""

    def __init__(self, *options: str) -> None:
        self.port = free_port()
        words = ["--port", str(self.port), *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vhostnvme.testing.linux_target", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the Linux target did not start"
        self.subnqn: str = json.loads(line)["subnqn"]

    def run(self, command: str) -> str:
        """Runs a command in the target's guest; returns what it wrote."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        said = []
        while not (line := self.process.stdout.readline()).startswith("exit code "):
            assert line, f"the Linux target has ended during {command!r}"
            said.append(line)
        assert line == "exit code 0\n", f"{command!r}: {said}"
        return "".join(said)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


# -- targets of ours -----------------------------------------------------------------------------


def disk(spec: str, nsid: int = 1) -> ExportOptions:
    return ExportOptions(nsid=nsid, disk=parse_spec(spec))


def listening(*, tls: bool = False) -> ListenerOptions:
    return ListenerOptions(address=Address("127.0.0.1", 0), tls=tls)


@dataclass(frozen=True, slots=True)
class Served:
    """A target of ours, and where it listens."""

    target: FabricTarget
    port: int
    tls_port: int = 0

    @classmethod
    def of(cls, target: FabricTarget) -> Served:
        return cls(target, *(listener.address.port for listener in target.listeners))


def check_refused(rig: GuestRig, served: Served, command: str) -> None:
    """The kernel's host cannot connect, and nothing is left of it on either side."""
    rig.run("modprobe nvme-tcp")
    result = rig.run(command, check=False)
    assert result.exit_code != 0, result.stdout
    assert rig.output("ls /sys/class/nvme") == ""
    assert rig.call(served.target.info).controllers == 0
