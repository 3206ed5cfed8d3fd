"""A way between two cards that gives connections up on one side and delivers late on the other."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time

from vhostnvme.closable import Closable

_LOOK_S = 0.005
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset, at once


class _Pair:
    """One connection of the asker, and ours to the giver for it."""

    def __init__(self, asker: socket.socket, giver: socket.socket) -> None:
        self.asker: socket.socket | None = asker
        self.giver = giver
        self.held = bytearray()
        self.give_up_at = self.deliver_at = self.end_at = float("inf")

    @property
    def holding(self) -> bool:
        return self.give_up_at < float("inf")


class Detour(Closable):
    """Passes on what comes to `port`, in one thread, until it is told to `give_up`."""

    def __init__(self, giver_port: int) -> None:
        self._giver_port = giver_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._pairs: list[_Pair] = []
        self._order: tuple[float, float] | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="detour")
        self._thread.start()

    def give_up(self, hold_s: float, late_s: float) -> None:
        """Holds what the asker sends for `hold_s`, ends its connections, and delivers what was held
        `late_s` later."""
        self._order = (hold_s, late_s)

    def close(self) -> None:
        self._ended = True
        self._thread.join()

    def _run(self) -> None:
        with self._selector, self._listener:
            while not self._ended:
                for key, _ in self._selector.select(_LOOK_S):
                    if key.fileobj is self._listener:
                        self._accept()
                    else:
                        self._pass_on(*key.data)
                self._obey()
            for pair in list(self._pairs):
                self._end(pair, pair.giver)

    def _accept(self) -> None:
        asker, _ = self._listener.accept()
        try:
            giver = socket.create_connection(("127.0.0.1", self._giver_port))
        except OSError:
            asker.close()
            return
        pair = _Pair(asker, giver)
        self._pairs.append(pair)
        for end in (asker, giver):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(end, selectors.EVENT_READ, (pair, end))

    def _pass_on(self, pair: _Pair, end: socket.socket) -> None:
        if end.fileno() < 0:
            return  # it was ended in this round
        try:
            data = end.recv(1 << 16)
            if not data:
                self._end(pair, end)
            elif end is pair.giver:
                if pair.asker:
                    pair.asker.sendall(data)
            elif pair.holding:
                pair.held += data
            else:
                pair.giver.sendall(data)
        except OSError:
            self._end(pair, end)

    def _obey(self) -> None:
        now = time.monotonic()
        if self._order:
            hold_s, late_s = self._order
            self._order = None
            for pair in self._pairs:
                if not pair.holding:
                    pair.give_up_at = now + hold_s
                    pair.deliver_at = pair.give_up_at + late_s
                    pair.end_at = pair.deliver_at + 0.02
        for pair in list(self._pairs):
            if pair.asker and now >= pair.give_up_at:
                self._drop(pair.asker)
                pair.asker = None
            if pair.held and now >= pair.deliver_at:
                with contextlib.suppress(OSError):
                    pair.giver.sendall(pair.held)
                pair.held.clear()
            if now >= pair.end_at:
                self._end(pair, pair.giver)

    def _drop(self, end: socket.socket) -> None:
        self._selector.unregister(end)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.close()

    def _end(self, pair: _Pair, end: socket.socket) -> None:
        """`end` has ended, and so does the other; the giver's not before the late bytes."""
        if pair.asker:
            self._drop(pair.asker)
            pair.asker = None
        if pair.held and end is not pair.giver:
            return
        self._drop(pair.giver)
        self._pairs.remove(pair)
