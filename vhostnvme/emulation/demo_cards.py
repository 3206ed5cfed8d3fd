"""The cards of `vhostnvme demo-cluster`, and what they say of the pool at one moment."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vhostnvme.control import card as methods
from vhostnvme.control.card import (
    ClusterCard,
    CreatedDevice,
    CreateDeviceParams,
    ListParams,
    NamespaceInfo,
    PartParams,
    ReleasedInfo,
    SsdInfo,
    VmParams,
)
from vhostnvme.control.client import call
from vhostnvme.control.device import NoParams
from vhostnvme.emulation.boot import scratch_folder
from vhostnvme.errors import ClusterError, LabError, VhostNvmeError
from vhostnvme.guest.debian import say

SSD_BYTES = 1280 << 20
CARDS = 3
SETTLE_S = 10.0  # offers are told at once; this is for a machine that has much else to do
_STEP_S = 0.1
_FOLDER = "vhostnvme-demo-"
_LAB = "lab"  # in that folder


@dataclass(frozen=True, slots=True)
class DemoCard:
    """A card that runs. `ssd` is the folder of its only SSD."""

    name: str
    control: Path
    ssd: Path

    def create_device(self, vm: str, size: int) -> CreatedDevice:
        """`vhostnvme device create --vm VM --size SIZE`.

        Raises:
            NoSpace, PeerError: as the card does.
        """
        params = CreateDeviceParams(vm=vm, parts=[PartParams(size)])
        return call(
            self.control, methods.DEVICE_CREATE, params, CreatedDevice, timeout_s=methods.SLOW_S
        )

    def delete_vm(self, vm: str) -> None:
        """`vhostnvme vm delete VM`.

        Raises:
            ClusterError: something of it is not gone yet.
        """
        released = call(
            self.control, methods.VM_DELETE, VmParams(vm), ReleasedInfo, timeout_s=methods.DELETE_S
        )
        if released.already or released.pending:
            left = ", ".join(released.pending) or "there was nothing to delete"
            raise ClusterError(f"card {self.name}: VM {vm} was not deleted at once: {left}")

    def answers(self) -> bool:
        """Whether it takes commands."""
        try:
            self.ssds()
        except VhostNvmeError:
            return False
        return True

    def ssds(self) -> list[SsdInfo]:
        """`vhostnvme ssd list`."""
        return call(self.control, methods.SSD_LIST, NoParams(), list[SsdInfo])

    def namespaces(self) -> list[NamespaceInfo]:
        """`vhostnvme namespace list`."""
        return call(self.control, methods.NAMESPACE_LIST, ListParams(), list[NamespaceInfo])

    def cluster(self) -> list[ClusterCard]:
        """`vhostnvme cluster status`."""
        return call(self.control, methods.CLUSTER_STATUS, NoParams(), list[ClusterCard])

    def file(self, uuid: str) -> Path:
        """Where a namespace on its SSD has its data."""
        return self.ssd / f"{uuid}.ns"

    def files(self) -> list[str]:
        """The files on its SSD that hold, held or will hold namespaces."""
        return sorted(path.name for path in self.ssd.iterdir() if not path.name.startswith("."))


@contextmanager
def demo_folder() -> Iterator[Path]:
    """A temporary folder for the cards; those that killed demos have left are removed first.

    Who has a folder locked is alive.
    """
    parent = scratch_folder()
    for path in parent.glob(f"{_FOLDER}*"):
        _remove_left(path)
    with tempfile.TemporaryDirectory(prefix=_FOLDER, dir=parent) as name:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            os.close(descriptor)


def _remove_left(folder: Path) -> None:
    """Only when it is ours: what is in it says which processes are ended."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        if os.fstat(descriptor).st_uid != os.geteuid() or not any(folder.iterdir()):
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        say(f"removing {folder}, which a demo that was killed has left")
        if (folder / _LAB).exists():
            from vhostnvme.lab import Lab

            Lab.remove(folder / _LAB)
        shutil.rmtree(folder)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


@contextmanager
def cards_up(folder: Path, *, loopback: bool) -> Iterator[list[DemoCard]]:
    """Three cards, each with an SSD of SSD_BYTES, as long as the context lasts.

    Args:
        folder: for all that they write.
        loopback: they share this machine's network; else each has a namespace, if this user may.

    Raises:
        LabError, PeerError: they do not come up.
    """
    if not loopback and os.geteuid() == 0:
        from vhostnvme.lab import Lab, LabPlan

        say(f"starting {CARDS} cards, each on a host of its own: network namespaces")
        try:
            lab = Lab.up(folder / _LAB, LabPlan(cards=CARDS, ssd_size=SSD_BYTES))
        except (LabError, ModuleNotFoundError) as error:
            say(f"there can be no such hosts here: {error}")
        else:
            with lab:
                yield [DemoCard(each.name, each.control, each.ssds[0]) for each in lab.cards]
            return
    from vhostnvme.testing.cards import CardPlan, Cards

    say(f"starting {CARDS} cards on this machine's loopback")
    with Cards(CARDS, CardPlan(ssd_bytes=SSD_BYTES), folder / "cards") as cards:
        yield [DemoCard(each.name, each.control, each.ssd_folders[0]) for each in cards]


@dataclass(frozen=True, slots=True)
class Moment:
    """The pool as all of its cards say it is: SSDs by card, namespaces by UUID, files by card."""

    ssds: dict[str, SsdInfo]
    namespaces: dict[str, NamespaceInfo]
    files: dict[str, list[str]]


def look(cards: Sequence[DemoCard]) -> Moment:
    """Waits until each card sees of the others what they say of themselves.

    Raises:
        ClusterError: they do not come to agree.
    """
    wait_for(lambda: _agree(cards), "the cards agree on who has which space")
    namespaces = [one for card in cards for one in card.namespaces() if one.owner == card.name]
    return Moment(
        ssds={card.name: card.ssds()[0] for card in cards},
        namespaces={each.uuid: each for each in namespaces},
        files={card.name: card.files() for card in cards},
    )


def _agree(cards: Sequence[DemoCard]) -> bool:
    said = {card.name: _account(card.ssds()[0]) for card in cards}
    return all(
        {each.card: _account(each.ssds[0]) for each in card.cluster() if each.ssds} == said
        for card in cards
    )


def _account(ssd: SsdInfo) -> tuple[int, ...]:
    return (ssd.capacity, ssd.used, ssd.local, ssd.remote, ssd.reserved, ssd.free)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """
    Raises:
        ClusterError: it does not come true within SETTLE_S.
    """
    deadline = time.monotonic() + SETTLE_S
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"this did not come about within {SETTLE_S:g} s: {what}")
        time.sleep(_STEP_S)
