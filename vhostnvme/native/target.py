"""An NVMe/TCP target: its listeners and its subsystems, all on one reactor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vhostnvme.native.handle import DETACH_WAIT_MS, Handle, ReactorHandle
from vhostnvme.native.keys import put_keys
from vhostnvme.native.library import check, ffi, lib, native_text, text_of
from vhostnvme.native.types import AnaState, HostAccess, TargetHost, TargetInfo, TargetLimits

if TYPE_CHECKING:
    from vhostnvme.native.namespace import Namespace
    from vhostnvme.native.runtime import Runtime


class Target(ReactorHandle):
    """Lives from construction until the library has told its end after `close` or `aclose`.

    Its subsystems end with it.
    """

    def __init__(
        self, runtime: Runtime, reactor: int = 0, limits: TargetLimits | None = None
    ) -> None:
        super().__init__(runtime, "target")
        self.reactor = reactor
        limits = limits or TargetLimits()
        opts = ffi.new("struct vn_target_opts *")
        opts.reactor = reactor
        opts.max_connections = limits.connections
        opts.max_half_open = limits.half_open
        opts.max_ctrls = limits.controllers
        opts.handshake_ms = limits.handshake_ms
        out = ffi.new("vn_target **")
        check(lib.vn_target_create(runtime.handle, opts, out))
        self._handle = out[0]
        self.id: int = lib.vn_target_id(self._handle)
        self.subsystems: list[Subsystem] = []
        runtime.targets.append(self)

    def listen(self, host: str, port: int, *, tls: bool = False) -> tuple[int, int]:
        """Opens a listener at a numeric address; port 0 means any.

        Returns:
            Its id, and the port.

        Raises:
            NativeError: the address is in use or not ours, or the port takes more rights.
        """
        opts = ffi.new("struct vn_listen_opts *")
        alive = native_text(host)
        opts.host, opts.port = alive, port
        opts.flags = lib.VN_LISTEN_TLS if tls else 0
        number, real_port = ffi.new("uint32_t *"), ffi.new("uint16_t *")
        check(lib.vn_target_listen(self.handle, opts, number, real_port))
        return number[0], real_port[0]

    def unlisten(self, listener: int) -> None:
        check(lib.vn_target_unlisten(self.handle, listener))

    def add_referral(self, host: str, port: int, *, tls: bool = False) -> None:
        """Names another discovery service, at a numeric address, in the discovery log."""
        opts = ffi.new("struct vn_referral_opts *")
        alive = native_text(host)
        opts.host, opts.port = alive, port
        opts.flags = lib.VN_LISTEN_TLS if tls else 0
        check(lib.vn_target_add_referral(self.handle, opts))

    def remove_referral(self, host: str, port: int) -> None:
        check(lib.vn_target_remove_referral(self.handle, native_text(host), port))

    def info(self) -> TargetInfo:
        out = ffi.new("struct vn_target_info *")
        check(lib.vn_target_get_info(self.handle, out))
        return TargetInfo(**{name: getattr(out, name) for name in TargetInfo.__dataclass_fields__})

    def hosts(self) -> list[TargetHost]:
        """Who is connected: an entry for each controller."""
        most = 64
        while True:
            entries = ffi.new("struct vn_target_host[]", most)
            count = check(lib.vn_target_get_hosts(self.handle, entries, most))
            if count <= most:
                return [_host_of(entries[index]) for index in range(count)]
            most = count

    def _destroy(self) -> None:
        check(lib.vn_target_destroy(self._handle))

    def forget(self) -> None:
        super().forget()
        for subsystem in self.subsystems:
            subsystem.forget()
        self.subsystems.clear()
        self._runtime.targets.remove(self)


class Subsystem(Handle):
    """What a host connects to by its NQN. `serial` has up to 20 characters, `model` 40.

    Numbers of 0 stand for the library's defaults.
    """

    def __init__(
        self,
        target: Target,
        nqn: str,
        serial: str,
        model: str | None = None,
        *,
        any_host: bool = False,
        max_queues: int = 0,
        max_entries: int = 0,
    ) -> None:
        super().__init__("subsystem")
        self._target = target
        self.nqn = nqn
        opts = ffi.new("struct vn_subsys_opts *")
        alive = [native_text(nqn), native_text(serial), native_text(model)]
        opts.nqn, opts.serial, opts.model = alive
        opts.flags = lib.VN_SUBSYS_ANY_HOST if any_host else 0
        opts.max_queues, opts.max_entries = max_queues, max_entries
        out = ffi.new("vn_subsys **")
        check(lib.vn_target_add_subsys(target.handle, opts, out))
        self._handle = out[0]
        target.subsystems.append(self)

    def attach(self, namespace: Namespace, nsid: int, ana_group: int = 0) -> None:
        check(lib.vn_subsys_add_ns(self.handle, namespace.handle, nsid, ana_group))

    def detach(self, nsid: int, wait_ms: int = DETACH_WAIT_MS) -> None:
        """Takes a namespace away; no new command finds it.

        Afterwards nothing of any host of this subsystem is under way there any more, nor will be:
        also of those that have been denied before, or have gone.

        Raises:
            NativeError: EBUSY: after `wait_ms` commands are in flight still; try again.
        """
        check(lib.vn_subsys_remove_ns(self.handle, nsid, wait_ms))

    def allow(self, host: HostAccess) -> None:
        """Lets a host connect; in place of what was said about it before."""
        opts = ffi.new("struct vn_allow_opts *")
        alive: list[Any] = [native_text(host.hostnqn), ffi.new("uint32_t[]", list(host.nsids))]
        opts.hostnqn, opts.nsids = alive
        opts.nr_nsids = len(host.nsids)
        alive += put_keys(host, opts)
        check(lib.vn_subsys_allow_host(self.handle, opts))

    def deny(self, hostnqn: str) -> None:
        """Takes the permission back; the host's connections end."""
        check(lib.vn_subsys_deny_host(self.handle, native_text(hostnqn)))

    def set_ana(self, ana_group: int, state: AnaState, listener: int = 0) -> None:
        """How well a group of namespaces is reached, through one listener or (0) through all."""
        check(lib.vn_subsys_set_ana(self.handle, listener, ana_group, int(state)))

    def close(self) -> None:
        """Ends its controllers, and forgets it."""
        if self._handle is None:
            return
        check(lib.vn_subsys_remove(self._handle))
        self._target.subsystems.remove(self)
        self.forget()

    def forget(self) -> None:
        """The library has freed the handle."""
        self._handle = None


def _host_of(raw: Any) -> TargetHost:
    return TargetHost(
        hostnqn=text_of(raw.hostnqn),
        subnqn=text_of(raw.subnqn),
        address=text_of(raw.address),
        cntlid=raw.cntlid,
        queues=raw.nr_queues,
        tls=bool(raw.tls),
        authenticated=bool(raw.authenticated),
        commands=raw.commands,
        seconds=raw.connected_s,
    )
