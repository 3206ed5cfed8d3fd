"""What a card's pool holds, as the control socket tells it. Sizes in bytes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from vhostnvme.cluster.mirror_messages import MirrorSeen
from vhostnvme.cluster.records import OfferRecord, SpaceRecord, SsdOffer, UsesRecord, VmUse
from vhostnvme.cluster.rows import (
    DeviceRow,
    HoldingRow,
    HoldingState,
    MirrorRow,
    RowState,
    SpaceRow,
)
from vhostnvme.config import CardConfig
from vhostnvme.control.card import (
    ClusterCard,
    CreatedDevice,
    DeviceInfo,
    DeviceNamespace,
    HeldSpace,
    NamespaceInfo,
    SsdInfo,
    VmInfo,
)
from vhostnvme.emulation import safety
from vhostnvme.errors import ConfigError
from vhostnvme.guest.qemu import vfio_user_device
from vhostnvme.storage.mirror_record import Standing

UUID_CHARACTERS_MIN = 4  # of the beginning of one, by which people may name it
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Peer(Protocol):
    """Another card, as far as it is known. `health`: `online`, `lost` or `unknown`."""

    @property
    def name(self) -> str: ...
    @property
    def health(self) -> str: ...
    @property
    def addresses(self) -> Sequence[str]: ...
    @property
    def offer(self) -> OfferRecord | None: ...


class Pool(Protocol):
    """What the card's managers know now."""

    @property
    def spaces(self) -> Mapping[str, SpaceRow]: ...
    @property
    def devices(self) -> Mapping[str, DeviceRow]: ...
    @property
    def holdings(self) -> Mapping[str, HoldingRow]: ...
    @property
    def mirrors(self) -> Mapping[str, MirrorRow]: ...
    @property
    def draining(self) -> bool: ...
    def mirror_seen(self, uuid: str) -> MirrorSeen | None: ...
    def mirror_failure(self, uuid: str) -> str: ...
    def copy_is_wanted(self, row: HoldingRow) -> bool: ...
    @property
    def member(self) -> bool: ...
    @property
    def clustered(self) -> bool: ...
    def offer(self) -> OfferRecord: ...
    def uses(self) -> UsesRecord: ...
    def peers(self) -> Sequence[Peer]: ...
    def device_failure(self, name: str) -> str: ...


def own_ssds(config: CardConfig, pool: Pool) -> list[SsdInfo]:
    """This card's SSDs as it accounts for them now."""
    paths = {each.name: str(each.path) for each in config.ssds}
    return [_ssd(config.name, each, paths.get(each.name, "")) for each in pool.offer().ssds]


def _ssd(card: str, offer: SsdOffer, path: str = "") -> SsdInfo:
    return SsdInfo(
        card=card,
        ssd=offer.name,
        kind=offer.kind,
        path=path,
        capacity=offer.capacity,
        used=offer.local + offer.remote,
        local=offer.local,
        remote=offer.remote,
        reserved=offer.reserved,
        free=offer.free,
        largest=offer.largest,
        healthy=offer.healthy,
        reason=offer.reason,
        state="failing" if offer.failing else "ok" if offer.healthy else "missing",
    )


def namespaces(
    me: str, pool: Pool, vm: str | None = None, device: str | None = None
) -> list[NamespaceInfo]:
    """What this card holds, and what it has given to others: by owner, VM, device and NSID.

    What is kept as copies is there at the place that it is read from, and each copy at its own.
    """
    found = [*_held(me, pool), *_kept(me, pool), *_given(me, pool)]
    return sorted(
        (each for each in found if vm in (None, each.vm) and device in (None, each.device)),
        key=lambda each: (each.owner != me, each.owner, each.vm, each.device, each.nsid or 0),
    )


def _held(me: str, pool: Pool) -> Iterator[NamespaceInfo]:
    for row in pool.holdings.values():
        space = pool.spaces.get(row.uuid)
        yield NamespaceInfo(
            card=row.giver,
            ssd=space.ssd if space else row.ssd,
            vm=row.vm,
            device=row.device,
            nsid=row.nsid if row.device and not row.mirror else None,
            uuid=row.uuid,
            size=row.size,
            block_size=row.block_size,
            placement=_placement(me, row.giver),
            owner=me,
            state=row.state,
            epoch=row.epoch,
            read_only=row.read_only,
            copy_of=row.mirror,
        )


def _kept(me: str, pool: Pool) -> Iterator[NamespaceInfo]:
    for row in pool.mirrors.values():
        copies = safety.copies(pool, row)
        counting = [copy for copy in copies if copy.standing == Standing.IN_SYNC]
        first = next((copy for copy in counting if copy.card == me), None) or next(
            iter(counting or copies), None
        )
        card = first.card if first else ""
        yield NamespaceInfo(
            card=card,
            ssd=first.ssd if first else "",
            vm=row.vm,
            device=row.device,
            nsid=row.nsid,
            uuid=row.uuid,
            size=row.size,
            block_size=row.block_size,
            placement=_placement(me, card),
            owner=me,
            state=row.state,
            epoch=0,
            copies=copies,
        )


def _given(me: str, pool: Pool) -> Iterator[NamespaceInfo]:
    for row in pool.spaces.values():
        if row.owner == me and row.uuid in pool.holdings:
            continue
        yield NamespaceInfo(
            card=me,
            ssd=row.ssd,
            vm=row.vm,
            device=row.device,
            nsid=None,
            uuid=row.uuid,
            size=row.size,
            block_size=row.block_size,
            placement=_placement(me, row.owner),
            owner=row.owner,
            state=row.state,
            epoch=row.epoch,
            read_only=row.read_only,
        )


def _placement(me: str, other: str) -> str:
    """Nobody gives it yet: neither."""
    if not other:
        return ""
    return "local" if other == me else "remote"


def find_uuid(me: str, pool: Pool, text: str) -> str:
    """The UUID that begins like this, of the namespaces that this card holds or has given.

    Raises:
        ConfigError: there is none, or there are several, and it is no whole UUID.
    """
    text = text.lower()
    if _UUID.fullmatch(text):
        return text
    known = pool.mirrors.keys() | pool.holdings.keys() | pool.spaces.keys()
    found = [uuid for uuid in known if uuid.startswith(text)]
    if len(text) < UUID_CHARACTERS_MIN or not found:
        raise ConfigError(
            f"card {me} knows no namespace {text!r}: write its UUID, or the beginning of it, as"
            " `vhostnvme namespace list` shows it"
        )
    if len(found) > 1:
        raise ConfigError(f"{len(found)} namespaces begin with {text!r}: write more of the UUID")
    return found[0]


def created(me: str, pool: Pool, row: DeviceRow, socket: Path) -> CreatedDevice:
    """A device, and how a VM gets it."""
    return CreatedDevice(
        device=row.name,
        vm=row.vm,
        card=me,
        socket=str(socket),
        qemu_args=vfio_user_device(socket),
        namespaces=[
            _namespace_of_device(pool, each, each.nsid)
            for each in namespaces(me, pool, device=row.name)
            if each.owner == me
            and each.nsid is not None
            and each.state not in (HoldingState.RELEASING, RowState.DELETING)
        ],
    )


def _namespace_of_device(pool: Pool, info: NamespaceInfo, nsid: int) -> DeviceNamespace:
    row = pool.mirrors.get(info.uuid)
    word, words = safety.safety(pool, row) if row else ("", "")
    return DeviceNamespace(
        nsid=nsid,
        uuid=info.uuid,
        size=info.size,
        card=info.card,
        ssd=info.ssd,
        placement=info.placement,
        copies=info.copies,
        safety=word,
        words=words,
        progress=safety.progress(pool, row) if row else None,
    )


def device(me: str, pool: Pool, row: DeviceRow, socket: Path, state: str) -> DeviceInfo:
    """`state`: of the running device; what its row says is said before that."""
    known = created(me, pool, row, socket)
    return DeviceInfo(
        device=known.device,
        vm=known.vm,
        card=known.card,
        socket=known.socket,
        qemu_args=known.qemu_args,
        namespaces=known.namespaces,
        state=state if row.state is RowState.READY else row.state,
        reason=pool.device_failure(row.name),
        serial=row.serial,
        size=sum(each.size for each in known.namespaces),
        release_on_disconnect=row.release_on_disconnect,
    )


def vms(me: str, pool: Pool) -> list[VmInfo]:
    """The VMs that have something by this card."""
    found: dict[str, VmInfo] = {}
    names = {row.vm for row in pool.devices.values()}
    names.update(row.vm for row in pool.holdings.values())
    names.update(row.vm for row in pool.mirrors.values())
    for name in sorted(names):
        found[name] = VmInfo(vm=name, card=me, devices=0, namespaces=0, local=0, remote=0)
    for device in pool.devices.values():
        found[device.vm].devices += 1
    for row in pool.holdings.values():
        one = found[row.vm]
        one.namespaces += not row.mirror
        if row.giver == me:
            one.local += row.size
        else:
            one.remote += row.size
    for mirror in pool.mirrors.values():
        found[mirror.vm].namespaces += 1
    return list(found.values())


def cluster(
    config: CardConfig,
    pool: Pool,
    addresses: Sequence[str],
    ages: Mapping[str, float | None],
    held: Sequence[SpaceRecord] | None,
    vms: Mapping[str, Mapping[str, VmUse]],
) -> list[ClusterCard]:
    """All cards by name. `held` None: the store does not tell. `vms`: by card, what each has."""
    holds: dict[str, list[HeldSpace]] = defaultdict(list)
    for record in held or ():
        holds[record.owner].append(
            HeldSpace(
                uuid=record.uuid,
                card=record.giver,
                ssd=record.ssd,
                vm=record.vm,
                device=record.device,
                size=record.size,
                state=record.state,
                epoch=record.epoch,
            )
        )
    me = config.name
    healthy = "online" if pool.member or not pool.clustered else "lost"
    cards = [_card(me, healthy, addresses, pool.offer(), own_ssds(config, pool))]
    for peer in pool.peers():
        ssds = [_ssd(peer.name, each) for each in peer.offer.ssds] if peer.offer else []
        cards.append(_card(peer.name, peer.health, peer.addresses, peer.offer, ssds))
    for card in cards:
        card.self = card.card == me
        card.vms = {vm: use.bytes for vm, use in vms.get(card.card, {}).items()}
        age_s = ages.get(card.card)
        card.heartbeat_age_s = None if age_s is None else round(age_s, 3)
        card.holds = None if held is None else holds[card.card]
    return sorted(cards, key=lambda card: card.card)


def _card(
    name: str,
    health: str,
    addresses: Sequence[str],
    offer: OfferRecord | None,
    ssds: list[SsdInfo],
) -> ClusterCard:
    return ClusterCard(
        card=name,
        self=False,
        health=health,
        heartbeat_age_s=None,
        addresses=list(addresses),
        ssds=ssds,
        capacity=sum(each.capacity for each in ssds),
        local=sum(each.local for each in ssds),
        remote=sum(each.remote for each in ssds),
        reserved=sum(each.reserved for each in ssds),
        free=sum(each.free for each in ssds if each.healthy),
        tenants=offer.tenants if offer else 0,
        vms={},
        holds=None,
    )
