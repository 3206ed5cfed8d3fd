"""Cards that have gone: their VMs' namespaces are taken over, or all of it is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec

from vhostnvme.cluster.board import Board
from vhostnvme.cluster.cluster_manager import ClusterManager
from vhostnvme.cluster.commands import AdoptDevice, ForgetCard
from vhostnvme.cluster.holdings import Holdings
from vhostnvme.cluster.messages import Failure, ListStore, Txn
from vhostnvme.cluster.namespace_manager import NamespaceManager
from vhostnvme.cluster.placement import AUTO
from vhostnvme.cluster.records import (
    HELD,
    MIRRORS,
    SPACE,
    CopyRecord,
    MirrorRecord,
    SpaceRecord,
    SpaceState,
    card_key,
    decode,
    member_key,
    offer_key,
    serial_of,
    uses_key,
)
from vhostnvme.cluster.rows import DeviceRow, HoldingRow, Leg, MirrorRow, Recorded, RowState
from vhostnvme.cluster.space_store import SpaceStore, Versioned, VersionedMirror
from vhostnvme.cluster.store.base import Absent, Delete, Snapshot, TxnResult
from vhostnvme.errors import ClusterError, ConfigError, ProtocolError
from vhostnvme.storage.mirror import LEGS_MAX
from vhostnvme.storage.mirror_record import Standing

Told = Callable[[bool | None], None]


class Adoptions:
    """Of one card. Every change compares that the other card is no member."""

    def __init__(
        self,
        board: Board,
        cluster: ClusterManager,
        holdings: Holdings,
        namespaces: NamespaceManager,
        store: SpaceStore,
    ) -> None:
        self._board = board
        self._cluster = cluster
        self._holdings = holdings
        self._namespaces = namespaces
        self._store = store

    def command(self, command: AdoptDevice | ForgetCard) -> None:
        card = command.owner if isinstance(command, AdoptDevice) else command.card
        try:
            self._check(card, command)
        except (ConfigError, ClusterError) as error:
            self._board.reply(command.command, error=error)
            return
        prefixes = [f"{HELD}{card}/", f"{MIRRORS}{card}/"]
        if isinstance(command, ForgetCard):
            prefixes.append(f"{SPACE}{card}/")

        def listed(snapshot: Snapshot | None, failure: Failure | None) -> None:
            if failure is not None or snapshot is None:
                why = failure.message if failure else "no answer"
                error = ClusterError(f"the store cannot be asked what {card!r} has: {why}")
                self._board.reply(command.command, error=error)
            elif isinstance(command, AdoptDevice):
                self._adopt(command, _records(snapshot), _mirrors(snapshot))
            else:
                self._forget(command, _records(snapshot), _mirrors(snapshot))

        self._board.begin(lambda op: ListStore(op, tuple(prefixes)), listed)

    def _check(self, card: str, command: AdoptDevice | ForgetCard) -> None:
        self._cluster.need()
        if card == self._board.me or not self._cluster.knows(card):
            known = ", ".join(peer.name for peer in self._cluster.peers())
            raise ConfigError(f"there is no other card {card!r} in this cluster: {known or 'none'}")
        if self._cluster.is_online(card):
            raise ClusterError(
                f"card {card!r} is online, and what it has is its own: delete it there, or end"
                " that card first"
            )
        if isinstance(command, AdoptDevice) and command.device in self._board.devices:
            raise ConfigError(f"there is a device {command.device!r} on this card already")

    # --- Taking over ---

    def _adopt(
        self, command: AdoptDevice, found: list[Versioned], mirrors: list[VersionedMirror]
    ) -> None:
        wanted = {
            each.record.uuid: each
            for each in found
            if each.record.device == command.device and each.record.state is SpaceState.GRANTED
        }
        mirrors = [each for each in mirrors if each.record.device == command.device]
        copies = {leg.uuid for each in mirrors for leg in each.record.legs}
        copies |= {each.record.uuid for each in mirrors}  # from where it has moved away
        plain = [
            each for uuid, each in wanted.items() if uuid not in copies and not each.record.mirror
        ]
        try:
            self._check(command.owner, command)
            kept = [(each, self._good_copies(each, wanted, command)) for each in mirrors]
            if not plain and not kept:
                raise ConfigError(
                    f"card {command.owner!r} holds nothing of other cards for device"
                    f" {command.device!r}: there is nothing to take over"
                )
        except (ConfigError, ClusterError) as error:
            self._board.reply(command.command, error=error)
            return
        vm = plain[0].record.vm if plain else mirrors[0].record.vm
        device = DeviceRow(
            name=command.device,
            vm=vm,
            serial=serial_of(f"{vm}/{command.device}"),
            state=RowState.READY,  # a crash undoes nothing of it: the data is the VM's
        )
        singles = [(each, _adopting(each.record)) for each in plain]
        kept_rows = [
            (each, [(copy, _adopting(copy.record, each.record.uuid)) for copy in good])
            for each, good in kept
        ]
        self._board.write(
            device,
            *(row for _, row in singles),
            *(row for _, pairs in kept_rows for _, row in pairs),
            *(_mirror_row(each.record, pairs) for each, pairs in kept_rows),
        )
        gone = (Absent(member_key(command.owner)),)
        for single in singles:
            self._holdings.adopt(None, [single], gone)
        for each, pairs in kept_rows:
            self._holdings.adopt((each, self._moved(each.record, pairs)), pairs, gone)
        self._namespaces.adopted(command.command, command.device)

    def _good_copies(
        self, mirror: VersionedMirror, wanted: dict[str, Versioned], command: AdoptDevice
    ) -> list[Versioned]:
        """Those that are in sync; or, by force, one that lacks something.

        Raises:
            ClusterError: there is none.
        """
        record = mirror.record
        there = [leg for leg in record.legs if leg.uuid in wanted]
        good = [wanted[leg.uuid] for leg in there if leg.standing is Standing.IN_SYNC]
        if good:
            return good
        stale = [wanted[leg.uuid] for leg in there if leg.standing is Standing.STALE]
        if stale and command.force:
            return stale[:1]
        if stale:
            where = ", ".join(sorted(each.record.giver for each in stale))
            raise ClusterError(
                f"namespace {record.uuid} has no copy on another card that is in sync: the one on"
                f" {where} lacks what was written last. Bring card {command.owner!r} back, or take"
                " that copy with --force, and what it lacks is lost"
            )
        raise ClusterError(
            f"namespace {record.uuid} has no copy that this card can take over: bring card"
            f" {command.owner!r} back"
        )

    def _moved(
        self, record: MirrorRecord, pairs: list[tuple[Versioned, HoldingRow]]
    ) -> MirrorRecord:
        legs = tuple(CopyRecord(row.uuid, old.record.giver, Standing.IN_SYNC) for old, row in pairs)
        return msgspec.structs.replace(record, owner=self._board.me, legs=legs)

    # --- Forgetting ---

    def _forget(
        self, command: ForgetCard, found: list[Versioned], mirrors: list[VersionedMirror]
    ) -> None:
        """One record after the other, and the card itself last: safe to repeat."""
        steps: list[Callable[[Told], None]] = []
        gone = (Absent(member_key(command.card)),)
        for each in found:
            new = each.record.given_up()
            if new.giver == command.card:
                steps.append(partial(self._store.delete, each, compare=gone))
            elif new != each.record:
                steps.append(partial(self._store.change, each, new, compare=gone))

        steps += [partial(self._store.delete_mirror, each, compare=gone) for each in mirrors]

        def last(told: Told) -> None:
            card = command.card
            then = tuple(Delete(key(card)) for key in (card_key, offer_key, uses_key))

            def done(result: TxnResult | None, failure: Failure | None) -> None:
                ok = failure is None and result is not None and result.succeeded
                if ok and result is not None:
                    self._board.view.did(then, result.revision)
                told(ok)

            self._board.begin(lambda op: Txn(op, (*self._cluster.guard(), *gone), then), done)

        self._run([*steps, last], command, len(steps))

    def _run(self, steps: list[Callable[[Told], None]], command: ForgetCard, count: int) -> None:
        if not steps:
            self._board.reply(command.command, count)
            return

        def told(done: bool | None) -> None:
            if done:
                self._run(steps[1:], command, count)
                return
            error = ClusterError(
                f"something about card {command.card!r} has changed meanwhile, or the store does"
                " not answer: look at `vhostnvme cluster status`, and try again"
            )
            self._board.reply(command.command, error=error)

        steps[0](told)


def _records(snapshot: Snapshot) -> list[Versioned]:
    """Each once, though both copies may have been listed."""
    found: dict[tuple[str, str], Versioned] = {}
    for entry in snapshot.entries:
        if entry.key.startswith(MIRRORS):
            continue
        try:
            record = decode(entry.key, entry.value, SpaceRecord)
        except ProtocolError:
            continue
        found[record.giver, record.uuid] = Versioned(record, entry.revision)
    return list(found.values())


def _mirrors(snapshot: Snapshot) -> list[VersionedMirror]:
    found = []
    for entry in snapshot.entries:
        if entry.key.startswith(MIRRORS):
            with suppress(ProtocolError):
                record = decode(entry.key, entry.value, MirrorRecord)
                found.append(VersionedMirror(record, entry.revision))
    return found


def _mirror_row(record: MirrorRecord, pairs: list[tuple[Versioned, HoldingRow]]) -> MirrorRow:
    legs = [Leg(row.uuid, Standing.IN_SYNC) for _, row in pairs]
    return MirrorRow(
        uuid=record.uuid,
        vm=record.vm,
        device=record.device,
        nsid=record.device_nsid,
        size=record.size,
        block_size=record.block_size,
        copies=record.copies,
        placement=AUTO,
        priority=record.priority,
        state=RowState.READY,
        legs=(*legs, *[Leg()] * (LEGS_MAX - len(legs))),
        recorded=Recorded.NOT_YET,
    )


def _adopting(record: SpaceRecord, mirror: str = "") -> HoldingRow:
    return HoldingRow(
        uuid=record.uuid,
        vm=record.vm,
        device=record.device,
        nsid=record.device_nsid,
        size=record.size,
        block_size=record.block_size,
        placement=record.giver,
        giver=record.giver,
        priority=record.priority,
        adopting=True,
        mirror=mirror,
    )
