"""Firmware images: what is refused, and the header's bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from vhostnvme.cli.main import run
from vhostnvme.crc32c import crc32c
from vhostnvme.emulation.firmware import HEADER, firmware_image
from vhostnvme.errors import ConfigError


def test_the_header_is_as_documented() -> None:
    image = firmware_image("1.2", b"abc")
    magic, version, length, revision, crc, zero = HEADER.unpack_from(image)
    assert (magic, version, revision, zero) == (b"VNFIRMW\0", 1, b"1.2     ", 0)
    assert length == len(image) == 36
    assert crc == crc32c(image[:24] + struct.pack("<I", 0) + image[28:])


@pytest.mark.parametrize("revision", ["", "123456789", "ü", "a\nb", " x"])
def test_bad_revisions_are_refused(revision: str) -> None:
    with pytest.raises(ConfigError):
        firmware_image(revision)


def test_an_image_too_long_is_refused() -> None:
    with pytest.raises(ConfigError):
        firmware_image("1", bytes((4 << 20) - 31))


def test_the_command_writes_one(tmp_path: Path) -> None:
    path = tmp_path / "image"
    assert run(["firmware", "make", "--revision", "R9", str(path)]) == 0
    assert path.read_bytes() == firmware_image("R9")
