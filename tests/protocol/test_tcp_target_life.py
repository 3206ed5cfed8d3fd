"""Keep-alive, ends in the middle, limits and many connections at our target.

What expires or is cut is drained: no command of a host that has gone is executed later.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_protocol import dice, open_fds, pattern, resident_bytes, until
from tests_tcp import OTHER_HOSTNQN, TcpServed, failed

from vhostnvme.native import Runtime, TargetLimits
from vhostnvme.testing import nvme
from vhostnvme.testing.nvme import Reg, Status
from vhostnvme.testing.nvmetcp_fabrics import cross_reset
from vhostnvme.testing.nvmetcp_host import CC_ENABLE, CC_SHUTDOWN, TcpHost
from vhostnvme.testing.nvmetcp_pdu import Command, H2CTerm, IcReq
from vhostnvme.testing.nvmetcp_queue import Ended
from vhostnvme.testing.nvmetcp_wire import Crooked, encode

SLOW = 2
KATO = 0x0F
MAX_CONNECTIONS_BYTES = 1 << 20  # of one connection with a small queue, as docs/limits say


@pytest.fixture(scope="module")
def served(runtime: Runtime) -> Iterator[TcpServed]:
    target = TcpServed(runtime, ["mem:8M", "mem:1M?delay=60s", "mem:1M?delay=1ms"])
    yield target
    target.close()


@pytest.fixture(autouse=True)
def nobody_is_left(served: TcpServed) -> Iterator[None]:
    yield
    served.hang_up()
    served.healthy()
    until(lambda: served.target.info().controllers == 0, "all controllers have gone")
    until(lambda: served.target.info().connections == 0, "all connections have gone")


# --- Keep alive (Base 3.9) ---


def test_no_keep_alive_timeout_is_no_timer(served: TcpServed) -> None:
    with served.connect(kato_ms=0) as host:
        assert host.get_feature(KATO) == 0


@pytest.mark.parametrize(("asked", "got"), [(1, 100), (100, 100), (10_001, 10_100)])
def test_the_timeout_is_rounded_up(served: TcpServed, asked: int, got: int) -> None:
    with served.connect(kato_ms=asked) as host:
        assert host.get_feature(KATO) == got


def test_expiry_drains_and_closes_every_queue(served: TcpServed) -> None:
    """The write under way when the host falls silent is over when its connections are."""
    host = served.connect(kato_ms=200)
    queues = [host.create_queue(qid) for qid in (1, 2)]
    queues[0].submit_write(0, bytes(512), SLOW)
    queues[1].hold_data = True
    queues[1].submit_write(0, bytes(65536), in_capsule=False)
    for queue in [host.admin, *queues]:
        queue.ended()
    until(lambda: served.target.info().controllers == 0, "drained")
    with served.connect() as after:
        assert after.create_queue(1).read(0, 1, 1) is not None


def test_any_command_keeps_it_alive(served: TcpServed) -> None:
    """Keep-alives do, and so does other traffic (CTRATT.TBKAS); nothing at all does not."""
    with served.connect(kato_ms=700) as dutiful, served.connect(kato_ms=700) as busy:
        queues = [host.create_queue(1) for host in (dutiful, busy)]
        end = time.monotonic() + 1.6
        while time.monotonic() < end:
            dutiful.keep_alive()
            queues[1].read(0, 1)
            time.sleep(0.03)
        assert all(queue.read(0, 1) for queue in queues)
        for queue in queues:
            queue.ended()


def test_bytes_that_are_no_command_keep_nothing_alive(served: TcpServed) -> None:
    """A command of which a byte comes now and then has not come."""
    with served.connect(kato_ms=300) as host:
        queue = host.create_queue(1)
        with pytest.raises(Ended):
            queue.drip(Command(queue.point(nvme.flush(1), 0, False)), 0.03)
        host.admin.ended()


def test_the_timeout_is_set_later(served: TcpServed) -> None:
    with served.connect() as host:
        host.set_feature(KATO, 150)
        assert host.get_feature(KATO) == 200
        host.admin.ended()
    with served.connect(kato_ms=100) as host:
        try:
            host.set_feature(KATO, 0)
        except Ended:
            return  # the machine was too slow for this test
        assert host.admin.quiet(0.4), "keep-alive is off"


# --- Ends in the middle ---


def test_cve_2024_53169_keep_alive_runs_out_while_queues_are_torn_down(served: TcpServed) -> None:
    """A kernel crashed when its keep-alive met a controller that was going away."""
    rng = dice("keep-alive against teardown")
    for _ in range(12):
        host = served.connect(kato_ms=100)
        queues = [host.create_queue(qid) for qid in (1, 2)]
        for queue in queues:
            queue.submit_read(0, 8, 3)
        time.sleep(rng.uniform(0.05, 0.13))
        for queue in rng.sample([host.admin, *queues], rng.randrange(4)):
            queue.reset() if rng.random() < 0.5 else queue.close()
        if rng.random() < 0.5:
            host.close()


@pytest.mark.parametrize("how", ["close", "reset", "term", "lie", "disable", "shutdown"])
def test_teardown_while_commands_are_under_way(served: TcpServed, how: str) -> None:
    """Commands in the backend, waiting for data, and half received: none is executed later."""
    host = served.connect()
    queue = host.create_queue(1, 64)
    queue.write(0, bytes(65536))
    queue.hold_data = True
    for _ in range(8):
        queue.submit_read(0, 8, SLOW)
        queue.submit_write(0, b"\xee" * 4096, SLOW)
        cid = queue.submit_write(0, b"\xee" * 65536, in_capsule=False)
    while not any(r2t.cid == cid for r2t in queue.r2ts):
        queue.step()
    for r2t in queue.r2ts:
        queue.send(queue.h2c_data(r2t, 4096)[0])
    if how == "close":
        queue.close()
    elif how == "reset":
        queue.reset()
    elif how == "term":
        queue.send(H2CTerm(fes=2))
    elif how == "lie":
        queue.send(Crooked(IcReq(), hlen=3))
    elif how == "disable":
        host.disable()
    else:
        host.property_set(Reg.CC, CC_ENABLE | CC_SHUTDOWN)
    host.close()
    until(lambda: served.target.info().controllers == 0, "drained")
    with served.connect() as after:
        reader = after.create_queue(1)
        assert reader.read(0, 128) == bytes(65536)


def test_a_reset_of_the_controller_ends_its_io_queues(served: TcpServed) -> None:
    with served.connect() as host:
        queue = host.create_queue(1)
        queue.submit_read(0, 8, SLOW)
        host.disable()
        queue.ended()
        host.enable()
        assert host.create_queue(1).read(0, 1)


def test_the_admin_connection_takes_its_queues_with_it(served: TcpServed) -> None:
    host = served.connect()
    queue = host.create_queue(1)
    host.admin.close()
    queue.ended()


def test_connections_come_and_go_at_random(served: TcpServed) -> None:
    rng = dice("come and go")
    fds = None
    for turn in range(60):
        host = served.connect(digest=rng.randrange(4), no_sq_flow=rng.random() < 0.5)
        queues = [host.create_queue(qid, 16) for qid in range(1, rng.randrange(2, 5))]
        for queue in queues:
            for _ in range(rng.randrange(8)):
                nsid = rng.choice([1, SLOW, 3])
                if rng.random() < 0.5:
                    queue.submit_read(0, rng.choice([1, 8, 256]), nsid)
                else:
                    queue.submit_write(0, bytes(rng.choice([512, 65536])), nsid)
        for queue in rng.sample(host.queues, rng.randrange(len(host.queues) + 1)):
            queue.reset() if rng.random() < 0.5 else queue.close()
        host.close()
        if turn == 20:
            until(lambda: served.target.info().connections == 0, "gone")
            fds = open_fds()
    until(lambda: served.target.info().connections == 0, "gone")
    assert fds is not None and open_fds() <= fds


# --- Cross-controller reset (Base 2.2) ---


def instance(host: TcpHost) -> tuple[int, int, int]:
    identity = host.identify_controller()
    assert identity.instance, "CIU"
    return host.cntlid, identity.instance, identity.instance_random


def test_a_cross_controller_reset_ends_and_drains(served: TcpServed) -> None:
    """When it is done, no write of the impacted controller is executed any more."""
    with served.connect() as old, served.connect() as new:
        queue = old.create_queue(1)
        reader = new.create_queue(1)
        reader.write(0, bytes(65536))
        queue.hold_data = True
        cid = queue.submit_write(0, b"\xee" * 65536, in_capsule=False)
        while not queue.r2ts:
            queue.step()
        queue.submit_write(0, b"\xee" * 512, SLOW)
        answer = new.admin.command(cross_reset(*instance(old))).completion
        assert answer.ok and answer.result & 1
        try:
            queue.send(*queue.h2c_data(next(r2t for r2t in queue.r2ts if r2t.cid == cid)))
        except Ended:
            pass
        queue.ended()
        assert reader.read(0, 128) == bytes(65536)


def test_a_controller_that_has_gone_is_done_with(served: TcpServed) -> None:
    with served.connect() as new:
        with served.connect() as old:
            gone = instance(old)
        until(lambda: served.target.info().controllers == 1, "gone")
        answer = new.admin.command(cross_reset(*gone)).completion
        assert answer.ok and answer.result & 1


def test_a_cross_controller_reset_is_for_the_same_host(served: TcpServed) -> None:
    with served.connect() as mine, served.connect(hostnqn=OTHER_HOSTNQN) as other:
        queue = other.create_queue(1)
        cntlid, ciu, cirn = instance(other)
        mine.admin.command(cross_reset(cntlid, ciu, cirn))
        other.keep_alive()
        assert queue.read(0, 1)
        cntlid, ciu, cirn = instance(mine)
        mine.admin.command(cross_reset(cntlid, ciu ^ 1, cirn))
        mine.admin.command(cross_reset(cntlid, ciu, cirn ^ 1))
        mine.keep_alive()


# --- Limits ---


def test_half_open_connections_make_room(runtime: Runtime) -> None:
    """Four may be waiting for their Connect; the fifth takes the place of the oldest."""
    served = TcpServed(runtime, limits=TargetLimits(half_open=4))
    queues = [served.ready() for _ in range(4)]
    extra = [served.ready() for _ in range(2)]
    for queue in queues[:2]:
        queue.ended()
    assert queues[3].connect(served.data()).ok
    assert extra[1].connect(served.data()).ok
    served.close()


def test_a_handshake_has_its_time(runtime: Runtime) -> None:
    """Silence, a byte now and then, or everything but the last byte: it ends all the same."""
    served = TcpServed(runtime, limits=TargetLimits(handshake_ms=300))
    silent, before, half, slow = served.raw(), served.ready(), served.ready(), served.raw()
    half.send(encode(Command(nvme.flush(1)))[:-1])
    with pytest.raises(Ended):
        for byte in encode(IcReq()):
            slow.send(bytes([byte]))
            time.sleep(0.02)
    for queue in (silent, before, half):
        queue.ended()
    until(lambda: served.target.info().connections == 0, "all are gone")
    with served.connect() as host:
        assert host.admin.quiet(0.5), "who has connected has all the time"
    served.close()


def test_connections_have_a_limit(runtime: Runtime) -> None:
    served = TcpServed(runtime, limits=TargetLimits(connections=5))
    host = served.connect()
    for qid in range(1, 5):
        host.create_queue(qid)
    with pytest.raises(Ended):
        served.ready()
    assert served.target.info().connections <= 5
    host.queues[-1].close()
    until(lambda: served.target.info().connections == 4, "room")
    assert host.create_queue(5).read(0, 1)
    served.close()


def test_a_thousand_connections(runtime: Runtime) -> None:
    """All serve, take no more memory than is stated, and give everything back."""
    served = TcpServed(runtime, limits=TargetLimits(connections=1024, controllers=256))
    served.healthy()
    until(lambda: served.target.info().connections == 0, "none")
    fds, resident = open_fds(), resident_bytes()
    hosts = [served.connect() for _ in range(100)]
    for host in hosts:
        for qid in range(1, 10):
            host.create_queue(qid, 16)
    info = served.target.info()
    assert info.connections == 1000 and info.controllers == 100
    for host in hosts:
        for queue in host.queues[1:]:
            queue.submit_read(0, 8)  # type: ignore[attr-defined]
    for host in hosts:
        for queue in host.queues[1:]:
            queue.step()
            queue.step()
    grown = resident_bytes() - resident
    assert grown <= served.target.info().resident_bytes_max
    for host in hosts:
        host.close()
    until(lambda: served.target.info().connections == 0, "all gone", 20)
    assert open_fds() <= fds
    served.healthy()
    served.close()


def test_one_that_reads_a_byte_a_second_hurts_nobody(served: TcpServed) -> None:
    """A host that does not fetch its answers: others go on, and it can be ended."""
    with served.connect() as slow, served.connect() as quick:
        stuck = slow.create_queue(1, 128)
        stuck.socket.setsockopt(1, 8, 4096)  # SO_RCVBUF
        for _ in range(127):
            stuck.submit_read(0, 256)
        queue = quick.create_queue(1)
        for _ in range(50):
            assert queue.write(8, pattern(1, 4096))
        assert stuck.socket.recv(1)
        slow.keep_alive()


def test_a_queue_may_be_created_again_and_again(served: TcpServed) -> None:
    with served.connect() as host:
        for _ in range(40):
            queue, completion = host.try_queue(1, 4)
            while completion.code == Status.COMMAND_SEQUENCE:  # its end is not noticed yet
                queue.close()
                queue, completion = host.try_queue(1, 4)
            assert completion.ok
            queue.submit_read(0, 1, 3)
            queue.close()


def test_the_namespaces_error_is_the_hosts(runtime: Runtime) -> None:
    served = TcpServed(runtime, ["mem:1M?error=100%&error-ops=write&error-errno=EIO"])
    with served.connect() as host:
        queue = host.create_queue(1)
        completion = queue.command(nvme.write(1, 0, 1), bytes(512)).completion
        assert completion.code == Status.WRITE_FAULT
        page = host.log_page(1, 64)
        assert struct.unpack_from("<Q", page)[0] > 0
        assert queue.read(0, 1) == bytes(512)
    assert served.target.info().errors > 0
    served.close()


def test_what_is_counted(served: TcpServed) -> None:
    before = served.target.info()
    with served.connect() as host:
        queue = host.create_queue(1)
        queue.write(0, bytes(8192))
        queue.read(0, 8)
        info = served.target.info()
        assert (info.connections, info.controllers, info.half_open) == (2, 1, 0)
    assert info.write_bytes - before.write_bytes == 8192
    assert info.read_bytes - before.read_bytes == 4096
    assert info.accepted - before.accepted == 2
    assert info.commands > before.commands


def test_the_first_command_too_many_of_an_admin_queue(served: TcpServed) -> None:
    with served.connect(entries=32) as host:
        limit = host.identify_controller().raw[259] + 1
        host.expect_events(limit)
        failed(host.admin.command(nvme.async_event()).completion, 0x105)
        for _ in range(60):
            host.admin.submit(nvme.async_event())
        try:
            while True:
                host.admin.step(0.05)
        except Exception as end:  # too many for the queue, or refused one by one
            assert isinstance(end, Ended | TimeoutError), end


def test_sockets_are_no_files_of_others(served: TcpServed) -> None:
    """Close-on-exec: children do not inherit the target's connections."""
    with served.connect():
        for path in Path("/proc/self/fdinfo").iterdir():
            try:
                link = str((Path("/proc/self/fd") / path.name).readlink())
                flags = next(line for line in path.read_text().splitlines() if "flags" in line)
            except OSError:
                continue
            if link.startswith("socket:"):
                assert int(flags.split()[1], 8) & 0o2000000, link


def test_a_termination_request_of_every_length(served: TcpServed) -> None:
    for length in (0, 1, 8, 72, 127, 128):
        queue = served.queue()
        queue.send(H2CTerm(fes=1, info=2, data=bytes(length)))
        assert queue.ended() is None
