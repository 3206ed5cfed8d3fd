"""A namespace: a backend with a geometry and an identity."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any

from vhostnvme.native.handle import Handle
from vhostnvme.native.library import check, ffi, lib
from vhostnvme.native.limits import limit_info, native_limits
from vhostnvme.native.remote import native_remote
from vhostnvme.native.types import NamespaceInfo, NamespaceOptions

if TYPE_CHECKING:
    from vhostnvme.limits import Limits
    from vhostnvme.native.runtime import Runtime


class Namespace(Handle):
    """Open from construction to `close`.

    Raises:
        NativeError: the file is missing, locked, of the wrong size, …; the message says which.
    """

    def __init__(self, runtime: Runtime, options: NamespaceOptions) -> None:
        super().__init__("namespace")
        self._runtime = runtime
        self.options = options
        opts = ffi.new("struct vn_ns_opts *")
        # cffi does not keep what a struct's pointers point at: this list does, for the call.
        alive = [
            ffi.new("char[]", options.backend.encode()),
            _path(options.path),
            _path(options.record_path),
        ]
        opts.backend, opts.path, opts.record_path = alive
        if options.remote is not None:
            opts.remote, kept = native_remote(options.remote)
            alive += kept
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
        out = ffi.new("vn_ns **")
        check(lib.vn_ns_open(runtime.handle, opts, out))
        self._handle = out[0]
        runtime.namespaces.append(self)
        if options.limits:
            self.set_limits(options.limits)

    def info(self) -> NamespaceInfo:
        out = ffi.new("struct vn_ns_info *")
        check(lib.vn_ns_get_info(self.handle, out))
        return NamespaceInfo(
            size=out.size,
            block_size=out.block_size,
            read_only=bool(out.flags & lib.VN_NS_READ_ONLY),
            direct=bool(out.direct),
            deallocate=bool(out.deallocate),
            uuid=uuid.UUID(bytes=bytes(ffi.buffer(out.uuid))),
            reads=out.reads,
            writes=out.writes,
            read_bytes=out.read_bytes,
            write_bytes=out.write_bytes,
            flushes=out.flushes,
            deallocates=out.deallocates,
            write_zeroes=out.write_zeroes,
            errors=out.errors,
            bounced=out.bounced,
            limited=limit_info(out.limited),
        )

    def set_limits(self, limits: Limits) -> None:
        """For all controllers together that have it attached; at once, also for what waits."""
        check(lib.vn_ns_set_limits(self.handle, native_limits(limits)))

    def resize(self, size: int = 0) -> int:
        """Gives it another size while it is in use, and tells the hosts that have it attached.

        `size` in bytes; 0: all that is behind it now, such as what a remote target has told last.
        Blocks for what the file system takes, and a second for commands in flight at most.

        Returns:
            The new size.

        Raises:
            NativeError: it keeps its size; EBUSY: commands in flight do not end, try again.
        """
        check(lib.vn_ns_resize(self.handle, size))
        return self.info().size

    def close(self) -> None:
        """Closes the file.

        Raises:
            NativeError: EBUSY while a controller has it attached.
        """
        if self._handle is None:
            return
        check(lib.vn_ns_close(self._handle))
        self._handle = None
        self._runtime.namespaces.remove(self)


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
    if options.offset is not None:
        flags |= lib.VN_NS_WINDOW
    return flags
