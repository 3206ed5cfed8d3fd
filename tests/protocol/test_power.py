"""Power states (Base 8.15): set by hosts, left for I/O, and entered by the drive itself."""

from __future__ import annotations

import itertools
import json
import struct
import time
from pathlib import Path

import pytest
from tests_drive import drive_server
from tests_protocol import BLOCK, Serve, pattern, refused, until
from tests_ssd import SsdServer

from vhostnvme.testing import NvmeHost, QueuePair, nvme
from vhostnvme.testing.nvme import Status

POWER, APST, HCTM, PERMISSIVE = 2, 0xC, 0x10, 0x11
CURRENT, DEFAULT, SAVED = range(3)
OPERATIONAL, SLEEPING = (0, 1, 2), (3, 4)
MORE_POWER_SCALE, NON_OPERATIONAL = 1, 2  # bits of a descriptor's byte 3
NAP_MS = 20


def states(host: NvmeHost) -> list[tuple[float, int, int, int]]:
    """(watts, flags, entry and exit latency in us) of each."""
    page = host.identify_controller()
    found = []
    for state in range(page[263] + 1):
        power, flags, entry, leave = struct.unpack_from("<HxBII", page, 2048 + 32 * state)
        found.append((power * (1e-4 if flags & MORE_POWER_SCALE else 1e-2), flags, entry, leave))
    assert page[2048 + 32 * len(found) : 3072] == bytes(32 * (32 - len(found)))
    return found


def table(entries: dict[int, tuple[int, int]]) -> bytes:
    """Of feature 0Ch: from each state to another, after so many ms."""
    words = [0] * 32
    for state, (target, after_ms) in entries.items():
        words[state] = target << 3 | after_ms << 8
    return struct.pack("<32Q", *words)


NAPS = table({0: (3, NAP_MS), 1: (3, NAP_MS), 2: (3, NAP_MS), 3: (4, NAP_MS)})


def put(host: NvmeHost, data: bytes, *, enable: int = 1, save: bool = False) -> nvme.Completion:
    with host.alloc(4096) as buffer:
        buffer.put(data)
        return host.admin(buffer.point(nvme.set_features(APST, enable, save=save)))


def get(host: NvmeHost, select: int = CURRENT) -> tuple[int, bytes]:
    with host.alloc(4096) as buffer:
        done = host.admin(buffer.point(nvme.get_features(APST, select)))
        assert done.ok
        return done.result, buffer.get(256)


def state(host: NvmeHost) -> int:
    return host.get_feature(POWER) & 0x1F


def woken(host: NvmeHost, queue: QueuePair) -> int:
    """The state just after a read: it is asked for before the drive can be asleep again."""
    for _ in range(200):
        began = time.monotonic()
        queue.read(0, 1)
        found = state(host)
        if time.monotonic() - began < NAP_MS / 1000:
            return found
    raise AssertionError("this machine is too busy")


def test_there_are_states_of_less_and_less_power(host: NvmeHost) -> None:
    found = states(host)
    watts = [one[0] for one in found]
    assert watts == sorted(watts, reverse=True) and watts[0] == 25
    sleeping = [number for number, one in enumerate(found) if one[1] & NON_OPERATIONAL]
    assert tuple(sleeping) == SLEEPING
    for before, after in itertools.pairwise(found):
        assert before[2] <= after[2] and before[3] <= after[3]
    for number in (*OPERATIONAL, *SLEEPING, 0):
        host.set_feature(POWER, number | 1 << 5)  # with a workload hint
        assert host.get_feature(POWER) == number | 1 << 5


@pytest.mark.parametrize("asleep", SLEEPING)
def test_io_brings_back_the_last_state_that_took_any(host: NvmeHost, asleep: int) -> None:
    queue = host.create_queue_pair()
    host.set_feature(POWER, 1)
    queue.write(0, pattern(1, BLOCK))
    assert state(host) == 1
    host.set_feature(POWER, asleep)
    host.identify_controller()
    assert state(host) == asleep  # admin commands leave it so
    assert queue.read(0, 1) == pattern(1, BLOCK)
    assert state(host) == 1
    host.set_feature(POWER, asleep)
    host.disable()
    host.enable()
    assert state(host) == 0


def test_a_drive_that_is_idle_goes_to_sleep_by_itself(host: NvmeHost) -> None:
    assert host.identify_controller()[265] == 1  # APSTA
    assert get(host) == get(host, DEFAULT) == (0, bytes(256))
    queue = host.create_queue_pair()
    time.sleep(2 * NAP_MS / 1000)
    assert state(host) == 0  # not asked to
    assert put(host, table({0: (3, NAP_MS)})).ok
    until(lambda: state(host) == 3, "a nap")
    assert put(host, NAPS).ok
    assert get(host) == (1, NAPS)
    until(lambda: state(host) == 4, "deep sleep")
    for number in (2, 1):
        assert put(host, NAPS).ok
        host.set_feature(POWER, number)
        queue.write(0, pattern(1, BLOCK))
        time.sleep(4 * NAP_MS / 1000)
        assert state(host) == 4  # nobody has asked meanwhile
        assert queue.read(0, 1) == pattern(1, BLOCK)
        assert woken(host, queue) == number
    assert put(host, NAPS, enable=0).ok
    queue.read(0, 1)
    time.sleep(2 * NAP_MS / 1000)
    assert state(host) == 1  # no more


def test_commands_in_flight_keep_it_awake(serve: Serve) -> None:
    host = serve("mem:1M?delay=400ms").connect()
    queue = host.create_queue_pair(1)
    assert put(host, NAPS).ok
    with host.alloc(4096) as buffer:
        cid = queue.submit(buffer.point(nvme.read(1, 0, 1), BLOCK))
        time.sleep(4 * NAP_MS / 1000)
        awake, done = state(host), host.poll(1)
        assert awake == 0 or done
        if not done:
            assert queue.wait(cid).ok
    until(lambda: state(host) == 4, "deep sleep")


def test_what_a_table_cannot_say(host: NvmeHost) -> None:
    assert put(host, NAPS).ok
    for wrong in (
        table({0: (1, 10)}),  # to one that takes commands
        table({0: (5, 10)}),  # to one that is not there
        table({5: (4, 10)}),  # from one that is not there
        struct.pack("<32Q", 1, *[0] * 31),
        struct.pack("<32Q", 1 << 32, *[0] * 31),
    ):
        refused(put(host, wrong), Status.INVALID_FIELD)
        assert get(host) == (1, NAPS)
    assert put(host, table({3: (4, 5), 4: (3, 5)})).ok  # round and round
    host.set_feature(POWER, 3)
    time.sleep(0.5)
    assert state(host) in SLEEPING
    assert host.set_feature(POWER, 0) == 0


def test_thermal_management_has_bounds(host: NvmeHost) -> None:
    page = host.identify_controller()
    able, least, most = struct.unpack_from("<3H", page, 322)
    temperature = struct.unpack_from("<H", host.log_page(2, 512), 1)[0]
    assert able == 1 and temperature < least < most
    for light, heavy in ((least, most), (0, least), (most, 0), (0, 0)):
        host.set_feature(HCTM, light << 16 | heavy)
        assert host.get_feature(HCTM) == light << 16 | heavy
    for light, heavy in ((least - 1, most), (least, most + 1), (most, least), (least, least)):
        wrong = nvme.set_features(HCTM, light << 16 | heavy)
        refused(host.admin(wrong), Status.INVALID_FIELD)
    assert host.get_feature(HCTM) == 0
    assert host.log_page(2, 512)[216:232] == bytes(16)  # transitions, and seconds of them


def test_permissive_mode_is_a_bit(host: NvmeHost) -> None:
    assert host.identify_controller()[96] & 1 << 1  # CTRATT
    for value in (1, 0):
        host.set_feature(PERMISSIVE, value)
        assert host.get_feature(PERMISSIVE) == value


def test_saved_values_outlive_resets_and_the_server(tmp_path: Path) -> None:
    with drive_server(tmp_path, "mem:1M") as server:
        with server.host() as host:
            assert put(host, NAPS, save=True).ok
            for fid, value in ((POWER, 2), (HCTM, 330 << 16 | 340), (PERMISSIVE, 1)):
                assert host.admin(nvme.set_features(fid, value, save=True)).ok
            assert put(host, bytes(256), enable=0).ok
            assert get(host, SAVED) == (1, NAPS) and get(host)[0] == 0
            host.disable()
            host.enable()
            assert get(host) == (1, NAPS)
        server.kill()
    with drive_server(tmp_path, "mem:1M") as server, server.host() as host:
        assert get(host) == get(host, SAVED) == (1, NAPS)
        assert host.get_feature(POWER, SAVED) == 2
        assert host.get_feature(HCTM) == 330 << 16 | 340
        assert host.get_feature(PERMISSIVE) == 1
        until(lambda: state(host) == 4, "deep sleep")
        assert woken(host, host.create_queue_pair()) == 2


def served(folder: Path, **id_ctrl: object) -> SsdServer:
    path = folder / "persona.json"
    path.write_text(json.dumps({"id_ctrl": id_ctrl}))
    others = ("--persona", str(path))
    return SsdServer(folder, query="capacity=64M", others=others)


def test_a_persona_has_states_of_its_own(tmp_path: Path) -> None:
    psds = [{"max_power": 600}, {"max_power": 50, "max_power_scale": 1, "flags": 3}]
    with served(tmp_path, npss=1, psds=psds, apsta=1, hctma=1, mntmt=320, mxtmt=350) as ssd:
        host = ssd.connect()
        assert [one[:2] for one in states(host)] == [(6.0, 0), (pytest.approx(0.005), 3)]
        assert struct.unpack_from("<3H", host.identify_controller(), 322) == (1, 320, 350)
        refused(put(host, NAPS), Status.INVALID_FIELD)
        assert put(host, table({0: (1, NAP_MS)})).ok
        until(lambda: state(host) == 1, "sleep")
        refused(host.admin(nvme.set_features(HCTM, 319)), Status.INVALID_FIELD)


def test_a_persona_stays_cooler_than_its_least_threshold(tmp_path: Path) -> None:
    with served(tmp_path, hctma=1, mntmt=273, mxtmt=300) as ssd:
        host = ssd.connect()
        assert struct.unpack_from("<3H", host.identify_controller(), 322) == (1, 311, 311)
        refused(host.admin(nvme.set_features(HCTM, 310)), Status.INVALID_FIELD)
        host.set_feature(HCTM, 311)


def test_a_persona_without_transitions_refuses_them(tmp_path: Path) -> None:
    with served(tmp_path, apsta=0, hctma=0) as ssd:
        host = ssd.connect()
        page = host.identify_controller()
        assert page[265] == 0 and page[322:328] == bytes(6)
        refused(put(host, bytes(256), enable=0), Status.INVALID_FIELD)
        refused(host.admin(nvme.set_features(HCTM, 0)), Status.INVALID_FIELD)
        log = host.log_page(0x12, 1024)
        assert [log[4 * fid] & 1 for fid in (POWER, APST, HCTM, PERMISSIVE)] == [1, 0, 0, 1]
