"""Has the mirrors of a runtime looked after: when something happens to a leg, and now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from vhostnvme.native import Event, EventType, Runtime
from vhostnvme.storage.kept_mirror import KeptMirror

LOOK_S = 1.0
_LEG_EVENTS = (
    EventType.LEG_FAILED,
    EventType.LEG_LOST,
    EventType.LEG_IN_SYNC,
    EventType.REMOTE_BACK,
)


async def keep_mirrors(runtime: Runtime, listeners: list[Callable[[Event], None]]) -> None:
    """Looks at all mirrors until it is cancelled; `listeners` are told of every event."""
    wake = asyncio.Event()

    def listen(event: Event) -> None:
        if event.type in _LEG_EVENTS:
            wake.set()

    listeners.append(listen)
    coming: dict[tuple[KeptMirror, int], asyncio.Task[None]] = {}
    try:
        while True:
            try:
                await asyncio.wait_for(wake.wait(), LOOK_S)
            except TimeoutError:
                pass
            wake.clear()
            coming = {leg: task for leg, task in coming.items() if not task.done()}
            for mirror in [each for each in runtime.namespaces if isinstance(each, KeptMirror)]:
                for leg in mirror.decide(time.monotonic()):
                    # A task each: a leg that takes long to open holds up no decision.
                    if (mirror, leg) not in coming:
                        coming[mirror, leg] = asyncio.create_task(mirror.bring_in(leg))
    finally:
        listeners.remove(listen)
        for task in coming.values():
            task.cancel()
