"""What the tests of zoned namespaces share."""

from __future__ import annotations

from typing import Any

from tests_protocol import BLOCK, Serve

from vhostnvme.testing import NvmeHost
from vhostnvme.testing.zns import CC_ALL_SETS, Action, State, ZonedQueue

ZONE = 128  # blocks of 64 KiB
CAPACITY = 96
SPEC = "mem:1M?zoned=on&zone-size=64K&zone-capacity=48K&max-open=3&max-active=5&zone-extension=64"


def zoned(serve: Serve, spec: str = SPEC, depth: int = 64, **options: Any) -> ZonedQueue:
    """A queue to a namespace of this SPEC, on a controller of its own."""
    return queue_of(serve(spec, **options).connect(enable=False), depth)


def queue_of(host: NvmeHost, depth: int = 64) -> ZonedQueue:
    host.enable(cc=CC_ALL_SETS)
    return ZonedQueue(host.create_queue_pair(1, depth=depth))


def blocks(number: int, nr: int = 1) -> bytes:
    """Data that says where it belongs: `nr` blocks, the first of which has this number."""
    return b"".join((number + n).to_bytes(8, "little") * (BLOCK // 8) for n in range(nr))


def bring(queue: ZonedQueue, start: int, state: State) -> None:
    """An empty zone into this state, with two blocks written where that can be."""
    if state is State.EMPTY:
        return
    assert queue.write(start, blocks(start, 2)).ok
    action = {
        State.EXPLICIT: Action.OPEN,
        State.CLOSED: Action.CLOSE,
        State.FULL: Action.FINISH,
    }.get(state)
    if action:
        queue.must(action, start)
    assert queue.zone(start).state is state
