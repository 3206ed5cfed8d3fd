"""One SSD of a card while the card runs: its threads, and what is known of how it is.

What is done on it runs in threads of its own, so that one that hangs holds up no other; looks at it
have another one, so that they do not wait behind a change that takes long.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from vhostnvme.cluster.messages import SsdReport
from vhostnvme.native import Medium
from vhostnvme.storage.ssd import Ssd, SsdState
from vhostnvme.storage.ssd_health import HealthOptions, SsdHealth

AT_ONCE = 4  # changes

P = ParamSpec("P")
T = TypeVar("T")


class SsdWatch:
    """`medium` counts the commands of whatever is open on the SSD. Times as of `now`, seconds."""

    def __init__(self, ssd: Ssd, options: HealthOptions, now: float) -> None:
        self.ssd = ssd
        self.medium = Medium()
        self.looked_at = now  # when the last look was begun
        self._health = SsdHealth(options, now)
        self._state: SsdState
        self._looks: deque[float] = deque()  # when those were begun that have not ended
        self._looker = ThreadPoolExecutor(1, f"look-{ssd.name}")
        self._workers = ThreadPoolExecutor(AT_ONCE, f"ssd-{ssd.name}")

    def close(self) -> None:
        """Waits for what is being done."""
        self.ssd.close()
        self._looker.shutdown(wait=False)
        self._workers.shutdown(wait=False)

    @property
    def looking(self) -> bool:
        """Whether a look has not ended."""
        return bool(self._looks)

    async def run(self, doing: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Something that blocks, in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, lambda: doing(*args, **kwargs))

    def look_here(self, now: float) -> None:
        """Blocks."""
        self._saw(now, self.ssd.state())

    def look(self, clock: Callable[[], float]) -> asyncio.Future[None]:
        """Begins one; what it has seen is known when it ends. They end in their order."""
        self.looked_at = clock()
        self._looks.append(self.looked_at)
        look = asyncio.get_running_loop().run_in_executor(self._looker, self.ssd.state)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(look: asyncio.Future[SsdState]) -> None:
            self._looks.popleft()
            if not look.cancelled():
                self._saw(clock(), look.result())
            if not done.done():
                done.set_result(None)

        look.add_done_callback(ended)
        return done

    def see(self, now: float) -> None:
        """Takes what has been counted."""
        self._health.see(now, self.medium.info(), now - self._looks[0] if self._looks else 0.0)

    def report(self) -> SsdReport:
        """What others leave of a file system bounds what a card can have of it."""
        state = self._state
        return SsdReport(
            name=self.ssd.name,
            kind=self.ssd.kind,
            capacity=min(state.capacity, state.promised + state.available)
            if state.healthy
            else state.capacity,
            available=state.available,
            largest=state.largest,
            granule=self.ssd.granule,
            promised=state.promised,
            healthy=state.healthy,
            reason=state.reason or self._health.reason,
            can_clone=self.ssd.can_clone,
            failing=self._health.failing,
        )

    def _saw(self, now: float, state: SsdState) -> None:
        self._state = state
        self._health.looked(now, "" if state.missing else state.reason)
