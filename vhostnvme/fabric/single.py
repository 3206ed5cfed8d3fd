"""A target with one subsystem, from what the command line says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vhostnvme.errors import ConfigError
from vhostnvme.fabric.address import Address
from vhostnvme.fabric.nqn import nqn_of_serial, serial_of
from vhostnvme.fabric.options import (
    ExportOptions,
    HostOptions,
    ListenerOptions,
    ReferralOptions,
    SubsystemOptions,
    TargetOptions,
)
from vhostnvme.storage.spec import DiskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Files with the keys of all allowed hosts; None: not needed."""

    dhchap: Path | None = None
    dhchap_ctrl: Path | None = None
    tls_psk: Path | None = None

    def __bool__(self) -> bool:
        return any((self.dhchap, self.dhchap_ctrl, self.tls_psk))


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleOptions:
    """`subnqn` None: made from the serial number, which None is made from the first address."""

    listen: Sequence[Address]
    disks: Sequence[DiskSpec]
    tls: bool = False
    subnqn: str | None = None
    serial: str | None = None
    model: str | None = None
    any_host: bool = False
    hosts: Sequence[str] = ()
    keys: Keys = Keys()
    referrals: Sequence[Address] = ()
    queues: int = 0


def single_target(options: SingleOptions) -> TargetOptions:
    """The target.

    Raises:
        ConfigError: it cannot be one.
    """
    if options.keys and not options.hosts:
        raise ConfigError("keys belong to hosts: name those who have them with --allow-host NQN")
    if options.tls and not options.keys.tls_psk:
        raise ConfigError("--tls needs a pre-shared key: give --tls-psk-file FILE")
    if options.keys.tls_psk and not options.tls:
        raise ConfigError("--tls-psk-file is for TLS: add --tls")
    serial = options.serial or serial_of(" ".join(map(str, options.listen)))
    hosts = [
        HostOptions(
            nqn=nqn,
            dhchap_key_file=options.keys.dhchap,
            dhchap_ctrl_key_file=options.keys.dhchap_ctrl,
            tls_psk_file=options.keys.tls_psk,
        )
        for nqn in options.hosts
    ]
    subsystem = SubsystemOptions(
        nqn=options.subnqn or nqn_of_serial(serial),
        serial=serial,
        model=options.model,
        any_host=options.any_host,
        hosts=tuple(hosts),
        queues=options.queues,
        namespaces=tuple(
            ExportOptions(nsid=nsid, disk=disk) for nsid, disk in enumerate(options.disks, 1)
        ),
    )
    return TargetOptions(
        listeners=tuple(
            ListenerOptions(address=address, tls=options.tls) for address in options.listen
        ),
        subsystems=(subsystem,),
        referrals=tuple(ReferralOptions(address=address) for address in options.referrals),
    )
