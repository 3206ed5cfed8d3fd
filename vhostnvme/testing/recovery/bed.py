"""Where recovery is tried: a lab of cards with SSDs that fail on command, and a guest on one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vhostnvme.errors import PeerError
from vhostnvme.guest.vm import Guest
from vhostnvme.lab import Lab, LabPlan
from vhostnvme.lab.plan import StoreKind
from vhostnvme.storage.file_system import PAGE_BYTES
from vhostnvme.storage.ssd_table import CHUNK_BYTES, Extent, decode_label, read_table
from vhostnvme.testing.faulty_ssd import FaultySsd

__all__ = ["OWNER", "Bed", "BedPlan", "Copy", "Look", "digest_of", "extents_of", "make_bed"]

OWNER = "a"
VM, DEVICE = "vm1", "disk"
TTL_S = 3.0
SSD = "ssd0"
LOG_LINES = 25
_HASH_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BedPlan:
    """`size`: of the namespace, in bytes. Each card has one SSD that holds it twice.

    `replace_after_s`: a copy that is away for longer is given up for new space.
    """

    cards: int = 3
    size: int = 64 << 20
    copies: int = 2
    store: StoreKind = "etcd"
    replace_after_s: float = 4.0


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy of the namespace: where it lies, and what its owner says of it."""

    card: str
    ssd: str
    uuid: str
    standing: str

    def __str__(self) -> str:
        return f"{self.card}/{self.ssd} {self.standing}"


@dataclass(frozen=True, slots=True)
class Look:
    """What the owner says of the namespace: a word, a sentence, and its copies."""

    safety: str
    words: str
    copies: Sequence[Copy]

    def __str__(self) -> str:
        return f"{self.safety}, {self.words} ({', '.join(map(str, self.copies))})"


class Bed:
    """A lab that is up, its SSDs, a device of card OWNER, and a guest that has it. Of `make_bed`.

    Methods that wait run in threads: the guest goes on meanwhile.
    """

    def __init__(self, plan: BedPlan, lab: Lab, ssds: dict[str, FaultySsd], guest: Guest) -> None:
        self.plan = plan
        self.lab = lab
        self.ssds = ssds
        self.guest = guest
        self.node = ""

    async def look(self) -> Look:
        """
        Raises:
            PeerError: it does not answer.
        """
        shown = await asyncio.to_thread(_tell, self.lab, "device", "show", DEVICE)
        [namespace] = shown["namespaces"]
        names = ("card", "ssd", "uuid", "standing")
        copies = [Copy(*(each[name] for name in names)) for each in namespace["copies"]]
        return Look(namespace["safety"], namespace["words"], copies)

    async def digests(self, copies: Sequence[Copy]) -> list[str]:
        """What each copy is, on the SSD where it lies."""
        return [
            await asyncio.to_thread(
                digest_of, self.ssds[copy.card].image, copy.uuid, self.plan.size
            )
            for copy in copies
        ]

    async def spaces(self) -> list[tuple[str, str]]:
        """Card and UUID of all that lies on the SSDs."""
        found = []
        for card, ssd in self.ssds.items():
            extents = await asyncio.to_thread(extents_of, ssd.image)
            found += [(card, uuid) for uuid in extents]
        return found

    async def guest_digest(self) -> str:
        """What the guest reads."""
        command = f"dd if={self.node} bs=1M iflag=direct | sha256sum"
        return (await self.guest.run(command, timeout=300)).check().stdout.split()[0]

    def evidence(self) -> str:
        """The ends of the cards' logs."""
        said = []
        for card in self.lab.cards:
            lines = card.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            said += [f"--- card {card.name}", *lines]
        return "\n".join(said)


@asynccontextmanager
async def make_bed(folder: Path, plan: BedPlan) -> AsyncIterator[Bed]:
    """All of it; nothing is left of it in the end but the SSDs' images, below `folder`.

    Raises:
        VhostNvmeError: something of it cannot be made.
    """
    names = [chr(ord("a") + number) for number in range(plan.cards)]
    with ExitStack() as stack:
        ssds = {}
        for name in names:
            ssds[name] = FaultySsd(folder / f"ssd-{name}", 2 * plan.size + 4 * CHUNK_BYTES)
            stack.enter_context(ssds[name])
        lab_plan = LabPlan(
            cards=plan.cards,
            store=plan.store,
            ttl_us=round(TTL_S * 1e6),
            replace_after_us=round(plan.replace_after_s * 1e6),
            devices={name: [ssd.device] for name, ssd in ssds.items()},
        )
        lab = await asyncio.to_thread(Lab.up, folder / "lab", lab_plan)
        stack.callback(_heal_and_close, lab, ssds)
        words = ["device", "create", "--vm", VM, "--name", DEVICE, "--size", str(plan.size)]
        made = await asyncio.to_thread(_tell, lab, *words, "--copies", str(plan.copies))
        async with Guest([made["socket"]], network=False) as guest:
            bed = Bed(plan, lab, ssds, guest)
            bed.node = await _node(guest)
            yield bed


def digest_of(image: Path, uuid: str, size: int) -> str:
    """Of a namespace's bytes on an SSD that is a block device, or its image.

    Raises:
        PeerError: it is not there.
    """
    extent = extents_of(image).get(uuid)
    if extent is None:
        raise PeerError(f"namespace {uuid} is not on {image}")
    digest = hashlib.sha256()
    with image.open("rb") as file:
        file.seek(extent.offset)
        for at in range(0, size, _HASH_BYTES):
            digest.update(file.read(min(_HASH_BYTES, size - at)))
    return digest.hexdigest()


def extents_of(image: Path) -> Mapping[str, Extent]:
    """What lies on an SSD that is a block device, or its image.

    Raises:
        PeerError: it is none of a card.
    """
    fd = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        label = decode_label(os.pread(fd, PAGE_BYTES, 0))
        if label is None:
            raise PeerError(f"{image} has no label of a card's SSD")
        end = os.lseek(fd, 0, os.SEEK_END) // CHUNK_BYTES
        return read_table(fd, label.uuid, end).extents
    finally:
        os.close(fd)


def _tell(lab: Lab, *words: str) -> Any:
    """`vhostnvme WORDS --json` on the owner's host; its answer."""
    done = lab.run(OWNER, "vhostnvme", *words, "--json")
    if done.returncode != 0:
        raise PeerError(f"card {OWNER}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def _heal_and_close(lab: Lab, ssds: dict[str, FaultySsd]) -> None:
    # What hangs in the kernel would keep the cards from ending.
    for ssd in ssds.values():
        with contextlib.suppress(PeerError):
            ssd.heal()
    lab.close()


async def _node(guest: Guest) -> str:
    script = (
        "for i in $(seq 100); do for n in /dev/nvme*n1; do [ -b $n ] && echo $n && exit; done;"
        " usleep 100000; done; exit 1"
    )
    return (await guest.run(script)).check().stdout.strip()
