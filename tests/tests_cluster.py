"""What the tests with real cards share: that a pool is empty, and that it is right."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vhostnvme.errors import VhostNvmeError
from vhostnvme.testing import NvmeHost, QueuePair
from vhostnvme.testing.cards import CardProcess, Cards

MIB = 1 << 20
BLOCK = 512
MAPS_BYTES_MAX = 256 << 10


def files_bytes(card: CardProcess) -> int:
    """What its namespaces' files take of the file system."""
    return sum(path.stat().st_blocks * 512 for path in card.namespace_files())


def leftovers(cards: Cards) -> list[str]:
    """What is there of devices and namespaces: on SSDs, in catalogs, targets and the store."""
    found = [entry.key for entry in cards.store_entries("space/", "held/", "mirrors/")]
    for card in cards:
        found += [f"file {path}" for path in card.namespace_files()]
        found += [f"open {name}" for name in card.descriptors() if ".ns" in Path(name).suffixes]
        found += [f"card {card.name}: namespace {each}" for each in card.namespaces()]
        found += [f"card {card.name}: device {each}" for each in card.devices()]
        for ssd in card.ssds():
            if ssd.used or ssd.local or ssd.remote or ssd.free != ssd.capacity - ssd.reserved:
                found.append(f"card {card.name}: {ssd}")
        status = card.status()
        if status.given or status.devices or status.namespaces:
            found.append(str(status))
        folders = [path for path in card.control.parent.iterdir() if path.is_dir()]
        found += [f"folder {path}" for path in folders]
    for seen in {card.name: card.cluster() for card in cards}.values():
        for each in seen:
            if each.local or each.remote or each.tenants or each.vms or each.holds:
                found.append(f"{each.card} as another sees it: {each}")
    return found


def wait_empty(cards: Cards, timeout_s: float = 20.0) -> None:
    """Nothing is left of any device; asserted, after a while in which that may come to be."""
    try:
        cards.wait(lambda: not leftovers(cards), "the pool is empty", timeout_s)
    except VhostNvmeError:
        raise AssertionError("\n".join(leftovers(cards))) from None


def check_accounts(cards: Iterable[CardProcess]) -> None:
    """What cards say of their SSDs agrees with their rows and with the file system, to the byte.

    At a moment when nothing is under way.
    """
    held: dict[str, tuple[str, str, int]] = {}
    for card in cards:
        for each in card.namespaces():
            if each.owner == card.name and not each.copies:
                assert each.uuid not in held, f"{each.uuid} has two owners"
                held[each.uuid] = (each.card, each.ssd, each.size)
    for card in cards:
        known = [each for each in card.namespaces() if not each.copies]
        local = {each.uuid: each for each in known if each.card == card.name}
        for each in local.values():
            assert held.get(each.uuid) == (card.name, each.ssd, each.size), f"nobody holds {each}"
        there = {uuid for uuid, (giver, _, _) in held.items() if giver == card.name}
        assert there == local.keys(), f"card {card.name} does not know {there - local.keys()}"
        for ssd, folder in zip(card.ssds(), card.ssd_folders, strict=True):
            mine = [each for each in local.values() if each.ssd == ssd.ssd]
            assert ssd.local == sum(each.size for each in mine if each.owner == card.name)
            assert ssd.remote == sum(each.size for each in mine if each.owner != card.name)
            assert ssd.used == ssd.local + ssd.remote
            assert ssd.free == ssd.capacity - ssd.used - ssd.reserved
            files = {path.name: path.stat() for path in folder.glob("*.*") if path.suffix == ".ns"}
            assert files.keys() == {f"{each.uuid}.ns" for each in mine}
            for each in mine:
                stat = files[f"{each.uuid}.ns"]
                blocks = stat.st_blocks * 512
                assert stat.st_size == each.size, f"{stat.st_size} bytes of {each}"
                # All has blocks; the file system may need some more for its maps and copies.
                assert each.size <= blocks <= each.size + MAPS_BYTES_MAX, f"{blocks} of {each}"


def opened(socket: str | Path, nsid: int = 1) -> tuple[NvmeHost, QueuePair]:
    """A host of a device, with a queue; the caller closes the host."""
    host = NvmeHost.connect(socket, memory_bytes=4 << 20)
    try:
        host.enable()
        return host, host.create_queue_pair(nsid=nsid)
    except BaseException:
        host.close()
        raise


def is_refused(error: VhostNvmeError) -> str:
    """Its sentence, which is one line with something in it."""
    text = str(error)
    assert text.strip() and "\n" not in text and "Traceback" not in text, text
    return text
