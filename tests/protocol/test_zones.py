"""Zoned namespaces over the wire (Zoned Namespace Command Set 1.1b): every command and status."""

from __future__ import annotations

import pytest
from tests_protocol import BLOCK, PAGE, Serve, dice, refused, until
from tests_zones import CAPACITY, SPEC, ZONE, blocks, bring, queue_of, zoned

from vhostnvme.errors import NativeError
from vhostnvme.testing import nvme, nvme_io, zns
from vhostnvme.testing.nvme import Status
from vhostnvme.testing.zns import Action, State, ZonedQueue, ZoneStatus

REACHABLE = (State.EMPTY, State.IMPLICIT, State.EXPLICIT, State.CLOSED, State.FULL)


@pytest.fixture
def queue(serve: Serve) -> ZonedQueue:
    return zoned(serve)


def broken(serve: Serve) -> ZonedQueue:
    """A namespace whose zone 1 has become read-only, as its second write failed."""
    spec = SPEC + "&error=100%&error-ops=write&error-after=1"
    queue = zoned(serve, spec)
    assert queue.write(ZONE, blocks(ZONE, 2)).ok
    refused(queue.write(ZONE + 2, blocks(ZONE + 2)), Status.WRITE_FAULT, dnr=None)
    assert queue.zone(ZONE).state is State.READ_ONLY
    return queue


def copy(queue: ZonedQueue, to: int, ranges: list[tuple[int, int]]) -> nvme.Completion:
    data = nvme_io.copy_ranges(ranges)
    with queue.queue.host.alloc(PAGE) as buffer:
        buffer.put(data)
        return queue.queue.command(nvme_io.copy(1, to, len(ranges)), buffer, len(data))


# --- Identify ---
def test_identify_says_what_it_is(queue: ZonedQueue) -> None:
    host = queue.queue.host
    page = host.identify(5, 1, csi=zns.CSI_ZONED)
    assert page[2:4] == b"\1\0"  # OZCS: reads across zones
    assert int.from_bytes(page[4:8], "little") == 4  # MAR, 0's based
    assert int.from_bytes(page[8:12], "little") == 2  # MOR
    assert queue.zone_blocks == ZONE
    assert page[2824] == 1  # ZDES: 64 bytes
    assert host.identify(3, 1)[40:45] == bytes([4, 1, 0, 0, 2])  # CSI
    assert host.identify(6, csi=zns.CSI_ZONED)[0] == 0  # ZASL: as MDTS
    assert host.identify(0x1C)[0] & 5 == 5
    assert host.identify_namespace().nr_blocks == 16 * ZONE
    refused(host.admin(nvme.identify(5, 1, 0, 1)), Status.INVALID_FIELD)
    assert host.identify(8, 1)[14] & 1


def test_there_is_one_combination_of_command_sets(queue: ZonedQueue) -> None:
    host = queue.queue.host
    assert host.identify(0x1C) == bytes([5]) + bytes(PAGE - 1)
    assert host.get_feature(0x19) == 0
    host.set_feature(0x19, 0)
    refused(host.admin(nvme.set_features(0x19, 1)), ZoneStatus.COMBINATION_REJECTED)


def test_each_command_set_lists_its_own(serve: Serve) -> None:
    host = serve("mem:1M", SPEC, "mem:1M").connect(enable=False)
    host.enable(cc=zns.CC_ALL_SETS)
    assert host.active_namespaces() == [1, 2, 3]

    def listed(cns: int, csi: int) -> list[int]:
        page = host.identify(cns, csi=csi)
        return [n for at in range(0, PAGE, 4) if (n := int.from_bytes(page[at : at + 4], "little"))]

    for cns in (7, 0x1A):
        assert listed(cns, 0) == [1, 3]
        assert listed(cns, zns.CSI_ZONED) == [2]
    assert host.identify(0x1B, 2, csi=zns.CSI_ZONED)[2816:2818] == bytes([ZONE, 0])
    with host.alloc(PAGE) as buffer:
        refused(host.admin(nvme.identify(5, 1, 0, zns.CSI_ZONED), buffer), Status.INVALID_FIELD)
    conventional = host.create_queue_pair()
    for opcode in (zns.SEND, zns.RECEIVE, zns.APPEND):
        refused(conventional.command(nvme.Sqe(opcode, nsid=1)), Status.INVALID_OPCODE)


def test_the_effects_log_knows_both_command_sets(queue: ZonedQueue) -> None:
    host = queue.queue.host
    sqe = nvme.get_log_page(5, PAGE)
    plain = host.admin_data("effects", sqe, PAGE)
    zones = host.admin_data("effects", sqe.with_fields(cdw14=zns.CSI_ZONED << 24), PAGE)
    for opcode in (zns.SEND, zns.RECEIVE, zns.APPEND):
        assert not plain[1024 + 4 * opcode] & 1
        assert zones[1024 + 4 * opcode] & 1
    assert zones[1024 + 4] & 1  # Write


def test_a_host_that_knows_nothing_of_zones_is_kept_out(serve: Serve) -> None:
    host = serve(SPEC).connect()  # CC.CSS 0
    queue = host.create_queue_pair()
    with host.alloc(PAGE) as buffer:
        code = ZoneStatus.COMMAND_SET_NOT_ENABLED
        refused(queue.command(nvme.read(1, 0, 8), buffer), code)
        refused(queue.command(nvme.write(1, 0, 8), buffer), code)


# --- Writes and appends ---
def test_writes_go_to_the_write_pointer(queue: ZonedQueue) -> None:
    assert queue.write(0, blocks(0, 5)).ok
    refused(queue.write(0, blocks(0)), ZoneStatus.INVALID_WRITE)
    refused(queue.write(6, blocks(6)), ZoneStatus.INVALID_WRITE)
    refused(queue.write(5, blocks(5, CAPACITY)), ZoneStatus.BOUNDARY)
    refused(queue.write(CAPACITY, blocks(0)), ZoneStatus.BOUNDARY)
    refused(queue.write(16 * ZONE, blocks(0)), Status.LBA_RANGE)
    assert queue.write(5, blocks(5, CAPACITY - 5)).ok
    zone = queue.zone(0)
    assert (zone.state, zone.wp, zone.capacity) == (State.FULL, 2**64 - 1, CAPACITY)
    refused(queue.write(CAPACITY, blocks(0)), ZoneStatus.FULL)
    refused(queue.append(0, blocks(0)), ZoneStatus.FULL)
    assert queue.queue.read(0, CAPACITY) == blocks(0, CAPACITY)
    assert queue.queue.read(CAPACITY, ZONE) == bytes(ZONE * BLOCK)  # on into the next zone


def test_a_bad_data_pointer_moves_no_write_pointer(queue: ZonedQueue) -> None:
    sqe = nvme.write(1, 0, 8).with_fields(prp1=1 << 60)
    assert not queue.queue.command(sqe).ok
    assert queue.zone(0).state is State.EMPTY


def test_appends_tell_where_they_went(queue: ZonedQueue) -> None:
    for at in range(0, CAPACITY - 3, 3):
        completion = queue.append(2 * ZONE, blocks(2 * ZONE + at, 3))
        assert completion.ok
        assert zns.place_of(completion) == 2 * ZONE + at
    assert queue.append(2 * ZONE, blocks(2 * ZONE + CAPACITY - 3, 3), fua=True).ok
    assert queue.queue.read(2 * ZONE, CAPACITY) == blocks(2 * ZONE, CAPACITY)
    assert queue.zone(2 * ZONE).state is State.FULL
    refused(queue.append(ZONE + 1, blocks(0)), Status.INVALID_FIELD)
    refused(queue.append(16 * ZONE, blocks(0)), Status.LBA_RANGE)
    assert queue.write(0, blocks(0, 90)).ok
    refused(queue.append(0, blocks(0, 7)), ZoneStatus.BOUNDARY)
    assert zns.place_of(queue.append(0, blocks(90, 6))) == 90


def test_append_is_limited(serve: Serve) -> None:
    queue = zoned(serve, SPEC + "&zone-append=8K")
    assert queue.queue.host.identify(6, csi=zns.CSI_ZONED)[0] == 1
    refused(queue.append(0, blocks(0, 17)), Status.INVALID_FIELD)
    assert queue.append(0, blocks(0, 16)).ok


def test_appends_under_depth_take_a_place_each(serve: Serve) -> None:
    rng = dice("test_appends_under_depth_take_a_place_each")
    queue = zoned(serve, "mem:4M?zoned=on&zone-size=256K&delay=1ms", depth=128)
    with queue.queue.host.alloc(PAGE * 100) as buffer:
        sizes, cids = {}, {}
        for n in range(100):
            sizes[n] = rng.randint(1, 8)
            buffer.put(blocks(n << 32, sizes[n]), n * PAGE)
            sqe = buffer.point(zns.append(512 * (n % 3), sizes[n]), sizes[n] * BLOCK, n * PAGE)
            cids[n] = queue.queue.submit(sqe)
        places = {n: zns.place_of(queue.queue.wait(cid, 20)) for n, cid in cids.items()}
    taken: set[int] = set()
    for n, place in places.items():
        assert queue.queue.read(place, sizes[n]) == blocks(n << 32, sizes[n])
        covered = set(range(place, place + sizes[n]))
        assert not covered & taken
        taken |= covered
    for zone in range(3):
        assert queue.zone(512 * zone).written == sum(sizes[n] for n in sizes if n % 3 == zone)


def test_write_zeroes_and_copy_are_writes(queue: ZonedQueue) -> None:
    command = queue.queue.command
    refused(command(nvme.write_zeroes(1, 3, 5)), ZoneStatus.INVALID_WRITE)
    assert queue.write(0, blocks(0, 10)).ok
    assert command(nvme.write_zeroes(1, 10, 5)).ok
    refused(command(nvme.write_zeroes(1, 15, CAPACITY)), ZoneStatus.BOUNDARY)
    assert queue.zone(0).wp == 15
    assert copy(queue, ZONE, [(2, 8), (0, 2)]).ok
    assert queue.queue.read(ZONE, 10) == blocks(2, 8) + blocks(0, 2)
    assert queue.zone(ZONE).written == 10
    refused(copy(queue, ZONE, [(0, 1)]), ZoneStatus.INVALID_WRITE)
    refused(copy(queue, ZONE + 10, [(0, CAPACITY)]), ZoneStatus.BOUNDARY)
    queue.must(Action.FINISH, ZONE)
    refused(copy(queue, ZONE + 10, [(0, 1)]), ZoneStatus.FULL)


def test_compare_and_verify_read(queue: ZonedQueue) -> None:
    assert queue.write(0, blocks(0, 8)).ok
    with queue.queue.host.alloc(PAGE * 2) as buffer:
        buffer.put(blocks(0, 8))
        assert queue.queue.command(nvme.compare(1, 0, 16), buffer, 2 * PAGE).ok  # zeros above
    assert queue.queue.command(nvme.verify(1, 0, 3 * ZONE)).ok


# --- Zone Management Send ---
OUTCOMES = {
    Action.OPEN: (State.EXPLICIT, State.EXPLICIT, State.EXPLICIT, State.EXPLICIT, None),
    Action.CLOSE: (None, State.CLOSED, State.CLOSED, State.CLOSED, None),
    Action.FINISH: (State.FULL,) * 5,
    Action.RESET: (State.EMPTY,) * 5,
    Action.OFFLINE: (None,) * 5,
}


@pytest.mark.parametrize("action", OUTCOMES)
def test_every_action_in_every_state(queue: ZonedQueue, action: Action) -> None:
    for n, (state, then) in enumerate(zip(REACHABLE, OUTCOMES[action], strict=True)):
        start = n * ZONE
        bring(queue, start, state)
        completion = queue.act(action, start)
        if then is None:
            refused(completion, ZoneStatus.INVALID_TRANSITION)
        else:
            assert completion.ok
        assert queue.zone(start).state is (then or state)
        if then is State.EMPTY:
            assert queue.queue.read(start, ZONE) == bytes(ZONE * BLOCK)
        queue.must(Action.RESET, start)


def test_zones_that_broke(serve: Serve) -> None:
    queue = broken(serve)
    refused(queue.write(ZONE + 3, blocks(0)), ZoneStatus.READ_ONLY)
    refused(queue.append(ZONE, blocks(0)), ZoneStatus.READ_ONLY)
    for action in (Action.OPEN, Action.CLOSE, Action.FINISH, Action.RESET):
        refused(queue.act(action, ZONE), ZoneStatus.INVALID_TRANSITION)
    assert queue.queue.read(ZONE, 2) == blocks(ZONE, 2)
    queue.must(Action.OFFLINE, every=True)
    assert queue.zone(ZONE).state is State.OFFLINE
    queue.must(Action.OFFLINE, ZONE)
    refused(queue.write(ZONE + 3, blocks(0)), ZoneStatus.OFFLINE)
    with queue.queue.host.alloc(PAGE) as buffer:
        for lba in (ZONE, ZONE - 1, 2 * ZONE - 1):
            refused(queue.queue.command(nvme.read(1, lba, 2), buffer, 1024), ZoneStatus.OFFLINE)
    refused(copy(queue, 0, [(ZONE, 1)]), ZoneStatus.OFFLINE)
    for action in (Action.OPEN, Action.CLOSE, Action.FINISH, Action.RESET):
        refused(queue.act(action, ZONE), ZoneStatus.INVALID_TRANSITION)
    queue.must(Action.RESET, every=True)
    assert queue.zone(ZONE).state is State.OFFLINE


def test_limits(queue: ZonedQueue) -> None:
    for n in range(5):
        assert queue.write(n * ZONE, blocks(0)).ok  # the oldest ones close
    states = [zone.state for zone in queue.zones()]
    assert states[:6] == [State.CLOSED] * 2 + [State.IMPLICIT] * 3 + [State.EMPTY]
    refused(queue.write(5 * ZONE, blocks(0)), ZoneStatus.TOO_MANY_ACTIVE)
    refused(queue.append(5 * ZONE, blocks(0)), ZoneStatus.TOO_MANY_ACTIVE)
    refused(queue.act(Action.OPEN, 5 * ZONE), ZoneStatus.TOO_MANY_ACTIVE)
    refused(copy(queue, 5 * ZONE, [(0, 1)]), ZoneStatus.TOO_MANY_ACTIVE)
    for n in range(3):
        queue.must(Action.OPEN, n * ZONE)
    refused(queue.act(Action.OPEN, 3 * ZONE), ZoneStatus.TOO_MANY_OPEN)
    refused(queue.write(3 * ZONE + 1, blocks(0)), ZoneStatus.TOO_MANY_OPEN)
    refused(queue.act(Action.OPEN, every=True), ZoneStatus.TOO_MANY_OPEN)
    queue.must(Action.FINISH, 3 * ZONE)
    queue.must(Action.RESET, 0)
    queue.must(Action.OPEN, every=True)
    assert [zone.state for zone in queue.zones()].count(State.EXPLICIT) == 3


def test_select_all(queue: ZonedQueue) -> None:
    for n, state in enumerate(REACHABLE):
        bring(queue, n * ZONE, state)

    def states() -> list[State]:
        return [zone.state for zone in queue.zones()][:5]

    queue.must(Action.CLOSE, every=True)
    assert states() == [State.EMPTY, State.CLOSED, State.CLOSED, State.CLOSED, State.FULL]
    queue.must(Action.FINISH, every=True)
    assert states() == [State.EMPTY] + [State.FULL] * 4
    queue.must(Action.RESET, 77, every=True)  # the LBA says nothing
    assert states() == [State.EMPTY] * 5
    assert queue.queue.read(0, 5 * ZONE) == bytes(5 * ZONE * BLOCK)


def test_send_refuses_nonsense(queue: ZonedQueue) -> None:
    for action in (0, 6, 0xF, 0x12, 0xFF):
        refused(queue.act(action, 0), Status.INVALID_FIELD)
    refused(queue.act(Action.OPEN, 1), Status.INVALID_FIELD)
    refused(queue.act(Action.OPEN, 16 * ZONE), Status.LBA_RANGE)
    refused(queue.act(Action.RESET, 2**64 - 1), Status.LBA_RANGE)


def test_a_read_only_namespace_keeps_its_zones(serve: Serve) -> None:
    queue = zoned(serve, SPEC + "&readonly=on")
    refused(queue.write(0, blocks(0)), Status.WRITE_PROTECTED)
    refused(queue.append(0, blocks(0)), Status.WRITE_PROTECTED)
    refused(queue.act(Action.OPEN, 0), Status.WRITE_PROTECTED)
    refused(queue.queue.command(nvme.write_zeroes(1, 0, 1)), Status.WRITE_PROTECTED)
    assert queue.zone(0).state is State.EMPTY


def test_a_zone_on_two_controllers_of_two_drives_is_refused(serve: Serve) -> None:
    served = serve(SPEC)
    other = serve("mem:1M")
    with pytest.raises(NativeError, match="zoned"):
        other.controller.attach(served.namespaces[0], 2)


def test_a_reset_of_the_controller_leaves_zones_alone(serve: Serve) -> None:
    served = serve(SPEC)
    queue = queue_of(served.connect(enable=False))
    bring(queue, 0, State.EXPLICIT)
    before = list(queue.zones())
    queue.queue.host.disable()
    assert list(queue_of(queue.queue.host).zones()) == before


# --- What zones and the rest of the device have to do with each other ---
def test_uncorrectable_blocks_are_writes_until_a_reset(queue: ZonedQueue) -> None:
    command = queue.queue.command
    refused(command(nvme_io.write_uncorrectable(1, 4, 2)), ZoneStatus.INVALID_WRITE)
    assert queue.write(0, blocks(0, 4)).ok
    assert command(nvme_io.write_uncorrectable(1, 4, 2)).ok
    assert queue.zone(0).wp == 6
    with queue.queue.host.alloc(PAGE) as buffer:
        refused(command(nvme.read(1, 3, 2), buffer, 1024), Status.UNRECOVERED_READ, dnr=None)
    queue.must(Action.RESET, 0)
    assert queue.queue.read(0, 8) == bytes(8 * BLOCK)


def test_fused_commands_are_refused(queue: ZonedQueue) -> None:
    assert queue.write(0, blocks(0)).ok
    with queue.queue.host.alloc(PAGE) as buffer:
        buffer.put(blocks(0))
        first = buffer.point(nvme.compare(1, 0, 1), BLOCK)
        second = buffer.point(nvme.write(1, 0, 1), BLOCK)
        queue.queue.submit(first.with_fields(flags=nvme_io.FUSE_FIRST), doorbell=False)
        queue.queue.submit(second.with_fields(flags=nvme_io.FUSE_SECOND))
        codes = [queue.queue.host.wait_any(1).code for _ in range(2)]
    assert codes == [Status.INVALID_FIELD, Status.ABORT_FAILED_FUSED]
    assert queue.zone(0).wp == 1


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_sanitized_drive_has_empty_zones(serve: Serve, overwrite: bool) -> None:
    queue = zoned(serve, "mem:1M?zoned=on&zone-size=64K")
    host = queue.queue.host
    assert queue.write(0, blocks(0, 8)).ok
    queue.must(Action.FINISH, ZONE)
    action = 3 | 1 << 4 if overwrite else 2
    assert host.admin(nvme.Sqe(nvme.Admin.SANITIZE, cdw10=action, cdw11=0x5A5A5A5A)).ok
    until(lambda: host.log_page(0x81, 32)[2] & 7 == 1, "the drive is sanitized", 20.0)
    assert {zone.state for zone in queue.zones()} == {State.EMPTY}
    assert queue.queue.read(0, 2 * ZONE) == bytes(2 * ZONE * BLOCK)
    assert queue.write(0, blocks(0, 8)).ok


def test_resets_and_writes_at_once_leave_nothing_above(serve: Serve) -> None:
    """A host that does not wait: whatever the order, there are zeros above the write pointer."""
    rng = dice("test_resets_and_writes_at_once_leave_nothing_above")
    queue = zoned(serve, "mem:1M?zoned=on&zone-size=64K&delay=200us", depth=64)
    with queue.queue.host.alloc(PAGE) as buffer:
        buffer.put(b"\xaa" * PAGE)
        for _ in range(40):
            cids = []
            for _ in range(rng.randint(2, 40)):
                start = ZONE * rng.randrange(3)
                sqe = buffer.point(zns.append(start, rng.randint(1, 8)))
                if rng.random() < 0.2:
                    sqe = zns.send(Action.RESET, start, every=rng.random() < 0.2)
                cids.append(queue.queue.submit(sqe))
            ends = [queue.queue.wait(cid, 20) for cid in cids]
            assert all(end.ok or end.code in (ZoneStatus.FULL, ZoneStatus.BOUNDARY) for end in ends)
            for zone in list(queue.zones())[:3]:
                end = ZONE if zone.state is State.FULL else zone.written
                written = b"\xaa" * (end * BLOCK) + bytes((ZONE - end) * BLOCK)
                assert queue.queue.read(zone.start, ZONE) == written


def test_a_controller_reset_in_the_middle_of_it(serve: Serve) -> None:
    queue = zoned(serve, "mem:1M?zoned=on&zone-size=64K&delay=2ms", depth=64)
    with queue.queue.host.alloc(PAGE) as buffer:
        for n in range(40):
            sqe = zns.send(Action.RESET, 0) if n % 8 == 7 else zns.append(0, 1)
            queue.queue.submit(buffer.point(sqe, BLOCK) if n % 8 != 7 else sqe)
        queue.queue.host.disable()
    again = queue_of(queue.queue.host)
    again.must(Action.RESET, every=True)
    assert again.zone(0).state is State.EMPTY
    assert again.write(0, blocks(0)).ok
