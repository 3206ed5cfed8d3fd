"""The part of opening a namespace that may block: for a file system, a host name, a silent target.

It shares nothing with the calls of other threads. Those that wait for it have a few threads of
their own, so that nobody else of this process waits behind a target that does not answer.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from vhostnvme.native.library import check, ffi, lib
from vhostnvme.native.remote import native_remote
from vhostnvme.native.types import MirrorOptions, NamespaceOptions, ZonedOptions

AT_ONCE = 16  # namespaces that are being opened by `arun`

_threads = ThreadPoolExecutor(AT_ONCE, "vn-open")


class Making:
    """A namespace that is being made, and is nobody's until somebody takes it."""

    def __init__(self, options: NamespaceOptions) -> None:
        self.options = options
        self._lock = threading.Lock()  # of what follows: who gives up does not wait for the thread
        self._handle: Any = None
        self._given_up = False

    def run(self) -> None:
        """Makes it; blocks.

        Raises:
            NativeError: the file is missing, the target does not answer, …; the message says which.
        """
        handle = _make(self.options)
        with self._lock:
            if not self._given_up:
                self._handle = handle
                return
        lib.vn_ns_close(handle)

    async def arun(self) -> None:
        """The same without blocking the event loop."""
        await asyncio.get_running_loop().run_in_executor(_threads, self.run)

    def take(self) -> Any:
        """The C handle, which is the caller's from now on."""
        with self._lock:
            handle, self._handle = self._handle, None
        assert handle is not None, "the namespace has not been made"
        return handle

    def give_up(self) -> None:
        """Closes it, now or when it has been made; nothing happens to one that has been taken."""
        with self._lock:
            self._given_up = True
            handle, self._handle = self._handle, None
        if handle is not None:
            lib.vn_ns_close(handle)


def _make(options: NamespaceOptions) -> Any:
    opts, alive = _native(options)
    out = ffi.new("vn_ns **")
    check(lib.vn_ns_make(opts, out))
    del alive
    return out[0]


def _native(options: NamespaceOptions) -> tuple[Any, list[Any]]:
    """The options as the library takes them, and what must live as long as they do."""
    opts = ffi.new("struct vn_ns_opts *")
    # cffi does not keep what a struct's pointers point at: this list does, for the call.
    alive = [
        ffi.new("char[]", options.backend.encode()),
        _path(options.path),
        _path(options.record_path),
        _path(options.state_path),
    ]
    opts.backend, opts.path, opts.record_path, opts.state_path = alive
    if options.remote is not None:
        opts.remote, kept = native_remote(options.remote)
        alive += kept
    if options.medium is not None:
        opts.medium = options.medium.handle
    opts.size = options.size
    opts.offset = options.offset or 0
    opts.block_size = options.block_size
    opts.flags = _flags(options)
    if options.uuid is not None:
        opts.uuid = options.uuid.bytes
    opts.delay_us = options.delay_us
    opts.error_ppm = options.error_ppm
    opts.error_ops = options.error_operations
    opts.error_errno = options.error_errno
    opts.error_after = options.error_after
    opts.error_seed = options.error_seed
    if options.mirror is not None:
        opts.mirror, kept = _native_mirror(options.mirror)
        alive += kept
    if options.zoned is not None:
        opts.zoned, kept = _native_zoned(options.zoned)
        alive += kept
    return opts, alive


def _native_zoned(zoned: ZonedOptions) -> tuple[Any, list[Any]]:
    opts = ffi.new("struct vn_zoned_opts *")
    alive = [opts, path := _path(zoned.path)]
    opts.path = path
    opts.zone_size = zoned.zone_size
    opts.capacity = zoned.capacity
    opts.append = zoned.append
    opts.max_open = zoned.max_open
    opts.max_active = zoned.max_active
    opts.extension = zoned.extension
    return opts, alive


def _native_mirror(mirror: MirrorOptions) -> tuple[Any, list[Any]]:
    opts = ffi.new("struct vn_mirror_opts *")
    alive = [opts, path := _path(mirror.bitmap_path)]
    for number, (leg, state) in enumerate(zip(mirror.legs, mirror.states, strict=True)):
        opts.states[number] = state
        if leg is not None:
            of_leg, kept = _native(leg)
            opts.legs[number] = of_leg
            alive += [of_leg, *kept]
    opts.bitmap_path = path
    opts.uuid = mirror.uuid.bytes
    opts.preferred = mirror.preferred
    opts.region_bytes = mirror.region_bytes
    opts.rebuild_rate = mirror.rebuild_rate
    opts.leg_timeout_ms = mirror.leg_timeout_ms
    opts.clean_ms = mirror.clean_ms
    opts.flags = lib.VN_MIRROR_SAME if mirror.same else 0
    opts.flags |= lib.VN_MIRROR_DIRECT_READS if mirror.direct_reads else 0
    return opts, alive


def _path(path: str | None) -> Any:
    return ffi.NULL if path is None else ffi.new("char[]", os.fsencode(path))


def _flags(options: NamespaceOptions) -> int:
    flags = 0
    if options.read_only:
        flags |= lib.VN_NS_READ_ONLY
    if options.create:
        flags |= lib.VN_NS_CREATE
    if not options.direct:
        flags |= lib.VN_NS_NO_DIRECT
    if options.preallocate:
        flags |= lib.VN_NS_PREALLOCATE
    if options.thick:
        flags |= lib.VN_NS_THICK
    if options.offset is not None:
        flags |= lib.VN_NS_WINDOW
    return flags
