"""The cluster store: `open_store` makes the one that a URL names.

`sqlite:///var/lib/vhostnvme/cluster.db` is a file, for cards of one host; `etcd://10.0.0.1:2379` is
for many hosts.
"""

from __future__ import annotations

from vhostnvme.cluster.store.base import PREFIX, TIMEOUT_S, Store
from vhostnvme.errors import ConfigError

__all__ = ["open_store"]


def open_store(url: str, prefix: str = PREFIX, *, timeout_s: float = TIMEOUT_S) -> Store:
    """The store that a URL names; `async with` opens it.

    Args:
        prefix: in front of all keys.
        timeout_s: within which a call answers.

    Raises:
        ConfigError: it is no such URL.
    """
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator:
        from vhostnvme.cluster.store.sqlite import SqliteStore

        if not rest.startswith("/") or rest.endswith("/") or "?" in rest:
            raise ConfigError(f"the store {url} has no absolute path: write sqlite:///PATH")
        return SqliteStore(rest, prefix=prefix, timeout_s=timeout_s)
    raise ConfigError(f"the store {url} is neither sqlite:///PATH nor etcd://HOST:PORT")
