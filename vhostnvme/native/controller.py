"""An NVMe controller: what one VM sees."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vhostnvme.native.handle import DETACH_WAIT_MS, ReactorHandle
from vhostnvme.native.library import check, ffi, lib, native_text
from vhostnvme.native.limits import limit_info, native_limits
from vhostnvme.native.types import AnaState, ControllerInfo, ControllerOptions, Doorbells

if TYPE_CHECKING:
    from pathlib import Path

    from vhostnvme.limits import Limits
    from vhostnvme.native.namespace import Namespace
    from vhostnvme.native.runtime import Runtime


class Controller(ReactorHandle):
    """Lives from construction until the library has told its end after `close` or `aclose`."""

    def __init__(self, runtime: Runtime, options: ControllerOptions) -> None:
        super().__init__(runtime, "controller")
        self.options = options
        self.reactor = options.reactor
        opts = ffi.new("struct vn_ctrl_opts *")
        # cffi does not keep what a struct's pointers point at: this list does, for the call.
        alive = [
            native_text(options.serial),
            native_text(options.model),
            native_text(options.subnqn),
        ]
        opts.serial, opts.model, opts.subnqn = alive
        opts.max_queues = options.max_queues
        opts.max_entries = options.max_entries
        opts.mdts = options.mdts
        opts.doorbells = int(options.doorbells)
        opts.reactor = options.reactor
        opts.cntlid = options.cntlid
        if options.drive is not None:
            opts.drive = options.drive.handle
        out = ffi.new("vn_ctrl **")
        check(lib.vn_ctrl_create(runtime.handle, opts, out))
        self._handle = out[0]
        self.id: int = lib.vn_ctrl_id(self._handle)
        runtime.controllers.append(self)
        if options.limits:
            self.set_limits(options.limits)

    def attach(self, namespace: Namespace, nsid: int) -> None:
        check(lib.vn_ctrl_attach_ns(self.handle, namespace.handle, nsid))

    def detach(self, nsid: int, wait_ms: int = DETACH_WAIT_MS) -> None:
        """Takes a namespace away; no new command finds it.

        Raises:
            NativeError: EBUSY: after `wait_ms` commands are in flight still; try again.
        """
        check(lib.vn_ctrl_detach_ns(self.handle, nsid, wait_ms))

    def listen(self, path: Path | str) -> None:
        """Opens the vfio-user socket; `path` is absolute and shorter than 108 bytes."""
        check(lib.vn_ctrl_listen(self.handle, os.fsencode(path)))

    def move(self, reactor: int) -> None:
        """Gives it another reactor; blocks until its commands in flight have ended, at most 1 s.

        Raises:
            NativeError: EBUSY: they did not, and it stays where it is.
        """
        check(lib.vn_ctrl_move(self.handle, reactor))
        self.reactor = reactor

    def info(self) -> ControllerInfo:
        out = ffi.new("struct vn_ctrl_info *")
        check(lib.vn_ctrl_get_info(self.handle, out))
        return ControllerInfo(
            id=out.id,
            attached=bool(out.attached),
            enabled=bool(out.enabled),
            fatal=bool(out.fatal),
            doorbells=Doorbells(out.doorbells),
            shadow_doorbells=bool(out.shadow_doorbells),
            submission_queues=out.nr_sqs,
            completion_queues=out.nr_cqs,
            inflight=out.inflight,
            reactor=out.reactor,
            commands=out.commands,
            admin_commands=out.admin_commands,
            errors=out.errors,
            interrupts=out.interrupts,
            doorbell_writes=out.doorbell_writes,
            limited=limit_info(out.limited),
        )

    def identify(self) -> bytes:
        """The page of Identify Controller; it listens already."""
        page = ffi.new("uint8_t[4096]")
        check(lib.vn_ctrl_identify(self.handle, page))
        return bytes(ffi.buffer(page))

    def set_limits(self, limits: Limits) -> None:
        """Over all its namespaces, whose own limits hold as well; at once, also for what waits."""
        check(lib.vn_ctrl_set_limits(self.handle, native_limits(limits)))

    def set_ana(self, state: AnaState, group: int = 1) -> None:
        """How well it reaches the namespaces of a group; its drive has `ana`."""
        check(lib.vn_ctrl_set_ana(self.handle, group, int(state)))

    def _destroy(self) -> None:
        check(lib.vn_ctrl_destroy(self._handle))

    def forget(self) -> None:
        super().forget()
        self._runtime.controllers.remove(self)
