"""Enable, reset and shutdown (Base 3.5, 3.6), with and without commands in flight."""

from __future__ import annotations

import time

import pytest
from tests_protocol import BLOCK, MAPPED, PAGE, TRAPPED, Serve, dice, pattern, until

from vhostnvme.native.host import PeerTimeout
from vhostnvme.testing import NvmeHost, QueuePair, nvme
from vhostnvme.testing.nvme import Reg, Sqe

CC_GOOD = 6 << 16 | 4 << 20
CC_EN = 1
RDY, CFS, SHST = 1, 2, 0xC
SHN_NORMAL, SHN_ABRUPT = 1 << 14, 2 << 14
OCCURRING, COMPLETE = 4, 8
PCI_EXPRESS, FLR = 0x10, 0x8000


def capability(host: NvmeHost, wanted: int) -> int:
    """Where a PCI capability is in the configuration space."""
    at = host.config_read(0x34, 1)[0]
    while at:
        kind, following = host.config_read(at, 2)
        if kind == wanted:
            return at
        at = following
    raise AssertionError(f"there is no PCI capability {wanted:#x}")


def function_level_reset(host: NvmeHost) -> None:
    control = capability(host, PCI_EXPRESS) + 8
    value = int.from_bytes(host.config_read(control, 2), "little")
    host.config_write(control, (value | FLR).to_bytes(2, "little"))


def disable_register(host: NvmeHost) -> None:
    """CC.EN = 0 behind the back of the host, which keeps its idea of its queues."""
    host.write32(Reg.CC, CC_GOOD)
    host.handle.wait_csts(RDY, 0)


RESETS = {
    "cc": disable_register,
    "device": lambda host: host.reset(),
    "flr": function_level_reset,
}


def test_enable_and_disable_200_times(serve: Serve) -> None:
    host = serve("mem:1M").connect(enable=False)
    for turn in range(200):
        host.enable()
        assert host.csts & (RDY | CFS) == RDY
        if turn % 10 == 0:
            host.create_queue_pair(1 + turn % 64).write(0, bytes([turn]) * BLOCK)
        host.disable()
        assert host.csts == 0


def test_disable_and_enable_without_waiting_for_ready_to_fall(serve: Serve) -> None:
    host = serve("mem:1M?delay=20ms").connect()
    queue = host.create_queue_pair()
    queue.submit(nvme.read(1, 0, 1), host.alloc(PAGE))
    aqa, asq, acq = host.read32(Reg.AQA), host.read64(Reg.ASQ), host.read64(Reg.ACQ)
    for _ in range(20):
        host.write32(Reg.CC, CC_GOOD)
        host.write32(Reg.CC, CC_GOOD | CC_EN)
    until(lambda: host.csts & (RDY | CFS) == RDY, "ready")
    assert [host.read32(Reg.AQA), host.read64(Reg.ASQ), host.read64(Reg.ACQ)] == [aqa, asq, acq]
    host.enable()
    assert host.create_queue_pair().read(0, 1) == bytes(BLOCK)


@pytest.mark.parametrize("how", RESETS)
@pytest.mark.parametrize("doorbells", ["mapped", "trapped"])
def test_reset_with_reads_in_flight_leaves_guest_memory_alone(
    serve: Serve, how: str, doorbells: str
) -> None:
    kind = MAPPED if doorbells == "mapped" else TRAPPED
    served = serve("mem:1M?delay=300ms", **kind)
    host = served.connect(memory_bytes=2 << 20)
    queue = host.create_queue_pair(1, depth=64)
    data = [host.alloc(PAGE) for _ in range(40)]
    for buffer in data:
        buffer.put(b"\xa5" * PAGE)
        queue.submit(nvme.read(1, 0, 8), buffer, doorbell=False)
    queue.ring()
    until(lambda: served.controller.info().inflight == 40, "all fetched")
    before = bytes(host.memory)
    RESETS[how](host)
    until(lambda: host.csts & RDY == 0, "not ready any more")
    assert served.controller.info().inflight == 0
    if how != "cc":  # these may let commands end first, and answer after that
        before = bytes(host.memory)
    time.sleep(0.4)
    assert bytes(host.memory) == before, "something was written after the reset"
    host.enable()
    assert host.create_queue_pair().read(0, 8) == bytes(PAGE)


@pytest.mark.parametrize("how", RESETS)
def test_a_backend_that_never_completes_lets_a_reset_through(serve: Serve, how: str) -> None:
    served = serve("mem:1M?delay=60s", "mem:1M")
    host = served.connect()
    to_ms = (host.read64(Reg.CAP) >> 24 & 0xFF) * 500
    queue = host.create_queue_pair(1, depth=32)
    for _ in range(20):
        queue.submit(nvme.write(1, 0, 8), host.alloc(PAGE))
    until(lambda: served.controller.info().inflight == 20, "all fetched")
    started = time.monotonic()
    RESETS[how](host)
    until(lambda: host.csts & RDY == 0, "not ready any more", to_ms / 1000)
    assert time.monotonic() - started < min(4, to_ms / 1000)
    host.enable()
    data = pattern(1, PAGE)
    again = host.create_queue_pair(1, nsid=2)
    again.write(0, data)
    assert again.read(0, 8) == data


def test_disabling_posts_no_completion(serve: Serve) -> None:
    served = serve("mem:1M?delay=300ms")
    host = served.connect(memory_bytes=2 << 20)
    queue = host.create_queue_pair(1, depth=16)
    for _ in range(3):
        host.submit_async_event()
    for _ in range(10):
        queue.submit(nvme.flush(1))
    until(lambda: served.controller.info().inflight == 10, "all fetched")
    before = bytes(host.memory)
    started = time.monotonic()
    disable_register(host)
    assert time.monotonic() - started < 0.25, "it has waited for the backend"
    time.sleep(0.35)
    assert bytes(host.memory) == before


@pytest.mark.parametrize("how", RESETS)
def test_queues_and_phases_start_over_after_a_reset(serve: Serve, how: str) -> None:
    host = serve("mem:1M").connect()
    for turn in range(8):
        queue = host.create_queue_pair(1, depth=5)
        for i in range(turn):  # so that every turn ends at another place of the ring
            assert queue.command(nvme.flush(1)).sqhd == (i + 1) % 5
        RESETS[how](host)
        until(lambda: host.csts & RDY == 0, "not ready any more")
        host.enable()
        assert host.admin(Sqe(0x0A, cdw10=6)).sqhd == 1
        completion = host.create_sq(1, 4, 1)
        assert completion.code == nvme.Status.CQ_INVALID, "the old queues should be gone"


def test_features_return_to_their_defaults(host: NvmeHost) -> None:
    defaults = {fid: host.get_feature(fid, 1) for fid in (1, 2, 5, 6, 8, 0xA, 0xB)}
    host.set_feature(1, 0x07)
    host.set_feature(4, 400)
    host.set_feature(5, 0x1234)
    host.set_feature(6, 0)
    host.set_feature(8, 0x0102)
    host.set_feature(0xA, 1)
    host.set_feature(0xB, 0)
    host.set_feature(7, 1 << 16 | 1)
    assert host.get_feature(6) == 0 and host.get_feature(0xB) == 0
    host.disable()
    host.enable()
    assert {fid: host.get_feature(fid) for fid in defaults} == defaults
    assert host.get_feature(4) == host.get_feature(4, 1)
    assert host.get_feature(7) == 63 << 16 | 63


def test_parked_event_requests_are_dropped_by_a_reset(host: NvmeHost) -> None:
    for turn in range(20):
        for _ in range(4):
            host.submit_async_event()
        assert host.admin(Sqe(0x0A, cdw10=6)).ok, f"turn {turn}"
        host.disable()
        host.enable()


def test_shadow_doorbells_are_dropped_by_a_reset(serve: Serve) -> None:
    served = serve("mem:1M", **TRAPPED)
    host = served.connect()
    for how in RESETS.values():
        assert host.enable_shadow_doorbells()
        queue = host.create_queue_pair()
        for _ in range(10):
            queue.flush()
        assert served.controller.info().shadow_doorbells
        how(host)
        until(lambda: host.csts & RDY == 0, "not ready any more")
        host.disable()  # so that the host, too, forgets its queues
        assert not served.controller.info().shadow_doorbells
        host.enable()
        host.info = host.handle.info()
        assert not host.info.shadow_doorbells
        plain = host.create_queue_pair()  # rung in the registers: heard only if the shadow is gone
        for _ in range(10):
            plain.flush()
        plain.delete()


@pytest.mark.parametrize("abrupt", [False, True])
def test_shutdown_flushes_every_namespace(serve: Serve, abrupt: bool) -> None:
    served = serve("mem:1M?delay=5ms", "mem:1M", "null:1M")
    host = served.connect()
    host.create_queue_pair().write(0, pattern(1, BLOCK))
    before = [namespace.info().flushes for namespace in served.namespaces]
    host.shutdown(abrupt)
    assert host.csts & SHST == COMPLETE
    after = [namespace.info().flushes for namespace in served.namespaces]
    assert after == [n + 1 for n in before]
    host.enable()
    assert host.csts & (RDY | SHST) == RDY


def test_shutdown_reports_that_it_occurs_and_then_that_it_is_complete(serve: Serve) -> None:
    host = serve("mem:1M?delay=50ms").connect()
    host.write32(Reg.CC, host.read32(Reg.CC) | SHN_NORMAL)
    assert host.csts & SHST == OCCURRING
    host.handle.wait_csts(SHST, COMPLETE)


@pytest.mark.parametrize("shn", [SHN_NORMAL, SHN_ABRUPT])
def test_shutdown_without_enable(serve: Serve, shn: int) -> None:
    served = serve("mem:1M")
    host = served.connect(enable=False)
    host.write32(Reg.CC, CC_GOOD | shn)
    host.handle.wait_csts(SHST, COMPLETE)
    assert served.namespaces[0].info().flushes == 1
    host.enable()
    assert host.csts & (RDY | SHST) == RDY, "the shutdown is over when the controller is enabled"


def test_disable_clears_the_shutdown_status(host: NvmeHost) -> None:
    host.shutdown()
    host.disable()
    assert host.csts == 0
    host.enable()
    host.shutdown()
    assert host.csts & SHST == COMPLETE


def test_a_shutdown_that_hangs_lets_a_reset_through(serve: Serve) -> None:
    served = serve("mem:1M?delay=60s")
    host = served.connect()
    host.write32(Reg.CC, host.read32(Reg.CC) | SHN_NORMAL)
    assert host.csts & SHST == OCCURRING
    host.disable()
    assert host.csts == 0
    host.enable()
    assert host.identify_controller()
    host.close()
    started = time.monotonic()
    served.close()  # and the controller ends, too
    assert time.monotonic() - started < 4


def test_commands_that_were_written_before_a_reset_are_not_executed_after_it(serve: Serve) -> None:
    served = serve("mem:1M", **MAPPED)
    host = served.connect()
    queue = host.create_queue_pair(1, depth=16)
    for _ in range(5):
        queue.submit(nvme.flush(1), doorbell=False)
    flushes = served.namespaces[0].info().flushes
    disable_register(host)
    queue.ring()
    time.sleep(0.02)
    host.enable()
    assert host.create_queue_pair(1, depth=16).poll() == []
    time.sleep(0.02)
    assert served.namespaces[0].info().flushes == flushes


def test_resets_at_random_moments(serve: Serve) -> None:
    rng = dice("test_resets_at_random_moments")
    served = serve("mem:4M?delay=1ms")
    host = served.connect()
    for turn in range(60):
        queue: QueuePair = host.create_queue_pair(1, depth=32)
        buffer = host.alloc(PAGE)
        for _ in range(rng.randrange(31)):
            kind = rng.choice([nvme.read(1, rng.randrange(1000), 8), nvme.flush(1)])
            queue.submit(kind, buffer if kind.opcode == nvme.Io.READ else None)
        time.sleep(rng.random() * 0.002)
        RESETS[rng.choice(sorted(RESETS))](host)
        until(lambda: host.csts & RDY == 0, f"turn {turn}: not ready any more")
        buffer.free()
        host.enable()
    queue = host.create_queue_pair(1)
    assert queue.read(0, 8) == bytes(PAGE)
    assert served.controller.info().inflight == 0


def test_a_controller_that_is_not_ready_does_not_answer(serve: Serve) -> None:
    host = serve("mem:1M").connect()
    disable_register(host)
    cid = host.submit(0, Sqe(0x0A, cdw10=6))
    with pytest.raises(PeerTimeout):
        host.wait(0, cid, 0.05)
