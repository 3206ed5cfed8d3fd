"""Who is in the cluster: this card's membership, and what it knows of the others.

A card is a member while the store keeps its lease. It counts on that only up to sent + 3/4 of the
lease's time on its own clock, so it has stopped before others can have been told that it is gone,
also when clocks differ by a tenth. A member's transactions all compare its session: those of an
earlier life change nothing.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from vhostnvme.cluster.board import Board
from vhostnvme.cluster.messages import (
    EndCard,
    Failure,
    FailureKind,
    GrantLease,
    KeepAlive,
    RevokeLease,
    Txn,
)
from vhostnvme.cluster.records import (
    CARDS,
    MEMBERS,
    OFFERS,
    CardRecord,
    MemberRecord,
    OfferRecord,
    UsesRecord,
    card_key,
    decode,
    encode,
    member_key,
    offer_key,
    uses_key,
)
from vhostnvme.cluster.store.base import (
    Compare,
    ModifiedAt,
    Operation,
    Put,
    TxnResult,
    ValueIs,
)
from vhostnvme.errors import ClusterError, ConfigError, ProtocolError

T = TypeVar("T")

BEATS_PER_TTL = 5
HOLD_SHARE = 0.75  # of the lease's time: the rest is for clocks that differ and for the way
OFFER_INTERVAL_S = 0.2
RETRY_S = 1.0


class Membership(enum.Enum):
    OUT = "out"  # not yet, or not any more
    LEASING = "leasing"
    ENTERING = "entering"
    MEMBER = "member"


@dataclass(frozen=True, slots=True)
class PeerView:
    """A card as this one knows it. `health`: `online`, `lost`, or `unknown` without the store."""

    name: str
    uuid: str
    health: str
    addresses: tuple[str, ...]
    offer: OfferRecord | None


class ClusterManager:
    """Membership of one card; `member` says whether it may act now."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._options = board.options
        self._state = Membership.OUT
        self._lives = 0  # sessions so far
        self._lease = 0
        self._value = b""  # of our member record
        self._beating = False
        self._beat_at = 0.0
        self._valid_until = 0.0
        self._retry_at = 0.0
        self._was_member = False
        self._entered_at = 0  # the revision at which this life of the card first was a member
        self._offer: OfferRecord | None = None  # as it is in the store; None: not as it should be
        self._uses: UsesRecord | None = None
        self._offering = False
        self._offer_at = 0.0

    # --- What others ask ---

    @property
    def member(self) -> bool:
        """Whether this card may act on the cluster now."""
        return self._state is Membership.MEMBER and self._board.now < self._valid_until

    @property
    def lease(self) -> int:
        """0: there is none."""
        return self._lease if self._state is Membership.MEMBER else 0

    def guard(self) -> tuple[Compare, ...]:
        """What every transaction of ours compares."""
        return (ValueIs(member_key(self._board.me), self._value),)

    @property
    def alone(self) -> bool:
        """Whether nothing of an earlier life of this card can change the store any more, unseen."""
        return 0 < self._entered_at <= self._board.view.revision

    def is_online(self, name: str) -> bool:
        return self._board.view.get(member_key(name)) is not None

    def online(self) -> set[str]:
        """The names of all members, this card's too."""
        return {key.removeprefix(MEMBERS) for key in self._board.view.keys(MEMBERS)}

    def knows(self, name: str) -> bool:
        return self._board.view.get(card_key(name)) is not None

    def offer_of(self, name: str) -> OfferRecord | None:
        """What another card has said last that it has."""
        return self._record(offer_key(name), OfferRecord)

    def peers(self) -> list[PeerView]:
        """All cards but this one, by name."""
        names = sorted(key.removeprefix(CARDS) for key in self._board.view.keys(CARDS))
        return [self._peer(name) for name in names if name != self._board.me]

    def _peer(self, name: str) -> PeerView:
        card = self._record(card_key(name), CardRecord)
        member = self._record(member_key(name), MemberRecord)
        health = "online" if member else "lost"
        return PeerView(
            name=name,
            uuid=card.uuid if card else "",
            health=health if self._board.view.synced else "unknown",
            addresses=member.addresses if member else (),
            offer=self._record(offer_key(name), OfferRecord),
        )

    def _record(self, key: str, kind: type[T]) -> T | None:
        seen = self._board.view.get(key)
        if seen is None or seen.value is None:
            return None
        try:
            return decode(key, seen.value, kind)
        except ProtocolError:
            return None  # of another version; it says so itself

    # --- What happens ---

    def act(self, offer: Callable[[], OfferRecord], uses: Callable[[], UsesRecord]) -> None:
        """Joins, beats, tells what this card has to offer: whatever is due now."""
        if not self._options.clustered:
            return
        now = self._board.now
        self._notice()
        if self._state is Membership.OUT and self._board.view.synced and now >= self._retry_at:
            self._join()
        elif self._state is Membership.MEMBER and not self._beating and now >= self._beat_at:
            self._beat()
        if self.member and not self._offering and now >= self._offer_at:
            self._publish(offer(), uses())

    def _notice(self) -> None:
        member = self.member
        if member == self._was_member:
            return
        self._was_member = member
        if member:
            self._board.dirty |= self._board.spaces.keys() | self._board.holdings.keys()
            self._board.dirty |= self._board.mirrors.keys()
            self._board.log(logging.INFO, "this card is a member of the cluster")
        else:
            self._board.log(
                logging.WARNING,
                "this card is no member of the cluster any more: it gives and asks for nothing"
                " until the store answers; I/O goes on",
            )

    def _join(self) -> None:
        """A lease first; then, in one transaction, name and membership."""
        if not self._name_is_ours():
            return
        self._state = Membership.LEASING
        sent = self._board.now

        def leased(lease: int, failure: Failure | None) -> None:
            if failure is not None:
                self._out()
                return
            self._lease = lease
            self._enter(sent)

        self._board.begin(lambda op: GrantLease(op, self._options.ttl_s), leased)

    def _name_is_ours(self) -> bool:
        me, uuid = self._board.me, self._options.uuid
        card = self._record(card_key(me), CardRecord)
        for record in (card, self._record(member_key(me), MemberRecord)):
            if record is not None and record.uuid != uuid:
                self._board.emit(
                    EndCard(
                        ConfigError(
                            f"another card of this cluster is called {me!r} (its state folder has"
                            f" the id {record.uuid}): choose another name, or, when that card is"
                            f" gone for good, `vhostnvme cluster forget {me}` on a third one"
                        )
                    )
                )
                return False
        return True

    def _enter(self, sent: float) -> None:
        options, me = self._options, self._board.me
        self._state = Membership.ENTERING
        self._lives += 1
        self._value = encode(
            MemberRecord(
                name=me,
                uuid=options.uuid,
                session=f"{options.session}.{self._lives}",
                addresses=options.addresses,
                ttl_s=options.ttl_s,
                version=options.version,
            )
        )
        # An earlier life of ours may still be there; its lease then goes without its key.
        compare = [self._as_seen(card_key(me)), self._as_seen(member_key(me))]
        then: list[Operation] = [
            Put(card_key(me), encode(CardRecord(name=me, uuid=options.uuid))),
            Put(member_key(me), self._value, self._lease),
        ]

        def entered(result: TxnResult | None, failure: Failure | None) -> None:
            if failure is None and result is not None and result.succeeded:
                self._board.view.did(then, result.revision)
                self._state = Membership.MEMBER
                self._entered_at = self._entered_at or result.revision
                self._valid_until = sent + HOLD_SHARE * options.ttl_s
                self._beat_at = self._board.now
                self._offer = self._uses = None
                return
            lease = self._lease
            self._board.begin(lambda op: RevokeLease(op, lease), lambda _value, _failure: None)
            self._out()

        self._board.begin(lambda op: Txn(op, tuple(compare), tuple(then)), entered)

    def _as_seen(self, key: str) -> ModifiedAt:
        seen = self._board.view.get(key)
        return ModifiedAt(key, seen.revision if seen else 0)

    def _out(self) -> None:
        self._state = Membership.OUT
        self._valid_until = 0.0
        self._retry_at = self._board.now + RETRY_S

    def _beat(self) -> None:
        self._beating = True
        lease, sent = self._lease, self._board.now
        self._beat_at = sent + self._options.ttl_s / BEATS_PER_TTL

        def beaten(_value: float, failure: Failure | None) -> None:
            self._beating = False
            if self._state is not Membership.MEMBER or lease != self._lease:
                return
            if failure is None:
                self._valid_until = max(self._valid_until, sent + HOLD_SHARE * self._options.ttl_s)
            elif failure.kind is FailureKind.LEASE_LOST:
                self._out()
                self._retry_at = self._board.now

        self._board.begin(lambda op: KeepAlive(op, lease), beaten)

    def check_membership(self, changed: set[str]) -> None:
        """Our record has gone: the lease has run out, or an operator has taken it away."""
        if (
            offer_key(self._board.me) in changed
            and self._record(offer_key(self._board.me), OfferRecord) != self._offer
        ):
            self._offer = None  # a late transaction of ours has put an older one in its place
        key = member_key(self._board.me)
        if self._state is not Membership.MEMBER or key not in changed:
            return
        seen = self._board.view.get(key)
        if seen is None or seen.value != self._value:
            self._out()

    def _publish(self, offer: OfferRecord, uses: UsesRecord) -> None:
        """Each only when it is another one: all cards hear of offers."""
        puts = []
        if offer != self._offer:
            puts.append(Put(offer_key(self._board.me), encode(offer)))
        if uses != self._uses:
            puts.append(Put(uses_key(self._board.me), encode(uses)))
        if not puts:
            return
        self._offering = True
        self._offer_at = self._board.now + OFFER_INTERVAL_S

        def published(result: TxnResult | None, failure: Failure | None) -> None:
            self._offering = False
            if failure is None and result is not None and result.succeeded:
                self._offer, self._uses = offer, uses
                watched = [each for each in puts if each.key.startswith(OFFERS)]
                self._board.view.did(watched, result.revision)
            else:
                self._offer_at = self._board.now + RETRY_S

        self._board.begin(lambda op: Txn(op, self.guard(), tuple(puts)), published)

    def need(self) -> None:
        """
        Raises:
            ClusterError: this card is no member, and what was asked for needs that.
        """
        if not self._options.clustered:
            raise ConfigError(
                "this card is in no cluster: name its store in the section [cluster] of card.toml"
            )
        if not self.member:
            raise ClusterError(
                "this card is not in touch with the cluster's store: see `vhostnvme cluster"
                " status`, and try again when it is"
            )
