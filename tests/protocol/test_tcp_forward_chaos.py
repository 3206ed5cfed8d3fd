"""Our forwarder and a target that does all of it at once, at random: held, cut, late, lying.

An oracle knows which generation every block must hold. Writes that the target has in hand when a
connection is lost are applied at some later moment, as ghosts, unless a cross-controller reset has
forbidden it: so a write that the forwarder sends too early is undone by an older one, and found.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests_forward import forward_spec
from tests_protocol import Serve, dice
from tests_stamps import Load, Oracle

from vhostnvme.testing.nvme import Io
from vhostnvme.testing.nvmetcp_fabrics import Ana
from vhostnvme.testing.nvmetcp_pdu import R2T, C2HData, Pdu, Response
from vhostnvme.testing.nvmetcp_rules import Request, Sent, io
from vhostnvme.testing.nvmetcp_target import ScriptedTarget
from vhostnvme.testing.nvmetcp_wire import Crooked

SECONDS = 1.5
CUT_EVERY_S = 0.05  # on average
LATE_S = 0.4  # a command of a lost connection is executed up to so long after
BLOCKS = 256


class Chaos:
    """Takes a step whenever it is asked to; `over` ends the load."""

    def __init__(self, target: ScriptedTarget, rng: random.Random, *, stops: bool) -> None:
        self.target = target
        self.rng = rng
        self.stops = stops
        self.held: list[Request] = []
        self.ghosts = self.cuts = self.lies = 0
        self._until = time.monotonic() + SECONDS
        self._next_cut = time.monotonic() + CUT_EVERY_S
        self._late: list[tuple[float, Request]] = []
        self._stopped: list[tuple[float, int]] = []
        # Rules fire on the target's threads: each has a generator of its own.
        hold, lie = random.Random(rng.random()), random.Random(rng.random())
        target.rules.on_command(
            lambda request: io()(request) and hold.random() < 0.15, self._hold, None
        )
        target.rules.on_send(
            lambda session, pdu: session.qid > 0 and lie.random() < 0.002,
            lambda session, pdu: self._lie(pdu, lie),
            None,
        )

    def _hold(self, request: Request) -> None:
        self.held.append(request)

    def _lie(self, pdu: Pdu, rng: random.Random) -> Sent:
        self.lies += 1
        bent: list[Sent] = [Crooked(pdu, hlen=rng.randrange(256)), Crooked(pdu, plen=1), bytes(64)]
        if isinstance(pdu, C2HData | R2T):
            bent += [replace(pdu, offset=rng.randrange(1 << 32)), replace(pdu, cid=0xFFFF)]
        if isinstance(pdu, Response):
            bent.append(replace(pdu, cid=pdu.cid ^ 0x100))
        return rng.choice(bent)

    def over(self) -> bool:
        now = time.monotonic()
        if now >= self._until:
            self.end()
            return True
        for due, port in list(self._stopped):
            if now >= due:
                self.target.ports[port].start()
                self._stopped.remove((due, port))
        if now >= self._next_cut:
            self._next_cut = now + self.rng.expovariate(1 / CUT_EVERY_S)
            self._cut()
        if len(self.held) > self.rng.randrange(1, 12):
            self._finish(self.held.pop(self.rng.randrange(len(self.held))))
        while self._late and self._late[0][0] <= now:
            self._haunt(self._late.pop(0)[1])
        return False

    def _finish(self, request: Request) -> None:
        if not request.session.over.is_set():
            request.finish()
        elif request.sqe.opcode != Io.READ:
            due = time.monotonic() + self.rng.uniform(0, LATE_S)
            self._late.append((due, request))
            self._late.sort(key=lambda late: late[0])

    def _haunt(self, request: Request) -> None:
        self.ghosts += request.apply() is not None

    def _cut(self) -> None:
        self.cuts += 1
        port = self.rng.randrange(len(self.target.ports))
        if self.stops and not self._stopped and self.rng.random() < 0.3:
            self.target.ports[port].stop()
            self._stopped.append((time.monotonic() + self.rng.uniform(0.0, 0.4), port))
        else:
            self.target.cut(port, reset=self.rng.random() < 0.5)

    def end(self) -> None:
        """The target behaves from now on; ghosts that are left come now."""
        self.target.rules.clear()
        for _, port in self._stopped:
            self.target.ports[port].start()
        for port in range(len(self.target.ports)):
            self.target.set_ana(port, Ana.OPTIMIZED)
        while self.held:
            self._finish(self.held.pop())
        for _, request in self._late:
            self._haunt(request)


@pytest.fixture
def target() -> Iterator[ScriptedTarget]:
    with ScriptedTarget(ports=2) as running:
        running.namespace.resize(BLOCKS * 512)
        yield running


@pytest.mark.parametrize("paths", [(0,), (0, 1)])
@pytest.mark.parametrize("bound", ["30s", "100ms"])
def test_no_write_is_lost_or_undone(
    serve: Serve, target: ScriptedTarget, paths: tuple[int, ...], bound: str
) -> None:
    """Inside of reconnect_ms nothing fails; outside of it a failed write may be there, or not."""
    rng = dice(f"chaos over {len(paths)} paths, {bound}")
    served = serve(forward_spec(target, *paths, reconnect=bound, kato="2s"))
    load = Load(
        served.connect(enable=False),
        Oracle(BLOCKS),
        rng,
        reads=0.3,
        may_fail=bound == "100ms",
    )
    load.start()
    chaos = Chaos(target, rng, stops=True)
    load.run(chaos.over)
    end = time.monotonic() + 30
    while load.oracle.inflight:
        load.poll()
        assert time.monotonic() < end, f"{len(load.oracle.inflight)} commands never complete"
    load.oracle.check(bytes(target.namespace.data))
    print(  # noqa: T201
        f"{load.oracle.total} writes, {load.oracle.errors} errors, {chaos.cuts} cuts, "
        f"{chaos.ghosts} ghosts, {chaos.lies} lies"
    )
    assert load.oracle.total > 0 and chaos.cuts > 0
