"""The file of `vhostnvme serve --config`: TOML to TargetOptions (docs/fabric.md describes it).

Paths in it are seen from the file's own folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from vhostnvme.errors import ConfigError
from vhostnvme.fabric.address import parse_address
from vhostnvme.fabric.nqn import check_nqn, check_subsystem_nqn
from vhostnvme.fabric.options import (
    ENTRIES_MAX,
    QUEUES_MAX,
    AnaOptions,
    ExportOptions,
    HostOptions,
    ListenerOptions,
    ReferralOptions,
    SubsystemOptions,
    TargetOptions,
)
from vhostnvme.native import AnaState, TargetLimits
from vhostnvme.storage.spec import DiskSpec, FileSpec, parse_spec
from vhostnvme.tables import Table, read_toml

T = TypeVar("T")


def load_config(path: Path) -> TargetOptions:
    """The target that a file describes.

    Raises:
        ConfigError: all that is wrong with it, a line each.
    """
    top = read_toml(path)
    mistakes = top.mistakes
    target = top.table("target")
    listeners = _listeners(target)
    referrals = [
        ReferralOptions(address=address)
        for address in target.parse_list("referrals", parse_address)
    ]
    limits = _limits(target)
    subsystems = [_subsystem(table, path.parent) for table in top.tables("subsystem")]
    target.finish()
    top.finish()
    if len(mistakes):
        mistakes.finish()
    made = _made(
        top,
        lambda: TargetOptions(
            listeners=tuple(listeners),
            subsystems=tuple(each for each in subsystems if each),
            referrals=tuple(referrals),
            limits=limits,
        ),
    )
    mistakes.finish()
    assert made is not None, "what cannot be made is a mistake"
    return made


def _listeners(table: Table) -> list[ListenerOptions]:
    address = partial(parse_address, any_port=True)
    return [
        ListenerOptions(address=each, tls=tls)
        for key, tls in (("listen", False), ("listen_tls", True))
        for each in table.parse_list(key, address)
    ]


def _limits(table: Table) -> TargetLimits:
    return TargetLimits(
        **{
            name: table.number(name, 1, most)
            for name, most in (
                ("connections", 65535),
                ("half_open", 65535),
                ("controllers", 65519),
                ("handshake_ms", 60_000),
            )
        }
    )


def _subsystem(table: Table, folder: Path) -> SubsystemOptions | None:
    nqn = table.parse("nqn", check_subsystem_nqn, needed=True)
    serial, model = table.take("serial", str), table.take("model", str)
    any_host = table.take("allow_any_host", bool, False)
    queues = table.number("queues", 1, QUEUES_MAX)
    entries = table.number("queue_entries", 2, ENTRIES_MAX)
    namespaces: list[ExportOptions] = []
    for number, each in enumerate(table.tables("namespace"), 1):
        if (export := _export(each, number, folder)) is not None:
            namespaces.append(export)
    hosts = [host for each in table.tables("host") if (host := _host(each, folder)) is not None]
    ana = [one for each in table.tables("ana") if (one := _ana(each)) is not None]
    table.finish()
    if nqn is None:
        return None
    return _made(
        table,
        lambda: SubsystemOptions(
            nqn=nqn,
            serial=serial,
            model=model,
            any_host=bool(any_host),
            queues=queues,
            queue_entries=entries,
            namespaces=tuple(namespaces),
            hosts=tuple(hosts),
            ana=tuple(ana),
        ),
    )


def _export(table: Table, number: int, folder: Path) -> ExportOptions | None:
    disk = table.parse("disk", parse_spec, needed=True)
    nsid = table.take("nsid", int)
    group = table.take("ana_group", int)
    table.finish()
    if disk is None:
        return None
    return _made(
        table,
        lambda: ExportOptions(
            nsid=number if nsid is None else nsid,
            disk=_seen_from(disk, folder),
            ana_group=1 if group is None else group,
        ),
    )


def _seen_from(disk: DiskSpec, folder: Path) -> DiskSpec:
    return replace(disk, path=str(folder / disk.path)) if isinstance(disk, FileSpec) else disk


def _host(table: Table, folder: Path) -> HostOptions | None:
    nqn = table.parse("nqn", check_nqn, needed=True)
    namespaces = table.take("namespaces", list) or []
    if not all(type(nsid) is int for nsid in namespaces):
        table.wrong("namespaces", "must be a list of whole numbers")
        namespaces = []
    files = {
        name: table.parse(name, lambda text: folder / text)
        for name in ("dhchap_key_file", "dhchap_ctrl_key_file", "tls_psk_file")
    }
    table.finish()
    if nqn is None:
        return None
    return _made(table, lambda: HostOptions(nqn=nqn, namespaces=tuple(namespaces), **files))


def _ana(table: Table) -> AnaOptions | None:
    group = table.take("group", int, needed=True)
    state = table.parse("state", _ana_state, needed=True)
    listener = table.parse("listen", partial(parse_address, any_port=True))
    table.finish()
    if group is None or state is None:
        return None
    return _made(table, lambda: AnaOptions(group=group, state=state, listener=listener))


def _ana_state(text: str) -> AnaState:
    names = {state.name.lower().replace("_", "-"): state for state in AnaState}
    if text not in names:
        raise ConfigError(f"{text!r} is no ANA state: write one of {', '.join(names)}")
    return names[text]


def _made(table: Table, make: Callable[[], T]) -> T | None:
    """What `make` makes of values that are good each for itself; None when not together."""
    try:
        return make()
    except ConfigError as error:
        table.wrong("", error)
        return None
