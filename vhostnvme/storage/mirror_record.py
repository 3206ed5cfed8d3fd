"""Which leg of a mirror counts: a small file beside its bitmap, replaced as a whole, durably.

It is written before the library is told, so that a leg which lacks something is never taken for one
that has it, whenever this process ends.
"""

from __future__ import annotations

import enum
import os
from pathlib import Path

import msgspec

from vhostnvme.errors import ConfigError
from vhostnvme.storage.mirror import MirrorSpec

RECORD_BYTES_MAX = 1 << 20


class Standing(enum.StrEnum):
    """IN_SYNC: it counts. STALE: the bitmap knows what it lacks. NEW: it lacks everything."""

    IN_SYNC = "in-sync"
    STALE = "stale"
    NEW = "new"


class RecordedLeg(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`disk` is the SPEC, by which the leg is known again."""

    disk: str
    standing: Standing


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    legs: tuple[RecordedLeg, ...]


class MirrorRecord:
    """The standing of each leg, in the order of the SPEC. `is_first`: the mirror is made now."""

    def __init__(self, path: Path, legs: tuple[RecordedLeg, ...], *, is_first: bool) -> None:
        self._path = path
        self._legs = legs
        self.is_first = is_first

    @classmethod
    def of(
        cls, spec: MirrorSpec, disks: tuple[str, ...], kept: tuple[bool, ...], base: Path
    ) -> MirrorRecord:
        """What is known of the legs `disks`; where nothing is, and there is no bitmap, all count.

        A leg that is not in the record is new, and so is one that is not `kept` over restarts.

        Raises:
            ConfigError: the record is missing or damaged, or none of its legs that count is there.
        """
        bitmap = spec.resolved(base)
        path = bitmap.with_name(bitmap.name + ".legs")
        known = _load(path, bitmap)
        if known is None:
            legs = tuple(RecordedLeg(disk, Standing.IN_SYNC) for disk in disks)
        else:
            legs = tuple(
                RecordedLeg(disk, known.get(disk, Standing.NEW) if lasts else Standing.NEW)
                for disk, lasts in zip(disks, kept, strict=True)
            )
        if not any(leg.standing is Standing.IN_SYNC for leg in legs):
            raise ConfigError(
                f"none of the mirror's legs is one that counts by {path}:"
                " name one of those, or remove the file and the bitmap to begin anew"
            )
        record = cls(path, legs, is_first=known is None)
        if known != {leg.disk: leg.standing for leg in legs}:
            record.save()
        return record

    def standing(self, leg: int) -> Standing:
        return self._legs[leg].standing

    def standings(self) -> tuple[Standing, ...]:
        return tuple(leg.standing for leg in self._legs)

    def change(self, leg: int, standing: Standing) -> None:
        """Durable when it returns.

        Raises:
            ConfigError: it cannot be written; nothing has changed.
        """
        if self._legs[leg].standing is standing:
            return
        before, legs = self._legs, list(self._legs)
        legs[leg] = RecordedLeg(legs[leg].disk, standing)
        self._legs = tuple(legs)
        try:
            self.save()
        except ConfigError:
            self._legs = before
            raise

    def save(self) -> None:
        data = msgspec.json.encode(_File(1, self._legs))
        aside = self._path.with_name(self._path.name + ".new")
        try:
            with aside.open("wb") as file:
                file.write(data + b"\n")
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise ConfigError(
                f"cannot record the mirror's legs in {self._path}: {error.strerror}"
            ) from None


def _load(path: Path, bitmap: Path) -> dict[str, Standing] | None:
    """None: there is neither a record nor a bitmap."""
    try:
        with path.open("rb") as file:
            data = file.read(RECORD_BYTES_MAX)
        record = msgspec.json.decode(data, type=_File)
    except FileNotFoundError:
        if bitmap.exists():
            raise ConfigError(
                f"{path}, the record of which leg counts, is missing, though there is a bitmap:"
                " put it back, or remove the bitmap too, and all is copied from the preferred leg"
            ) from None
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path} is no record of a mirror's legs: {error}") from None
    if record.version != 1:
        raise ConfigError(f"{path} is of a newer version of this program")
    return {leg.disk: leg.standing for leg in record.legs}
