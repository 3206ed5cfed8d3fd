"""Saved features, SMART and the timestamp over resets and restarts (Base 5.27, 5.16.1.3)."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from tests_drive import drive_server
from tests_protocol import pattern, refused

from vhostnvme.testing import NvmeHost, nvme
from vhostnvme.testing.nvme import Status

CURRENT, DEFAULT, SAVED = range(3)
SAVEABLE = {
    1: 0x03020105,
    2: 0x20,
    4: 0x0155,
    5: 0x1234,
    6: 0,
    8: 0x0A0B,
    0xA: 1,
    0xB: 0x101,
    0x80: 0x42,
}
TIMESTAMP, HOST_BEHAVIOR = 0x0E, 0x16


def save(host: NvmeHost, fid: int, value: int) -> None:
    assert host.admin(nvme.set_features(fid, value, save=True)).ok


def test_a_reset_brings_back_what_was_saved(host: NvmeHost) -> None:
    for fid, value in SAVEABLE.items():
        default = host.get_feature(fid, DEFAULT)
        save(host, fid, value)
        assert host.get_feature(fid, SAVED) == host.get_feature(fid) == value != default
        host.set_feature(fid, default)
        assert host.get_feature(fid, SAVED) == value
        assert host.get_feature(fid) == default
    host.disable()
    host.enable()
    for fid, value in SAVEABLE.items():
        assert host.get_feature(fid) == value, f"feature {fid:#x}"


def test_interrupt_vectors_are_saved_together(host: NvmeHost) -> None:
    save(host, 9, 1 << 16 | 5)
    host.disable()
    host.enable()
    assert host.admin(nvme.get_features(9, cdw11=5)).result == 1 << 16 | 5
    assert host.admin(nvme.get_features(9, cdw11=6)).result == 6


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_saved_values_outlive_the_server(tmp_path: Path, how: str) -> None:
    with drive_server(tmp_path, "mem:1M") as server:
        with server.host() as host:
            for fid, value in SAVEABLE.items():
                save(host, fid, value)
            host.set_feature(1, 7)
            if how == "kill":
                server.kill()
        if how == "stop":
            server.stop()
    with drive_server(tmp_path, "mem:1M") as server, server.host() as host:
        for fid, value in SAVEABLE.items():
            assert host.get_feature(fid, SAVED) == host.get_feature(fid) == value


def errors(host: NvmeHost) -> list[tuple[int, int]]:
    """(number, LBA) of the entries of the error log that are some, the newest first."""
    log = host.log_page(1, 64 * 64)
    found = [struct.unpack_from("<Q8xQ", log, at) for at in range(0, len(log), 64)]
    assert [one for one in found if one[0]] == found[: sum(bool(one[0]) for one in found)]
    return [one for one in found if one[0]]


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("count", [3, 16, 70])
def test_the_newest_errors_outlive_the_server(tmp_path: Path, how: str, count: int) -> None:
    def fail(host: NvmeHost, lba: int) -> None:
        refused(queue.command(nvme.verify(1, lba, 1)), Status.LBA_RANGE)

    with drive_server(tmp_path, "mem:1M") as server:
        with server.host() as host:
            queue = host.create_queue_pair()
            for number in range(count):
                fail(host, 1000000 + number)
            all_of_them = errors(host)
            assert len(all_of_them) == min(count, 64)
            if how == "kill":
                time.sleep(1.5)  # they are saved within a second
                server.kill()
        if how == "stop":
            server.stop()
    with drive_server(tmp_path, "mem:1M") as server, server.host() as host:
        assert errors(host) == all_of_them[:16]
        queue = host.create_queue_pair()
        fail(host, 5000000)
        assert errors(host)[:2] == [(count + 1, 5000000), all_of_them[0]]


def smart(host: NvmeHost) -> dict[str, int]:
    values = struct.unpack_from("<20Q", host.log_page(2, 512), 32)[::2]
    names = "read_units written_units reads writes busy cycles hours unsafe media errors".split()
    return dict(zip(names, values, strict=True))


def test_smart_counts_outlive_the_server(tmp_path: Path) -> None:
    with drive_server(tmp_path, "mem:1M") as server:
        with server.host() as host:
            queue = host.create_queue_pair()
            for lba in range(8):
                queue.write(lba, pattern(lba, 512))
            queue.read(0, 1)
            refused(queue.command(nvme.read(1, 1 << 40, 1)), Status.LBA_RANGE)
            before = smart(host)
            host.shutdown()
        server.stop()
    with drive_server(tmp_path, "mem:1M") as server, server.host() as host:
        after = smart(host)
        assert after["writes"] == before["writes"] == 8
        assert after["reads"] == 1
        assert after["errors"] == before["errors"] == 1
        assert after["cycles"] == before["cycles"] + 1
        assert after["unsafe"] == before["unsafe"] == 0
        save(host, 1, 3)  # which saves that it is in use, too
        server.kill()
    with drive_server(tmp_path, "mem:1M") as server, server.host() as host:
        assert smart(host)["unsafe"] == 1  # it was in use when it was killed
        assert smart(host)["cycles"] == 3
        entries = host.log_page(1, 64)
        assert struct.unpack_from("<Q", entries)[0] == 1  # the error lasts, with its number
        refused(host.admin(nvme.identify(0xFF)), Status.INVALID_FIELD)
        assert struct.unpack_from("<Q", host.log_page(1, 64))[0] == 2


def test_a_shutdown_saves_at_once(tmp_path: Path) -> None:
    with drive_server(tmp_path, "mem:1M") as server, server.host() as host:
        queue = host.create_queue_pair()
        queue.write(0, pattern(1, 512))
        host.shutdown()
        server.kill()
    with drive_server(tmp_path, "mem:1M") as server, server.host() as host:
        assert smart(host)["writes"] == 1
        assert smart(host)["unsafe"] == 0


def test_the_timestamp_counts_on(host: NvmeHost) -> None:
    def read(select: int = CURRENT) -> tuple[int, int]:
        with host.alloc(8) as data:
            assert host.admin(data.point(nvme.get_features(TIMESTAMP, select), 8)).ok
            return int.from_bytes(data.get(6), "little"), data.get(8)[6]

    assert read()[1] == 0  # since the reset
    now = 1_700_000_000_000
    with host.alloc(8) as data:
        data.put(now.to_bytes(6, "little") + bytes(2))
        assert host.admin(data.point(nvme.set_features(TIMESTAMP, 0), 8)).ok
        sqe = nvme.set_features(TIMESTAMP, 0, save=True)
        refused(host.admin(data.point(sqe, 8)), Status.FEATURE_NOT_SAVEABLE)
    ms, attributes = read()
    assert now <= ms < now + 60_000
    assert attributes == 1 << 1  # set by a host
    assert read(DEFAULT) == (0, 0)
    host.disable()
    host.enable()
    assert read()[0] < 60_000 and read()[1] == 0


def test_host_behavior_is_taken_and_told(host: NvmeHost) -> None:
    with host.alloc(512) as data:
        data.put(b"\x01")
        assert host.admin(data.point(nvme.set_features(HOST_BEHAVIOR, 0), 512)).ok
        data.put(bytes(512))
        assert host.admin(data.point(nvme.get_features(HOST_BEHAVIOR), 512)).ok
        assert data.get(512) == b"\x01" + bytes(511)
        for wrong in (b"\x02", b"\x00\x01"):
            data.put(wrong)
            done = host.admin(data.point(nvme.set_features(HOST_BEHAVIOR, 0), 512))
            refused(done, Status.INVALID_FIELD)
