"""One emulated SSD: its namespaces, and the controllers that VMs reach them by.

All of it is on one reactor. What changes the set of namespaces goes one after the other, whether a
guest asks for it, the control socket, or a test.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vhostnvme.emulation.device import NAMESPACES_MAX, DeviceOptions
from vhostnvme.emulation.persona import native_persona, subnqn_of
from vhostnvme.errors import ConfigError, NativeError
from vhostnvme.limits import Limits
from vhostnvme.native import AnaState, Drive, DriveOptions, Namespace, Runtime
from vhostnvme.personas import Persona
from vhostnvme.storage.disk import open_disk, open_disk_async
from vhostnvme.storage.spec import DiskSpec

if TYPE_CHECKING:
    from vhostnvme.emulation.device import Device

_log = logging.getLogger(__name__)

CONTROLLERS_MAX = 16
DETACH_S_MAX = 3.0  # for commands in flight; a guest is answered within 5 s
_DETACH_STEP_S = 0.005


@dataclass(slots=True)
class Space:
    """A namespace of a drive. `controllers`: which have it by their numbers; None: all."""

    spec: DiskSpec
    namespace: Namespace
    shared: bool = True
    group: int = 1
    controllers: set[int] | None = None

    def is_attached(self, controller: int) -> bool:
        return self.controllers is None or controller in self.controllers


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveSetup:
    """What a drive shall be: `namespaces`, which end with it but for what is behind them.

    `state`: where the library keeps what it knows of the drive; None: nowhere. `controllers`: how
    many it has. `persona`: what it looks like.
    """

    namespaces: tuple[DiskSpec, ...] = ()
    state: Path | None = None
    controllers: int = 1
    persona: Persona | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.controllers <= CONTROLLERS_MAX:
            raise ConfigError(
                f"a drive has 1 to {CONTROLLERS_MAX} controllers, not {self.controllers}"
            )


class EmulatedDrive:
    """A drive on a runtime: `start`, then its devices, then `stop` after them."""

    managed = False  # whether guests may change the set of namespaces

    def __init__(self, runtime: Runtime, setup: DriveSetup, reactor: int) -> None:
        self.runtime = runtime
        self.setup = setup
        self.reactor = reactor
        self.spaces: dict[int, Space] = {}
        self.devices: dict[int, Device] = {}  # by CNTLID
        self.native: Drive | None = None
        self._turn = asyncio.Lock()

    @property
    def serial(self) -> str | None:
        """None: as the first device's socket says."""
        return self.persona.text("sn", 20) if self.persona else None

    @property
    def persona(self) -> Persona | None:
        """What it looks like."""
        return self.setup.persona

    @property
    def nsid_max(self) -> int:
        """The highest id of a namespace."""
        count = self.persona.number("id_ctrl", "nn", NAMESPACES_MAX) if self.persona else None
        return count or NAMESPACES_MAX

    def dress(self, options: DeviceOptions) -> DeviceOptions:
        """What a controller of this drive looks like, in what the options leave open.

        Raises:
            ConfigError: the persona has a field that is not what it should be.
        """
        persona = self.persona
        if persona is None:
            return replace(options, model=options.model or self.model)
        return replace(
            options,
            model=options.model or self.model or persona.text("mn", 40),
            subnqn=options.subnqn or subnqn_of(persona),
            queues=options.queues or persona.queues,
            entries=options.entries or persona.entries,
            mdts=options.mdts or persona.number("id_ctrl", "mdts", 8) or 0,
        )

    @property
    def model(self) -> str | None:
        return None

    async def start(self) -> None:
        """Opens the drive, and its namespaces.

        Raises:
            ConfigError: a SPEC cannot be used here.
            NativeError: the library refused: a file, a lock, a damaged state.
        """
        try:
            self._open_native(self.setup.state)
            for nsid, spec in enumerate(self.setup.namespaces, 1):
                self._take(nsid, Space(spec, open_disk(self.runtime, spec)))
        except BaseException:
            await self.stop()
            raise

    def _open_native(self, state: Path | None, known: uuid.UUID | None = None) -> None:
        several = self.setup.controllers > 1
        self.native = Drive(
            self.runtime,
            DriveOptions(
                state_path=str(state) if state else None,
                uuid=known,
                reactor=self.reactor,
                managed=self.managed,
                shared=several,
                ana=several,
                nsid_max=self.nsid_max,
                persona=native_persona(self.persona, managed=self.managed)
                if self.persona
                else None,
            ),
        )

    async def stop(self) -> None:
        """After its devices: closes all. Safe to repeat."""
        if self.native is not None:
            self.native.close()
        for space in reversed(self.spaces.values()):
            space.namespace.close()
        self.spaces.clear()

    def join(self, device: Device, number: int) -> None:
        """A device has a controller of ours now: it gets the namespaces that are attached to it."""
        self.devices[number] = device
        for nsid, space in sorted(self.spaces.items()):
            if space.is_attached(number):
                device.lend(nsid, space.spec, space.namespace)

    def has(self, number: int, nsid: int) -> bool:
        """Whether a controller has a namespace attached."""
        return self.devices[number].has(nsid)

    # --- What changes while it runs ---

    async def add(
        self,
        spec: DiskSpec,
        *,
        shared: bool = True,
        group: int = 1,
        controllers: Sequence[int] | None = None,
    ) -> int:
        """One more namespace, attached to these controllers, or to all.

        Returns:
            Its id: the lowest that is free.

        Raises:
            ConfigError: there are NAMESPACES_MAX already, or the SPEC cannot be used here.
            NativeError: the library refused: a file, a size, a lock.
        """
        async with self._turn:
            free = set(range(1, NAMESPACES_MAX + 1)) - self.spaces.keys()
            if not free:
                raise ConfigError(f"the drive has {NAMESPACES_MAX} namespaces, and no more fit")
            attached = self._known(controllers)
            if not shared:
                check_private(attached)
            nsid = min(free)
            namespace = await open_disk_async(self.runtime, spec)
            try:
                self._take(nsid, Space(spec, namespace, shared, group, set()))
            except BaseException:
                namespace.close()
                raise
            await self._attach(nsid, attached)
            return nsid

    async def remove(self, nsid: int) -> None:
        """Takes a namespace away for good; what is behind a SPEC stays.

        Raises:
            ConfigError: there is no such namespace.
            NativeError: EBUSY: its commands in flight do not end.
        """
        async with self._turn:
            await self._remove(nsid)

    async def attach(self, nsid: int, controllers: Sequence[int] | None = None) -> None:
        """
        Raises:
            ConfigError: there is no such namespace or controller, or it is private.
        """
        async with self._turn:
            space = self.space(nsid)
            wanted = [n for n in self._known(controllers) if not self.has(n, nsid)]
            having = [n for n in self.devices if self.has(n, nsid)]
            if not space.shared and len(wanted) + len(having) > 1:
                raise ConfigError(f"namespace {nsid} is private: one controller has it at a time")
            await self._attach(nsid, wanted)

    async def detach(self, nsid: int, controllers: Sequence[int] | None = None) -> None:
        """
        Raises:
            ConfigError: there is no such namespace or controller.
            NativeError: EBUSY: commands in flight do not end.
        """
        async with self._turn:
            self.space(nsid)
            await self._detach(nsid, [n for n in self._known(controllers) if self.has(n, nsid)])

    async def resize(self, nsid: int, size: int) -> int:
        """Gives a namespace another size, in bytes; returns it. See `Namespace.resize`.

        Raises:
            ConfigError: there is no such namespace, or no space for it.
            NativeError: it keeps its size.
        """
        async with self._turn:
            return self._resize(nsid, size)

    def set_ana(self, state: AnaState, group: int, controllers: Sequence[int] | None) -> None:
        """How well these controllers, or all, reach the namespaces of a group.

        Raises:
            ConfigError: there is no such controller.
            NativeError: the drive has one controller only, and tells nothing of it.
        """
        for number in self._known(controllers):
            self.devices[number].controller.set_ana(state, group)

    def set_limits(self, limits: Limits, nsid: int | None = None) -> None:
        """Limits one namespace, or all together that a controller has; at once.

        Raises:
            ConfigError: there is no such namespace.
        """
        if nsid is not None:
            self.space(nsid).namespace.set_limits(limits)
            return
        for device in self.devices.values():
            device.set_limits(limits)

    def limits(self, nsid: int | None = None) -> Limits:
        """The limits of one namespace, or of all together.

        Raises:
            ConfigError: there is no such namespace.
        """
        if nsid is not None:
            return self.space(nsid).namespace.info().limited.limits
        return self.devices[min(self.devices)].limits()

    def space(self, nsid: int) -> Space:
        """
        Raises:
            ConfigError: there is no such namespace.
        """
        if nsid not in self.spaces:
            raise ConfigError(f"there is no namespace {nsid} on this drive")
        return self.spaces[nsid]

    # --- The same without waiting for its turn ---

    def _take(self, nsid: int, space: Space) -> None:
        assert self.native is not None, "the drive has not been started"
        shared = space.shared and (self.managed or self.setup.controllers > 1)
        self.native.add_space(space.namespace, nsid, shared=shared, group=space.group)
        self.spaces[nsid] = space

    async def _remove(self, nsid: int) -> None:
        assert self.native is not None, "the drive has not been started"
        space = self.space(nsid)
        having = [number for number in self.devices if self.has(number, nsid)]
        await self._detach_natively(nsid, having)
        try:
            self._forget(nsid)
        except BaseException:
            for number in having:
                self.devices[number].lend(nsid, space.spec, space.namespace)
            raise
        self.native.drop_space(nsid)
        del self.spaces[nsid]
        space.namespace.close()

    async def _attach(self, nsid: int, controllers: Sequence[int]) -> None:
        space = self.spaces[nsid]
        done: list[int] = []
        try:
            for number in controllers:
                self.devices[number].lend(nsid, space.spec, space.namespace)
                done.append(number)
            self._record_attachment(nsid)
        except BaseException:
            await self._detach_natively(nsid, done)
            raise

    async def _detach(self, nsid: int, controllers: Sequence[int]) -> None:
        await self._detach_natively(nsid, controllers)
        self._record_attachment(nsid)

    async def _detach_natively(self, nsid: int, controllers: Sequence[int]) -> None:
        deadline_s = time.monotonic() + DETACH_S_MAX
        for number in controllers:
            while True:
                try:
                    self.devices[number].give_back(nsid)
                    break
                except NativeError as error:
                    if error.errno != errno.EBUSY or time.monotonic() > deadline_s:
                        raise
                await asyncio.sleep(_DETACH_STEP_S)

    def _resize(self, nsid: int, size: int) -> int:
        space = self.space(nsid)
        new_size = space.namespace.resize(size)
        if space.spec.size is not None:
            space.spec = replace(space.spec, size=new_size)
        for number in self.devices:
            if self.has(number, nsid):
                self.devices[number].relabel(nsid, space.spec)
        return new_size

    def _record_attachment(self, nsid: int) -> None:
        """The controllers that have it have changed."""
        space = self.spaces[nsid]
        having = {number for number in self.devices if self.has(number, nsid)}
        absent = (space.controllers or set()) - self.devices.keys()
        space.controllers = having | absent

    def _forget(self, nsid: int) -> None:
        """It is about to go, and no controller has it any more."""

    def _known(self, controllers: Sequence[int] | None) -> list[int]:
        wanted = sorted(self.devices if controllers is None else set(controllers))
        for number in wanted:
            if number not in self.devices:
                there = ", ".join(map(str, sorted(self.devices)))
                raise ConfigError(f"there is no controller {number} on this drive, but {there}")
        return wanted


def check_private(controllers: Sequence[int]) -> None:
    """
    Raises:
        ConfigError: it would be attached to several.
    """
    if len(controllers) > 1:
        raise ConfigError("a private namespace is attached to one controller: say to which")
