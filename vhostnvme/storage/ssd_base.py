"""What an SSD of a card is, whatever it lies on: its state, and the namespaces carved from it.

A change that has returned survives a power failure. One that has not is there as a whole, not at
all, or as something that `found` tells is not whole and `destroy` takes away.
"""

from __future__ import annotations

import errno
import uuid as uuids
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import msgspec

from vhostnvme.closable import Closable
from vhostnvme.errors import ConfigError, NativeError, NoSpace, VhostNvmeError
from vhostnvme.storage.common import DiskSpec
from vhostnvme.storage.turns import Turns
from vhostnvme.units import format_size

LABEL_VERSION = 1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class SsdOptions:
    """An SSD as the user names it. `capacity` in bytes, None for all that there is.

    `thin`: space is set aside when it is written, not when it is carved. Directories only.
    """

    name: str
    path: Path
    capacity: int | None = None
    thin: bool = False


@dataclass(frozen=True, slots=True)
class SsdState:
    """Bytes. `available` is what can still be carved, `largest` the largest piece of it.

    `promised` is what the namespaces that are there have been given, `allocated` what they take on
    the medium, with what the file system needs to keep them. `reason` is a sentence when the SSD is
    not healthy; then nothing is available, and the other numbers are the last that were known.
    `missing`: it is not healthy because it is not there.
    """

    capacity: int
    available: int
    largest: int
    allocated: int
    promised: int = 0
    healthy: bool = True
    reason: str = ""
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What lies on an SSD. Not `whole`: it was being made or deleted; `destroy` takes it away."""

    uuid: str
    size: int
    whole: bool


class Label(msgspec.Struct, frozen=True):
    """What is written on an SSD: its own UUID, and that of the card it belongs to."""

    version: int
    uuid: str
    card: str


class Missing(NativeError):
    """The SSD is not there, or is not the one that it was. It may come back."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ENODEV, message)


class Ssd(Closable, ABC):
    """All methods block, and may be called by any thread.

    Those that change it raise:
        NoSpace: there is no room.
        NativeError: the SSD is missing (errno ENODEV), or refused.
        ConfigError: the UUID is none.
    """

    kind: ClassVar[str]
    granule: ClassVar[int]  # sizes of namespaces are multiples of it
    can_clone: bool = False

    def __init__(self, options: SsdOptions, card_uuid: str, known: str) -> None:
        self.options = options
        self.name = options.name
        self.path = options.path.absolute()
        self.uuid = known  # "": whatever is there, and a label is written when there is none
        self._card_uuid = card_uuid
        self._turns = Turns()
        self._last = SsdState(options.capacity or 0, 0, 0, 0)
        try:
            with self._telling("open"):
                self._attach()
        except Missing:
            self._detach()
            if not known:
                raise
        except BaseException:
            self._detach()
            raise

    def close(self) -> None:
        """Waits for what is being done."""
        with self._turns.alone(wait=True):
            self._detach()

    def state(self) -> SsdState:
        """How much there is, and whether it is there. Raises nothing.

        An SSD that was missing is taken back when it is there again.
        """
        try:
            try:
                return self._look()
            except Missing:
                if not self._come_back():
                    raise
                return self._look()
        except VhostNvmeError as error:
            return replace(
                self._last,
                available=0,
                largest=0,
                healthy=False,
                reason=str(error),
                missing=isinstance(error, Missing),
            )

    def carve(self, uuid: str, size: int) -> None:
        """Makes a namespace of `size` bytes that reads as zeros. One that is there is left."""
        self._check_size(size)
        with self._change(f"make {uuid} of {format_size(size)}", uuid):
            self._carve(uuid, size)

    def destroy(self, uuid: str) -> None:
        """Gives its space back, also when it is not whole; nothing when it is not there."""
        with self._change(f"delete {uuid}", uuid):
            self._destroy(uuid)

    def resize(self, uuid: str, size: int) -> None:
        """What is added reads as zeros; what is cut off is lost."""
        self._check_size(size)
        with self._change(f"resize {uuid} to {format_size(size)}", uuid):
            self._resize(uuid, size)

    def clone(self, source_uuid: str, uuid: str) -> None:
        """Makes a namespace that reads as the source does now. One that is there is left.

        The two share their blocks until one is written; both count in full. Only where
        `can_clone`.
        """
        check_uuid(source_uuid)
        with self._change(f"clone {source_uuid} as {uuid}", source_uuid, uuid):
            self._clone(source_uuid, uuid)

    def disk(
        self, uuid: str, size: int, block_size: int = 512, read_only: bool = False
    ) -> DiskSpec:
        """What the data path opens: the first `size` bytes, which may be less than were carved."""
        with self._change(f"open {uuid}", uuid):
            return self._disk(uuid, size, block_size, read_only)

    def found(self) -> tuple[list[Found], list[str]]:
        """What namespaces lie on it, by UUID, and the names of what is not ours."""
        with self._change("list what is"):
            return self._found()

    # --- What the kinds do; under _change, so that an OSError becomes a sentence ---------------

    @abstractmethod
    def _attach(self) -> None:
        """Opens it, writes a label if there may be none, sets `uuid`. ConfigError, Missing."""

    @abstractmethod
    def _detach(self) -> None:
        """Closes what is open; safe to repeat."""

    @abstractmethod
    def _check_there(self) -> None:
        """Raises Missing when it is not what was attached."""

    @abstractmethod
    def _measure(self) -> SsdState:
        """Of the medium, which is read once. NativeError when it does not work."""

    @abstractmethod
    def _carve(self, uuid: str, size: int) -> None: ...

    @abstractmethod
    def _destroy(self, uuid: str) -> None: ...

    @abstractmethod
    def _resize(self, uuid: str, size: int) -> None: ...

    @abstractmethod
    def _clone(self, source_uuid: str, uuid: str) -> None: ...

    @abstractmethod
    def _disk(self, uuid: str, size: int, block_size: int, read_only: bool) -> DiskSpec: ...

    @abstractmethod
    def _found(self) -> tuple[list[Found], list[str]]: ...

    # --- For the kinds -------------------------------------------------------------------------

    @property
    def place(self) -> str:
        """For messages."""
        return f"SSD {self.name} ({self.path})"

    def _error(self, number: int, doing: str, why: str) -> NativeError:
        return NativeError(number, f"cannot {doing} on {self.place}: {why}")

    def _new_label(self) -> Label:
        if self.uuid:
            raise Missing(
                f"{self.place} is not the SSD that this card had there: mount or connect that one"
            )
        return Label(LABEL_VERSION, str(uuids.uuid4()), self._card_uuid)

    def _check_label(self, label: Label, wipe: str) -> None:
        """`wipe`: how the user makes it anybody's."""
        if label.version > LABEL_VERSION:
            raise ConfigError(
                f"{self.place} was written by a newer version of this program (format"
                f" {label.version}, this one knows {LABEL_VERSION}): install that version again"
            )
        if label.card != self._card_uuid:
            raise ConfigError(
                f"{self.place} belongs to another card, {label.card}: use it there, or, to lose"
                f" all that is on it, {wipe}"
            )
        if self.uuid and label.uuid != self.uuid:
            raise Missing(
                f"{self.place} is another of this card's SSDs than the one that was there: check"
                " what is mounted or connected"
            )
        self.uuid = label.uuid

    # --- Inside --------------------------------------------------------------------------------

    def _check_size(self, size: int) -> None:
        assert size > 0 and size % self.granule == 0, f"{size} is no multiple of {self.granule}"

    @contextmanager
    def _change(self, doing: str, *wanted: str) -> Iterator[None]:
        for uuid in wanted:
            check_uuid(uuid)
        with self._turns.of(*wanted), self._telling(doing):
            self._check_there()
            yield

    @contextmanager
    def _telling(self, doing: str) -> Iterator[None]:
        try:
            yield
        except VhostNvmeError:
            raise
        except OSError as error:
            if error.errno in _FULL:
                raise NoSpace(f"cannot {doing} on {self.place}: it is full") from None
            why = f"{error.strerror}; {_advice(error.errno)}"
            raise self._error(error.errno or errno.EIO, doing, why) from None

    def _look(self) -> SsdState:
        with self._change("look at what is"):
            self._last = self._measure()
        return self._last

    def _come_back(self) -> bool:
        with self._turns.alone(wait=False) as got:
            if got:
                self._detach()
                try:
                    with self._telling("open"):
                        self._attach()
                except BaseException:
                    self._detach()
                    raise
        return got


def check_uuid(text: str) -> None:
    """Names of files are made of it, and names in tables.

    Raises:
        ConfigError: it is no UUID in the usual form, lower case.
    """
    try:
        parsed = uuids.UUID(text)
    except ValueError:
        parsed = None
    if parsed is None or str(parsed) != text or not parsed.int:
        shown = repr(text if len(text) <= 60 else text[:57] + "...")
        raise ConfigError(f"{shown} is no UUID of a namespace: write 8-4-4-4-12 hexadecimal digits")


def _advice(number: int | None) -> str:
    if number == errno.EROFS:
        return "its file system is read-only, which may be because of errors: check it"
    if number in (errno.EACCES, errno.EPERM):
        return "give this user the right to it"
    return "check the medium and the kernel's log"
