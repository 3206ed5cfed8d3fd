"""What a card tells, as text and tables for people."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from vhostnvme.config import CardConfig
from vhostnvme.control.card import (
    CardStatus,
    ClusterCard,
    CreatedDevice,
    DeviceInfo,
    DrainInfo,
    ForgottenCard,
    MovedInfo,
    NamespaceInfo,
    ReleasedInfo,
    SsdInfo,
    VmInfo,
)
from vhostnvme.guest.qemu import attach_arguments
from vhostnvme.inspect.table import print_table
from vhostnvme.units import rounded_size

MEMORY_EXAMPLE = "1G"
_NUMBERS = frozenset(
    "id,size,heartbeat,SSDs,capacity,used,own VMs,others,reserved,free,tenants,devices,namespaces,"
    "on this card,on other cards".split(",")
)


def show_ssds(ssds: Sequence[SsdInfo]) -> None:
    """A line for each."""
    rows = [
        (
            each.ssd,
            each.kind,
            *map(rounded_size, (each.capacity, each.used, each.local, each.remote)),
            *map(rounded_size, (each.reserved, each.free)),
            each.state,
            each.reason or each.path,
        )
        for each in ssds
    ]
    headings = ("SSD", "kind", "capacity", "used", "own VMs", "others", "reserved", "free")
    _print_table(_count(len(rows), "SSD"), (*headings, "state", ""), rows)


def show_namespaces(namespaces: Sequence[NamespaceInfo]) -> None:
    """What the card holds, and what others have of it."""
    rows = [
        (
            each.uuid,
            rounded_size(each.size),
            each.vm,
            each.device or "-",
            "-" if each.nsid is None else str(each.nsid),
            ", ".join(_place(copy.card, copy.ssd) for copy in each.copies)
            or _place(each.card, each.ssd),
            each.owner,
            each.state
            + (", read-only" if each.read_only else "")
            + (f", copy of {each.copy_of[:8]}" if each.copy_of else ""),
        )
        for each in namespaces
    ]
    headings = ("namespace", "size", "VM", "device", "id", "lives on", "owner", "state")
    _print_table(_count(len(rows), "namespace"), headings, rows)


def show_devices(devices: Sequence[DeviceInfo]) -> None:
    """A line for each."""
    rows = [
        (
            each.device,
            each.vm,
            rounded_size(each.size) if each.size else "-",
            ", ".join(_place(one.card, one.ssd) for one in each.namespaces) or "-",
            each.state,
            each.socket,
        )
        for each in devices
    ]
    headings = ("device", "VM", "size", "lives on", "state", "socket")
    _print_table(_count(len(rows), "device"), headings, rows)


def show_vms(vms: Sequence[VmInfo]) -> None:
    """A line for each."""
    rows = [
        (
            each.vm,
            str(each.devices),
            str(each.namespaces),
            rounded_size(each.local),
            rounded_size(each.remote),
        )
        for each in vms
    ]
    headings = ("VM", "devices", "namespaces", "on this card", "on other cards")
    _print_table(_count(len(rows), "VM"), headings, rows)


def show_device(device: CreatedDevice) -> None:
    """A device with its namespaces, and what attaches it."""
    line = f"device {device.device} of VM {device.vm}: {device.socket}"
    if isinstance(device, DeviceInfo):
        line += f", {device.state}, serial number {device.serial}"
    lines = [line]
    if isinstance(device, DeviceInfo) and device.reason:
        lines.append(f"  it is not whole: {device.reason}")
    for one in device.namespaces:
        lines.append(
            f"  namespace {one.nsid}: {rounded_size(one.size)} on {_place(one.card, one.ssd)}"
            f"{f' ({one.placement})' if one.placement else ''}, UUID {one.uuid}"
        )
        lines += [
            f"    copy on {_place(copy.card, copy.ssd)}: {copy.standing}"
            f"{', is to move' if copy.moving else ''}, UUID {copy.uuid}"
            for copy in one.copies
        ]
        if one.safety:
            share = "" if one.progress is None else f" ({one.progress:.0%} is the same)"
            lines.append(f"    {one.safety}: {one.words}{share}")
    memory = attach_arguments(device.socket, memory=MEMORY_EXAMPLE)[: -len(device.qemu_args)]
    lines += [
        f"QEMU options for it (memory of {MEMORY_EXAMPLE} as an example; it must be shared):",
        "  " + shlex.join(memory),
        "  " + shlex.join(device.qemu_args),
    ]
    _say(lines)


def show_namespace(namespace: NamespaceInfo) -> None:
    """One namespace, in a sentence."""
    of = f"device {namespace.device}" if namespace.device else "no device"
    of += f" (as namespace {namespace.nsid})" if namespace.nsid is not None else ""
    _say(
        [
            f"namespace {namespace.uuid}: {rounded_size(namespace.size)}"
            f"{' read-only' if namespace.read_only else ''} on"
            f" {_place(namespace.card, namespace.ssd)}, for VM {namespace.vm}, {of}"
        ]
    )


def show_moved(moved: MovedInfo) -> None:
    """What has come of a move."""
    if not moved.begun:
        _say([f"namespace {moved.namespace.uuid}: there is nothing to move"])
        return
    show_namespace(moved.namespace)


def show_drain(drain: DrainInfo) -> None:
    """A card that is being emptied."""
    if not drain.draining:
        _say([f"card {drain.card} is not emptied any more: it takes namespaces again"])
    elif drain.left:
        left = _count(drain.left, "namespace")
        _say([f"card {drain.card} is being emptied: {left} left, nothing new comes"])
    else:
        _say([f"card {drain.card} is empty, and takes nothing new until `card drain --cancel`"])


def show_released(what: str, released: ReleasedInfo) -> None:
    """`what` was to be deleted."""
    if released.already:
        _say([f"{what} has been deleted before: nothing to delete"])
        return
    counts = [
        _count(len(released.devices), "device"),
        _count(len(released.namespaces), "namespace"),
    ]
    lines = [f"{what} is deleted: {' and '.join(counts)}"]
    if released.pending:
        lines.append(
            "  these have not been confirmed yet; that is remembered, and done when the card that"
            " gave them answers:"
        )
        lines += [f"    {name}" for name in released.pending]
    _say(lines)


def show_cluster(cards: Sequence[ClusterCard]) -> None:
    """The cards, and who holds what of others."""
    rows = [
        (
            each.card + (" (this)" if each.self else ""),
            each.health,
            "-" if each.heartbeat_age_s is None else f"{each.heartbeat_age_s:.1f} s ago",
            str(len(each.ssds)) + _ill(each),
            *map(rounded_size, (each.capacity, each.local, each.remote, each.reserved, each.free)),
            str(each.tenants),
        )
        for each in cards
    ]
    headings = ("card", "health", "heartbeat", "SSDs", "capacity", "own VMs", "others")
    _print_table(_count(len(rows), "card"), (*headings, "reserved", "free", "tenants"), rows)
    if any(each.holds is None for each in cards):
        _say(["the store does not answer: who holds what is not known now"])
        return
    held = [
        (each.card, one.vm, one.device or "-", rounded_size(one.size), _place(one.card, one.ssd),
         one.uuid, one.state)
        for each in cards
        for one in each.holds or ()
    ]  # fmt: skip
    if held:
        _say([""])
        headings = ("holder", "VM", "device", "size", "lives on", "namespace", "state")
        _print_table(f"{_count(len(held), 'namespace')} on other cards", headings, held)


def show_forgotten(forgotten: ForgottenCard) -> None:
    """What has become of a card."""
    records = _count(forgotten.records, "namespace")
    _say([f"card {forgotten.card} is forgotten, with {records} that it gave or had"])


def show_card(status: CardStatus) -> None:
    """How a running card is."""
    cluster = "alone, without a cluster"
    if status.clustered:
        cluster = f"{'a member' if status.member else 'no member now'} of {status.store}"
    _say(
        [
            f"card {status.card}: {cluster}; process {status.pid}, version {status.version}",
            f"  others reach it at {', '.join(status.addresses) or 'no address'}",
            f"  {_count(status.ssds, 'SSD')}, {_count(status.devices, 'device')},"
            f" {_count(status.namespaces, 'namespace')}, {status.given} given to other cards",
            f"  sockets in {status.run_dir}, state in {status.state_dir}",
            *(f"  note: {remark}" for remark in status.remarks),
        ]
    )


def show_config(config: CardConfig) -> None:
    """A file that can be used."""
    _say(
        [
            f"card {config.name}: {_count(len(config.ssds), 'SSD')},"
            f" control socket {config.control}, state in {config.state_dir}",
            *(f"note: {remark}" for remark in config.remarks()),
        ]
    )


def _print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print_table(title, headings, rows, numbers=_NUMBERS, folded=False)


def _ill(card: ClusterCard) -> str:
    states = [each.state for each in card.ssds]
    said = [f"{states.count(state)} {state}" for state in ("failing", "missing") if state in states]
    return "".join(f", {each}" for each in said)


def _place(card: str, ssd: str) -> str:
    if not card:
        return "nowhere yet"
    return f"{card}/{ssd}" if ssd else card


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _say(lines: Sequence[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
