"""`vhostnvme demo-cluster`: three cards, one full; a VM gets its disk from a peer, and returns it.

What is said at the end has been checked: where the data was, that it was read back as written, and
that the space is free again, to the byte.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vhostnvme.control.card import CreatedDevice, DeviceNamespace, NamespaceInfo
from vhostnvme.emulation.boot import unwind_on_signals
from vhostnvme.emulation.demo import (
    PATTERNS,
    Measurement,
    find_written_blocks,
    fio_table,
    measure,
    show,
)
from vhostnvme.emulation.demo_cards import (
    SSD_BYTES,
    DemoCard,
    Moment,
    cards_up,
    demo_folder,
    look,
)
from vhostnvme.errors import ClusterError, GuestError, NoSpace
from vhostnvme.guest.accel import Accel, choose_accel
from vhostnvme.guest.debian import say
from vhostnvme.guest.provision import Artifacts, provision
from vhostnvme.guest.vm import Guest
from vhostnvme.units import rounded_size

if TYPE_CHECKING:
    from rich.table import Table

VM = "vm1"
VM_BYTES = 1 << 30
OWNER = "b"
# What other VMs have on the cards before: one that is full, and one that is not the best peer.
OTHERS = {"b": ("vm2", SSD_BYTES), "c": ("vm3", 256 << 20)}
DISK_BYTES = VM_BYTES + sum(size for _, size in OTHERS.values()) + (64 << 20)


@dataclass(frozen=True, slots=True)
class Use:
    """What the guest did with its disk, and how the pool was at that time."""

    boot_seconds: float
    measurements: list[Measurement]
    moment: Moment


def demo_cluster(*, loopback: bool) -> int:
    """Runs it all; the exit code is 0, or there is an exception.

    Args:
        loopback: without network namespaces, also when they could be had.

    Raises:
        VhostNvmeError: what failed, or was not as it should be.
    """
    unwind_on_signals()
    artifacts = provision()
    accel = choose_accel(artifacts.qemu, artifacts.kernel)
    with demo_folder() as folder:
        check_room(folder)
        with cards_up(folder, loopback=loopback) as up:
            _tell(up, artifacts, accel)
    return 0


def check_room(folder: Path) -> None:
    """
    Raises:
        NoSpace: the folder's file system has not what the demo takes.
    """
    free = shutil.disk_usage(folder).free
    if free < DISK_BYTES:
        raise NoSpace(
            f"the demo takes {rounded_size(DISK_BYTES)} of {folder.parent}, which has"
            f" {rounded_size(free)} left: make room, or name another folder with TMPDIR"
        )


def _tell(up: Sequence[DemoCard], artifacts: Artifacts, accel: Accel) -> None:
    """The story, from the beginning to the end."""
    cards = {card.name: card for card in up}
    for name, (vm, size) in OTHERS.items():
        cards[name].create_device(vm, size)
    before = look(up)
    owner = cards[OWNER]
    say(f"card {OWNER} is full; now on it: device create --vm {VM} --size {rounded_size(VM_BYTES)}")
    started = time.monotonic()
    device = owner.create_device(VM, VM_BYTES)
    seconds = time.monotonic() - started
    disk = remote_disk(device)
    giver = cards[disk.card]
    say(f"its namespace lives on card {giver.name}, and was there after {seconds:.1f} s")

    try:
        use = asyncio.run(_use(device, disk, up, artifacts, accel))
    except GuestError as error:
        silent = ", ".join(card.name for card in up if not card.answers())
        if not silent:
            raise
        said = str(error).rstrip(".")
        raise GuestError(f"{said}; no answer any more from: card {silent}") from None
    find_written_blocks(giver.file(disk.uuid))

    say(f"the guest is off; now on card {OWNER}: vm delete {VM}")
    owner.delete_vm(VM)
    after = look(up)
    check_given_back(before, after)
    for name, (vm, _) in OTHERS.items():
        cards[name].delete_vm(vm)
    check_empty(look(up))

    show(fio_table(accel, use.boot_seconds, use.measurements))
    moments = {"before": before, f"with {VM}": use.moment, "after": after}
    show(namespace_table(moments))
    show(space_table(moments))
    verified = sum(each.verified_bytes for each in use.measurements)
    show(
        f"card {OWNER} was full, so {VM}'s disk was on card {giver.name}, over NVMe/TCP:"
        f" {rounded_size(verified)} verified, 0 errors; {giver.name}'s file had them"
    )
    show(f"{VM} is deleted: each SSD has as many bytes free as before, and no file of it is left")


def remote_disk(device: CreatedDevice) -> DeviceNamespace:
    """The only namespace of the device.

    Raises:
        ClusterError: it is not on another card, or not as large as was asked for.
    """
    [disk] = device.namespaces
    if disk.placement != "remote" or disk.card == device.card:
        raise ClusterError(
            f"the namespace of {device.device} was to be on another card than the full"
            f" {device.card}, and is on {disk.card}"
        )
    if disk.size != VM_BYTES:
        raise ClusterError(f"the namespace has {disk.size} bytes and not {VM_BYTES}")
    return disk


async def _use(
    device: CreatedDevice,
    disk: DeviceNamespace,
    up: Sequence[DemoCard],
    artifacts: Artifacts,
    accel: Accel,
) -> Use:
    say(f"booting {VM} on {accel.name} ({accel.reason})")
    async with Guest([device.socket], network=False, artifacts=artifacts, accel=accel) as guest:
        say(f"the guest is up after {guest.boot_seconds:.1f} s")
        await check_identity(guest, disk)
        measurements = [await measure(guest, each) for each in PATTERNS]
        moment = await asyncio.to_thread(look, up)
        return Use(guest.boot_seconds, measurements, moment)


async def check_identity(guest: Guest, disk: DeviceNamespace) -> None:
    """The disk that the guest sees is the namespace that the card made.

    Raises:
        GuestError: it is another one.
    """
    said = await guest.run("cat /sys/block/nvme0n1/uuid /sys/block/nvme0n1/size")
    expected = [disk.uuid, str(disk.size // 512)]
    if said.check().stdout.split() != expected:
        raise GuestError(
            f"the guest's disk has UUID and 512-byte sectors {said.stdout.split()}, and not"
            f" {expected}"
        )


def check_given_back(before: Moment, after: Moment) -> None:
    """
    Raises:
        ClusterError: a byte, a namespace or a file is not as it was before.
    """
    for card, ssd in before.ssds.items():
        if after.ssds[card] != ssd:
            raise ClusterError(
                f"card {card} had {ssd.used} bytes in use and {ssd.free} free before, and has"
                f" {after.ssds[card].used} and {after.ssds[card].free} now"
            )
        if (left := after.files[card]) != before.files[card]:
            raise ClusterError(
                f"card {card} had these files before: {before.files[card]}, and has {left} now"
            )
    if after.namespaces != before.namespaces:
        raise ClusterError("the cards do not have the same namespaces as before")


def check_empty(moment: Moment) -> None:
    """
    Raises:
        ClusterError: something is left of some VM.
    """
    for card, ssd in moment.ssds.items():
        if ssd.used or ssd.free != ssd.capacity - ssd.reserved or moment.files[card]:
            raise ClusterError(
                f"card {card} still has {ssd.used} bytes in use, and files {moment.files[card]}"
            )


def namespace_table(moments: Mapping[str, Moment]) -> Table:
    """Where each namespace lives at each of these moments."""
    from rich.table import Table

    table = Table(title="where each namespace lives", title_justify="left")
    for heading in ("namespace", "size", "VM", "VM's card"):
        table.add_column(heading, justify="right" if heading == "size" else "left")
    for name in moments:
        table.add_column(name)
    every: dict[str, NamespaceInfo] = {}
    for moment in moments.values():
        every |= moment.namespaces
    for one in sorted(every.values(), key=lambda each: (each.owner, each.vm)):
        homes = [moment.namespaces.get(one.uuid) for moment in moments.values()]
        table.add_row(
            one.uuid[:8],
            rounded_size(one.size),
            one.vm,
            one.owner,
            *map(_home, homes),
        )
    return table


def _home(one: NamespaceInfo | None) -> str:
    if one is None:
        return "-"
    return f"{one.card}/{one.ssd}" + (" (remote)" if one.placement == "remote" else "")


def space_table(moments: Mapping[str, Moment]) -> Table:
    """What is free on each SSD at each of these moments."""
    from rich.table import Table

    table = Table(title="what is free", title_justify="left")
    for heading in ("card", "SSD", "capacity", *moments):
        table.add_column(heading, justify="left" if heading in ("card", "SSD") else "right")
    for card, ssd in next(iter(moments.values())).ssds.items():
        free = [rounded_size(moment.ssds[card].free) for moment in moments.values()]
        table.add_row(card, ssd.ssd, rounded_size(ssd.capacity), *free)
    return table
