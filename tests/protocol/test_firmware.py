"""Firmware download, commit and activation (Base 5.12, 5.13, 8.2)."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tests_drive import drive_server
from tests_protocol import refused

from vhostnvme.emulation.firmware import firmware_image
from vhostnvme.testing import Completion, NvmeHost
from vhostnvme.testing.nvme import Sqe, Status

COMMIT, DOWNLOAD = 0x10, 0x11
STORE, STORE_ACTIVATE, ACTIVATE, NOW = range(4)
SLOT, IMAGE, OVERLAP = 0x106, 0x107, 0x114
PIECE = 4096


def send(host: NvmeHost, data: bytes, offset: int = 0) -> Completion:
    with host.alloc(max(len(data), PIECE)) as buffer:
        buffer.put(data)
        sqe = Sqe(DOWNLOAD, cdw10=len(data) // 4 - 1, cdw11=offset // 4)
        return host.admin(buffer.point(sqe, len(data)))


def download(host: NvmeHost, image: bytes) -> None:
    for at in range(0, len(image), PIECE):
        assert send(host, image[at : at + PIECE], at).ok


def commit(host: NvmeHost, action: int, slot: int) -> Completion:
    return host.admin(Sqe(COMMIT, cdw10=slot | action << 3))


def running(host: NvmeHost) -> str:
    return host.identify_controller()[64:72].decode().rstrip()


def slots(host: NvmeHost) -> tuple[int, int, list[str]]:
    """(active, active after the next reset or 0, revisions)"""
    page = host.log_page(3, 512)
    names = [page[8 + 8 * i : 16 + 8 * i].rstrip(b"\0 ").decode() for i in range(7)]
    return page[0] & 7, page[0] >> 4 & 7, names


def reset(host: NvmeHost) -> None:
    host.disable()
    host.enable()


def test_an_image_is_activated_by_a_reset(host: NvmeHost) -> None:
    first = running(host)
    assert slots(host) == (1, 0, [first, *[""] * 6])
    download(host, firmware_image("R2.0", payload=bytes(3 * PIECE)))
    assert commit(host, STORE_ACTIVATE, 2).ok
    assert running(host) == first and slots(host)[:2] == (1, 2)
    reset(host)
    assert running(host) == "R2.0"
    assert slots(host) == (2, 0, [first, "R2.0", *[""] * 5])
    assert commit(host, ACTIVATE, 1).ok  # back to what cannot be replaced
    reset(host)
    assert running(host) == first and slots(host)[0] == 1


def test_storing_alone_activates_nothing(host: NvmeHost) -> None:
    first = running(host)
    download(host, firmware_image("R3"))
    assert commit(host, STORE, 0).ok  # the first empty slot
    reset(host)
    assert running(host) == first and slots(host)[2][1] == "R3"


def test_activation_without_a_reset_is_an_event(host: NvmeHost) -> None:
    cid = host.submit_async_event()
    download(host, firmware_image("R4"))
    assert commit(host, NOW, 7).ok
    assert host.wait_async_event(cid).result == 2 | 1 << 8 | 3 << 16
    assert running(host) == "R4" and slots(host)[0] == 7
    assert commit(host, NOW, 1).ok  # an image that is there already
    assert slots(host)[0] == 1


@pytest.mark.parametrize(
    "damage",
    ["magic", "version", "length", "revision", "checksum", "cut", "hole", "nothing"],
)
def test_a_bad_image_is_refused(host: NvmeHost, damage: str) -> None:
    image = bytearray(firmware_image("BAD", payload=bytes(4 * PIECE)))
    places = {"magic": 0, "version": 8, "length": 13, "revision": 16, "checksum": 24}
    if damage in places:
        image[places[damage]] ^= 0x81
    if damage == "cut":
        image = image[:PIECE]
    if damage == "hole":
        assert send(host, bytes(image[:PIECE]), 0).ok
        assert send(host, bytes(image[2 * PIECE : 3 * PIECE]), 2 * PIECE).ok
    elif damage != "nothing":
        download(host, bytes(image))
    refused(commit(host, STORE_ACTIVATE, 2), IMAGE)
    assert slots(host)[1:] == (0, [running(host), *[""] * 6])


def test_ranges_may_not_overlap(host: NvmeHost) -> None:
    image = firmware_image("R5", payload=bytes(2 * PIECE))
    download(host, image)
    refused(send(host, image[PIECE : 2 * PIECE], PIECE), OVERLAP)
    download(host, image)  # from its beginning it may come anew
    assert commit(host, STORE, 3).ok


def test_what_is_refused(host: NvmeHost) -> None:
    image = firmware_image("R6")
    download(host, image)
    refused(commit(host, STORE_ACTIVATE, 1), SLOT)  # read-only
    refused(commit(host, ACTIVATE, 5), IMAGE)  # empty
    refused(commit(host, ACTIVATE, 0), SLOT)
    for action in (4, 5, 6, 7):
        refused(commit(host, action, 2), Status.INVALID_FIELD)
    refused(host.admin(Sqe(COMMIT, cdw10=1 << 31 | 2)), Status.INVALID_FIELD)  # no boot partition
    refused(send(host, image, 512), Status.INVALID_FIELD)  # FWUG
    refused(send(host, bytes(PIECE), 4 << 20), Status.INVALID_FIELD)
    page = host.identify_controller()
    assert page[260] == 1 | 7 << 1 | 1 << 4  # FRMW
    assert page[319] == 1  # FWUG: 4 KiB


def test_a_reset_forgets_what_was_not_committed(host: NvmeHost) -> None:
    download(host, firmware_image("R7"))
    reset(host)
    refused(commit(host, STORE, 2), IMAGE)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_slots_outlive_the_server(tmp_path: Path, how: str) -> None:
    with drive_server(tmp_path, "mem:1M") as server:
        with server.host() as host:
            download(host, firmware_image("KEPT"))
            assert commit(host, NOW, 4).ok
            if how == "kill":
                server.kill()
        if how == "stop":
            server.stop()
    with drive_server(tmp_path, "mem:1M") as server, server.host() as host:
        assert running(host) == "KEPT" and slots(host)[0] == 4


def test_the_documented_header(host: NvmeHost) -> None:
    magic, version, length, revision = struct.unpack_from("<8sII8s", firmware_image("X", b"abc"))
    assert (magic, version, length, revision) == (b"VNFIRMW\0", 1, 36, b"X       ")
