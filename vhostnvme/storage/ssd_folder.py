"""A folder that is a whole emulated SSD: `ssd.json`, `drive.state`, and a file for each namespace.

::

    DIR/ssd.json          serial number, capacity, which namespaces there are; replaced as a whole
    DIR/persona.json      what it looks like, if it was started with a persona
    DIR/drive.state       what the library keeps of the drive: SMART, features, logs (docs/state.md)
    DIR/ns-UUID.img       a namespace, and DIR/ns-UUID.img.state, what the library keeps of it

`ssd.json` is what counts. It is written before anything is given up and after everything that it
names is there; what it does not name is left over from a crash, and is removed at the next start.
"""

from __future__ import annotations

import fcntl
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vhostnvme.errors import ConfigError
from vhostnvme.storage.common import BLOCK_SIZES, Options, decoded, parse_on_off, whole_number
from vhostnvme.storage.spec import FileSpec
from vhostnvme.units import format_size, parse_size

RECORD_NAME = "ssd.json"
STATE_NAME = "drive.state"
PERSONA_NAME = "persona.json"
RECORD_BYTES_MAX = 1 << 20
CAPACITY_BYTES = 10 << 30
NSID_MAX = 256
_VERSION = 1
_OURS = re.compile(
    r"ns-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.img(\.state(\.new)?)?|(ssd|persona)\.json\.new"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SsdSpec:
    """`DIR[?capacity=10G&namespaces=0&block=4096&…]`; None: as the folder says.

    `namespaces`: how many a new one has, over its whole capacity; `block_size` is theirs.
    `preallocate`: namespaces get all their space at once, and not as it is written.
    `max_namespaces`: how many it can have, and the highest id; 256 for a new one.
    """

    folder: Path
    capacity: int | None = None
    namespaces: int = 1
    block_size: int | None = None
    preallocate: bool | None = None
    max_namespaces: int | None = None


def parse_ssd(text: str) -> SsdSpec:
    """
    Raises:
        ConfigError: one sentence on what is wrong, and what may stand there.
    """
    body, _, query = text.partition("?")
    try:
        options = Options("an SSD", query)
        spec = SsdSpec(
            folder=Path(decoded(body, "the path")),
            capacity=options.take("capacity", parse_size, None),
            namespaces=options.take("namespaces", whole_number(1), 1),
            block_size=options.take("block", _parse_block, None),
            preallocate=options.take("preallocate", parse_on_off, None),
            max_namespaces=options.take("max-namespaces", _parse_nsid, None),
        )
        options.finish()
        if not body:
            raise ConfigError("the folder is missing: write DIR or DIR?capacity=10G")
        if spec.capacity is not None and spec.capacity % max(BLOCK_SIZES):
            raise ConfigError("option 'capacity': take a multiple of 4K")
    except ConfigError as error:
        raise ConfigError(f"SSD {text!r}: {error}") from None
    return spec


def _parse_nsid(text: str) -> int:
    number = whole_number(NSID_MAX)(text)
    if number < 1:
        raise ConfigError("an SSD has room for one namespace at least")
    return number


def _parse_block(text: str) -> int:
    for size in BLOCK_SIZES:
        if text in (str(size), format_size(size)):
            return size
    raise ConfigError(f"{text!r} is no block size: write 512 or 4096")


class NamespaceRecord(msgspec.Struct, forbid_unknown_fields=True):
    """A namespace. `controllers`: the CNTLIDs that have it attached; None: whichever there are."""

    nsid: int
    uuid: uuid.UUID
    size: int
    block_size: int
    shared: bool = True
    group: int = 1
    controllers: list[int] | None = None

    def is_attached(self, controller: int) -> bool:
        return self.controllers is None or controller in self.controllers


class SsdRecord(msgspec.Struct, forbid_unknown_fields=True):
    """All of `ssd.json`. Sizes in bytes. `complete`: its first namespaces have been made."""

    version: int
    uuid: uuid.UUID
    serial: str
    capacity: int
    model: str | None = None
    preallocate: bool = False
    max_namespaces: int = NSID_MAX
    complete: bool = False
    namespaces: list[NamespaceRecord] = []

    @property
    def unallocated(self) -> int:
        """Bytes that no namespace has."""
        return self.capacity - sum(each.size for each in self.namespaces)


class SsdFolder:
    """The folder, locked against other processes from construction to `close`.

    Raises:
        ConfigError: it cannot be used, is in use, or its `ssd.json` is damaged or missing.
    """

    def __init__(
        self, spec: SsdSpec, *, serial: str | None = None, model: str | None = None
    ) -> None:
        self.path = spec.folder
        self._fd = _lock(spec.folder)
        try:
            self.record = self._load() or self._new(spec)
            self._adapt(spec, serial, model)
            self._clean()
        except BaseException:
            self.close()
            raise

    @property
    def state_path(self) -> Path:
        return self.path / STATE_NAME

    def image(self, namespace: uuid.UUID) -> Path:
        return self.path / f"ns-{namespace}.img"

    def spec_of(self, namespace: NamespaceRecord) -> FileSpec:
        """The disk behind a namespace."""
        return FileSpec(
            path=str(self.image(namespace.uuid)),
            block_size=namespace.block_size,
            uuid=namespace.uuid,
        )

    def free_nsid(self) -> int | None:
        """The lowest id that is free; None: there is none."""
        free = set(range(1, self.record.max_namespaces + 1)) - {
            each.nsid for each in self.record.namespaces
        }
        return min(free, default=None)

    def make_image(self, namespace: uuid.UUID, size: int) -> None:
        """The file of a new namespace, durable but for its name, which `save` sees to. May block.

        Raises:
            OSError: ENOSPC: the file system has no space for it; or another reason.
        """
        path = self.image(namespace)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
            if self.record.preallocate:
                os.posix_fallocate(fd, 0, size)
            os.fsync(fd)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def fit_image(self, namespace: NamespaceRecord) -> None:
        """Gives the file the size that it should have, if a crash has kept it from it.

        Raises:
            ConfigError: it is missing, or cannot be made so large.
        """
        path = self.image(namespace.uuid)
        try:
            if path.stat().st_size != namespace.size:
                os.truncate(path, namespace.size)
        except FileNotFoundError:
            raise ConfigError(
                f"{path}, the file of namespace {namespace.nsid}, is missing: put it back, or take"
                f" the namespace out of {self.path / RECORD_NAME}"
            ) from None
        except OSError as error:
            raise ConfigError(f"cannot set the size of {path}: {error.strerror}") from None

    def remove_image(self, namespace: uuid.UUID) -> None:
        """What is left is removed at the next start."""
        path = self.image(namespace)
        for each in (path, path.with_name(path.name + ".state")):
            each.unlink(missing_ok=True)

    def kept_persona(self) -> bytes | None:
        """The persona that it was last started with, if it was with one.

        Raises:
            ConfigError: it cannot be read.
        """
        path = self.path / PERSONA_NAME
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None

    def keep_persona(self, data: bytes) -> None:
        """
        Raises:
            ConfigError: it cannot be written.
        """
        if self.kept_persona() != data:
            self._write(PERSONA_NAME, data)

    def save(self) -> None:
        """`record` is durable, and all names in the folder are, when it returns.

        Raises:
            ConfigError: it cannot be written; the file is as it was.
        """
        text = msgspec.json.format(msgspec.json.encode(self.record))
        self._write(RECORD_NAME, text + b"\n")

    def _write(self, name: str, data: bytes) -> None:
        path = self.path / name
        aside = self.path / f"{name}.new"
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            os.fsync(self._fd)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None

    def close(self) -> None:
        """Lets others have the folder. Safe to repeat."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _load(self) -> SsdRecord | None:
        path = self.path / RECORD_NAME
        try:
            with path.open("rb") as file:
                record = msgspec.json.decode(file.read(RECORD_BYTES_MAX), type=SsdRecord)
            _check(record)
        except FileNotFoundError:
            self._refuse_remains(path)
            return None
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path} is damaged ({error}): mend it, docs/nvme-ssd.md says what is in it, or"
                f" move {self.path} away, and a new SSD is made there"
            ) from None
        return record

    def _refuse_remains(self, path: Path) -> None:
        names = sorted(each.name for each in self.path.glob("ns-*.img"))
        remains = [name for name in names if _OURS.fullmatch(name)]
        if remains:
            raise ConfigError(
                f"{path} is missing, though {self.path} has namespaces ({remains[0]}): put it back,"
                " or remove the ns-*.img files and drive.state, and a new SSD is made there"
            )

    def _new(self, spec: SsdSpec) -> SsdRecord:
        known = uuid.uuid4()
        return SsdRecord(
            version=_VERSION,
            uuid=known,
            serial="VN" + known.hex[:16].upper(),
            capacity=spec.capacity or CAPACITY_BYTES,
            preallocate=bool(spec.preallocate),
        )

    def _adapt(self, spec: SsdSpec, serial: str | None, model: str | None) -> None:
        """What is said this time holds from now on."""
        record = self.record
        before = msgspec.json.encode(record)
        record.serial = serial or record.serial
        record.model = model or record.model
        record.capacity = spec.capacity or record.capacity
        record.max_namespaces = spec.max_namespaces or record.max_namespaces
        if spec.preallocate is not None:
            record.preallocate = spec.preallocate
        nsids = [each.nsid for each in record.namespaces]
        if max(nsids, default=1) > record.max_namespaces:
            raise ConfigError(
                f"SSD {self.path} has a namespace {max(nsids)}: take max-namespaces={max(nsids)} or"
                " more, or delete it first"
            )
        if record.unallocated < 0:
            taken = format_size(record.capacity - record.unallocated)
            raise ConfigError(
                f"SSD {self.path}: its namespaces have {taken}, which no capacity of"
                f" {format_size(record.capacity)} holds: take more, or delete some first"
            )
        if before != msgspec.json.encode(record) or not (self.path / RECORD_NAME).exists():
            self.save()

    def _clean(self) -> None:
        known = {self.image(each.uuid).name for each in self.record.namespaces}
        for path in list(self.path.iterdir()):
            image = path.name.partition(".img")[0] + ".img"
            if _OURS.fullmatch(path.name) and image not in known:
                path.unlink(missing_ok=True)


def _check(record: SsdRecord) -> None:
    if record.version != _VERSION:
        raise ValueError(f"version {record.version} is of another version of this program")
    nsids = [each.nsid for each in record.namespaces]
    if len(set(nsids)) != len(nsids) or any(not 1 <= nsid <= NSID_MAX for nsid in nsids):
        raise ValueError(f"ids of namespaces are from 1 to {NSID_MAX}, and each is there once")
    for each in record.namespaces:
        if each.block_size not in BLOCK_SIZES or each.size <= 0 or each.size % each.block_size:
            raise ValueError(f"namespace {each.nsid} has an impossible size")
        if not 1 <= each.group <= 32:
            raise ValueError(f"namespace {each.nsid} has an impossible ANA group")


def _lock(folder: Path) -> int:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(f"folder {folder.parent} does not exist: make it first") from None
    except OSError as error:
        raise ConfigError(f"cannot use {folder} as an SSD: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise ConfigError(
            f"SSD {folder} is in use by another process: end that, or take another folder"
        ) from None
    return fd
