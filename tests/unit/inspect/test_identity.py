"""Identify data, as controllers write it and as they should not."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhostnvme.errors import PeerError
from vhostnvme.inspect.identity import (
    parse_active,
    parse_controller,
    parse_descriptors,
    parse_namespace,
    read_identity,
)
from vhostnvme.inspect.show import show_identity
from vhostnvme.native.admin import AdminAnswer
from vhostnvme.testing.nvme import Sqe

SOME_UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")


def controller() -> bytes:
    raw = bytearray(4096)
    struct.pack_into("<H2x20s40s8s", raw, 0, 0x1B36, b"S1".ljust(20), b"model".ljust(40), b"1.0")
    raw[76], raw[77] = 0xA, 8
    struct.pack_into("<HI", raw, 78, 7, 0x20000)
    raw[111] = 1
    struct.pack_into("<H", raw, 320, 1)
    struct.pack_into("<IH", raw, 516, 256, 0x0C | 0x01)
    raw[525] = 1
    struct.pack_into("<I", raw, 536, 1)
    raw[768:778] = b"nqn.test:a"
    struct.pack_into("<I", raw, 1792, 516)
    return bytes(raw)


def namespace(blocks: int = 2048, shift: int = 12) -> bytes:
    raw = bytearray(4096)
    struct.pack_into("<QQQ", raw, 0, blocks, blocks, 1)
    raw[24], raw[26], raw[30], raw[99] = 1, 1, 1, 1
    struct.pack_into("<I", raw, 92, 3)
    raw[120:128] = bytes(range(8))
    struct.pack_into("<HB", raw, 128 + 4, 8, shift)
    return bytes(raw)


def descriptors() -> bytes:
    return (b"\x03\x10\0\0" + SOME_UUID.bytes + b"\x04\x01\0\0\0").ljust(4096, b"\0")


def test_a_controller() -> None:
    found = parse_controller(controller())
    assert (found.serial, found.model, found.firmware) == ("S1", "model", "1.0")
    assert (found.kind, found.version, found.controller_id) == ("io", "2.0.0", 7)
    assert (found.max_transfer, found.namespaces) == (1 << 20, 256)
    assert found.optional == ("compare", "dataset-management", "write-zeroes")
    assert (found.volatile_cache, found.multipath, found.ana, found.sgl) == (True,) * 4
    assert (found.subnqn, found.in_capsule_data) == ("nqn.test:a", 8192)


def test_a_namespace() -> None:
    found = parse_namespace(5, namespace(), descriptors())
    assert (found.size, found.used) == (8 << 20, 4096)
    assert (found.block_size, found.metadata_size) == (4096, 8)
    assert (found.thin, found.shared, found.read_only, found.ana_group) == (True, True, True, 3)
    assert (found.uuid, found.nguid, found.eui64) == (str(SOME_UUID), "", "0001020304050607")


@pytest.mark.parametrize(
    "raw", [b"", b"\x03", b"\x03\x10", b"\x03\x08\0\0" + bytes(8), b"\x03\xff\0\0x"]
)
def test_descriptors_that_are_none(raw: bytes) -> None:
    assert parse_descriptors(raw) == {}


@given(st.binary(min_size=1, max_size=64))
def test_any_bytes_are_an_identity(part: bytes) -> None:
    raw = (part * 4096)[:4096]
    found = parse_controller(raw)
    assert found.model.isprintable()
    assert parse_namespace(1, raw, raw).block_size >= 0
    assert len(parse_active(raw)) <= 1024


class Controller:
    def __init__(self, answers: dict[tuple[int, int], bytes]) -> None:
        self.answers = answers

    def ask(self, commands: Sequence[tuple[Sqe, int]]) -> list[AdminAnswer]:
        found = [self.answers.get((sqe.cdw10, sqe.nsid)) for sqe, _ in commands]
        return [AdminAnswer(0 if raw else 0x00B, 0, raw or bytes(4096)) for raw in found]


def test_all_namespaces_or_one(capsys: pytest.CaptureFixture[str]) -> None:
    active = struct.pack("<II", 1, 4).ljust(4096, b"\0")
    asker = Controller(
        {
            (1, 0): controller(),
            (2, 0): active,
            (0, 1): namespace(),
            (0, 4): namespace(100, 9),
            (3, 1): descriptors(),
        }
    )
    found, namespaces = read_identity(asker)
    assert [each.nsid for each in namespaces] == [1, 4]
    assert [each.uuid for each in namespaces] == [str(SOME_UUID), ""]
    show_identity("here", found, namespaces)
    shown = capsys.readouterr().out
    assert "8M" in shown
    assert str(SOME_UUID) in shown
    assert [each.nsid for each in read_identity(asker, 4)[1]] == [4]
    with pytest.raises(PeerError, match="Identify Namespace 9 failed: INVALID_NAMESPACE"):
        read_identity(asker, 9)


def test_a_controller_without_namespaces() -> None:
    assert read_identity(Controller({(1, 0): controller()}))[1] == []
