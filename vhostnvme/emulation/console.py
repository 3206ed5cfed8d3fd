"""A shell of the guest on this terminal, or fed from a pipe."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from vhostnvme.guest.debian import say
from vhostnvme.guest.protocol import Channel
from vhostnvme.guest.vm import Guest

QUIT_KEY = b"\x1d"  # Ctrl-]
_READ_BYTES = 65536


async def attach_console(guest: Guest) -> int:
    """Runs a login shell until it ends; the guest is then to be powered off.

    On a terminal, all keys go to the guest but Ctrl-], which ends the console at once; else
    standard input is the shell's script.

    Returns:
        0 for a console on a terminal, the shell's exit code otherwise.
    """
    terminal = sys.stdin.isatty()
    channel = guest.open("", pty=terminal)
    quit_asked = asyncio.Event()
    if terminal:
        say("the guest's console; 'exit' or Ctrl-] ends it and powers the guest off")
    feeder = asyncio.create_task(_feed(channel, terminal, quit_asked))
    shower = asyncio.create_task(_show(channel))
    quitter = asyncio.create_task(quit_asked.wait())
    try:
        with _raw_terminal() if terminal else _nothing(), _resizing(channel, terminal):
            await asyncio.wait({shower, quitter}, return_when=asyncio.FIRST_COMPLETED)
            if shower.done():
                shower.result()
    finally:
        for task in (feeder, shower, quitter):
            task.cancel()
        await asyncio.gather(feeder, shower, quitter, return_exceptions=True)
    return 0 if terminal else (channel.exit_code or 0)


async def _show(channel: Channel) -> None:
    async for _, data in channel.output():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


async def _feed(channel: Channel, terminal: bool, quit_asked: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()
    readable = asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
    except PermissionError:
        readable.set()  # a regular file is always readable, and epoll does not take it
        plain_file = True
    else:
        plain_file = False
    try:
        while True:
            await readable.wait()
            data = os.read(descriptor, _READ_BYTES)
            if terminal and QUIT_KEY in data:
                quit_asked.set()
                return
            if not data:
                channel.close_input()
                return
            if not plain_file:
                readable.clear()
            await channel.write(data)
    finally:
        if not plain_file:
            loop.remove_reader(descriptor)


@contextmanager
def _raw_terminal() -> Iterator[None]:
    descriptor = sys.stdin.fileno()
    saved = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, saved)  # never waits for a reader


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _resizing(channel: Channel, terminal: bool) -> Iterator[None]:
    """Tells the guest's terminal the size of ours, now and whenever it changes."""
    if not terminal:
        yield
        return

    def tell() -> None:
        size = shutil.get_terminal_size()
        channel.resize(size.lines, size.columns)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, tell)
    try:
        tell()
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
