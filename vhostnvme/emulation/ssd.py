"""An emulated SSD that is a folder: guests create and delete namespaces, and all of it lasts.

Whatever is told to a guest or a person as done is durable before. Space is given up in `ssd.json`
first and in the file system afterwards, and taken the other way round, so a crash leaks nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import uuid
from collections.abc import Sequence
from functools import partial

from vhostnvme.emulation.drive import EmulatedDrive, Space, check_private
from vhostnvme.emulation.ssd_opening import NewNamespace, SsdSetup, open_folder, when_free
from vhostnvme.errors import ConfigError, NoSpace, VhostNvmeError
from vhostnvme.native import Decision, DecisionKind, Event, EventType, Namespace, Runtime
from vhostnvme.personas import Persona
from vhostnvme.storage.disk import open_disk, open_disk_async
from vhostnvme.storage.spec import DiskSpec
from vhostnvme.storage.ssd_folder import NamespaceRecord, SsdFolder
from vhostnvme.units import format_size

_log = logging.getLogger(__name__)

BROADCAST_NSID = 0xFFFFFFFF
# Status of commands, as type << 8 | code (Base 3.3.3.2.1).
_INTERNAL = 0x006
_INSUFFICIENT_CAPACITY = 0x115
_ID_UNAVAILABLE = 0x116


class _NoId(VhostNvmeError):
    """All ids of namespaces are taken."""


class EmulatedSsd(EmulatedDrive):
    """See EmulatedDrive; `add` makes no SPEC's namespace here, but `create` one of its own."""

    managed = True

    def __init__(self, runtime: Runtime, setup: SsdSetup, reactor: int) -> None:
        super().__init__(runtime, setup, reactor)
        self._setup = setup
        self._persona = setup.persona
        self._folder: SsdFolder | None = None
        self._wake = asyncio.Event()
        self._decider: asyncio.Task[None] | None = None

    @property
    def folder(self) -> SsdFolder:
        assert self._folder is not None, "the SSD has not been started"
        return self._folder

    @property
    def serial(self) -> str | None:
        return self.folder.record.serial

    @property
    def model(self) -> str | None:
        return self.folder.record.model

    @property
    def persona(self) -> Persona | None:
        return self._persona

    @property
    def nsid_max(self) -> int:
        return self.folder.record.max_namespaces

    async def start(self) -> None:
        """Makes what is missing, opens the drive and its namespaces, and listens to guests.

        Raises:
            ConfigError: the folder cannot be used, is in use, or damaged.
            NativeError: the library refused: a file, a lock, a damaged state.
        """
        self._folder, self._setup, self._persona = open_folder(self._setup, super().nsid_max)
        try:
            known = self.folder.record.uuid
            await when_free(lambda: self._open_native(self.folder.state_path, known))
            for record in self.folder.record.namespaces:
                self.folder.fit_image(record)
                spec = self.folder.spec_of(record)
                namespace = await when_free(partial(open_disk, self.runtime, spec))
                attached = None if record.controllers is None else set(record.controllers)
                self._take(
                    record.nsid, Space(spec, namespace, record.shared, record.group, attached)
                )
            if not self.folder.record.complete:
                await self._make_first()
            self._tell_capacity()
        except BaseException:
            await self.stop()
            raise
        self._decider = asyncio.create_task(self._decide_all())

    async def _make_first(self) -> None:
        record = self.folder.record
        if self._setup.ssd.namespaces and not record.namespaces:
            block = self._setup.ssd.block_size or 512
            await self._create(NewNamespace(record.capacity, block, attached=None))
        record.complete = True
        self.folder.save()

    async def stop(self) -> None:
        if self._decider is not None:
            self._decider.cancel()
            await asyncio.gather(self._decider, return_exceptions=True)
            self._decider = None
        await super().stop()
        if self._folder is not None:
            self._folder.close()

    # --- Changes ---

    async def add(
        self,
        spec: DiskSpec,
        *,
        shared: bool = True,
        group: int = 1,
        controllers: Sequence[int] | None = None,
    ) -> int:
        raise ConfigError("an SSD in a folder has namespaces of its own: give a size, and no SPEC")

    async def create(
        self,
        size: int,
        block_size: int = 512,
        *,
        shared: bool = True,
        group: int = 1,
        controllers: Sequence[int] | None = None,
    ) -> int:
        """Carves a namespace from the SSD's capacity; sizes in bytes. Attached to these, or all.

        Returns:
            Its id.

        Raises:
            ConfigError: an impossible size.
            NoSpace: the SSD, or the file system under it, has not so much left.
        """
        async with self._turn:
            attached = self._known(controllers)
            if not shared:
                check_private(attached)
            if size <= 0 or size % block_size:
                raise ConfigError(f"a size of {size} bytes is no multiple of the block size")
            nsid = await self._create(NewNamespace(size, block_size, shared, group))
            await self._attach(nsid, attached)
            return nsid

    async def _create(self, new: NewNamespace) -> int:
        folder, size = self.folder, new.size
        nsid = folder.free_nsid()
        if nsid is None:
            raise _NoId(f"the SSD has {self.nsid_max} namespaces, and no more fit")
        if size > folder.record.unallocated:
            raise NoSpace(
                f"SSD {folder.path}: {format_size(size)} are wanted, and"
                f" {format_size(folder.record.unallocated)} are left of its capacity"
            )
        attached = new.attached
        controllers = None if attached is None else sorted(attached)
        record = NamespaceRecord(
            nsid, uuid.uuid4(), size, new.block_size, new.shared, new.group, controllers
        )
        spec = folder.spec_of(record)
        with contextlib.ExitStack() as undo:
            undo.callback(folder.remove_image, record.uuid)
            try:
                await asyncio.to_thread(folder.make_image, record.uuid, size)
                namespace = await self._open_new(spec, new)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise NoSpace(f"SSD {folder.path}: its file system is full") from None
                raise
            undo.callback(namespace.close)
            self._enter(record)
            undo.callback(self._strike, record)
            self._take(nsid, Space(spec, namespace, new.shared, new.group, attached))
            undo.pop_all()
        self._tell_capacity()
        return nsid

    async def _open_new(self, spec: DiskSpec, new: NewNamespace) -> Namespace:
        assert self.native is not None, "the SSD has not been started"
        namespace = await open_disk_async(self.runtime, spec)
        try:
            if new.blocks:
                self.native.format_space(namespace, new.flbas, new.dps, new.blocks)
        except BaseException:
            namespace.close()
            raise
        return namespace

    async def _remove(self, nsid: int) -> None:
        record = self._record(nsid)
        await super()._remove(nsid)
        self.folder.remove_image(record.uuid)
        self._tell_capacity()

    def _forget(self, nsid: int) -> None:
        """From here on it is gone, whatever happens."""
        self._strike(self._record(nsid))

    def _enter(self, record: NamespaceRecord) -> None:
        """From here on the SSD has it; if it cannot be written, it has it not."""
        namespaces = self.folder.record.namespaces
        namespaces.append(record)
        try:
            self.folder.save()
        except BaseException:
            namespaces.remove(record)
            raise

    def _strike(self, record: NamespaceRecord) -> None:
        """From here on the SSD has it no more; if it cannot be written, it still has it."""
        namespaces = self.folder.record.namespaces
        at = namespaces.index(record)
        namespaces.remove(record)
        try:
            self.folder.save()
        except BaseException:
            namespaces.insert(at, record)
            raise

    def _record_attachment(self, nsid: int) -> None:
        super()._record_attachment(nsid)
        record, before = self._record(nsid), self._record(nsid).controllers
        record.controllers = sorted(self.spaces[nsid].controllers or ())
        if record.controllers == before:
            return
        try:
            self.folder.save()
        except BaseException:
            record.controllers = before
            raise

    def _resize(self, nsid: int, size: int) -> int:
        """A crash half-way leaves a file of another length, which the next start sets right."""
        record, before = self._record(nsid), self._record(nsid).size
        block_size = self.spaces[nsid].namespace.info().block_size
        if size <= 0 or size % block_size:
            raise ConfigError(f"a size of {size} bytes is no multiple of the block, {block_size}")
        if size - before > self.folder.record.unallocated:
            raise NoSpace(
                f"SSD {self.folder.path}: {format_size(size - before)} more are wanted, and"
                f" {format_size(self.folder.record.unallocated)} are left of its capacity"
            )
        record.size = size
        self.folder.save()
        try:
            super()._resize(nsid, size)
        except BaseException:
            record.size = before
            self.folder.save()
            raise
        self._tell_capacity()
        return size

    def _record(self, nsid: int) -> NamespaceRecord:
        self.space(nsid)
        return next(each for each in self.folder.record.namespaces if each.nsid == nsid)

    def _tell_capacity(self) -> None:
        assert self.native is not None, "the SSD has not been started"
        record = self.folder.record
        self.native.set_capacity(record.capacity, record.unallocated)

    # --- What guests ask ---

    def on_event(self, event: Event) -> None:
        """An event of the library: perhaps a guest asks something."""
        if event.type in (EventType.DECISION, EventType.LOST):
            self._wake.set()

    async def _decide_all(self) -> None:
        assert self.native is not None, "the SSD has not been started"
        while True:
            while (decision := self.native.decision()) is not None:
                async with self._turn:
                    await self._decide(decision)
            await self._wake.wait()
            self._wake.clear()

    async def _decide(self, decision: Decision) -> None:
        """Does it and answers; undoes it when the guest has not waited for the answer."""
        assert self.native is not None, "the SSD has not been started"
        status, result, specific = _INTERNAL, 0, 0
        try:
            result = await self._obey(decision)
            status = 0
        except NoSpace as error:
            status, specific = _INSUFFICIENT_CAPACITY, decision.size
            _log.info("%s", error)
        except _NoId:
            status = _ID_UNAVAILABLE
        except (VhostNvmeError, OSError) as error:
            _log.error("SSD %s: what a guest asked for has failed: %s", self.folder.path, error)
        if not self.native.answer(decision, status, result, specific) and status == 0:
            _log.warning("SSD %s: a guest has not waited for what it asked for", self.folder.path)
            await self._undo(decision, result)

    async def _obey(self, decision: Decision) -> int:
        """Durable when it returns: the id of what was created."""
        match decision.kind:
            case DecisionKind.CREATE:
                return await self._create(NewNamespace.of(decision))
            case DecisionKind.DELETE:
                every = decision.nsid == BROADCAST_NSID
                for nsid in sorted(self.spaces) if every else [decision.nsid]:
                    await self._remove(nsid)
            case DecisionKind.ATTACH:
                await self._attach(decision.nsid, decision.controllers)
            case DecisionKind.DETACH:
                await self._detach(decision.nsid, decision.controllers)
        return 0

    async def _undo(self, decision: Decision, nsid: int) -> None:
        try:
            match decision.kind:
                case DecisionKind.CREATE:
                    await self._remove(nsid)
                case DecisionKind.ATTACH:
                    await self._detach(decision.nsid, decision.controllers)
                case DecisionKind.DETACH:
                    await self._attach(decision.nsid, decision.controllers)
                case DecisionKind.DELETE:
                    pass  # what is deleted stays so: the guest finds that out when it tries again
        except (VhostNvmeError, OSError) as error:
            _log.error("SSD %s: could not be undone: %s", self.folder.path, error)
