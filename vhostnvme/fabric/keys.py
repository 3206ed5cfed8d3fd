"""Keys from files, in the text forms that `nvme gen-tls-key` and `nvme gen-dhchap-key` write.

::

    NVMeTLSkey-1:HH:BASE64:     TLS pre-shared keys (NVMe/TCP 3.6.1.5)
    DHHC-1:HH:BASE64:           DH-HMAC-CHAP secrets (NVMe Base 8.13.5.8)

BASE64 is the secret and its CRC-32. HH says with which hash the secret is bound to an NQN before it
is used (00 with none); the C library does that. No message here, and no representation, has
anything of a key in it.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vhostnvme.errors import ConfigError
from vhostnvme.secret_files import read_small

_FILE_BYTES_MAX = 4096
_CRC_BYTES = 4
# The lengths of a secret that each hash takes.
_TLS_BYTES: dict[int, tuple[int, ...]] = {0: (32, 48), 1: (32,), 2: (48,)}
_DHCHAP_BYTES: dict[int, tuple[int, ...]] = dict.fromkeys(range(4), (32, 48, 64))


@dataclass(frozen=True, slots=True)
class Key:
    """A secret, and the hash that binds it: 0 none, 1 SHA-256, 2 SHA-384, 3 SHA-512."""

    hash: int
    secret: bytes = field(repr=False)


def read_tls_key(path: str | Path) -> Key:
    """A TLS pre-shared key.

    Raises:
        ConfigError: the file cannot be read, others may read it too, or it holds no such key.
    """
    return parse_tls_key(_read(path), f"{path}")


def read_dhchap_key(path: str | Path) -> Key:
    """A DH-HMAC-CHAP secret; raises like `read_tls_key`."""
    return parse_dhchap_key(_read(path), f"{path}")


def read_keys(
    *,
    dhchap: str | Path | None = None,
    dhchap_ctrl: str | Path | None = None,
    tls: str | Path | None = None,
) -> dict[str, Any]:
    """The keys in these files, as fields of `HostAccess` and `RemoteOptions`; None: there is none.

    Raises:
        ConfigError: see `read_tls_key`.
    """
    fields: dict[str, Any] = {}
    for name, path, read in (
        ("dhchap", dhchap, read_dhchap_key),
        ("dhchap_ctrl", dhchap_ctrl, read_dhchap_key),
        ("tls", tls, read_tls_key),
    ):
        if path is not None:
            key = read(path)
            fields |= {f"{name}_key": key.secret, f"{name}_hash": key.hash}
    return fields


def parse_tls_key(text: str, origin: str) -> Key:
    """origin: what a message calls the text."""
    return _parse(text, origin, "NVMeTLSkey-1", _TLS_BYTES, "nvme gen-tls-key")


def parse_dhchap_key(text: str, origin: str) -> Key:
    """origin: what a message calls the text."""
    return _parse(text, origin, "DHHC-1", _DHCHAP_BYTES, "nvme gen-dhchap-key")


def _read(path: str | Path) -> str:
    data = read_small(
        path,
        _FILE_BYTES_MAX,
        secret=True,
        what=f"the key in {path}",
        holds="a file with one key",
    )
    return data.decode("ascii", errors="replace")


def _parse(
    text: str, origin: str, form: str, lengths: dict[int, tuple[int, ...]], tool: str
) -> Key:
    match = re.fullmatch(rf"{form}:([0-9]{{2}}):([A-Za-z0-9+/]+=*):", text.strip(), re.ASCII)
    if match is None:
        raise ConfigError(f"{origin} holds no key of the form {form}:HH:BASE64: (see {tool})")
    number = int(match[1])
    if number not in lengths:
        raise ConfigError(f"the key in {origin} asks for hash {number:02}, which there is not")
    try:
        data = base64.b64decode(match[2], validate=True)
    except binascii.Error:
        raise ConfigError(f"the key in {origin} is not whole: its base64 is broken") from None
    secret, crc = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
    if len(secret) not in lengths[number]:
        allowed = " or ".join(str(each) for each in lengths[number])
        raise ConfigError(
            f"the key in {origin} has {len(secret)} bytes; with hash {number:02} it is {allowed}"
        )
    if zlib.crc32(secret).to_bytes(_CRC_BYTES, "little") != crc:
        raise ConfigError(f"the key in {origin} is damaged: its checksum is wrong")
    return Key(number, secret)
