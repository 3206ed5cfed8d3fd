"""Zones outlive their server: orderly ends, kill -9, and tables that are not what they were."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from pathlib import Path

import pytest
from tests_mortal import END_S, script_server
from tests_protocol import BLOCK, Serve, dice, refused
from tests_zone_life import Past, ZoneLife, stamp
from tests_zones import CAPACITY, ZONE, blocks, bring, queue_of, zoned

from vhostnvme.errors import ConfigError, NativeError, PeerError
from vhostnvme.storage.disk import native_options
from vhostnvme.storage.spec import format_spec, parse_spec
from vhostnvme.testing import NvmeHost, nvme, zns
from vhostnvme.testing.nvme import Status
from vhostnvme.testing.zns import Action, State, ZonedQueue

CYCLES = int(os.environ.get("VHOSTNVME_KILL_CYCLES", "15"))
OPTIONS = "zoned=on&zone-size=64K&zone-capacity=48K&max-open=4&max-active=8&zone-extension=64"

SERVER = """
    import sys
    from vhostnvme.native import *
    from vhostnvme.storage.disk import native_options
    from vhostnvme.storage.spec import parse_spec
    spec, socket = sys.argv[1:]
    runtime = Runtime()
    namespace = Namespace(runtime, native_options(parse_spec(spec)))
    controller = Controller(runtime, ControllerOptions(serial="zones"))
    controller.attach(namespace, 1)
    controller.listen(socket)
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    return f"file:{tmp_path}/disk?size=1M&{OPTIONS}"


def once(serve: Serve, spec: str) -> ZonedQueue:
    """A queue whose controller is there alone: `serve` has been closed before."""
    serve.close()
    return zoned(serve, spec)


def options_of(spec: str, **changes: str) -> str:
    head, _, query = spec.partition("?")
    options = dict(item.split("=", 1) for item in query.split("&")) | changes
    return head + "?" + "&".join(f"{name}={value}" for name, value in options.items() if value)


def test_zones_come_back(serve: Serve, spec: str) -> None:
    queue = zoned(serve, spec)
    states = (State.EMPTY, State.IMPLICIT, State.EXPLICIT, State.CLOSED, State.FULL)
    for n, state in enumerate(states):
        bring(queue, n * ZONE, state)
    with queue.queue.host.alloc(4096) as buffer:
        buffer.put(b"extension" * 7)
        sqe = zns.send(Action.SET_EXTENSION, 6 * ZONE)
        assert queue.queue.command(sqe, buffer, 64).ok
    queue.must(Action.OPEN, 7 * ZONE)
    queue.must(Action.OPEN, 8 * ZONE)
    queue.must(Action.CLOSE, 8 * ZONE)
    queue = once(serve, spec)
    zones = list(queue.zones())
    closed, full, empty = State.CLOSED, State.FULL, State.EMPTY
    found = [zone.state for zone in zones]
    assert found[:9] == [empty, closed, closed, closed, full, empty, closed, empty, closed]
    assert [zone.written for zone in zones[1:4]] == [2, 2, 2]
    assert queue.queue.read(4 * ZONE, ZONE) == blocks(4 * ZONE, 2) + bytes((ZONE - 2) * BLOCK)
    assert queue.report(6 * ZONE, 192, extension=64)[1][0].extension.startswith(b"extension")
    assert queue.write(ZONE + 2, blocks(ZONE + 2)).ok
    assert queue.queue.read(ZONE, 3) == blocks(ZONE, 3)


def test_a_broken_zone_stays_broken(serve: Serve, spec: str) -> None:
    queue = zoned(serve, spec + "&error=100%&error-ops=write")
    refused(queue.write(0, blocks(0)), Status.WRITE_FAULT, dnr=None)
    refused(queue.write(ZONE, blocks(0)), Status.WRITE_FAULT, dnr=None)
    queue.must(Action.OFFLINE, ZONE)
    queue = once(serve, spec)
    assert [zone.state for zone in queue.zones()][:3] == [
        State.READ_ONLY,
        State.OFFLINE,
        State.EMPTY,
    ]
    assert queue.queue.host.admin(nvme.format_nvm(1, 0)).ok
    assert {zone.state for zone in queue.zones()} == {State.EMPTY}
    refused(queue.queue.host.admin(nvme.format_nvm(1, 3)), Status.INVALID_FORMAT)
    refused(queue.queue.host.admin(nvme.format_nvm(1, 1)), Status.INVALID_FORMAT)
    assert {zone.state for zone in once(serve, spec).zones()} == {State.EMPTY}


def test_what_a_crash_leaves_above_a_write_pointer_reads_as_zeros(
    serve: Serve, spec: str, tmp_path: Path
) -> None:
    queue = zoned(serve, spec)
    assert queue.write(0, blocks(0, 3)).ok
    serve.close()
    with (tmp_path / "disk").open("r+b") as file:
        for at in (3, CAPACITY - 1, 5 * ZONE, 6 * ZONE - 1):
            file.seek(at * BLOCK)
            file.write(b"x" * BLOCK)
    queue = zoned(serve, spec)
    assert queue.queue.read(0, ZONE) == blocks(0, 3) + bytes((ZONE - 3) * BLOCK)
    assert queue.queue.read(5 * ZONE, ZONE) == bytes(ZONE * BLOCK)


def test_a_reset_gives_the_space_back(serve: Serve, spec: str, tmp_path: Path) -> None:
    queue = zoned(serve, spec)
    for n in range(8):
        assert queue.write(n * ZONE, blocks(0, CAPACITY)).ok
    queue.queue.flush()
    assert (tmp_path / "disk").stat().st_blocks >= 8 * CAPACITY
    queue.must(Action.RESET, every=True)
    assert (tmp_path / "disk").stat().st_blocks < CAPACITY


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("zone-size", "128K"),
        ("zone-capacity", "64K"),
        ("max-open", "3"),
        ("max-active", "9"),
        ("zone-append", "8K"),
        ("block", "4096"),
        ("size", "2M"),
    ],
)
def test_another_geometry_is_refused(serve: Serve, spec: str, name: str, value: str) -> None:
    zoned(serve, spec)
    serve.close()
    with pytest.raises(NativeError, match="says otherwise"):
        serve(options_of(spec, **{name: value}))


def test_what_is_left_out_is_as_it_was(serve: Serve, spec: str) -> None:
    zoned(serve, spec)
    bare = spec.partition("?")[0] + "?zoned=on"
    queue = once(serve, bare)
    assert queue.zone_blocks == ZONE
    assert queue.zone(0).capacity == CAPACITY


def test_zoned_files_are_served_as_such_or_not_at_all(
    serve: Serve, spec: str, tmp_path: Path
) -> None:
    zoned(serve, spec)
    serve.close()
    with pytest.raises(ConfigError, match="add zoned=on"):
        native_options(parse_spec(f"file:{tmp_path}/disk"))
    (tmp_path / "data").write_bytes(b"x" * (1 << 20))
    with pytest.raises(NativeError, match="there is data in it"):
        serve(f"file:{tmp_path}/data?zoned=on&zone-size=64K")
    (tmp_path / "disk.zones").unlink()
    serve(spec)  # nothing was in it


@pytest.mark.parametrize("at", [0, 9, 40, 70, 4096, 4102])
def test_a_damaged_table_is_refused(serve: Serve, spec: str, tmp_path: Path, at: int) -> None:
    assert zoned(serve, spec).write(0, blocks(0, 3)).ok
    serve.close()
    table = tmp_path / "disk.zones"
    content = bytearray(table.read_bytes())
    content[at] ^= 0x10
    table.write_bytes(content)
    with pytest.raises(NativeError, match="restore it"):
        serve(spec)
    table.write_bytes(content[:4097])
    with pytest.raises(NativeError, match="restore it"):
        serve(spec)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mem:1M?zoned=on&zone-size=96K", "power of two"),
        ("mem:1M?zone-size=64K", "add zoned=on"),
        ("null:1M?zoned=on", "no option of null"),
        ("file:x?size=1M&offset=0&zoned=on", "cannot be zoned"),
        ("mem:1M?zoned=on&zone-size=64K&zone-capacity=65K", "more than the zone"),
        ("mem:1M?zoned=on&max-open=3&max-active=2", "max-open"),
        ("mem:1M?zoned=on&max-open=0", "leave the option out"),
        ("mem:1M?zoned=on&zone-append=5K", "power of two"),
        ("mem:1M?zoned=on&zone-extension=32", "write 64"),
    ],
)
def test_specs_that_cannot_be(spec: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_spec(spec)


def test_specs_are_written_as_they_are_read() -> None:
    spec = f"file:disk?size=1M&{OPTIONS}&zone-append=8K"
    assert parse_spec(format_spec(parse_spec(spec))) == parse_spec(spec)
    assert "zone-capacity=48K" in format_spec(parse_spec(spec))


def test_a_size_that_is_not_made_of_zones_is_refused(serve: Serve) -> None:
    with pytest.raises(NativeError, match="whole zones"):
        serve("mem:1M?zoned=on&zone-size=2M")


def test_a_zoned_namespace_keeps_its_size(serve: Serve, spec: str) -> None:
    served = serve(spec)
    for size in (2 << 20, 512 << 10):
        with pytest.raises(NativeError, match="zoned"):
            served.namespaces[0].resize(size)
    assert queue_of(served.connect(enable=False)).report()[0] == 16


# --- kill -9 ---
@pytest.mark.timeout(60 + 4 * CYCLES)
def test_kill_9_loses_nothing_that_was_acknowledged(spec: str, sockets: Path) -> None:
    rng = dice("test_kill_9_loses_nothing_that_was_acknowledged")
    life = ZoneLife(16, ZONE, CAPACITY, rng)
    socket = sockets / "zones"
    for cycle in range(CYCLES):
        dead = threading.Event()
        with script_server(SERVER, spec, str(socket)) as process:
            queue = queue_of(NvmeHost.connect(socket, memory_bytes=8 << 20))

            def kill(
                process: subprocess.Popen[str] = process, dead: threading.Event = dead
            ) -> None:
                process.kill()
                process.wait(END_S)
                dead.set()

            life.check(queue)
            timer = threading.Timer(rng.uniform(0.01, 0.15), kill)
            timer.start()
            with queue.queue.host, contextlib.suppress(PeerError, NativeError):
                life.run(queue, dead.is_set)
            timer.join()
        print(f"cycle {cycle}: {life.acknowledged} acknowledged")  # noqa: T201
    with script_server(SERVER, spec, str(socket)):
        queue = queue_of(NvmeHost.connect(socket, memory_bytes=8 << 20))
        life.check(queue)
        queue.queue.host.close()
    assert life.acknowledged > 10 * CYCLES


def test_the_oracle_finds_what_is_lost_and_what_is_too_much() -> None:
    good = [stamp(5, 0), stamp(5, 1)] + [bytes(BLOCK)] * (ZONE - 2)

    def life(action: Action | None = None) -> ZoneLife:
        life = ZoneLife(1, ZONE, CAPACITY, dice("oracle"))
        life.zones[0] = Past({0: (5, 0), 1: (5, 1)}, appends={6: 1}, action=action)
        return life

    def zone(state: State, wp: int) -> zns.Zone:
        return zns.Zone(2, state, 0, CAPACITY, 0, wp)

    life().check_zone(0, zone(State.CLOSED, 2), good)
    life().check_zone(0, zone(State.CLOSED, 3), good)
    life().check_zone(0, zone(State.CLOSED, 3), [*good[:2], stamp(6, 0), *good[3:]])
    empty = [bytes(BLOCK)] * ZONE
    life(Action.RESET).check_zone(0, zone(State.EMPTY, 0), empty)
    for wrong, content in (
        (zone(State.CLOSED, 1), good),  # acknowledged, and above the write pointer
        (zone(State.CLOSED, 4), good),  # nobody has written so far
        (zone(State.EMPTY, 0), empty),  # nobody has reset it
        (zone(State.FULL, 2**64 - 1), good),
        (zone(State.CLOSED, 2), [good[0], *good[2:], good[2]]),
        (zone(State.CLOSED, 2), [*good[:2], stamp(6, 0), *good[3:]]),
        (zone(State.CLOSED, 2), [good[0], good[1][:256] + bytes(256), *good[2:]]),
    ):
        with pytest.raises(AssertionError):
            life().check_zone(0, wrong, content)
