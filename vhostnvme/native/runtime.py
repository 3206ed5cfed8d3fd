"""The reactors of this process and the events that they send."""

from __future__ import annotations

import asyncio
import atexit
import select
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from vhostnvme.errors import NativeError
from vhostnvme.native.handle import Handle, ReactorHandle
from vhostnvme.native.library import check, ffi, lib, text_of
from vhostnvme.native.types import Event, EventType, ReactorStats, RuntimeOptions

if TYPE_CHECKING:
    from vhostnvme.native.controller import Controller
    from vhostnvme.native.drive import Drive
    from vhostnvme.native.namespace import Namespace
    from vhostnvme.native.target import Target

_EVENT_BATCH = 64
_BACKLOG_EVENTS_MAX = 1024
# The library drains a controller or a target for at most 4 s.
DESTROY_TIMEOUT_S = 8.0


class Runtime(Handle):
    """Owns all handles opened on it: closing it closes what is left, namespaces last.

    Events that come while nobody listens are kept (the last 1024) and given to the next who does.
    """

    def __init__(self, options: RuntimeOptions | None = None) -> None:
        options = options or RuntimeOptions()
        super().__init__("runtime")
        opts = ffi.new("struct vn_runtime_opts *")
        opts.nr_reactors = options.reactors
        opts.poll_us = options.poll_us
        opts.flags = (lib.VN_RUNTIME_SQPOLL if options.sqpoll else 0) | (
            lib.VN_RUNTIME_PIN if options.pin_memory else 0
        )
        out = ffi.new("vn_runtime **")
        check(lib.vn_runtime_create(opts, out))
        self._handle = out[0]
        self.reactors = options.reactors
        self._fd: int = check(lib.vn_runtime_event_fd(self._handle))
        self._buffer = ffi.new("struct vn_event[]", _EVENT_BATCH)
        self._backlog: deque[Event] = deque(maxlen=_BACKLOG_EVENTS_MAX)
        self._listeners: list[asyncio.Queue[Event]] = []
        self._wake_ups: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        # The handles that keep this runtime open.
        self.controllers: list[Controller] = []
        self.targets: list[Target] = []
        self.drives: list[Drive] = []
        self.namespaces: list[Namespace] = []
        _open_runtimes.add(self)

    def reactor_stats(self, reactor: int = 0) -> ReactorStats:
        out = ffi.new("struct vn_reactor_stats *")
        check(lib.vn_runtime_reactor_stats(self.handle, reactor, out))
        return ReactorStats(
            rounds=out.rounds,
            sleeps=out.sleeps,
            enters=out.enters,
            cpu_ns=out.cpu_ns,
            ops=out.ops,
        )

    # --- events ---

    def poll_events(self) -> list[Event]:
        """All events that are there now, without waiting."""
        self.pump()
        events = list(self._backlog)
        self._backlog.clear()
        return events

    async def events(self) -> AsyncIterator[Event]:
        """Every event from now on, and those kept before; ends with the runtime's close."""
        queue: asyncio.Queue[Event] = asyncio.Queue()
        for event in self._backlog:
            queue.put_nowait(event)
        self._backlog.clear()
        self._listeners.append(queue)
        try:
            with self._woken() as woken:
                while True:
                    self.pump()
                    while not queue.empty():
                        yield queue.get_nowait()
                    if self.closed:
                        return
                    await woken.wait()
                    woken.clear()
        finally:
            self._listeners.remove(queue)

    def pump(self) -> None:
        """Moves events from the library to those who listen."""
        while self._handle is not None:
            count = check(lib.vn_runtime_events(self._handle, self._buffer, _EVENT_BATCH))
            for index in range(count):
                self._dispatch(_event_of(self._buffer[index]))
            if count < _EVENT_BATCH:
                return

    def _dispatch(self, event: Event) -> None:
        if event.type in (EventType.CONTROLLER_DESTROYED, EventType.TARGET_DESTROYED):
            for handle in (*self.controllers, *self.targets):
                if handle.id == event.controller:
                    handle.forget()
                    break
        if self._listeners:
            for queue in self._listeners:
                queue.put_nowait(event)
        else:
            self._backlog.append(event)

    def _on_readable(self) -> None:
        self.pump()
        for woken in self._wake_ups:
            woken.set()

    def _read_events_on(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Lets this loop wake us for events, in place of the one before."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        self._loop = loop
        if loop is not None:
            loop.add_reader(self._fd, self._on_readable)

    def _woken(self) -> _Wake:
        return _Wake(self)

    async def wait_destroyed(self, handle: ReactorHandle) -> None:
        """Waits until the library has told its end."""
        with self._woken() as woken:
            deadline = time.monotonic() + DESTROY_TIMEOUT_S
            while True:
                self.pump()
                if handle.gone:
                    return
                left = deadline - time.monotonic()
                if left <= 0:
                    raise _not_ended(handle)
                try:
                    await asyncio.wait_for(woken.wait(), left)
                except TimeoutError:
                    continue
                woken.clear()

    def block_until_destroyed(self, handle: ReactorHandle) -> None:
        """The same without an event loop."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        deadline = time.monotonic() + DESTROY_TIMEOUT_S
        while True:
            self.pump()
            if handle.gone:
                return
            left = deadline - time.monotonic()
            if left <= 0:
                raise _not_ended(handle)
            poller.poll(left * 1000)

    # --- the end ---

    def close(self) -> None:
        """Closes targets, controllers, drives, namespaces, reactors; a few seconds at worst."""
        if self._handle is None:
            return
        for target in list(self.targets):
            target.close()
        for controller in list(self.controllers):
            controller.close()
        for drive in list(self.drives):
            drive.close()
        for namespace in list(self.namespaces):
            namespace.close()
        self.pump()
        self._read_events_on(None)
        check(lib.vn_runtime_destroy(self._handle))
        self._handle = None
        _open_runtimes.discard(self)
        for wake in list(self._wake_ups):
            wake.set()


class _Wake:
    """While in use, the returned asyncio event is set whenever the library has sent something."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._event = asyncio.Event()

    def __enter__(self) -> asyncio.Event:
        runtime = self._runtime
        runtime._wake_ups.add(self._event)
        if len(runtime._wake_ups) == 1:
            runtime._read_events_on(asyncio.get_running_loop())
        return self._event

    def __exit__(self, *_: object) -> None:
        runtime = self._runtime
        runtime._wake_ups.discard(self._event)
        if not runtime._wake_ups and not runtime.closed:
            runtime._read_events_on(None)


def _not_ended(handle: ReactorHandle) -> NativeError:
    return NativeError(110, f"{handle} did not end within {DESTROY_TIMEOUT_S} s")


def _event_of(raw: Any) -> Event:
    try:
        kind = EventType(raw.type)
        text = text_of(raw.text)
    except ValueError:
        kind, text = EventType.MESSAGE, f"event of an unknown type, {raw.type}"
    return Event(kind, raw.ctrl, raw.a, raw.b, text)


_open_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for runtime in list(_open_runtimes):
        runtime.close()
