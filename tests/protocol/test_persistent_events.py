"""The persistent event log (Base 5.16.1.14): contexts, events, and what it outlives."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests_drive import drive_server
from tests_protocol import Serve, refused, until
from tests_ssd import SsdServer, create, created, delete

from vhostnvme.emulation.firmware import firmware_image
from vhostnvme.testing import NvmeHost, nvme
from vhostnvme.testing.nvme import Admin, Sqe, Status

LOG = 0x0D
READ, ESTABLISH, RELEASE, ESTABLISH_HEADER = range(4)
SMART, FIRMWARE, TIMESTAMP, POWER_ON, HARDWARE = 1, 2, 3, 4, 5
CHANGE_NAMESPACE, FORMAT_START, FORMAT_END, SANITIZE_START, SANITIZE_END, SET_FEATURE = (
    6,
    7,
    8,
    9,
    0xA,
    0xB,
)
TELEMETRY, THERMAL = 0xC, 0xD


@dataclass(frozen=True)
class Event:
    kind: int
    cntlid: int
    data: bytes


def ask(action: int, length: int = 512, offset: int = 0) -> Sqe:
    sqe = nvme.get_log_page(LOG, length, offset=offset)
    return sqe.with_fields(cdw10=sqe.cdw10 | action << 8)


def get(host: NvmeHost, action: int, length: int = 512, offset: int = 0) -> bytes:
    return host.admin_data("persistent events", ask(action, length, offset), length)


def events(host: NvmeHost) -> list[Event]:
    """All of them, the oldest first, by a context that is released again."""
    header = get(host, ESTABLISH)
    count, total = struct.unpack_from("<IQ", header, 4)
    log = b"".join(get(host, READ, 512, at) for at in range(0, total, 512))[:total]
    get(host, RELEASE)
    found, at = [], 512
    for _ in range(count):
        kind, _, header_bytes, _, cntlid = struct.unpack_from("<BBBBH", log, at)
        vendor, length = struct.unpack_from("<HH", log, at + 20)
        assert header_bytes == 21 and vendor == 0
        found.append(Event(kind, cntlid, log[at + 24 : at + 24 + length]))
        at += 24 + length
    assert at == total
    return found


def kinds(host: NvmeHost) -> list[int]:
    return [event.kind for event in events(host)]


def test_a_drive_that_starts_tells_so(host: NvmeHost) -> None:
    found = events(host)
    assert [event.kind for event in found] == [SMART, POWER_ON]
    assert len(found[0].data) == 512 and len(found[1].data) == 44
    assert found[1].data[:8] == host.identify_controller()[64:72]
    host.disable()
    host.enable()
    assert kinds(host) == [SMART, POWER_ON, POWER_ON]


def test_contexts(host: NvmeHost) -> None:
    refused(host.admin(ask(READ), host.alloc(512)), Status.COMMAND_SEQUENCE)
    get(host, RELEASE)  # there is none: no error
    first = get(host, ESTABLISH_HEADER)
    refused(host.admin(ask(ESTABLISH), host.alloc(512)), Status.COMMAND_SEQUENCE)
    host.set_feature(1, 3)  # an event that the context does not have
    assert get(host, READ)[4:16] == first[4:16]
    generation = struct.unpack_from("<H", first, 372)[0]
    get(host, RELEASE)
    second = get(host, ESTABLISH)
    assert struct.unpack_from("<H", second, 372)[0] == generation + 1
    assert struct.unpack_from("<I", second, 4)[0] == struct.unpack_from("<I", first, 4)[0] + 1
    host.disable()  # a reset releases it
    host.enable()
    refused(host.admin(ask(READ), host.alloc(512)), Status.COMMAND_SEQUENCE)


def test_the_header(host: NvmeHost) -> None:
    page = host.identify_controller()
    header = get(host, ESTABLISH)
    assert header[0] == LOG and header[16] == 2
    assert struct.unpack_from("<H", header, 18)[0] == 492
    assert header[56:76] == page[4:24] and header[76:116] == page[24:64]
    supported = int.from_bytes(header[480:512], "little")
    assert {kind for kind in range(256) if supported >> kind & 1} == set(range(1, 14))
    assert page[261] & 1 << 4  # LPA
    assert struct.unpack_from("<I", page, 352)[0] == 1  # PELS, of 64 KiB


def test_what_is_done_to_a_drive_is_told(host: NvmeHost) -> None:
    host.set_feature(1, 5)
    host.set_feature(4, 300)  # it is warmer than that
    with host.alloc(4096) as data:
        assert host.admin(data.point(nvme.set_features(0x0E, 0), 8)).ok
        data.put(firmware_image("R8"))
        assert host.admin(data.point(Sqe(0x11, cdw10=7, cdw11=0), 32)).ok
    assert host.admin(Sqe(0x10, cdw10=2)).ok
    sqe = nvme.get_log_page(7, 512)
    host.admin_data("telemetry", sqe.with_fields(cdw10=sqe.cdw10 | 1 << 8), 512)
    assert host.admin(Sqe(Admin.FORMAT_NVM, nsid=1)).ok
    assert host.admin(Sqe(Admin.SANITIZE, cdw10=2)).ok
    until(lambda: host.log_page(0x81, 512)[2] & 7 == 1, "the end of sanitize")
    found = events(host)
    for kind, length in (
        (THERMAL, 2),
        (FIRMWARE, 22),
        (TELEMETRY, 512),
        (FORMAT_START, 12),
        (FORMAT_END, 12),
        (SANITIZE_START, 12),
        (SANITIZE_END, 8),
    ):
        assert [len(event.data) for event in found if event.kind == kind] == [length], kind
    assert sum(event.kind == TIMESTAMP for event in found) == 1
    features = [event.data for event in found if event.kind == SET_FEATURE]
    assert struct.pack("<III", 2, 1, 5) in features
    assert next(event for event in found if event.kind == FIRMWARE).data[8:16] == b"R8      "


def test_the_oldest_fall_out(host: NvmeHost) -> None:
    for value in range(1000):
        host.set_feature(8, value)
    found = events(host)
    assert SMART not in [event.kind for event in found]
    assert sum(24 + len(event.data) for event in found) <= 32768
    last = [event.data for event in found if event.kind == SET_FEATURE][-1]
    assert last == struct.pack("<III", 2, 8, 999)


def test_a_fatal_status_is_told(serve: Serve) -> None:
    host = serve("mem:1M").connect()
    host.disable()
    host.write32(0x24, 0)  # AQA: no admin queue can be that small
    host.write32(0x14, 1 | 6 << 16 | 4 << 20)
    until(lambda: host.fatal, "CSTS.CFS")
    host.disable()
    host.enable()
    found = events(host)
    assert HARDWARE in [event.kind for event in found]


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_events_outlive_the_server(tmp_path: Path, how: str) -> None:
    with drive_server(tmp_path, "mem:1M") as server:
        with server.host() as host:
            host.set_feature(1, 6)
            before = events(host)
            host.shutdown()
            if how == "kill":
                server.kill()
        if how == "stop":
            server.stop()
    with drive_server(tmp_path, "mem:1M") as server, server.host() as host:
        assert events(host)[: len(before)] == before
        assert kinds(host)[len(before) :].count(SMART) == 1


def test_namespaces_that_come_and_go(tmp_path: Path) -> None:
    with SsdServer(tmp_path, query="capacity=64M&namespaces=0") as ssd:
        host = ssd.connect()
        nsid = created(host, 2048, flbas=3, nmic=1)
        assert delete(host, nsid).ok
        refused(create(host, 0), Status.INVALID_FIELD)
        found = [event for event in events(host) if event.kind == CHANGE_NAMESPACE]
        assert [event.cntlid for event in found] == [1, 1]
        made, gone = (event.data for event in found)
        assert struct.unpack_from("<I4xQ8xQBxB", made) == (0, 2048, 2048, 3, 1)
        assert struct.unpack_from("<I", made, 44) == struct.unpack_from("<I", gone, 44) == (nsid,)
        assert struct.unpack_from("<I", gone) == (1,)
