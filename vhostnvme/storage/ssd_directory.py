"""An SSD that is a directory: each namespace is a file of it.

::

    .vhostnvme-ssd.json   the label; locked while a card has the SSD
    UUID.ns               a namespace
    UUID.making           not whole yet
    UUID.deleting         not whole any more

Thick files have all their blocks from the beginning (fallocate); what nobody has written reads as
zeros.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import uuid as uuids
from collections.abc import Iterator
from contextlib import contextmanager

from vhostnvme.errors import ConfigError, NativeError, NoSpace
from vhostnvme.storage.file_system import (
    PAGE_BYTES,
    UNSUPPORTED,
    set_aside,
    share,
)
from vhostnvme.storage.spec import FileSpec
from vhostnvme.storage.ssd_base import Found, Missing, Ssd, SsdOptions, SsdState
from vhostnvme.storage.ssd_label import (
    LABEL_NAME,
    open_label,
    read_label,
    try_label,
    write_label,
)
from vhostnvme.units import format_size

_NAME = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(ns|making|deleting)")
_NOT_OURS_BUT_KNOWN = ("lost+found",)  # ext4 makes it
# What a file system keeps back for the maps of new files, or a file of all that is free fails.
_MAPS_BYTES_MIN = 1 << 20
_MAPS_SHARE = 1024


class DirectorySsd(Ssd):
    """See the module, and Ssd."""

    kind = "directory"
    granule = 4096

    def __init__(self, options: SsdOptions, card_uuid: str, known: str = "") -> None:
        self._folder = -1
        self._label = -1
        self._claims: dict[str, int] = {}  # sizes that namespaces are about to have
        self._mutex = threading.Lock()  # protects _claims
        super().__init__(options, card_uuid, known)

    def _attach(self) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            self._folder = os.open(self.path, flags)
        except (FileNotFoundError, NotADirectoryError):
            raise Missing(f"{self.place} is not there: make, mount or connect it") from None
        except OSError as error:
            raise ConfigError(f"cannot open {self.place}: {error.strerror}") from None
        self._check_parents()
        self._take_label()
        self._try_out()

    def _detach(self) -> None:
        for fd in (self._label, self._folder):
            if fd >= 0:
                os.close(fd)
        self._folder = self._label = -1

    def _check_there(self) -> None:
        try:
            there = self._folder >= 0 and os.path.samestat(self.path.stat(), os.fstat(self._folder))
        except FileNotFoundError:
            there = False
        if not there:
            raise Missing(
                f"{self.place} is not there any more, or another is in its place: mount or"
                " connect it again"
            )
        ours = self._stat(LABEL_NAME)
        if ours is None or not os.path.samestat(ours, os.fstat(self._label)):
            raise Missing(
                f"{self.place} has lost its label, {LABEL_NAME}: put back what was deleted there"
            )

    def _measure(self) -> SsdState:
        if not try_label(self._folder):
            raise Missing(f"{self.place} has an empty label, {LABEL_NAME}: put it back")
        promised = allocated = 0
        for entry, _uuid, _suffix in self._entries():
            found = entry.stat(follow_symlinks=False)
            promised += found.st_size
            allocated += found.st_blocks * 512
        system = os.fstatvfs(self._folder)
        whole = system.f_blocks * system.f_frsize
        capacity = self.options.capacity or whole
        free = system.f_bavail * system.f_frsize - max(_MAPS_BYTES_MIN, whole // _MAPS_SHARE)
        available = capacity - promised
        if not (self.options.thin and self.options.capacity):
            available = min(available, free)
        available = max(0, available - available % self.granule)
        return SsdState(capacity, available, available, allocated, promised)

    def _carve(self, uuid: str, size: int) -> None:
        if not self._is_there(uuid, size):
            with self._claimed(uuid, 0, size), self._making(uuid) as fd:
                self._set_size(fd, size)

    def _clone(self, source_uuid: str, uuid: str) -> None:
        source = os.open(f"{source_uuid}.ns", self._flags(os.O_RDONLY), dir_fd=self._folder)
        try:
            size = os.fstat(source).st_size
            if not self._is_there(uuid, size):
                with self._claimed(uuid, 0, size), self._making(uuid) as fd:
                    if not share(source, fd):
                        raise self._error(
                            errno.EOPNOTSUPP,
                            f"clone {source_uuid}",
                            "its file system cannot share blocks between files; XFS and Btrfs can",
                        )
                    if not self.options.thin:
                        # What was never written is not shared, and would have no space.
                        self._set_size(fd, size)
        finally:
            os.close(source)

    def _resize(self, uuid: str, size: int) -> None:
        flags = self._flags(os.O_WRONLY)
        fd = os.open(f"{uuid}.ns", flags, dir_fd=self._folder)
        try:
            old = os.fstat(fd).st_size
            if size > old:
                with self._claimed(uuid, old, size):
                    try:
                        self._set_size(fd, size, in_use=True)
                    except BaseException:
                        os.ftruncate(fd, old)  # some of it may have been added
                        raise
            elif size < old:
                os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _destroy(self, uuid: str) -> None:
        self._remove(f"{uuid}.making")
        if self._stat(f"{uuid}.ns") is not None:
            self._rename(f"{uuid}.ns", f"{uuid}.deleting")
            os.fsync(self._folder)
        self._remove(f"{uuid}.deleting")
        os.fsync(self._folder)

    def _disk(self, uuid: str, size: int, block_size: int, read_only: bool) -> FileSpec:
        found = self._stat(f"{uuid}.ns")
        if found is None or found.st_size < size:
            why = (
                "it is not there" if found is None else f"it has {found.st_size} bytes, not {size}"
            )
            raise self._error(errno.ENOENT if found is None else errno.EINVAL, f"open {uuid}", why)
        return FileSpec(
            path=str(self.path / f"{uuid}.ns"),
            offset=None if found.st_size == size else 0,  # a part of it
            size=size,
            block_size=block_size,
            read_only=read_only,
            thick=not self.options.thin,
            uuid=uuids.UUID(uuid),
        )

    def _found(self) -> tuple[list[Found], list[str]]:
        found: dict[str, Found] = {}
        for entry, uuid, suffix in self._entries():
            if uuid in found and suffix != "ns":
                continue  # beside the whole one, or two leftovers: told once
            size = entry.stat(follow_symlinks=False).st_size
            found[uuid] = Found(uuid, size, whole=suffix == "ns")
        strangers = []
        with self._listing() as entries:
            for entry in entries:
                ours = entry.name == LABEL_NAME or entry.name in _NOT_OURS_BUT_KNOWN
                if not ours and _parsed(entry) is None:
                    strangers.append(os.fsencode(entry.name).decode("utf-8", "backslashreplace"))
        return [found[uuid] for uuid in sorted(found)], sorted(strangers)

    # --- Files -----------------------------------------------------------------------------------

    def _entries(self) -> Iterator[tuple[os.DirEntry[str], str, str]]:
        """The files that are ours, with UUID and suffix. One may vanish while it is looked at."""
        with self._listing() as entries:
            for entry in entries:
                if parsed := _parsed(entry):
                    try:
                        entry.stat(follow_symlinks=False)  # which the entry remembers
                    except FileNotFoundError:
                        continue
                    yield entry, *parsed

    @contextmanager
    def _listing(self) -> Iterator[Iterator[os.DirEntry[str]]]:
        """All entries. Of an opening of its own: those of one share their place in the list."""
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._folder)
        try:
            with os.scandir(folder) as entries:
                yield entries
        finally:
            os.close(folder)

    def _is_there(self, uuid: str, size: int) -> bool:
        """Whether it is, whole, and durable now if it was not before."""
        found = self._stat(f"{uuid}.ns")
        if found is None:
            return False
        if found.st_size != size:
            raise self._error(
                errno.EEXIST, f"make {uuid}", f"it is there, with {found.st_size} bytes, not {size}"
            )
        os.fsync(self._folder)
        return True

    @contextmanager
    def _making(self, uuid: str) -> Iterator[int]:
        """A new file to be filled; it becomes the namespace when that has gone well."""
        name = f"{uuid}.making"
        self._remove(name)
        self._remove(f"{uuid}.deleting")
        flags = self._flags(os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        fd = os.open(name, flags, 0o600, dir_fd=self._folder)
        try:
            try:
                yield fd
                os.fsync(fd)
            finally:
                os.close(fd)
            self._rename(name, f"{uuid}.ns")
        except BaseException:
            self._remove(name)
            raise
        os.fsync(self._folder)

    def _set_size(self, fd: int, size: int, in_use: bool = False) -> None:
        if self.options.thin:
            os.ftruncate(fd, size)
        elif not set_aside(fd, size, in_use):
            raise ConfigError(
                f"{self.place}: its file system cannot set space aside for a file: choose XFS or"
                " ext4, or say thin = true"
            )

    @contextmanager
    def _claimed(self, uuid: str, old: int, size: int) -> Iterator[None]:
        """Within the capacity, also when others are being made.

        Sizes count, not blocks: clones have to be written one day, and so have thin files.
        """
        with self._mutex:
            others = sum(self._claims.values()) + sum(
                entry.stat(follow_symlinks=False).st_size
                for entry, other, _suffix in self._entries()
                if other != uuid and other not in self._claims
            )
            system = os.fstatvfs(self._folder)
            left = (self.options.capacity or system.f_blocks * system.f_frsize) - others
            if size > left:
                raise NoSpace(
                    f"{self.place} has no room for {format_size(size - old)}:"
                    f" {format_size(max(0, left - old))} of its capacity are left"
                )
            self._claims[uuid] = size
        try:
            yield
        finally:
            with self._mutex:
                del self._claims[uuid]

    def _stat(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _remove(self, name: str) -> None:
        try:
            fd = os.open(name, self._flags(os.O_WRONLY), dir_fd=self._folder)
        except FileNotFoundError:
            return
        try:
            # XFS gives the blocks of a file that is unlinked back later; these it gives back now.
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)
        os.unlink(name, dir_fd=self._folder)

    @staticmethod
    def _flags(flags: int) -> int:
        return flags | os.O_CLOEXEC | os.O_NOFOLLOW

    # --- Label -----------------------------------------------------------------------------------

    def _check_parents(self) -> None:
        for folder in self.path.resolve().parents:
            if os.path.lexists(folder / LABEL_NAME):
                raise ConfigError(
                    f"{self.place} lies within another SSD, {folder}: place them side by side"
                )

    def _take_label(self) -> None:
        """Locks it, and writes one where there is none."""
        if self._stat(LABEL_NAME) is None:
            self._refuse_orphans()
            self._new_label()  # Missing, when there should be one
        self._label = open_label(self._folder, self.place)
        label = read_label(self._label, self.place)
        if label is None:
            self._refuse_orphans()
            label = self._new_label()
            write_label(self._label, self._folder, label)
        self._check_label(label, f"empty it, with the file {LABEL_NAME}")

    def _refuse_orphans(self) -> None:
        if next(self._entries(), None):
            raise ConfigError(
                f"{self.place} holds namespaces but no label, so it cannot be told whose they are:"
                f" put back its file {LABEL_NAME}, or name another directory"
            )

    # --- What the file system can do -------------------------------------------------------------

    def _try_out(self) -> None:
        """Raises what namespaces would fail with; sets can_clone."""
        if self.options.capacity and not self.options.thin:
            system = os.fstatvfs(self._folder)
            whole = system.f_blocks * system.f_frsize
            if self.options.capacity > whole:
                raise ConfigError(
                    f"{self.place} cannot have a capacity of {format_size(self.options.capacity)}:"
                    f" its file system has {whole} bytes; take less, or say thin = true"
                )
        try:
            with self._nameless() as first, self._nameless() as second:
                os.write(first, bytes(PAGE_BYTES))
                self.can_clone = share(first, second)
                self._set_size(second, 1 << 16)
        except OSError as error:
            # No nameless files, or no space: what it lacks will be told when it is wanted
            if isinstance(error, NativeError) or error.errno not in (
                *UNSUPPORTED,
                errno.EISDIR,
                errno.ENOSPC,
                errno.EDQUOT,
            ):
                raise

    @contextmanager
    def _nameless(self) -> Iterator[int]:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
        fd = os.open(".", flags, 0o600, dir_fd=self._folder)
        try:
            yield fd
        finally:
            os.ftruncate(fd, 0)
            os.close(fd)


def _parsed(entry: os.DirEntry[str]) -> tuple[str, str] | None:
    match = _NAME.fullmatch(entry.name)
    if match is None or not entry.is_file(follow_symlinks=False):
        return None
    return match[1], match[2]
