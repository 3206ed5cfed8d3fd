"""What a person's signals do to a server: the first ends it in order, a second one at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stopped_by_signals(at_once: Callable[[], None] = lambda: None) -> Iterator[asyncio.Event]:
    """An event that SIGINT, SIGTERM or SIGHUP sets.

    Args:
        at_once: what is done before the process ends by a second signal.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            at_once()
            os._exit(1)
        stop.set()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)  # the terminal has gone, and nobody said nohup
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
