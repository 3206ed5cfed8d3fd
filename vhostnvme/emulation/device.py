"""One emulated device: what one VM sees. Owns the order in which its parts come and go."""

from __future__ import annotations

import logging
import os
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vhostnvme.emulation.placement import Placement
from vhostnvme.emulation.sockets import check_socket_path, make_folder, serial_of_socket
from vhostnvme.errors import ConfigError
from vhostnvme.fabric.options import MODEL_CHARACTERS_MAX, SERIAL_CHARACTERS_MAX, check_text
from vhostnvme.guest.qemu import vfio_user_device
from vhostnvme.limits import NO_LIMITS, Limits
from vhostnvme.native import (
    Controller,
    ControllerInfo,
    ControllerOptions,
    Doorbells,
    Drive,
    DriveOptions,
    Namespace,
    NamespaceInfo,
    Runtime,
)
from vhostnvme.storage.disk import open_disk
from vhostnvme.storage.spec import DiskSpec, format_spec

if TYPE_CHECKING:
    from vhostnvme.emulation.drive import EmulatedDrive

_log = logging.getLogger(__name__)

NAMESPACES_MAX = 256
QUEUES_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """What a device shall be. `queues` 0 means as many as there can be, `reactor` None any.

    `state`: the file that keeps what outlives the process, but for the namespaces'; None: nothing.
    It is for a device without a drive, whose state is kept beside it.

    Raises:
        ConfigError: something that the device cannot be.
    """

    socket: Path
    namespaces: tuple[DiskSpec, ...]
    doorbells: Doorbells = Doorbells.AUTO
    queues: int = 0
    serial: str | None = None
    model: str | None = None
    reactor: int | None = None
    limits: Limits = NO_LIMITS  # of all namespaces together
    grows: bool = False  # its namespaces come later
    entries: int = 0  # of a queue; 0: as many as there can be
    mdts: int = 0  # 2^mdts pages of 4 KiB at once; 0: as many as there can be
    subnqn: str | None = None  # None: made from the serial number
    number: int = 0  # CNTLID: from 1 on for controllers of a drive, which has the namespaces
    state: Path | None = None

    def __post_init__(self) -> None:
        if not (0 if self.grows or self.number else 1) <= len(self.namespaces) <= NAMESPACES_MAX:
            raise ConfigError(
                f"a controller has 1 to {NAMESPACES_MAX} namespaces, not {len(self.namespaces)}"
            )
        if not 0 <= self.queues <= QUEUES_MAX:
            raise ConfigError(f"a controller has 1 to {QUEUES_MAX} I/O queues, not {self.queues}")
        check_text("serial number", self.serial, SERIAL_CHARACTERS_MAX)
        check_text("model", self.model, MODEL_CHARACTERS_MAX)


@dataclass(frozen=True, slots=True)
class NamespaceStatus:
    """A namespace of a running device, as `--json` shows it. Sizes in bytes."""

    nsid: int
    uuid: uuid.UUID
    size: int
    block_size: int
    spec: str


class Device:
    """A device on a runtime: `start`, then `stop`; a failed start leaves nothing behind."""

    def __init__(
        self,
        runtime: Runtime,
        options: DeviceOptions,
        placement: Placement | None = None,
        drive: EmulatedDrive | None = None,
    ) -> None:
        self.options = options
        self.drive = drive
        self.socket = options.socket.absolute()
        self.runtime = runtime
        self._placement = placement or Placement(runtime)
        self._namespaces: dict[int, tuple[DiskSpec, Namespace]] = {}
        self._lent: set[int] = set()  # namespaces that are the drive's
        self._controller: Controller | None = None
        self._own_drive: Drive | None = None  # one that has nothing but this controller
        self._made_folder = False

    @property
    def id(self) -> int:
        """The id by which events name the controller."""
        return self.controller.id

    @property
    def controller(self) -> Controller:
        """The controller of a device that has been started."""
        assert self._controller is not None, "the device has not been started"
        return self._controller

    @property
    def serial(self) -> str:
        """The serial number: as given, else made from the socket's path, so that it stays."""
        return self.options.serial or serial_of_socket(self.options.socket)

    @property
    def is_fixed(self) -> bool:
        """Whether it stays on its reactor, where a drive with all its controllers is."""
        return bool(self.options.reactor is not None or self.drive or self.options.state)

    async def start(self) -> None:
        """Opens the namespaces, then the controller, then the socket.

        Raises:
            ConfigError: the socket's path or a SPEC cannot be used here.
            NativeError: the library refused: a file, a size, a lock, an address.
        """
        check_socket_path(self.socket)
        try:
            for nsid, spec in enumerate(self.options.namespaces, 1):
                self._namespaces[nsid] = (spec, open_disk(self.runtime, spec))
            self._start_controller()
            for nsid, (_, namespace) in self._namespaces.items():
                self.controller.attach(namespace, nsid)
            if self.drive is not None:
                self.drive.join(self, self.options.number)
            self._listen()
        except BaseException:
            await self.stop()
            raise

    def _start_controller(self) -> None:
        reactor = self.drive.reactor if self.drive else self.options.reactor
        reactor = self._placement.choose() if reactor is None else reactor
        if self.options.state is not None:
            state = DriveOptions(state_path=str(self.options.state), reactor=reactor)
            self._own_drive = Drive(self.runtime, state)
        self._controller = Controller(
            self.runtime,
            ControllerOptions(
                serial=self.serial,
                model=self.options.model,
                subnqn=self.options.subnqn,
                max_queues=self.options.queues,
                max_entries=self.options.entries,
                mdts=self.options.mdts,
                doorbells=self.options.doorbells,
                reactor=reactor,
                cntlid=self.options.number,
                drive=self.drive.native if self.drive else self._own_drive,
                limits=self.options.limits,
            ),
        )

    @property
    def reactor(self) -> int:
        """The reactor that it lives on."""
        assert self._controller is not None, "the device has not been started"
        return self._controller.reactor

    def move(self, reactor: int) -> None:
        """To another reactor; blocks until its commands in flight have ended, 1 s at most.

        Raises:
            NativeError: EBUSY: they have not, and it stays where it is.
        """
        assert self._controller is not None, "the device has not been started"
        self._controller.move(reactor)

    async def stop(self) -> None:
        """Closes the socket, waits for what is in flight, closes the files. Safe to repeat."""
        if self._controller is not None:
            await self._controller.aclose()
        if self._own_drive is not None:
            self._own_drive.close()
        for nsid, (_, namespace) in reversed(self._namespaces.items()):
            if nsid not in self._lent:
                namespace.close()
        self._namespaces.clear()
        self._lent.clear()
        if self._made_folder:
            self._made_folder = False
            try:
                self.socket.parent.rmdir()
            except OSError as error:
                _log.debug("the folder %s stays: %s", self.socket.parent, error)

    def info(self) -> ControllerInfo:
        """The controller's state and counters."""
        assert self._controller is not None, "the device has not been started"
        return self._controller.info()

    def namespace_infos(self) -> list[NamespaceInfo]:
        """State and counters of the namespaces, in the order of their ids."""
        return [namespace.info() for _, _, namespace in self.disks()]

    def disks(self) -> list[tuple[int, DiskSpec, Namespace]]:
        """Id, SPEC and handle of the namespaces, in the order of their ids."""
        return [(nsid, *self._namespaces[nsid]) for nsid in sorted(self._namespaces)]

    def namespaces(self) -> list[NamespaceStatus]:
        """The namespaces, in the order of their ids."""
        found = []
        for nsid, spec, namespace in self.disks():
            info = namespace.info()
            found.append(
                NamespaceStatus(nsid, info.uuid, info.size, info.block_size, format_spec(spec))
            )
        return found

    def add_namespace(self, spec: DiskSpec) -> int:
        """Gives the device one more namespace; a running guest finds it by itself.

        Returns:
            Its id: the lowest that is free.

        Raises:
            ConfigError: there are NAMESPACES_MAX already, or the SPEC cannot be used here.
            NativeError: the library refused: a file, a size, a lock.
        """
        assert self._controller is not None, "the device has not been started"
        free = set(range(1, NAMESPACES_MAX + 1)) - self._namespaces.keys()
        if not free:
            raise ConfigError(f"the controller has {NAMESPACES_MAX} namespaces, and no more fit")
        nsid = min(free)
        namespace = open_disk(self.runtime, spec)
        try:
            self._controller.attach(namespace, nsid)
        except BaseException:
            namespace.close()
            raise
        self._namespaces[nsid] = (spec, namespace)
        return nsid

    def has(self, nsid: int) -> bool:
        """Whether there is a namespace of this id."""
        return nsid in self._namespaces

    def attach(self, nsid: int, spec: DiskSpec, namespace: Namespace) -> None:
        """Gives the device an open namespace, which it closes in the end.

        Raises:
            NativeError: the id is taken, or is none.
        """
        assert self._controller is not None, "the device has not been started"
        self._controller.attach(namespace, nsid)
        self._namespaces[nsid] = (spec, namespace)

    def nsids(self) -> set[int]:
        """The ids of its namespaces."""
        return set(self._namespaces)

    def lend(self, nsid: int, spec: DiskSpec, namespace: Namespace) -> None:
        """Gives it a namespace of its drive, which it does not close.

        Raises:
            NativeError: the id is taken, or is none.
        """
        self.attach(nsid, spec, namespace)
        self._lent.add(nsid)

    def give_back(self, nsid: int) -> None:
        """The end of that: new commands for it are refused, those in flight end first.

        Raises:
            NativeError: EBUSY: some have not ended: try again.
        """
        self.controller.detach(nsid, 0)
        del self._namespaces[nsid]
        self._lent.remove(nsid)

    def relabel(self, nsid: int, spec: DiskSpec) -> None:
        """A namespace of its drive is another SPEC's now."""
        self._namespaces[nsid] = (spec, self._namespaces[nsid][1])

    def remove_namespace(self, nsid: int) -> None:
        """Takes a namespace away: new commands for it are refused, those in flight end first.

        Blocks for as long as they take, a tenth of a second at most.

        Raises:
            NativeError: there is no such namespace; EBUSY: its storage has not answered, try again.
        """
        assert self._controller is not None, "the device has not been started"
        self._controller.detach(nsid)
        _, namespace = self._namespaces.pop(nsid)
        namespace.close()

    def resize_namespace(self, nsid: int, size: int = 0) -> int:
        """Gives a namespace another size; a running guest finds it by itself.

        `size` in bytes; 0: all that is behind it now. See `Namespace.resize`.

        Returns:
            The new size.

        Raises:
            ConfigError: there is no such namespace.
            NativeError: it keeps its size; EBUSY: commands in flight do not end, try again.
        """
        namespace = self._namespace(nsid)
        new_size = namespace.resize(size)
        spec, _ = self._namespaces[nsid]
        if spec.size is not None:
            self._namespaces[nsid] = (replace(spec, size=new_size), namespace)
        return new_size

    def set_limits(self, limits: Limits, nsid: int | None = None) -> None:
        """Limits one namespace, or all together; at once, also for what waits.

        Raises:
            ConfigError: there is no such namespace.
        """
        self._limited(nsid).set_limits(limits)

    def limits(self, nsid: int | None = None) -> Limits:
        """The limits of one namespace, or of all together.

        Raises:
            ConfigError: there is no such namespace.
        """
        return self._limited(nsid).info().limited.limits

    def _limited(self, nsid: int | None) -> Controller | Namespace:
        assert self._controller is not None, "the device has not been started"
        return self._controller if nsid is None else self._namespace(nsid)

    def _namespace(self, nsid: int) -> Namespace:
        if nsid not in self._namespaces:
            raise ConfigError(f"there is no namespace {nsid} on this device")
        return self._namespaces[nsid][1]

    def qemu_arguments(self) -> list[str]:
        return vfio_user_device(self.socket)

    def _listen(self) -> None:
        assert self._controller is not None
        # Whoever reaches the socket reads and writes the disk: nobody but us may.
        old = os.umask(0o077)
        try:
            if not self.socket.parent.exists():
                make_folder(self.socket.parent)
                self._made_folder = True
            self._controller.listen(self.socket)
        finally:
            os.umask(old)
