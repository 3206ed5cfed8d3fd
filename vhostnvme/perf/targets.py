"""TARGETs over NVMe/TCP, and who serves those of this machine."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from vhostnvme.errors import ConfigError, VhostNvmeError
from vhostnvme.fabric.address import Address, resolve
from vhostnvme.storage.remote import RemoteSpec
from vhostnvme.storage.spec import parse_spec

SCHEME = "nvme+tcp:"
_LISTEN = "0A"  # in /proc/net/tcp


def is_remote(target: str) -> bool:
    return target.startswith(SCHEME)


def parse_remote_target(text: str) -> tuple[RemoteSpec, int | None]:
    """The namespace that `nvme+tcp://HOST:PORT/SUBNQN[/NSID][?OPTIONS]` names; 1 where none is.

    Returns:
        It, and its id if that was written.

    Raises:
        ConfigError: it names none.
    """
    address, mark, options = text.partition("?")
    bare = re.fullmatch(r"nvme\+tcp://[^/]+/[^/]+/?", address) is not None
    spec = parse_spec(f"{address.rstrip('/')}/1{mark}{options}" if bare else text)
    if not isinstance(spec, RemoteSpec):
        raise ConfigError(f"{text} is no namespace over NVMe/TCP")
    return spec, None if bare else spec.nsid


def server_pid(address: Address) -> int:
    """The process of this machine that listens there; 0: it is elsewhere, or not for us to see."""
    try:
        numeric = resolve(address)[0]
        inodes = _listeners(numeric.port) if _is_ours(numeric.host) else set()
    except (OSError, VhostNvmeError):
        return 0
    names = {f"socket:[{inode}]" for inode in inodes}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(str(link.readlink()) in names for link in folder.iterdir()):
                return int(folder.parent.name)
        except OSError:
            continue  # not ours to look at, or gone
    return 0


def _is_ours(host: str) -> bool:
    """Whether the address is one of this machine's: else nobody could bind it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        try:
            trial.bind((host, 0))
        except OSError:
            return False
    return True


def _listeners(port: int) -> set[str]:
    """Inodes of the sockets that listen on a port, at whichever address."""
    inodes = set()
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes
