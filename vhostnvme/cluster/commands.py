"""What is asked of a card's managers; each command is answered by one Reply. Sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from vhostnvme.cluster.records import PRIORITY_DEFAULT


@dataclass(frozen=True, slots=True)
class Part:
    """One namespace of a device. `placement`: `auto`, `local`, `remote` or a card's name.

    `copies`: on so many cards, or SSDs of this card, at the same time. `scratch`: what is lost is
    replaced by something empty. `degraded`: it may begin with fewer copies.
    """

    size: int
    placement: str = "auto"
    block_size: int = 512
    copies: int = 1
    scratch: bool = False
    degraded: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """`command` is the number that the Reply will have."""

    command: int


@dataclass(frozen=True, slots=True)
class CreateDevice(Command):
    """All of the parts, or nothing. `name` None: one is made. `wait_s`: wait so long for space.

    Answer: the device's name.
    """

    vm: str
    parts: tuple[Part, ...]
    name: str | None = None
    priority: int = PRIORITY_DEFAULT
    wait_s: float = 0.0
    release_on_disconnect: bool = False


@dataclass(frozen=True, slots=True)
class AddNamespace(Command):
    """One more namespace for a device. Answer: its UUID."""

    device: str
    part: Part
    priority: int = PRIORITY_DEFAULT
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CreateNamespace(Command):
    """A namespace of an own SSD that no device has yet. Answer: its UUID."""

    vm: str
    size: int
    block_size: int = 512
    ssd: str | None = None
    priority: int = PRIORITY_DEFAULT


@dataclass(frozen=True, slots=True)
class CloneNamespace(Command):
    """A copy, as of now, of a namespace of an own SSD whose file system shares blocks.

    Answer: the UUID of the copy, which no device has yet.
    """

    uuid: str
    vm: str
    read_only: bool = False  # a snapshot


@dataclass(frozen=True, slots=True)
class AttachNamespace(Command):
    """Gives a device a namespace that none has. Answer: its NSID."""

    uuid: str
    device: str


@dataclass(frozen=True, slots=True)
class ResizeNamespace(Command):
    """Answer: the size that it has then."""

    uuid: str
    size: int


@dataclass(frozen=True, slots=True)
class DeleteNamespace(Command):
    """Answer: a Released."""

    uuid: str


@dataclass(frozen=True, slots=True)
class DeleteDevice(Command):
    """With all its namespaces. Answer: a Released."""

    device: str


@dataclass(frozen=True, slots=True)
class DeleteVm(Command):
    """All devices and namespaces of a VM on this card. Answer: a Released."""

    vm: str


@dataclass(frozen=True, slots=True)
class AdoptDevice(Command):
    """Takes over the remote namespaces of a device whose card `owner` is no member any more.

    `force`: also a copy that is known to lack something, when there is no better one. Answer: the
    device's name.
    """

    device: str
    owner: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class MoveNamespace(Command):
    """Moves a copy of a device's namespace in use to the card, or own SSD, `to`.

    `source`: the card whose copy moves, None when there is but one that can. `to` None: what moves
    stays where it is now. Answer: True when it has begun or ended, False: there was nothing to do.
    """

    uuid: str
    to: str | None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class DrainCard(Command):
    """Empties this card's SSDs: nothing new comes, what is there moves away. `on` False: no more.

    Answer: how many namespaces are still there.
    """

    on: bool


@dataclass(frozen=True, slots=True)
class PromoteCopy(Command):
    """Takes a stale copy for the good one, because none that counts will come back.

    Whatever it lacks is lost. Answer: its leg's number.
    """

    uuid: str
    copy: str


@dataclass(frozen=True, slots=True)
class ForgetCard(Command):
    """A card that will not come back: what it held is released, what it gave is lost.

    Answer: how many records that were.
    """

    card: str


@dataclass(frozen=True, slots=True)
class Released:
    """What a deletion has come to. `pending`: namespaces whose giver has not confirmed yet."""

    devices: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    already: bool = False  # there was nothing left to delete
