"""Events of the endurance group: feature 18h, log 0Fh, and what raises them (Base 5.16.1.16)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_drive import drive_server
from tests_protocol import Serve, refused

from vhostnvme.native import Drive, DriveOptions, PersonaOptions, Runtime
from vhostnvme.native.host import PeerTimeout
from vhostnvme.testing import NvmeHost, nvme
from vhostnvme.testing.nvme import Status

CONFIGURATION, ASYNC_EVENT_CONFIG = 0x18, 0xB
SMART, GROUP, EVENTS = 2, 9, 0xF
SPARE, RELIABILITY, READ_ONLY = 1, 4, 8
EVENT = 2 | 6 << 8 | EVENTS << 16
FAULTY = "mem:1M?error=100%&error-ops=flush"
QUIET_S = 0.02


def configure(host: NvmeHost, warnings: int) -> None:
    host.set_feature(CONFIGURATION, 1 | warnings << 16)


def configured(host: NvmeHost, select: int = 0) -> int:
    done = host.admin(nvme.get_features(CONFIGURATION, select, cdw11=1))
    assert done.ok and done.result & 0xFFFF == 1
    return done.result >> 16


def group(host: NvmeHost, *, rae: bool = False) -> bytes:
    sqe = nvme.get_log_page(GROUP, 512, rae=rae).with_fields(cdw11=1 << 16)
    return host.admin_data("endurance", sqe, 512)


def listed(host: NvmeHost, *, rae: bool = False) -> list[int]:
    page = host.log_page(EVENTS, 512, rae=rae)
    count, *groups = struct.unpack("<Q252H", page)
    assert not any(groups[count:])
    return groups[:count]


def fail(host: NvmeHost) -> None:
    """A flush fails, which makes the media read-only."""
    queue = host.create_queue_pair(1)
    assert queue.command(nvme.flush(1)).code == Status.WRITE_FAULT


def test_events_are_configured(host: NvmeHost) -> None:
    assert host.identify_controller()[93] & 1 << 6  # OAES bit 14
    assert configured(host) == configured(host, 1) == 0
    for warnings in (SPARE, READ_ONLY, SPARE | RELIABILITY | READ_ONLY, 0):
        configure(host, warnings)
        assert configured(host) == warnings
    for value in (0, 2, 1 | 2 << 16, 1 | 0x10 << 16):
        refused(host.admin(nvme.set_features(CONFIGURATION, value)), Status.INVALID_FIELD)
    refused(host.admin(nvme.get_features(CONFIGURATION, cdw11=2)), Status.INVALID_FIELD)
    assert listed(host) == []


def test_a_warning_is_told_listed_and_taken_back(serve: Serve) -> None:
    host = serve(FAULTY).connect()
    host.set_feature(ASYNC_EVENT_CONFIG, 1 << 14)
    configure(host, READ_ONLY)
    cid = host.submit_async_event()
    fail(host)
    assert host.wait_async_event(cid).result == EVENT
    assert listed(host) == [1]
    assert group(host, rae=True)[0] == READ_ONLY
    assert host.log_page(SMART, 512)[6] == READ_ONLY  # of all groups
    assert listed(host) == [1]  # until the log of the group is read
    group(host)
    assert listed(host) == []
    assert group(host)[0] == READ_ONLY  # it is so still, which is no new event
    cid = host.submit_async_event()
    with pytest.raises(PeerTimeout):
        host.wait_async_event(cid, QUIET_S)
    configure(host, 0)
    configure(host, READ_ONLY)  # who asks for it is told what there is
    assert host.wait_async_event(cid).result == EVENT


def test_warnings_that_are_not_wanted_are_no_events(serve: Serve) -> None:
    host = serve(FAULTY).connect()
    host.set_feature(ASYNC_EVENT_CONFIG, 1 << 14)
    configure(host, SPARE | RELIABILITY)
    cid = host.submit_async_event()
    fail(host)
    with pytest.raises(PeerTimeout):
        host.wait_async_event(cid, QUIET_S)
    assert listed(host) == []
    assert group(host)[0] == READ_ONLY


@pytest.fixture
def worn(runtime: Runtime) -> Iterator[Drive]:
    persona = PersonaOptions(avail_spare=4, spare_thresh=5, percent_used=97)
    with Drive(runtime, DriveOptions(persona=persona)) as drive:
        yield drive


def test_a_drive_with_little_spare_left_says_so(worn: Drive, serve: Serve) -> None:
    host = serve("mem:1M", drive=worn).connect()
    cid = host.submit_async_event()
    assert host.wait_async_event(cid).result == 1 | 2 << 8 | SMART << 16
    assert host.log_page(SMART, 512)[0] == 1
    page = group(host)
    assert (page[0], page[3], page[4], page[5]) == (SPARE, 4, 5, 97)
    configure(host, SPARE)
    cid = host.submit_async_event()
    assert host.wait_async_event(cid).result == EVENT


def test_it_outlives_the_server(tmp_path: Path) -> None:
    with drive_server(tmp_path, FAULTY) as server, server.host() as host:
        for value in (1 | READ_ONLY << 16, 1 | SPARE << 16):
            save = value >> 16 == READ_ONLY
            assert host.admin(nvme.set_features(CONFIGURATION, value, save=save)).ok
        assert host.admin(nvme.set_features(0x17, 0, save=True)).ok
        host.disable()  # it is the drive's: a reset of the controller leaves it alone
        host.enable()
        assert (configured(host), configured(host, 2)) == (SPARE, READ_ONLY)
        server.kill()
    with drive_server(tmp_path, FAULTY) as server, server.host() as host:
        assert configured(host) == configured(host, 2) == READ_ONLY
        assert host.get_feature(0x17) == host.get_feature(0x17, 2) == 0
