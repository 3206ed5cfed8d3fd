"""Firmware images for emulated SSDs: a revision to tell, behind a header (docs/state.md)."""

from __future__ import annotations

import struct

from vhostnvme.crc32c import crc32c
from vhostnvme.errors import ConfigError

MAGIC = b"VNFIRMW\0"
VERSION = 1
HEADER = struct.Struct("<8sII8sII")  # magic, version, bytes, revision, CRC-32C, zero
REVISION_BYTES = 8
IMAGE_BYTES_MAX = 4 << 20


def firmware_image(revision: str, payload: bytes = b"") -> bytes:
    """An image that an emulated SSD takes; its length is a multiple of 4 bytes.

    Raises:
        ConfigError: the revision is not of 1 to 8 printable characters, or the payload is too long.
    """
    if not (revision.isascii() and revision.isprintable() and 0 < len(revision) <= REVISION_BYTES):
        raise ConfigError(f"the revision {revision!r} is not of 1 to 8 printable ASCII characters")
    if revision.startswith(" "):
        raise ConfigError("a revision does not begin with a space")
    payload += bytes(-len(payload) % 4)
    size = HEADER.size + len(payload)
    if size > IMAGE_BYTES_MAX:
        raise ConfigError(f"an image of {size} bytes is too long: 4 MiB at most")
    padded = revision.encode().ljust(REVISION_BYTES)
    plain = HEADER.pack(MAGIC, VERSION, size, padded, 0, 0) + payload
    return HEADER.pack(MAGIC, VERSION, size, padded, crc32c(plain), 0) + payload
