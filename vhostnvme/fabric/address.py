"""Addresses of NVMe/TCP: `HOST:PORT`, with brackets around an IPv6 host."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from vhostnvme.errors import ConfigError, PeerError

PORT_MAX = 65535
_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?"
    r"(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?"
)


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """`host` is a name, or a numeric IPv4 or IPv6 address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def numeric(self) -> bool:
        return _is_numeric(self.host)


def parse_address(text: str, *, any_port: bool = False) -> Address:
    """The address that `HOST:PORT` or `[IPV6]:PORT` names.

    Args:
        any_port: whether port 0 is one, which a listener takes for any that is free.

    Raises:
        ConfigError: it names none.
    """
    match = re.fullmatch(r"(\[(?P<six>[^\[\]]*)\]|(?P<host>[^:\[\]]*))(:(?P<port>[^:]*))?", text)
    if match is None:
        if _is_numeric(text.rpartition(":")[0]) or _is_numeric(text):
            raise ConfigError(f"{text!r} needs brackets around its IPv6 host, as in [::1]:4420")
        raise ConfigError(f"{text!r} is no address: write HOST:PORT, as in 127.0.0.1:4420")
    host, port = match["six"] if match["six"] is not None else match["host"], match["port"]
    if match["six"] is not None and not (_is_numeric(host) and ":" in host):
        raise ConfigError(f"{text!r}: {host!r} is no IPv6 address")
    if match["six"] is None and not _is_host(host):
        raise ConfigError(f"{text!r}: {host!r} is neither an IPv4 address nor a host's name")
    if not port:
        raise ConfigError(f"{text!r} lacks a port: write HOST:PORT, as in 127.0.0.1:4420")
    least = 0 if any_port else 1
    if not re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) or not least <= int(port) <= PORT_MAX:
        raise ConfigError(f"{text!r}: {port!r} is no port from {least} to {PORT_MAX}")
    return Address(host, int(port))


def resolve(address: Address) -> list[Address]:
    """The numeric addresses that a name stands for, each once, as the system prefers them.

    Raises:
        PeerError: the name is not known.
    """
    if address.numeric:
        return [address]
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no name"
        raise PeerError(f"the host {address.host!r} is not known ({reason})") from None
    return list(dict.fromkeys(Address(str(entry[4][0]), address.port) for entry in found))


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_host(host: str) -> bool:
    if re.fullmatch(r"[0-9.]+", host):
        return _is_numeric(host)  # 127.1 and 1.2.3 are mistakes, not names
    return _NAME.fullmatch(host) is not None
