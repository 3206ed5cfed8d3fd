"""The end of a history, for people to read: one line for each thing that has happened."""

from __future__ import annotations

from collections.abc import Iterable

from vhostnvme.cluster import messages as msg
from vhostnvme.cluster.mirror_messages import (
    AttachMirror,
    LegCounts,
    LegDrop,
    LegIn,
    LegOut,
    MirrorSeen,
)
from vhostnvme.cluster.records import HELD, MIRRORS, SPACE, MirrorRecord, SpaceRecord, decode
from vhostnvme.cluster.rows import DeviceRow, HoldingRow, MirrorRow, SpaceRow
from vhostnvme.cluster.store.base import Change, Operation, Put, TxnResult
from vhostnvme.errors import ProtocolError
from vhostnvme.storage.catalog import Deleted, Gone, Row
from vhostnvme.testing.simulator.engine import Note

_QUIET = (msg.KeepAlive, msg.Tick, msg.Log, msg.SsdsSeen)
LINE_MAX = 400


def tell(notes: Iterable[Note]) -> list[str]:
    return [_line(note)[:LINE_MAX] for note in notes]


def interesting(notes: Iterable[Note]) -> list[Note]:
    """Without what happens all the time."""
    return [note for note in notes if not isinstance(note[3], _QUIET) and not _is_beat(note[3])]


def _is_beat(thing: object) -> bool:
    return isinstance(thing, msg.Done) and isinstance(thing.value, float)


def _line(note: Note) -> str:
    now, card, what, thing = note
    words = describe(thing) if thing is not None else ""
    return f"{now:9.4f} {card or 'world'} {what}{': ' if words else ''}{words}"


def describe(thing: object) -> str:
    """In few words."""
    match thing:
        case msg.Write(changes):
            return "Write " + ", ".join(_row(each) for each in changes)
        case msg.Txn(op, _, then):
            return f"Txn {op} " + ", ".join(_operation(each) for each in then)
        case msg.Changed(changes):
            return "Changed " + ", ".join(_change(each) for each in changes)
        case msg.Synced(revision, entries):
            mine = [each for each in entries if each.key.startswith((SPACE, HELD, MIRRORS))]
            words = [_value(each.key, each.value) for each in mine]
            return f"Synced at revision {revision}: {', '.join(words)}"
        case msg.Done(op, value, failure):
            return f"Done {op} " + (f"failed: {failure.message}" if failure else describe(value))
        case msg.Reply(command, value, error):
            return f"Reply {command} " + (f"{error!r}" if error else f"{value}")
        case msg.Export():
            return f"Export {thing.op} {short(thing.uuid)} to {thing.owner} at epoch {thing.epoch}"
        case AttachMirror(op, mirror, legs, fresh):
            names = ", ".join(_leg(leg.uuid if leg else "") for leg in legs)
            return f"AttachMirror {op} {short(mirror.uuid)} on {names}{' fresh' if fresh else ''}"
        case LegOut(op, mirror, leg) | LegCounts(op, mirror, leg) | LegDrop(op, mirror, leg):
            return f"{type(thing).__name__} {op} {leg} of {short(mirror)}"
        case LegIn(op, mirror, leg, holding, full):
            how = "as a whole" if full else "by the bitmap"
            return f"LegIn {op} {leg} of {short(mirror)}: {_row(holding)}, {how}"
        case MirrorSeen():
            states = ", ".join(
                f"{_leg(leg.uuid)} {leg.state}{'' if leg.covered else ' uncovered'}"
                for leg in thing.legs
            )
            return f"{short(thing.mirror)}: {states}; {thing.held} held"
        case msg.Attach(op, holding) | msg.Refit(op, holding):
            return f"{type(thing).__name__} {op} {_row(holding)}"
        case msg.Carve() | msg.Stretch():
            name = type(thing).__name__
            return f"{name} {thing.op} {short(thing.uuid)} on {thing.ssd}, {thing.size} bytes"
        case msg.Destroy() | msg.Unexport():
            return f"{type(thing).__name__} {thing.op} {short(thing.uuid)}"
        case msg.Detach():
            return f"Detach {thing.op} {short(thing.uuid)} of {thing.device}"
        case TxnResult():
            return "" if thing.succeeded else "its comparison did not hold"
        case None:
            return ""
    return str(thing)


def short(uuid: str) -> str:
    return uuid[:8] if len(uuid) == 36 else uuid


def _row(row: Row | Gone | Deleted) -> str:
    match row:
        case SpaceRow():
            wanted = f", wants {row.wanted}" if row.wanted else ""
            return (
                f"space {short(row.uuid)} {row.state} for {row.owner} at epoch {row.epoch},"
                f" {row.size} bytes{wanted}"
            )
        case HoldingRow():
            adopting = " adopting" if row.adopting else ""
            return (
                f"holding {short(row.uuid)} {row.state}{adopting} of {row.giver or 'nobody'} for"
                f" {row.device or 'no device'} at epoch {row.epoch}, {row.size} bytes"
            )
        case MirrorRow():
            legs = ", ".join(
                f"{_leg(leg.uuid)} {leg.standing}{' leaving' if leg.leaving else ''}"
                for leg in row.legs
                if leg.uuid
            )
            to = f", to {row.to}" if row.to else ""
            return f"mirror {short(row.uuid)} {row.state} of {legs}; recorded {row.recorded}{to}"
        case DeviceRow():
            return f"device {row.name} {row.state}"
        case Gone():
            return f"no {row.kind.TABLE} {short(row.key)}"
        case Deleted():
            return f"{row.kind} {short(row.name)} was deleted"
    return str(row)


def _operation(operation: Operation) -> str:
    if isinstance(operation, Put):
        return "put " + _value(operation.key, operation.value)
    return f"delete {_key(operation.key)}"


def _change(change: Change) -> str:
    if change.value is None:
        return f"no {_key(change.key)} @{change.revision}"
    return f"{_value(change.key, change.value)} @{change.revision}"


def _value(key: str, value: bytes) -> str:
    if not key.startswith((SPACE, HELD, MIRRORS)):
        return key
    try:
        if key.startswith(MIRRORS):
            copies = decode(key, value, MirrorRecord).legs
            standings = ", ".join(f"{_leg(each.uuid)} {each.standing}" for each in copies)
            return f"{_key(key)} of {standings}"
        record = decode(key, value, SpaceRecord)
    except ProtocolError:
        return f"{_key(key)} (unreadable)"
    wanted = f", wanted {record.wanted}" if record.wanted else ""
    return (
        f"{_key(key)} {record.state} of {record.owner} at epoch {record.epoch}, let in"
        f" {record.admitted}, {record.size} bytes{wanted}"
    )


def _key(key: str) -> str:
    head, _, uuid = key.rpartition("/")
    return f"{head}/{short(uuid)}" if key.startswith((SPACE, HELD, MIRRORS)) else key


def _leg(uuid: str) -> str:
    return short(uuid) if uuid else "nothing"
