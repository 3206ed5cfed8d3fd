"""A card's three managers as one state machine: messages in, effects out.

::

    message -> view and rows -> what they concern, step by step -> decisions, answers -> effects

Pure: the clock comes with each message, and all chance from a seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from vhostnvme.cluster.adoptions import Adoptions
from vhostnvme.cluster.board import Board
from vhostnvme.cluster.cluster_manager import ClusterManager, PeerView
from vhostnvme.cluster.coherence_manager import CoherenceManager
from vhostnvme.cluster.commands import AdoptDevice, Command, ForgetCard
from vhostnvme.cluster.holdings import Holdings
from vhostnvme.cluster.local_space import LocalSpace
from vhostnvme.cluster.messages import (
    CardOptions,
    Changed,
    Done,
    Effect,
    HostGone,
    Message,
    SsdReport,
    SsdsSeen,
    StoreLost,
    Synced,
    Tick,
)
from vhostnvme.cluster.mirror_messages import MirrorSeen
from vhostnvme.cluster.namespace_manager import NamespaceManager
from vhostnvme.cluster.records import HELD, MIRRORS, OFFERS, SPACE, OfferRecord, UsesRecord
from vhostnvme.cluster.rows import DeviceRow, HoldingRow, MirrorRow, SpaceRow
from vhostnvme.cluster.space_store import SpaceStore
from vhostnvme.storage.catalog import Deleted, Row

ROUNDS_MAX = 1000  # of one step: more is a mistake of ours


class Pool:
    """One card's part in the pool.

    Args:
        rows: of the catalog, and what it remembers as deleted.
        ssds: the card's own.
        now: seconds on the card's monotonic clock.
    """

    def __init__(
        self,
        options: CardOptions,
        rows: Iterable[Row | Deleted],
        ssds: Sequence[SsdReport],
        now: float,
    ) -> None:
        self._board = Board(options, rows, now)
        self._cluster = ClusterManager(self._board)
        self._local = LocalSpace(self._board, ssds)
        self._store = SpaceStore(self._board, self._cluster)
        self._coherence = CoherenceManager(self._board, self._cluster, self._local, self._store)
        self._holdings = Holdings(
            self._board, self._cluster, self._coherence, self._local, self._store, self._lost
        )
        self._namespaces = NamespaceManager(
            self._board,
            self._cluster,
            self._coherence,
            self._local,
            self._holdings,
            self._store,
        )
        self._adoptions = Adoptions(
            self._board, self._cluster, self._holdings, self._namespaces, self._store
        )

    # --- What is the case ---

    @property
    def name(self) -> str:
        """The card's."""
        return self._board.me

    @property
    def spaces(self) -> Mapping[str, SpaceRow]:
        return self._board.spaces

    @property
    def devices(self) -> Mapping[str, DeviceRow]:
        return self._board.devices

    @property
    def holdings(self) -> Mapping[str, HoldingRow]:
        return self._board.holdings

    @property
    def mirrors(self) -> Mapping[str, MirrorRow]:
        return self._board.mirrors

    @property
    def draining(self) -> bool:
        """Whether this card is being emptied."""
        return self._board.draining

    def mirror_seen(self, uuid: str) -> MirrorSeen | None:
        """What runs of a mirror; None: no device has it now."""
        return self._namespaces.mirrors.seen(uuid)

    def mirror_failure(self, uuid: str) -> str:
        """Why there is no place for one more copy; "" when nothing is wrong."""
        return self._namespaces.repairs.failure(uuid)

    def copy_is_wanted(self, row: HoldingRow) -> bool:
        """Whether a copy may stay where it is: its card is not emptied, its SSD not failing."""
        return self._namespaces.repairs.is_wanted(row)

    @property
    def member(self) -> bool:
        """Whether this card may act on the cluster now."""
        return self._cluster.member

    @property
    def lease(self) -> int:
        """That the card's membership goes with; 0: there is none."""
        return self._cluster.lease

    @property
    def clustered(self) -> bool:
        return self._board.options.clustered

    def peers(self) -> list[PeerView]:
        """The other cards, by name."""
        return self._cluster.peers()

    def offer(self) -> OfferRecord:
        """This card's SSDs as they are accounted for now."""
        return self._local.offer()

    def uses(self) -> UsesRecord:
        """What own VMs have of own SSDs now."""
        return self._local.uses()

    def device_is_complete(self, name: str) -> bool:
        """Whether a VM finds all of its namespaces there."""
        return self._namespaces.devices.is_complete(name)

    def device_failure(self, name: str) -> str:
        """Why a device is not whole; "" when nothing is known to be wrong."""
        return self._namespaces.devices.failure(name)

    # --- What happens ---

    def start(self, now: float) -> list[Effect]:
        """The first step: what the last life of the card has left."""
        self._board.now = now
        self._coherence.start()
        self._namespaces.start()
        return self._finish()

    def step(self, message: Message, now: float) -> list[Effect]:
        """What has to be done about it."""
        self._board.now = max(now, self._board.now)
        match message:
            case Tick():
                self._coherence.tick()
                self._namespaces.tick()
            case Done():
                self._board.done(message)
            case Changed(changes):
                self._saw(self._board.view.apply(changes))
            case Synced(revision, entries):
                self._saw(self._board.view.sync(revision, entries))
                self._board.dirty |= self._board.spaces.keys() | self._board.holdings.keys()
                self._board.dirty |= self._board.mirrors.keys()
            case StoreLost():
                self._board.view.synced = False
            case SsdsSeen(ssds):
                self._local.see(ssds)
            case HostGone():
                self._namespaces.host_gone(message)
            case MirrorSeen():
                self._namespaces.mirrors.saw(message)
            case AdoptDevice() | ForgetCard():
                self._adoptions.command(message)
            case Command():
                known = self._namespaces.command(message)
                assert known, f"nobody knows the command {message}"
        return self._finish()

    def _saw(self, keys: set[str]) -> None:
        self._cluster.check_membership(keys)
        for key in keys:
            if key.startswith(OFFERS):
                self._namespaces.repairs.saw_offer(key.removeprefix(OFFERS))
            if key.startswith((SPACE, HELD, MIRRORS)):
                self._board.dirty.add(key.rpartition("/")[2])

    def _lost(self, row: HoldingRow) -> None:
        self._namespaces.lost(row)

    def _finish(self) -> list[Effect]:
        """Until nothing more follows from what has changed."""
        for _ in range(ROUNDS_MAX):
            dirty, self._board.dirty = self._board.dirty, set()
            for key in sorted(dirty):
                self._coherence.act_on(key)
                self._namespaces.act_on(key)
            self._coherence.decide()
            self._namespaces.settle()
            if not self._board.dirty:
                self._cluster.act(self.offer, self.uses)
                return self._board.take()
        raise AssertionError("the managers do not come to an end")
