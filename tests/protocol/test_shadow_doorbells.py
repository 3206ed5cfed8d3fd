"""Shadow doorbells (Base 5.8): what wakes a sleeping controller, and what must not."""

from __future__ import annotations

import time

from tests_protocol import BLOCK, TRAPPED, Serve, pattern

from vhostnvme.testing import nvme

NR_COMMANDS = 40
IDLE_S = 0.003  # far longer than a reactor spins


def test_a_command_at_depth_1_wakes_a_sleeping_controller_once(serve: Serve) -> None:
    """The host's head doorbell rang too: two traps and two wake-ups for every command."""
    served = serve("mem:1M", **TRAPPED)
    host = served.connect()
    assert host.enable_shadow_doorbells()
    queue = host.create_queue_pair(1, depth=64)
    data = pattern(1, BLOCK)
    queue.write(0, data)
    before = served.controller.info().doorbell_writes
    for _ in range(NR_COMMANDS):
        time.sleep(IDLE_S)
        assert queue.read(0, 1) == data
    rung = served.controller.info().doorbell_writes - before
    # One for each command; the head passes the index behind it once in a turn of the ring.
    assert NR_COMMANDS <= rung <= NR_COMMANDS + 2


def test_a_controller_asleep_on_a_full_completion_queue_is_woken_by_the_head(serve: Serve) -> None:
    served = serve("mem:1M", **TRAPPED)
    host = served.connect()
    assert host.enable_shadow_doorbells()
    assert host.create_cq(1, 4).ok  # room for three completions
    assert host.create_sq(1, 64, 1).ok
    nr = 50
    for _ in range(nr):
        host.submit(1, nvme.flush(1), doorbell=False)
    host.handle.ring(1)
    time.sleep(IDLE_S)
    done = host.poll(1)
    assert len(done) == 3
    deadline = time.monotonic() + 5
    while len(done) < nr and time.monotonic() < deadline:
        time.sleep(IDLE_S)  # it sleeps with the queue full; only our head can wake it
        done += host.poll(1)
    assert len(done) == nr and all(each.ok for each in done)
