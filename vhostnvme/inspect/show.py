"""Discovery logs and identities as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from vhostnvme.inspect.discovery import DiscoveryLog, Entry
from vhostnvme.inspect.identity import ControllerIdentity, NamespaceIdentity
from vhostnvme.inspect.table import print_table
from vhostnvme.units import format_size


def show_discovery(where: str, log: DiscoveryLog) -> None:
    """What there is to connect to."""
    rows = [(entry.type, _address(entry), _tls(entry), entry.subnqn) for entry in log.entries]
    title = f"{where}: {len(rows)} entries, generation {log.generation}"
    print_table(title, ("", "address", "TLS", "subsystem"), rows)


def _address(entry: Entry) -> str:
    if entry.transport != "tcp":
        return f"{entry.transport} {entry.address} {entry.port}".strip()
    host = f"[{entry.address}]" if entry.family == "ipv6" else entry.address
    return f"{host}:{entry.port}"


def _tls(entry: Entry) -> str:
    if entry.tls == "none":
        return "-"
    return (
        entry.tls
        if entry.tls_required is None
        else (f"{entry.tls}, {'required' if entry.tls_required else 'possible'}")
    )


def show_identity(
    where: str, controller: ControllerIdentity, namespaces: Sequence[NamespaceIdentity]
) -> None:
    """A controller and its namespaces."""
    facts = [
        ("subsystem", controller.subnqn),
        ("controller", f"{controller.controller_id}, {controller.kind}"),
        ("serial number", controller.serial),
        ("model", f"{controller.model}, firmware {controller.firmware or '-'}"),
        ("NVMe", controller.version),
        (
            "commands",
            f"up to {format_size(controller.max_transfer) if controller.max_transfer else '-'};"
            f" {', '.join(controller.optional) or 'only the mandatory ones'}",
        ),
        ("write cache", "volatile" if controller.volatile_cache else "none"),
    ]
    if controller.in_capsule_data:
        facts.append(("in capsules", format_size(controller.in_capsule_data)))
    if controller.multipath or controller.ana:
        facts.append(("paths", "several" + (", with ANA" if controller.ana else "")))
    print_table(where, ("", ""), facts)
    if not namespaces:
        return
    rows = [
        (
            str(each.nsid),
            format_size(each.size) if each.size else "-",
            str(each.block_size) + (f"+{each.metadata_size}" if each.metadata_size else ""),
            each.uuid or each.nguid or each.eui64 or "-",
            ", ".join(_properties(each)),
        )
        for each in namespaces
    ]
    print_table(
        "1 namespace" if len(rows) == 1 else f"{len(rows)} namespaces",
        ("id", "size", "block", "identifier", ""),
        rows,
    )


def _properties(namespace: NamespaceIdentity) -> list[str]:
    words = [name for name in ("thin", "shared") if getattr(namespace, name)]
    if namespace.read_only:
        words.append("read-only")
    if namespace.ana_group:
        words.append(f"ANA group {namespace.ana_group}")
    return words
