"""Bugs on purpose about namespaces that are kept as copies; see bugs_inside.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from vhostnvme.cluster import holdings as holdings_module
from vhostnvme.cluster import seek
from vhostnvme.cluster.adoptions import Adoptions
from vhostnvme.cluster.devices import Devices
from vhostnvme.cluster.holdings import Holdings
from vhostnvme.cluster.local_space import LocalSpace
from vhostnvme.cluster.mirror_messages import (
    AttachMirror,
    LegCounts,
    LegDrop,
    LegOut,
    LegSeen,
    LegState,
)
from vhostnvme.cluster.mirrors import Mirrors
from vhostnvme.cluster.namespace_manager import NamespaceManager
from vhostnvme.cluster.records import SpaceRecord
from vhostnvme.cluster.repairs import Repairs
from vhostnvme.cluster.rows import MirrorRow
from vhostnvme.storage.catalog import Gone
from vhostnvme.storage.mirror_record import Standing
from vhostnvme.testing.simulator.bugs_inside import Replaced

_follow_copy = Mirrors._follow_copy
_follow_leg = Mirrors._follow_leg
_put = Mirrors._put
_attachment = Devices._attachment
_repair = Repairs._repair
_good_copies = Adoptions._good_copies
_start = NamespaceManager.start
_see = LocalSpace.see
_record_of = seek.record_of


def _out_at_once(self: Any, row: MirrorRow, number: int, run: Any, seen: LegSeen) -> None:
    _follow_copy(self, row, number, run, seen)
    row = self._board.mirrors[row.uuid]
    key = f"{row.uuid}/{number}"
    stale = row.legs[number].standing is Standing.STALE
    if seen.state is LegState.FAILED and stale and self._outs.is_free(key):
        self._outs.begin(key, lambda op: LegOut(op, row.uuid, number), lambda *_: None)


def _counts_at_once(self: Any, row: MirrorRow, number: int, run: Any, seen: LegSeen) -> None:
    if seen.state is LegState.READY:
        self._begin(row, number, lambda op: LegCounts(op, row.uuid, number))
    _follow_copy(self, row, number, run, seen)


def _drop_at_once(self: Any, row: MirrorRow, number: int, run: Any, seen: LegSeen) -> None:
    if seen.uuid and seen.uuid != row.legs[number].uuid:
        self._begin(row, number, lambda op: LegDrop(op, row.uuid, number))
    else:
        _follow_leg(self, row, number, run, seen)


def _all_are_good(_self: Any, mirror: Any, wanted: dict[str, Any], _command: Any) -> list[Any]:
    return [wanted[leg.uuid] for leg in mirror.record.legs if leg.uuid in wanted]


def _cut_first(self: Any, row: MirrorRow) -> None:
    """What moves is dropped as soon as its successor is being copied."""
    seen = self._mirrors.seen(row.uuid)
    coming = seen is not None and any(leg.state is LegState.REBUILDING for leg in seen.legs)
    for number, leg in enumerate(row.legs):
        if coming and leg.uuid and not self._stays(row, number):
            self._mirrors.empty(row, number)
            return
    _repair(self, row)


def _stale_is_good(self: Any) -> None:
    """After a restart."""
    for row in list(self._board.mirrors.values()):
        legs = tuple(
            msgspec.structs.replace(leg, standing=Standing.IN_SYNC) if leg.uuid else leg
            for leg in row.legs
        )
        self._board.write(msgspec.structs.replace(row, legs=legs))
    _start(self)


def _trust_the_last(self: Any, found: Any, wanted: Any) -> None:
    """A change of unknown fate is forgotten."""
    _put(self, found, wanted)
    self._unsure = _Nothing()


class _Nothing(set[str]):
    def add(self, _each: str) -> None:
        pass


def _end_without_record(self: Any, row: MirrorRow) -> None:
    self._board.write(Gone(MirrorRow, row.uuid))


def _all_as_plain(*arguments: Any) -> SpaceRecord:
    return msgspec.structs.replace(_record_of(*arguments), mirror="")


def _never_spare(self: Any, row: MirrorRow) -> None:
    for number, leg in enumerate(row.legs):
        if leg.standing is not Standing.IN_SYNC and not self._is_coming(row, number):
            self._mirrors.empty(row, number)
            return


def _see_none_failing(self: Any, ssds: Any) -> None:
    _see(self, ssds)
    self.ssds = {name: replace(each, failing=False) for name, each in self.ssds.items()}


def _open_all(self: Any, op: int, unit: Any) -> Any:
    effect = _attachment(self, op, unit)
    if isinstance(effect, AttachMirror):
        legs = tuple(self._board.holdings.get(leg.uuid) for leg in effect.mirror.legs)
        effect = replace(effect, legs=legs)
    return effect


BUGS: tuple[tuple[str, str, Replaced, tuple[str, ...]], ...] = (
    ("out-unrecorded", "a copy is put out before the store calls it stale",
     ((Mirrors, "_follow_copy", _out_at_once),), ("lost_copy",)),
    ("counts-unrecorded", "a copy counts before that is written down",
     ((Mirrors, "_follow_copy", _counts_at_once),), ("lost_copy",)),
    ("drop-unrecorded", "a copy is dropped while the store calls it in sync",
     ((Mirrors, "_follow_leg", _drop_at_once),), ("move",)),
    ("adopt-stale", "who takes over takes stale copies for good ones",
     ((Adoptions, "_good_copies", _all_are_good),), ("lost_mirror",)),
    ("cut-first", "what moves is dropped before there is another good copy",
     ((Repairs, "_repair", _cut_first),), ("move",)),
    ("back-while-open", "a copy is given back while it is open",
     ((Mirrors, "is_open", lambda *_: False),), ("lost_copy",)),
    ("overtaken", "a card does not notice that another has taken a mirror over",
     ((Mirrors, "_is_taken", lambda *_: False),), ("lost_mirror",)),
    ("stale-is-good", "after a restart stale copies count",
     ((NamespaceManager, "start", _stale_is_good),), ("lost_copy",)),
    ("open-all", "a mirror is opened with copies that do not count",
     ((Devices, "_attachment", _open_all),), ("lost_copy",)),
    ("one-basket", "both copies on one card",
     ((Holdings, "_taken", lambda *_: set()),), ()),
    ("late-record", "a change of the record of unknown fate is forgotten",
     ((Mirrors, "_put", _trust_the_last),), ("late_record",)),
    ("record-stays", "the record of a mirror outlives it",
     ((Mirrors, "_end", _end_without_record),), ()),
    ("lost-giver", "who takes over waits for a copy on a card that is away",
     ((Mirrors, "_do_without_the_lost", lambda *_: None),), ("lost_mirror", "forget")),
    ("lone-copy", "a copy is taken over as a namespace of its own",
     ((holdings_module, "record_of", _all_as_plain),), ("lost_mirror",)),
    ("no-spare", "three copies that are to go leave no room for one that may stay",
     ((Repairs, "_drop_hopeless", _never_spare),), ("drain", "lost_copy")),
    ("failing-unnoticed", "a failing SSD keeps its copies, and gets new ones",
     ((LocalSpace, "see", _see_none_failing),), ("failing_ssd", "lost_copy")),
)  # fmt: skip
