"""Keys on their way into an option struct of the library."""

from __future__ import annotations

from typing import Any

from vhostnvme.native.library import ffi
from vhostnvme.native.types import RawKeys

_KEYS = ("dhchap", "dhchap_ctrl", "tls")


def put_keys(source: RawKeys, opts: Any) -> list[Any]:
    """Fills in the keys of `opts`; what is returned must live as long as the library reads it."""
    alive: list[Any] = []
    for name in _KEYS:
        key: bytes = getattr(source, f"{name}_key")
        if key:
            alive.append(ffi.new("uint8_t[]", key))
            setattr(opts, f"{name}_key", alive[-1])
            setattr(opts, f"{name}_key_bytes", len(key))
            setattr(opts, f"{name}_hash", getattr(source, f"{name}_hash"))
    return alive
