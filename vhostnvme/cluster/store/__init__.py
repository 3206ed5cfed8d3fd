"""The cluster store: `open_store` makes the one that a URL names.

`sqlite:///var/lib/vhostnvme/cluster.db` is a file, for cards of one host;
`etcd://10.0.0.1:2379,10.0.0.2:2379?ca=FILE&cert=FILE&key=FILE&credentials=FILE` is for many hosts.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

from vhostnvme.cluster.store.base import PREFIX, TIMEOUT_S, Store
from vhostnvme.cluster.store.etcd_access import EtcdAccess
from vhostnvme.errors import ConfigError

__all__ = ["EtcdAccess", "open_store"]

_FILES = ("ca", "cert", "key", "credentials")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


def open_store(
    url: str,
    prefix: str = PREFIX,
    *,
    access: EtcdAccess | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Store:
    """The store that a URL names; `async with` opens it.

    Args:
        prefix: in front of all keys.
        access: of an etcd; files that the URL names come before those.
        timeout_s: within which a call answers.

    Raises:
        ConfigError: it is no such URL, a file that it needs cannot be used, or a package that it
            needs is not installed.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        from vhostnvme.cluster.store.sqlite import SqliteStore

        if not rest.startswith("/") or rest.endswith("/") or "?" in rest:
            raise ConfigError(f"the store {url} has no absolute path: write sqlite:///PATH")
        return SqliteStore(rest, prefix=prefix, timeout_s=timeout_s)
    if scheme == "etcd":
        addresses, files = _parse_etcd(url, rest)
        try:
            from vhostnvme.cluster.store.etcd import EtcdStore
        except ImportError as error:
            raise ConfigError(
                f"the store {url} needs the Python package {error.name}: pip install"
                " 'vhostnvme[etcd]'"
            ) from None

        access = replace(access or EtcdAccess(), **files)  # type: ignore[arg-type]
        return EtcdStore(addresses, access, prefix=prefix, timeout_s=timeout_s)
    raise ConfigError(f"the store {url} is neither sqlite:///PATH nor etcd://HOST:PORT")


def _parse_etcd(url: str, rest: str) -> tuple[list[str], dict[str, Path]]:
    hosts, _, query = rest.partition("?")
    if "@" in hosts:
        raise ConfigError("an etcd's URL has no user and password: give a file, ?credentials=FILE")
    addresses = hosts.removesuffix("/").split(",")
    for address in addresses:
        match = _ADDRESS.fullmatch(address)
        if match is None or not 0 < int(match[2]) < 65536:
            raise ConfigError(f"{address!r} in the store {url} is not HOST:PORT")
    if len(set(addresses)) < len(addresses):
        raise ConfigError(f"the store {url} names a server twice")
    files: dict[str, Path] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in _FILES or not text or name in files:
            raise ConfigError(
                f"{name}={text} in the store {url} is none of"
                f" {', '.join(f'{each}=FILE' for each in _FILES)}, or there twice"
            )
        files[name] = Path(text)
    return addresses, files
