"""A load on a device of a real card: writes and reads in a thread, checked by an oracle."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests_cluster import BLOCK
from tests_stamps import Load, Oracle

from vhostnvme.testing import NvmeHost

GOES_ON = 200  # commands
WAIT_S = 60.0


class RunningLoad(Load):
    """Of `load_on`. `longest_s`: the longest time in which nothing ended."""

    longest_s = 0.0
    _ended_at = 0.0

    def poll(self) -> None:
        before, now = self.oracle.total, time.monotonic()
        super().poll()
        if self._ended_at:
            self.longest_s = max(self.longest_s, now - self._ended_at)
        if self.oracle.total != before or not self._ended_at:
            self._ended_at = now

    def goes_on(self) -> None:
        """Hundreds of commands more have ended well."""
        wanted = self.oracle.total + GOES_ON
        deadline = time.monotonic() + WAIT_S
        while self.oracle.total < wanted:
            assert time.monotonic() < deadline, f"I/O does not go on: {self.oracle.inflight}"
            time.sleep(0.01)


@contextmanager
def load_on(socket: str | Path, size: int, rng: random.Random) -> Iterator[RunningLoad]:
    """On the first bytes of namespace 1; each command must succeed, and find what was written."""
    with NvmeHost.connect(socket, memory_bytes=8 << 20) as host:
        load = RunningLoad(host, Oracle(size // BLOCK), rng, reads=0.4)
        load.start()
        over = threading.Event()
        failures: list[BaseException] = []

        def run() -> None:
            try:
                load.run(over.is_set)
                while load.oracle.inflight:
                    load.poll()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield load
        finally:
            over.set()
            thread.join(WAIT_S)
        assert not thread.is_alive(), f"commands wait for ever: {load.oracle.inflight}"
        if failures:
            raise failures[0]
