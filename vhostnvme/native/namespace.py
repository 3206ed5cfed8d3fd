"""A namespace: a backend with a geometry and an identity."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from vhostnvme.native.handle import Handle
from vhostnvme.native.library import check, ffi, lib
from vhostnvme.native.limits import limit_info, native_limits
from vhostnvme.native.making import Making
from vhostnvme.native.types import NamespaceInfo, NamespaceOptions

if TYPE_CHECKING:
    from vhostnvme.limits import Limits
    from vhostnvme.native.runtime import Runtime


class Namespace(Handle):
    """Open from construction to `close`.

    Raises:
        NativeError: the file is missing, locked, of the wrong size, …; the message says which.
    """

    def __init__(
        self, runtime: Runtime, options: NamespaceOptions, made: Making | None = None
    ) -> None:
        super().__init__("namespace")
        self._runtime = runtime
        self.options = options
        runtime_handle = runtime.handle
        if made is None:
            made = Making(options)
            made.run()
        self._handle = made.take()
        check(lib.vn_ns_enter(runtime_handle, self._handle))
        runtime.namespaces.append(self)
        if options.limits:
            self.set_limits(options.limits)

    @classmethod
    async def aopen(cls, runtime: Runtime, options: NamespaceOptions) -> Namespace:
        """The same without blocking the event loop, which a remote namespace does for seconds.

        Cancelled, it leaves nothing behind.

        Raises:
            NativeError: as from the constructor, or the runtime has been closed meanwhile.
        """
        making = Making(options)
        try:
            await making.arun()
            return cls(runtime, options, making)
        except BaseException:
            making.give_up()
            raise

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
