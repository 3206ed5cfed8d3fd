"""The Linux kernel's own NVMe/TCP target, in a guest of ours: a peer for the forwarder.

`python -m vhostnvme.testing.linux_target --port 4421` boots a guest, prints one line of JSON when
its target takes connections on 127.0.0.1:4421 (`address`, `port`, `subnqn`, `nsids`), and then runs
each line of its standard input as a shell command in the guest and prints what it wrote. The end
of its standard input, SIGINT or SIGTERM ends it. For such commands the guest has `nvmet`:

    nvmet cut | nvmet heal           the network cable: connections stay, nothing passes
    nvmet stop | nvmet start         the port: connections end, none is accepted
    nvmet resize NSID MIB            a namespace's size changes under its hosts
    nvmet swap NSID                  another namespace (another UUID) under the same number
    nvmet remove NSID | add NSID     its hosts are told by an event

`configure_script` alone makes such a target in a guest that somebody else has booted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from vhostnvme.errors import VhostNvmeError
from vhostnvme.guest.vm import Guest

__all__ = ["GUEST_PORT", "SUBNQN", "LinuxHost", "LinuxTarget", "configure_script", "port_forward"]

GUEST_PORT = 4420
SUBNQN = "nqn.2026-11.test.vhostnvme:linux"
DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
_TOP = "/sys/kernel/config/nvmet"
_TOOL = "/usr/sbin/nvmet"
# A namespace is a file in the guest's memory behind a loop device: 512-byte blocks, deallocate,
# write zeroes, and it may change its size. nvmet takes a file itself in blocks of 4096 bytes.
_FILE = "/tmp/nvmet"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinuxHost:
    """A host that the target admits; its keys as nvme-cli writes them, empty: not asked for."""

    nqn: str
    dhchap_key: str = ""
    dhchap_ctrl_key: str = ""
    tls_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinuxTarget:
    """One subsystem on one port.

    Attributes:
        sizes_mib: of the namespaces 1, 2, ...; zeros at first, in the guest's memory.
        block_bytes: 512 or 4096.
        hosts: who may connect; none: anybody.
        tls: the port takes TLS connections only, with the keys of the hosts.
    """

    subnqn: str = SUBNQN
    sizes_mib: tuple[int, ...] = (128,)
    block_bytes: int = 512
    hosts: tuple[LinuxHost, ...] = ()
    tls: bool = False
    port: int = GUEST_PORT


_TOOL_TEXT = rf"""#!/bin/sh
# nvmet cut | heal | stop | start | resize NSID MIB | swap NSID | remove NSID | add NSID
for sub in {_TOP}/subsystems/*; do :; done
ns=$sub/namespaces/$2
case "$1" in
cut) ip link set eth0 down ;;
heal) ip link set eth0 up && ip route add default via 10.0.2.2 ;;
stop) rm {_TOP}/ports/1/subsystems/* ;;
start) ln -s "$sub" {_TOP}/ports/1/subsystems/ ;;
remove) echo 0 >"$ns/enable" ;;
add) echo 1 >"$ns/enable" ;;
swap)
	echo 0 >"$ns/enable"
	cat /proc/sys/kernel/random/uuid >"$ns/device_uuid"
	echo 1 >"$ns/enable"
	;;
resize)
	truncate -s "$3M" "{_FILE}$2"
	[ ! -e "/sys/block/loop$2/loop" ] || losetup -c "/dev/loop$2"
	echo 1 >"$ns/revalidate_size"
	;;
*)
	sed -n 2p "$0" >&2
	exit 2
	;;
esac
"""


def configure_script(target: LinuxTarget) -> str:
    """A shell script that makes this target in a guest that has its network."""
    subsystem = f"{_TOP}/subsystems/{target.subnqn}"
    lines = [
        "set -e",
        f"cat >{_TOOL} <<'END'\n{_TOOL_TEXT}END",
        f"chmod +x {_TOOL}",
        "modprobe -a nvmet nvmet-tcp tls",
        f"modprobe loop max_loop={len(target.sizes_mib) + 1}",
        f"[ -d {_TOP} ] || mount -t configfs none /sys/kernel/config",
        f"mkdir {subsystem}",
        f"echo {int(not target.hosts)} >{subsystem}/attr_allow_any_host",
        f"echo linux-target >{subsystem}/attr_serial",
    ]
    for nsid, size in enumerate(target.sizes_mib, 1):
        lines += _namespace(f"{subsystem}/namespaces/{nsid}", nsid, size, target.block_bytes)
    for host in target.hosts:
        lines += _host(f"{_TOP}/hosts/{host.nqn}", host)
        lines.append(f"ln -s {_TOP}/hosts/{host.nqn} {subsystem}/allowed_hosts/")
    if target.tls:
        lines += _keyring(target)
    return "\n".join([*lines, *_port(f"{_TOP}/ports/1", subsystem, target)])


def _namespace(folder: str, nsid: int, size_mib: int, block_bytes: int) -> list[str]:
    path = f"{_FILE}{nsid}"
    lines = [f"truncate -s {size_mib}M {path}", f"mkdir {folder}"]
    if block_bytes == 512:
        lines.append(f"losetup /dev/loop{nsid} {path}")
        path = f"/dev/loop{nsid}"
    else:
        lines.append(f"echo 1 >{folder}/buffered_io")
    return [*lines, f"echo {path} >{folder}/device_path", f"echo 1 >{folder}/enable"]


def _host(folder: str, host: LinuxHost) -> list[str]:
    keys = {"dhchap_key": host.dhchap_key, "dhchap_ctrl_key": host.dhchap_ctrl_key}
    return [
        f"mkdir {folder}",
        *(f"echo {key} >{folder}/{name}" for name, key in keys.items() if key),
    ]


def _keyring(target: LinuxTarget) -> list[str]:
    """The keys, for this subsystem and for discovery, and the daemon that shakes hands."""
    lines = [
        f"nvme check-tls-key -d {host.tls_key} -n {host.nqn} -c {nqn} -I {identity} -i"
        for host in target.hosts
        if host.tls_key
        for nqn in (target.subnqn, DISCOVERY_NQN)
        for identity in (0, 1)
    ]
    return [*lines, "tlshd -s >/tmp/tlshd.log 2>&1 &"]


def _port(folder: str, subsystem: str, target: LinuxTarget) -> list[str]:
    values = {
        "addr_trtype": "tcp",
        "addr_adrfam": "ipv4",
        "addr_traddr": "0.0.0.0",
        "addr_trsvcid": str(target.port),
        "addr_treq": "required" if target.tls else "not required",
    }
    if target.tls:
        values["addr_tsas"] = "tls1.3"
    lines = [f"echo {value} >{folder}/{name}" for name, value in values.items()]
    return [f"mkdir {folder}", *lines, f"ln -s {subsystem} {folder}/subsystems/"]


def port_forward(port: int, guest_port: int = GUEST_PORT) -> str:
    """What `Guest(network_options=...)` takes: 127.0.0.1:port on the host is the guest's port."""
    return f"hostfwd=tcp:127.0.0.1:{port}-:{guest_port}"


async def serve(target: LinuxTarget, port: int) -> None:
    """What the module's command does.

    Raises:
        GuestError: the guest or the target in it did not start.
    """
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with Guest(network_options=[port_forward(port)]) as guest:
        (await guest.run(configure_script(target))).check()
        ready = {
            "address": "127.0.0.1",
            "port": port,
            "subnqn": target.subnqn,
            "nsids": list(range(1, len(target.sizes_mib) + 1)),
        }
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        work = asyncio.create_task(_run_lines(guest, lines))
        waits = [work, asyncio.create_task(ended.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        await guest.kill()  # its namespaces are in its memory: nothing to put in order


async def _run_lines(guest: Guest, lines: asyncio.StreamReader) -> None:
    while line := await lines.readline():
        result = await guest.run(line.decode())
        sys.stdout.write(result.stdout + result.stderr)
        sys.stdout.write(f"exit code {result.exit_code}\n")
        sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The Linux kernel's NVMe/TCP target in a guest.")
    parser.add_argument("--port", type=int, default=4421, help="on 127.0.0.1 (default: 4421)")
    parser.add_argument("--subnqn", default=SUBNQN)
    parser.add_argument("--size", type=int, action="append", metavar="MIB", help="a namespace")
    parser.add_argument("--block", type=int, choices=[512, 4096], default=512)
    parser.add_argument("--host", metavar="NQN", default="", help="the only host admitted")
    parser.add_argument("--dhchap-key", default="", metavar="DHHC-1:...")
    parser.add_argument("--dhchap-ctrl-key", default="", metavar="DHHC-1:...")
    parser.add_argument("--tls-key", default="", metavar="NVMeTLSkey-1:...")
    args = parser.parse_args(arguments)
    if not args.host and (args.dhchap_key or args.dhchap_ctrl_key or args.tls_key):
        parser.error("keys belong to a host: give --host")
    host = LinuxHost(
        nqn=args.host,
        dhchap_key=args.dhchap_key,
        dhchap_ctrl_key=args.dhchap_ctrl_key,
        tls_key=args.tls_key,
    )
    target = LinuxTarget(
        subnqn=args.subnqn,
        sizes_mib=tuple(args.size or (128,)),
        block_bytes=args.block,
        hosts=(host,) if args.host else (),
        tls=bool(args.tls_key),
    )
    try:
        asyncio.run(serve(target, args.port))
    except VhostNvmeError as error:
        sys.stderr.write(f"linux_target: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
