"""A running NVMe/TCP target. Owns the order in which its parts come and go."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from vhostnvme.errors import ConfigError, NativeError, PeerError
from vhostnvme.fabric.address import Address, resolve
from vhostnvme.fabric.keys import read_keys
from vhostnvme.fabric.nqn import serial_of
from vhostnvme.fabric.options import (
    HostOptions,
    ListenerOptions,
    SubsystemOptions,
    TargetOptions,
)
from vhostnvme.limits import Limits
from vhostnvme.native import (
    AnaState,
    HostAccess,
    Namespace,
    Runtime,
    Subsystem,
    Target,
    TargetInfo,
)
from vhostnvme.storage.disk import open_disk
from vhostnvme.storage.spec import DiskSpec

_log = logging.getLogger(__name__)

_LISTEN_SENTENCES = {
    errno.EADDRINUSE: "something listens there already: choose another port, or end it",
    errno.EADDRNOTAVAIL: "this machine has no such address: see `ip address`",
    errno.EACCES: "ports below 1024 are for root: choose another",
    errno.EAFNOSUPPORT: "this machine does not speak that kind of address",
}


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a running target listens; `address` is numeric, with its real port."""

    id: int
    address: Address
    tls: bool


@dataclass(frozen=True, slots=True)
class Exported:
    """A namespace of a running subsystem. `own`: it was opened for it, and ends with it."""

    disk: DiskSpec
    namespace: Namespace
    own: bool


class FabricTarget:
    """A target on a runtime: `start`, then `stop`; a failed start leaves nothing behind.

    Args:
        reactor: where all of it lives.
        shared: open namespaces by their ids, which the (then only) subsystem has in common with
            somebody else; the target does not close them.
    """

    def __init__(
        self,
        runtime: Runtime,
        options: TargetOptions,
        *,
        reactor: int = 0,
        shared: Mapping[int, Namespace] | None = None,
    ) -> None:
        assert not shared or len(options.subsystems) == 1, "shared namespaces are of one subsystem"
        self.options = options
        self.runtime = runtime
        self.reactor = reactor
        self.listeners: list[Listener] = []
        self._shared = shared or {}
        self._target: Target | None = None
        self._subsystems: dict[str, tuple[Subsystem, dict[int, Exported]]] = {}

    @property
    def id(self) -> int:
        """The id by which events name the target."""
        return self.native.id

    @property
    def native(self) -> Target:
        assert self._target is not None, "the target has not been started"
        return self._target

    def info(self) -> TargetInfo:
        return self.native.info()

    async def start(self) -> None:
        """Opens the namespaces, then the subsystems, then the addresses.

        Raises:
            ConfigError: a SPEC or a key file cannot be used here, or a host's name is not known.
            NativeError: the library refused: a file, a size, a lock, an address.
        """
        options = self.options
        # What can be wrong with names and keys is so before anything is opened.
        names = [each.address for each in options.listeners]
        names += [each.address for each in options.referrals]
        numeric = {name: numeric_of(name) for name in names}
        access = {host: access_of(host) for each in options.subsystems for host in each.hosts}
        try:
            self._target = Target(self.runtime, self.reactor, options.limits)
            for subsystem in options.subsystems:
                self._add_subsystem(subsystem, access)
            for referral in options.referrals:
                address = numeric[referral.address]
                self._target.add_referral(address.host, address.port, tls=referral.tls)
            # Last: who connects finds everything.
            for listener in options.listeners:
                self.listeners.append(self._listen(listener, numeric[listener.address]))
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends connections, waits for what is in flight, closes the files. Safe to repeat."""
        if self._target is not None:
            await self._target.aclose()
        for _, exported in reversed(self._subsystems.values()):
            for each in reversed(exported.values()):
                if each.own:
                    each.namespace.close()
        self._subsystems.clear()
        self.listeners.clear()

    def subsystem(self, nqn: str) -> Subsystem:
        """A running subsystem, to allow and deny hosts, or to change its namespaces.

        Raises:
            ConfigError: there is none of that name.
        """
        if nqn not in self._subsystems:
            raise ConfigError(f"there is no subsystem {nqn} here")
        return self._subsystems[nqn][0]

    def disks(self, nqn: str) -> list[tuple[int, DiskSpec, Namespace]]:
        """Id, SPEC and handle of a subsystem's namespaces, in the order of their ids.

        Raises:
            ConfigError: there is none of that name.
        """
        self.subsystem(nqn)
        exported = self._subsystems[nqn][1]
        return [(nsid, exported[nsid].disk, exported[nsid].namespace) for nsid in sorted(exported)]

    def serial(self, options: SubsystemOptions) -> str:
        """A subsystem's serial number: as given, else made from its NQN, so that it stays."""
        return options.serial or serial_of(options.nqn)

    def limits(self, nsid: int | None) -> Limits:
        """The limits of a namespace of the only subsystem.

        Raises:
            ConfigError: there is no such namespace, or several subsystems.
        """
        return self._limited(nsid).info().limited.limits

    def set_limits(self, limits: Limits, nsid: int | None) -> None:
        """Limits a namespace of the only subsystem; at once, also for what waits.

        Raises:
            ConfigError: there is no such namespace, or several subsystems.
        """
        self._limited(nsid).set_limits(limits)

    def _limited(self, nsid: int | None) -> Namespace:
        if nsid is None or len(self._subsystems) != 1:
            raise ConfigError("a target has limits for each namespace only: name one of them")
        ((_, exported),) = self._subsystems.values()
        if nsid not in exported:
            raise ConfigError(f"there is no namespace {nsid} on this target")
        return exported[nsid].namespace

    def allow(self, nqn: str, host: HostOptions) -> None:
        """Lets a host connect to a subsystem, also when it was allowed something else before.

        Raises:
            ConfigError: there is no such subsystem, or a key file cannot be used.
        """
        self.subsystem(nqn).allow(access_of(host))

    def deny(self, nqn: str, hostnqn: str) -> None:
        """Takes a host's permission back, and ends its connections.

        Raises:
            ConfigError: there is no such subsystem.
        """
        self.subsystem(nqn).deny(hostnqn)

    def _add_subsystem(
        self, options: SubsystemOptions, access: Mapping[HostOptions, HostAccess]
    ) -> None:
        subsystem = Subsystem(
            self.native,
            options.nqn,
            self.serial(options),
            options.model,
            any_host=options.any_host,
            max_queues=options.queues,
            max_entries=options.queue_entries,
        )
        exported: dict[int, Exported] = {}
        self._subsystems[options.nqn] = (subsystem, exported)
        for export in options.namespaces:
            shared = self._shared.get(export.nsid)
            namespace = shared or open_disk(self.runtime, export.disk)
            exported[export.nsid] = Exported(export.disk, namespace, own=shared is None)
            subsystem.attach(namespace, export.nsid, export.ana_group)
        for host in options.hosts:
            subsystem.allow(access[host])
        for ana in options.ana:
            if ana.listener is None:
                subsystem.set_ana(ana.group, ana.state)

    def _listen(self, options: ListenerOptions, address: Address) -> Listener:
        number, port = listen_on(self.native, address, tls=options.tls)
        for group, state, subsystem in self._ana_of(options.address):
            subsystem.set_ana(group, state, number)
        return Listener(number, Address(address.host, port), options.tls)

    def _ana_of(self, address: Address) -> list[tuple[int, AnaState, Subsystem]]:
        return [
            (ana.group, ana.state, self._subsystems[options.nqn][0])
            for options in self.options.subsystems
            for ana in options.ana
            if ana.listener == address
        ]


def access_of(host: HostOptions) -> HostAccess:
    """The library's view of a host: its keys read from their files.

    Raises:
        ConfigError: a file cannot be read, or holds no key of its kind.
    """
    return HostAccess(
        hostnqn=host.nqn,
        nsids=host.namespaces,
        **read_keys(
            dhchap=host.dhchap_key_file,
            dhchap_ctrl=host.dhchap_ctrl_key_file,
            tls=host.tls_psk_file,
        ),
    )


def listen_on(target: Target, address: Address, *, tls: bool = False) -> tuple[int, int]:
    """Opens a listener of a target at a numeric address.

    Returns:
        Its id, and the port that it has got.

    Raises:
        NativeError: what is wrong with the address, and what to do.
    """
    try:
        return target.listen(address.host, address.port, tls=tls)
    except NativeError as error:
        advice = _LISTEN_SENTENCES.get(error.errno or 0)
        if advice is None:
            raise
        raise NativeError(error.errno or 0, f"cannot listen on {address}: {advice}") from None


def numeric_of(address: Address) -> Address:
    """The first numeric address that a name stands for.

    Raises:
        ConfigError: the name is not known.
    """
    try:
        return resolve(address)[0]
    except PeerError as error:
        raise ConfigError(str(error)) from None
