"""What lies in the store: the keys, and the records behind them. Sizes in bytes.

::

    cards/<name>             who has ever joined                     durable
    members/<name>           who is alive, and in which session      ends with the card's lease
    offers/<name>            the card's SSDs and their use           durable, rewritten on change
    uses/<name>              which own VMs have how much of them     the same; nobody watches it
    space/<giver>/<uuid>     space asked of a card, or given by it   durable
    held/<owner>/<uuid>      the same record, for its owner          always written together
    mirrors/<owner>/<uuid>   which copies of a namespace count       durable; who has it owns all

The store puts the prefix of the cluster in front of each key.
"""

from __future__ import annotations

import enum
import hashlib
import re
from typing import Final, TypeVar

import msgspec

from vhostnvme.errors import ConfigError, ProtocolError
from vhostnvme.storage.mirror_record import Standing

CARDS: Final = "cards/"
MEMBERS: Final = "members/"
OFFERS: Final = "offers/"
USES: Final = "uses/"
SPACE: Final = "space/"
HELD: Final = "held/"
MIRRORS: Final = "mirrors/"

EXPORTED_NSID: Final = 1  # a subsystem of a giver has one namespace
PRIORITY_MIN: Final = 0
PRIORITY_MAX: Final = 100
PRIORITY_DEFAULT: Final = 50

_CARD_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

T = TypeVar("T")


def check_card_name(text: str) -> str:
    """A name that can be part of keys, paths and NQNs.

    Raises:
        ConfigError: it cannot.
    """
    if not _CARD_NAME.fullmatch(text):
        raise ConfigError(
            f"{text!r} is no name of a card: up to 32 lower-case letters, digits and -"
        )
    return text


def check_name(what: str, text: str) -> str:
    """The same for VMs and devices.

    Raises:
        ConfigError: it cannot.
    """
    if not _NAME.fullmatch(text):
        raise ConfigError(f"{text!r} is no name of a {what}: up to 64 letters, digits, . _ and -")
    return text


class CardRecord(msgspec.Struct, frozen=True):
    """`uuid` is that of the card's state folder: it tells two cards of one name apart."""

    name: str
    uuid: str


class MemberRecord(msgspec.Struct, frozen=True):
    """A living card. `session` is another one each time that it joins; `ttl_s` is its lease's."""

    name: str
    uuid: str
    session: str
    addresses: tuple[str, ...] = ()  # where its target listens
    ttl_s: float = 0.0
    version: str = ""


class SsdOffer(msgspec.Struct, frozen=True):
    """An SSD as its card accounts for it; `free` is what others may have, the reserve left out.

    Not `healthy`: it cannot be used now. `failing`: what is on it can, and had better leave.
    """

    name: str
    kind: str
    capacity: int
    local: int  # given to VMs of this card
    remote: int  # given to other cards
    reserved: int
    free: int
    largest: int  # the largest single namespace that fits
    healthy: bool = True
    reason: str = ""
    failing: bool = False

    @property
    def takes_new(self) -> bool:
        """Whether new namespaces may come to it."""
        return self.healthy and not self.failing


class VmUse(msgspec.Struct, frozen=True):
    """What a VM has of its own card's SSDs."""

    namespaces: int
    bytes: int


class OfferRecord(msgspec.Struct, frozen=True):
    """What a card has for others; all cards hear of it. `tenants` counts those that have some.

    `draining`: it is being emptied; what others have here is to be moved away.
    """

    name: str
    ssds: tuple[SsdOffer, ...] = ()
    tenants: int = 0
    draining: bool = False

    @property
    def free(self) -> int:
        return sum(ssd.free for ssd in self.ssds if ssd.takes_new)

    @property
    def largest(self) -> int:
        return max((ssd.largest for ssd in self.ssds if ssd.takes_new), default=0)


class UsesRecord(msgspec.Struct, frozen=True):
    """The VMs of a card that have something of its own SSDs; read when somebody wants to see it."""

    name: str
    vms: dict[str, VmUse] = {}


class SpaceState(enum.StrEnum):
    """Of a space record. The asker writes the first and the last two, the giver the others."""

    ASKED = "asked"
    GRANTED = "granted"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    RELEASING = "releasing"


class SpaceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Space of `giver` for a VM of the card `owner`; `uuid` becomes the namespace's.

    The ownership is `owner` at `epoch`; hosts of that epoch are let in once `admitted` equals it.
    `mirror`: it was asked for as a copy of that namespace, and is nothing without it.
    """

    uuid: str
    giver: str
    owner: str
    vm: str
    device: str
    size: int
    block_size: int
    device_nsid: int = 1  # which namespace of the device it is
    mirror: str = ""
    state: SpaceState = SpaceState.ASKED
    priority: int = PRIORITY_DEFAULT
    waited_ms: int = 0  # how long the request had waited elsewhere before it was written
    epoch: int = 1
    admitted: int = 0
    wanted: int = 0  # the size that the owner wants it to have; 0: as it is
    # the giver's answer
    ssd: str = ""
    subnqn: str = ""
    nsid: int = 0
    addresses: tuple[str, ...] = ()
    reason: str = ""

    def given_up(self) -> SpaceRecord:
        """As it is when its owner does not want it any more.

        Only the giver deletes a record: it may not know its own last answer.
        """
        if self.state in (SpaceState.WITHDRAWN, SpaceState.RELEASING):
            return self
        granted = self.state is SpaceState.GRANTED
        state = SpaceState.RELEASING if granted else SpaceState.WITHDRAWN
        return msgspec.structs.replace(self, state=state)


class CopyRecord(msgspec.Struct, frozen=True):
    """A copy: the namespace `uuid` of the card `giver`."""

    uuid: str
    giver: str
    standing: Standing


class MirrorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A namespace that is kept as copies, of which some are on other cards than its owner's.

    A copy counts when it is IN_SYNC here; nothing is acknowledged without one that does.
    """

    uuid: str
    owner: str
    vm: str
    device: str
    device_nsid: int
    size: int
    block_size: int
    copies: int
    placement: str
    priority: int
    legs: tuple[CopyRecord, ...]


def card_key(name: str) -> str:
    return CARDS + name


def member_key(name: str) -> str:
    return MEMBERS + name


def offer_key(name: str) -> str:
    return OFFERS + name


def uses_key(name: str) -> str:
    return USES + name


def space_key(giver: str, uuid: str) -> str:
    return f"{SPACE}{giver}/{uuid}"


def held_key(owner: str, uuid: str) -> str:
    return f"{HELD}{owner}/{uuid}"


def mirror_key(owner: str, uuid: str) -> str:
    return f"{MIRRORS}{owner}/{uuid}"


def encode(record: msgspec.Struct) -> bytes:
    return msgspec.json.encode(record)


def decode(key: str, value: bytes, kind: type[T]) -> T:
    """
    Raises:
        ProtocolError: the value is no such record.
    """
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"the record {key} in the store is not understood: {error}") from None


def subsystem_nqn_of(uuid: str) -> str:
    """The subsystem by which a giver exports a namespace: one for each."""
    return f"nqn.2026-11.io.vhostnvme:space:{uuid}"


def serial_of(name: str) -> str:
    """A serial number that is the same on every card, so that a guest knows its disk again."""
    return "VN" + hashlib.sha256(name.encode()).hexdigest()[:16].upper()


def host_nqn_of(owner: str, uuid: str, epoch: int) -> str:
    """Who a card is to the giver of one namespace at one epoch: the giver lets in only this."""
    return f"nqn.2026-11.io.vhostnvme:card:{owner}:{uuid}:{epoch}"
