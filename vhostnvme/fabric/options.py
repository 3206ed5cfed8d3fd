"""What a target shall be: frozen, and checked when made."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

from vhostnvme.errors import ConfigError
from vhostnvme.fabric.address import Address
from vhostnvme.fabric.nqn import check_nqn, check_subsystem_nqn
from vhostnvme.native import AnaState, TargetLimits
from vhostnvme.storage.spec import DiskSpec

# As in csrc/include/vhostnvme_fabric.h, which refuses more.
LISTENERS_MAX = 16
SUBSYSTEMS_MAX = 1024
REFERRALS_MAX = 16
HOSTS_MAX = 1024  # of a subsystem
NAMESPACES_MAX = 256  # of a subsystem, as of a controller
NSID_MAX = 256
ANA_GROUPS_MAX = 32
QUEUES_MAX = 128
ENTRIES_MAX = 4096
SERIAL_CHARACTERS_MAX = 20
MODEL_CHARACTERS_MAX = 40


NO_TARGET_LIMITS = TargetLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerOptions:
    """Port 0 means any that is free. `tls`: nobody gets in without a pre-shared key."""

    address: Address
    tls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOptions:
    """A host that may connect. `namespaces`: the ids that it sees; empty: all."""

    nqn: str
    namespaces: tuple[int, ...] = ()
    dhchap_key_file: Path | None = None
    dhchap_ctrl_key_file: Path | None = None
    tls_psk_file: Path | None = None

    def __post_init__(self) -> None:
        check_nqn(self.nqn)
        if self.dhchap_ctrl_key_file and not self.dhchap_key_file:
            raise ConfigError(
                "a key of the controller goes with one of the host: give a DH-HMAC-CHAP key too"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """A namespace of a subsystem."""

    nsid: int
    disk: DiskSpec
    ana_group: int = 1

    def __post_init__(self) -> None:
        _check_range("a namespace's id", self.nsid, 1, NSID_MAX)
        _check_range("an ANA group", self.ana_group, 1, ANA_GROUPS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnaOptions:
    """How well a group of namespaces is reached; `listener` None: through all of them."""

    group: int
    state: AnaState
    listener: Address | None = None

    def __post_init__(self) -> None:
        _check_range("an ANA group", self.group, 1, ANA_GROUPS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubsystemOptions:
    """`queues` and `queue_entries` 0: as many as there can be."""

    nqn: str
    namespaces: tuple[ExportOptions, ...]
    serial: str | None = None
    model: str | None = None
    any_host: bool = False
    hosts: tuple[HostOptions, ...] = ()
    ana: tuple[AnaOptions, ...] = ()
    queues: int = 0
    queue_entries: int = 0

    def __post_init__(self) -> None:
        check_subsystem_nqn(self.nqn)
        check_text("serial number", self.serial, SERIAL_CHARACTERS_MAX)
        check_text("model", self.model, MODEL_CHARACTERS_MAX)
        _check_range("the number of queues", self.queues, 0, QUEUES_MAX)
        _check_range("the entries of a queue", self.queue_entries, 0, ENTRIES_MAX)
        _check_count("namespaces", len(self.namespaces), NAMESPACES_MAX, least=1)
        _check_count("hosts", len(self.hosts), HOSTS_MAX)
        _check_once("namespace", (export.nsid for export in self.namespaces))
        _check_once("host", (host.nqn for host in self.hosts))
        if self.any_host and any(host.dhchap_key_file or host.tls_psk_file for host in self.hosts):
            raise ConfigError(
                "everybody may connect, so a host's keys protect nothing: leave one out"
            )
        there = {export.nsid for export in self.namespaces}
        for host in self.hosts:
            for nsid in host.namespaces:
                if nsid not in there:
                    raise ConfigError(f"host {host.nqn} shall see namespace {nsid}, which is none")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferralOptions:
    """Another discovery service, which ours names to hosts."""

    address: Address
    tls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions:
    """Listeners, and what there is to connect to. `reactor` None: any.

    Raises:
        ConfigError: something that a target cannot be.
    """

    listeners: tuple[ListenerOptions, ...]
    subsystems: tuple[SubsystemOptions, ...]
    referrals: tuple[ReferralOptions, ...] = ()
    limits: TargetLimits = NO_TARGET_LIMITS
    reactor: int | None = None

    def __post_init__(self) -> None:
        _check_count("addresses to listen on", len(self.listeners), LISTENERS_MAX, least=1)
        _check_count("subsystems", len(self.subsystems), SUBSYSTEMS_MAX, least=1)
        _check_count("referrals", len(self.referrals), REFERRALS_MAX)
        addresses = [listener.address for listener in self.listeners]
        _check_once("address", (address for address in addresses if address.port))
        _check_once("subsystem", (subsystem.nqn for subsystem in self.subsystems))
        _check_once("referral", (referral.address for referral in self.referrals))
        for subsystem in self.subsystems:
            for ana in subsystem.ana:
                if ana.listener is not None and ana.listener not in addresses:
                    raise ConfigError(
                        f"subsystem {subsystem.nqn}: nobody listens on {ana.listener}, for which"
                        " an ANA state is given"
                    )
        _check_keys(self)


def _check_keys(options: TargetOptions) -> None:
    hosts = [host for subsystem in options.subsystems for host in subsystem.hosts]
    with_psk = [host for host in hosts if host.tls_psk_file]
    with_tls = [listener for listener in options.listeners if listener.tls]
    if with_tls and not with_psk:
        raise ConfigError(
            f"nobody could connect to {with_tls[0].address} with TLS: give an allowed host a"
            " pre-shared key"
        )
    if with_psk and not with_tls:
        raise ConfigError(
            f"host {with_psk[0].nqn} has a pre-shared key, and no listener has TLS: turn it on"
        )


def check_text(what: str, text: str | None, characters_max: int) -> None:
    """Refuses what no controller can call itself.

    Raises:
        ConfigError: it is empty, too long, or not of printable ASCII.
    """
    if text is None:
        return
    if not 0 < len(text) <= characters_max or not text.isascii() or not text.isprintable():
        raise ConfigError(
            f"{what} {text!r} must be 1 to {characters_max} printable ASCII characters"
        )


def _check_range(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{what} must be from {least} to {most}, not {value}")


def _check_count(what: str, count: int, most: int, least: int = 0) -> None:
    if not least <= count <= most:
        raise ConfigError(f"there can be {least} to {most} {what}, not {count}")


def _check_once(what: str, values: Iterable[Hashable]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise ConfigError(f"{what} {value} is there twice")
        seen.add(value)
