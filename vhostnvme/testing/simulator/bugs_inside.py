"""Bugs on purpose within the managers: methods that are replaced by worse ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vhostnvme.cluster import holdings as holdings_module
from vhostnvme.cluster.adoptions import Adoptions
from vhostnvme.cluster.cluster_manager import ClusterManager, Membership
from vhostnvme.cluster.coherence_manager import CoherenceManager
from vhostnvme.cluster.deletions import Deletions
from vhostnvme.cluster.devices import Devices
from vhostnvme.cluster.holdings import Holdings
from vhostnvme.cluster.local_space import LocalSpace
from vhostnvme.cluster.messages import Export
from vhostnvme.cluster.namespace_manager import NamespaceManager
from vhostnvme.cluster.records import space_key
from vhostnvme.cluster.rows import HoldingRow, RowState, SpaceRow
from vhostnvme.cluster.space_store import SpaceStore
from vhostnvme.cluster.store.base import Present
from vhostnvme.storage.catalog import Gone

Replaced = tuple[tuple[Any, str, Any], ...]

# The managers' own parts are private: a bug reaches for them all the same.
_releases = Holdings.releases
_adopt = Holdings.adopt


def _only_ready(self: Any, name: str) -> list[SpaceRow]:
    rows = self._board.spaces.values()
    return [row for row in rows if row.ssd == name and row.state is RowState.READY]


def _only_own(self: Any, name: str) -> list[SpaceRow]:
    rows = self._board.spaces.values()
    return [row for row in rows if row.ssd == name and row.owner == self._board.me]


def _size_now(self: Any, row: SpaceRow) -> int:
    ssd = self.ssds.get(row.ssd)
    return self.footprint(row.size, ssd) if ssd else row.size


def _release_at_once(self: Any, row: HoldingRow) -> list[Any]:
    changes = _releases(self, row)
    return [
        Gone(HoldingRow, row.uuid) if isinstance(each, HoldingRow) else each for each in changes
    ]


def _adopt_anyway(self: Any, mirror: Any, pairs: Any, _compare: Any) -> None:
    _adopt(self, mirror, pairs, ())


def _no_unexport(self: Any, row: SpaceRow) -> None:
    self._opened.discard(row.uuid)
    _remove(self, row)


_remove: Callable[..., None] = CoherenceManager._remove


def _trusting_export(self: Any, row: SpaceRow) -> None:
    """Whatever comes of it, the host is taken to be let in."""
    self._opened.add(row.uuid)

    def exported(_value: object, _failure: object) -> None:
        self._exported[row.uuid] = row.epoch

    self._steps.begin(
        row.uuid,
        lambda op: Export(op, row.uuid, row.ssd, row.size, row.block_size, row.owner, row.epoch),
        exported,
    )


def _start_with_wants(self: Any) -> None:
    for row in list(self._board.holdings.values()):
        self.act_on(row.uuid)


def _start_with_half_devices(self: Any) -> None:
    self._holdings.start()
    for row in list(self._board.devices.values()):
        self.devices.act_on(row.name)


def _drop_at_once(self: Any, row: HoldingRow) -> None:
    self._release(row)


def _quick_stop(self: Any, row: Any, _run: Any) -> None:
    """The rows go while the device still runs."""
    self._stopped(row)


BUGS: tuple[tuple[str, str, Replaced, tuple[str, ...]], ...] = (
    ("no-session", "transactions do not compare the session",
     ((ClusterManager, "guard", lambda _self: ()),), ()),
    ("no-revision", "a record is changed whatever has become of it",
     ((SpaceStore, "_same",
       lambda _self, old: Present(space_key(old.record.giver, old.record.uuid))),), ()),
    ("no-clock", "a card acts on although its lease may have run out",
     ((ClusterManager, "member", property(lambda self: self._state is Membership.MEMBER)),), ()),
    ("pending-is-free", "space that is being made or destroyed counts as free",
     ((LocalSpace, "_rows", _only_ready),), ()),
    ("given-is-free", "space of other cards counts as free",
     ((LocalSpace, "_rows", _only_own),), ()),
    ("growth-is-free", "space that is being grown is accounted for too late",
     ((LocalSpace, "_taken", _size_now),), ("resize", "slow_ssd")),
    ("want-for-ever", "what a crash has left half-asked is asked for still",
     ((Holdings, "start", _start_with_wants),), ()),
    ("half-a-device", "a device that a crash has left half-made stays",
     ((NamespaceManager, "start", _start_with_half_devices),), ()),
    ("release-untold", "a holding is dropped before its giver knows",
     ((Holdings, "releases", _release_at_once),), ()),
    ("loss-unnoticed", "a holding that another card has taken over is kept",
     ((Holdings, "_held", lambda _self, _row, _found: None),), ("lost_owner",)),
    ("adopt-anyway", "a card is robbed while it is a member",
     ((Holdings, "adopt", _adopt_anyway), (Adoptions, "_check", lambda *_: None)), ("lost_owner",)),
    ("destroy-in-use", "space is destroyed while its host is let in",
     ((CoherenceManager, "_remove", _no_unexport),), ()),
    ("trusting-export", "a host is reported as let in when it is not",
     ((CoherenceManager, "_export", _trusting_export),), ("lost_owner",)),
    ("no-lingering", "a request of unknown fate is forgotten at once",
     ((holdings_module, "LINGER_S", 0.0),), ("bad_call",)),
    ("earlier-life", "what an earlier life may still write is not waited for",
     ((ClusterManager, "alone", True),), ("crash_at",)),
    ("drop-in-use", "a namespace is released while its device has it",
     ((Deletions, "drop", _drop_at_once),), ()),
    ("quick-stop", "a device is forgotten before it has stopped",
     ((Devices, "_stop", _quick_stop),), ()),
)  # fmt: skip
