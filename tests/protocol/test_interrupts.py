"""Interrupts: MSI-X as eventfds, one a batch; INTx as a level; none lost (PCIe Transport 3.5)."""

from __future__ import annotations

import os
import select
import time

import pytest
from tests_protocol import MAPPED, TRAPPED, Serve, Served, dice, until

from vhostnvme.native.host import PeerTimeout
from vhostnvme.testing import NvmeHost, nvme
from vhostnvme.testing.nvme import Reg

INTX, MSIX = 0, 2
DATA_NONE, DATA_EVENTFD, UNMASK, TRIGGER = 1, 4, 16, 32
BURSTS = 10_000


def fired(host: NvmeHost, vector: int) -> bool:
    return bool(select.select([host.handle.irq_fd(vector)], [], [], 0)[0])


def test_a_batch_raises_one_interrupt(serve: Serve) -> None:
    served = serve("mem:1M?delay=5ms")
    host = served.connect()
    host.enable_interrupts(4)
    queue = host.create_queue_pair(1, depth=64, vector=3, interrupts=True)
    cids = [queue.submit(nvme.flush(1), doorbell=False) for _ in range(60)]
    before = served.controller.info().interrupts
    queue.ring()
    assert host.wait_interrupt(3) >= 1
    assert all(queue.wait(cid).ok for cid in cids)
    assert served.controller.info().interrupts - before <= 6, "one a batch, not one a completion"


def test_each_queue_has_its_vector(serve: Serve) -> None:
    host = serve("mem:1M").connect()
    host.enable_interrupts(65)
    pairs = [host.create_queue_pair(q, depth=8, vector=65 - q, interrupts=True) for q in (1, 2, 64)]
    for pair in pairs:
        until(lambda: not fired(host, 0) or bool(host.wait_interrupt(0)), "the admin queue's")
        cid = pair.submit(nvme.flush(1))
        assert host.wait_interrupt(65 - pair.qid) == 1
        others = {65 - other.qid for other in pairs} - {65 - pair.qid}
        assert not any(fired(host, vector) for vector in others)
        assert pair.wait(cid).ok


def test_the_admin_queue_has_vector_0(serve: Serve) -> None:
    host = serve("mem:1M").connect()
    host.enable_interrupts(2)
    assert host.admin(nvme.Sqe(0x0A, cdw10=6)).ok
    assert host.wait_interrupt(0) >= 1
    assert not fired(host, 1)


def test_a_queue_without_interrupts_raises_none(serve: Serve) -> None:
    host = serve("mem:1M").connect()
    host.enable_interrupts(3)
    queue = host.create_queue_pair(1, vector=2, interrupts=False)
    for _ in range(10):
        queue.flush()
    assert not fired(host, 2)


def test_a_queue_whose_vector_has_no_eventfd_simply_works(serve: Serve) -> None:
    host = serve("mem:1M").connect()
    queue = host.create_queue_pair(1, vector=2, interrupts=True)
    for _ in range(10):
        queue.flush()
    host.enable_interrupts(2)  # still without vector 2
    for _ in range(10):
        queue.flush()


def test_interrupt_masks_do_nothing_under_msix(serve: Serve) -> None:
    host = serve("mem:1M").connect()
    host.enable_interrupts(2)
    queue = host.create_queue_pair(1, vector=1, interrupts=True)
    host.write32(Reg.INTMS, 0xFFFFFFFF)
    cid = queue.submit(nvme.flush(1))
    assert host.wait_interrupt(1) == 1
    assert queue.wait(cid).ok


def test_vectors_can_be_taken_away_one_by_one(serve: Serve) -> None:
    host = serve("mem:1M").connect()
    host.enable_interrupts(4)
    first = host.create_queue_pair(1, vector=1, interrupts=True)
    third = host.create_queue_pair(3, vector=3, interrupts=True)
    # SET_IRQS with an eventfd of -1 is no descriptor at all: QEMU masks a vector so
    host.handle.irqs_set(MSIX, DATA_EVENTFD | TRIGGER, 1, 1)
    first.flush()
    third.flush()
    assert not fired(host, 1)
    assert host.wait_interrupt(3) == 1
    host.handle.irqs_set(MSIX, DATA_EVENTFD | TRIGGER, 1, 1, [host.handle.irq_fd(1)])
    first.flush()
    assert host.wait_interrupt(1) == 1


def test_interrupts_end_with_their_eventfds(serve: Serve) -> None:
    host = serve("mem:1M").connect()
    for _ in range(30):
        host.enable_interrupts(65)
        queue = host.create_queue_pair(1, vector=64, interrupts=True)
        cid = queue.submit(nvme.flush(1))
        assert host.wait_interrupt(64) == 1
        assert queue.wait(cid).ok
        host.handle.irqs_disable(MSIX)
        queue.flush()
        queue.delete()


# --- INTx ---


class Line:
    """INTx as a VM sees it: an eventfd, masked by the client until it unmasks."""

    def __init__(self, host: NvmeHost) -> None:
        self.host = host
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        host.handle.irqs_set(INTX, DATA_EVENTFD | TRIGGER, 0, 1, [self.fd])

    def up(self, timeout: float = 2.0) -> bool:
        if not select.select([self.fd], [], [], timeout)[0]:
            return False
        os.eventfd_read(self.fd)
        return True

    def unmask(self) -> None:
        self.host.handle.irqs_set(INTX, DATA_NONE | UNMASK, 0, 1)

    def close(self) -> None:
        os.close(self.fd)


def consume(host: NvmeHost, qid: int) -> None:
    assert host.wait_any(qid).ok


def test_intx_is_a_level(serve: Serve) -> None:
    host = serve("mem:1M").connect()
    line = Line(host)
    host.create_queue_pair(1, vector=0, interrupts=True)
    while line.up(0.01):
        pass
    host.submit(1, nvme.flush(1))
    assert line.up()
    for _ in range(3):  # nothing was consumed: the level is still up
        line.unmask()
        assert line.up()
    consume(host, 1)
    assert host.read32(Reg.VS)  # posted doorbells have arrived before this
    line.unmask()
    assert not line.up(0.02), "the level is down"
    host.submit(1, nvme.flush(1))
    assert line.up()
    consume(host, 1)
    line.close()


def test_intx_obeys_the_interrupt_mask(serve: Serve) -> None:
    host = serve("mem:1M").connect()
    line = Line(host)
    host.create_queue_pair(1, vector=0, interrupts=True)
    while line.up(0.01):
        pass
    host.write32(Reg.INTMS, 1)
    host.submit(1, nvme.flush(1))
    assert not line.up(0.02)
    line.unmask()
    assert not line.up(0.02)
    host.write32(Reg.INTMC, 1)
    assert line.up()
    consume(host, 1)
    line.close()


# --- none is lost ---


@pytest.mark.parametrize("kind", [MAPPED, TRAPPED])
def test_no_interrupt_is_lost_in_random_bursts(serve: Serve, kind: dict[str, object]) -> None:
    """A host that looks at its queue only after an interrupt, as a driver does."""
    host = serve("null:1M", **kind).connect()
    host.enable_interrupts(2)
    depth = 64
    queue = host.create_queue_pair(1, depth=depth, vector=1, interrupts=True)
    rng = dice("test_no_interrupt_is_lost_in_random_bursts")
    flush = bytes(nvme.flush(1))
    outstanding = 0
    for burst in range(BURSTS // 2):
        size = min(rng.choice([1, 1, 2, 3, 8, 31]), depth - 1 - outstanding)
        for _ in range(size):
            host.handle.submit(1, flush, False, False)
        queue.ring()
        outstanding += size
        least = rng.choice([0, outstanding, outstanding // 2])
        while outstanding > least:
            try:
                host.wait_interrupt(1, 5.0)
            except PeerTimeout:
                raise AssertionError(f"lost in burst {burst}: {outstanding} left") from None
            outstanding -= len(host.handle.poll(1))
    while outstanding:
        host.wait_interrupt(1, 5.0)
        outstanding -= len(host.handle.poll(1))


# --- no wake-up is lost, and sleep is sleep ---


@pytest.mark.parametrize("shadow", [False, True])
def test_no_wake_up_is_lost_in_random_cycles(serve: Serve, shadow: bool) -> None:
    """Bursts with naps between them that are about as long as the server stays awake."""
    served: Served = serve("null:1M", **TRAPPED)
    host = served.connect()
    if shadow:
        assert host.enable_shadow_doorbells()
    queue = host.create_queue_pair(1, depth=32)
    rng = dice("test_no_wake_up_is_lost_in_random_cycles")
    flush = bytes(nvme.flush(1))
    before = served.runtime.reactor_stats()
    for cycle in range(BURSTS):
        size = rng.choice([1, 1, 1, 2, 5, 20])
        for _ in range(size):
            host.handle.submit(1, flush, False, rng.random() < 0.5)
        queue.ring()
        for _ in range(size):
            try:
                host.handle.wait(1, 5_000_000)
            except PeerTimeout:
                raise AssertionError(f"lost in cycle {cycle}") from None
        pause = rng.random()
        if pause < 0.5:
            deadline = time.perf_counter_ns() + rng.randrange(60_000)
            while time.perf_counter_ns() < deadline:
                pass
        elif pause < 0.55:
            time.sleep(0.0002)
    sleeps = served.runtime.reactor_stats().sleeps - before.sleeps
    assert sleeps > 100, "the server never slept: this has tested nothing"
    if shadow:
        assert host.handle.info().nr_doorbell_messages < 3 * BURSTS


def test_an_idle_server_sleeps(serve: Serve) -> None:
    """With a host attached and ready, queues and all: under 1 % of a core, few wake-ups."""
    served = serve("mem:1M", **TRAPPED)
    host = served.connect()
    host.enable_shadow_doorbells()
    queue = host.create_queue_pair(1)
    queue.flush()
    time.sleep(0.05)
    before = served.runtime.reactor_stats()
    time.sleep(2.0)
    after = served.runtime.reactor_stats()
    assert after.cpu_ns - before.cpu_ns < 0.01 * 2e9
    assert after.sleeps - before.sleeps < 20
    queue.flush()


def test_a_host_that_cannot_wake_costs_little_when_idle(serve: Serve) -> None:
    """Mapped doorbells must be looked at: once a millisecond at the most."""
    served = serve("mem:1M", **MAPPED)
    host = served.connect()
    queue = host.create_queue_pair(1)
    queue.flush()
    time.sleep(0.05)
    before = served.runtime.reactor_stats()
    time.sleep(1.0)
    after = served.runtime.reactor_stats()
    assert after.sleeps - before.sleeps < 1500
    assert after.cpu_ns - before.cpu_ns < 0.2e9
    queue.flush()


def test_a_server_without_a_client_sleeps(serve: Serve) -> None:
    served = serve("mem:1M")
    served.connect().close()
    time.sleep(0.05)
    before = served.runtime.reactor_stats()
    time.sleep(0.5)
    after = served.runtime.reactor_stats()
    assert after.sleeps - before.sleeps < 10
