"""A card: the composition root. What there is of one, and in which order it comes and goes.

::

    catalog, SSDs -> store -> reactors, target, devices -> managers -> control socket

Python decides, the C library moves data: nothing here waits on a VM's or a peer's I/O.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import vhostnvme
from vhostnvme.cluster.commands import Command
from vhostnvme.cluster.messages import (
    Attach,
    CardOptions,
    Carve,
    Clone,
    Destroy,
    Detach,
    Effect,
    Export,
    HostGone,
    Refit,
    SsdsSeen,
    StartDevice,
    StopDevice,
    Stretch,
    Unexport,
)
from vhostnvme.cluster.mirror_messages import AttachMirror, LegCounts, LegDrop, LegIn, LegOut
from vhostnvme.cluster.pool import Pool
from vhostnvme.cluster.records import SpaceRecord, UsesRecord
from vhostnvme.cluster.rows import KINDS, POOL_KINDS, DeviceRow, HoldingRow, RowState
from vhostnvme.cluster.runner import Runner, Work
from vhostnvme.cluster.store.base import Store
from vhostnvme.config import CardConfig
from vhostnvme.control.paths import make_folder
from vhostnvme.control.server import ControlServer
from vhostnvme.emulation import card_control
from vhostnvme.emulation.announcement import Announcement
from vhostnvme.emulation.control import state_of
from vhostnvme.emulation.server import Services, services
from vhostnvme.emulation.signals import stopped_by_signals
from vhostnvme.errors import ClusterError
from vhostnvme.fabric.address import Address
from vhostnvme.fabric.target import listen_on, numeric_of
from vhostnvme.native import Target, TargetLimits
from vhostnvme.storage.catalog import Catalog
from vhostnvme.storage.common import DiskSpec
from vhostnvme.storage.ssd import SsdOptions
from vhostnvme.works.card_store import (
    heartbeat_ages,
    held_by_all,
    leave,
    open_card_store,
    uses_of_all,
)
from vhostnvme.works.exports import Exports
from vhostnvme.works.mirrors import VmMirrors
from vhostnvme.works.ssds import Ssds
from vhostnvme.works.vm_devices import VmDevices, remote_spec

_log = logging.getLogger(__name__)

# Many cards, each with a controller for each namespace that it holds here.
TARGET_LIMITS = TargetLimits(connections=8192, controllers=2048, half_open=256)


class Card:
    """From `start` to `stop`; what the control socket needs of it is public."""

    def __init__(self, config: CardConfig) -> None:
        self.config = config
        self.addresses: list[str] = []
        self._pool: Pool | None = None
        self._stack = AsyncExitStack()
        self._catalog: Catalog
        self._ssds: Ssds
        self._running: Services
        self._exports: Exports | None = None
        self._mirrors: VmMirrors
        self._devices: VmDevices
        self._runner: Runner
        self._store: Store | None = None

    # --- From start to stop ---

    async def start(self) -> None:
        """All of it, or an exception and nothing.

        Raises:
            ConfigError, NativeError, ClusterError: one sentence on what cannot be.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config, enter = self.config, self._stack
        for remark in config.remarks():
            _log.info("%s", remark)
        for folder in (config.run_dir, config.folder):
            make_folder(folder)
        self._catalog = enter.enter_context(Catalog(config.state_dir, KINDS))
        self._ssds = Ssds(
            [SsdOptions(each.name, each.path, each.capacity, each.thin) for each in config.ssds],
            self._catalog,
            config.health,
        )
        enter.callback(self._ssds.close)
        self._store = await open_card_store(config, self._catalog)
        if self._store is not None:
            enter.push_async_callback(self._leave)
        self._running = await enter.enter_async_context(services(config.runtime))
        self._listen()
        self._mirrors = VmMirrors(
            self._running,
            config.name,
            config.state_dir / "bitmaps",
            self._disk,
            lambda seen: self._runner.post(seen),
            config.recovery,
        )
        self._devices = VmDevices(
            self._running,
            config.folder,
            config.state_dir / "devices",
            config.device,
            self._mirrors,
            self._disk,
            self._gone,
        )
        rows = [row for kind in POOL_KINDS for row in self._catalog.all(kind)]
        self._pool = Pool(
            self._options(),
            [*rows, *self._catalog.deleted()],
            self._ssds.reports(),
            time.monotonic(),
        )
        self._mirrors.sweep(self._is_known)
        self._runner = Runner(self.pool, self._catalog, self._store, self._works())
        enter.push_async_callback(self._runner.stop)
        self._ssds.changed = lambda reports: self._runner.post(SsdsSeen(tuple(reports)))
        self._runner.start()
        for watch in (self._ssds.watch(), self._mirrors.watch(self._is_known)):
            enter.callback(asyncio.create_task(watch).cancel)
        control = ControlServer(config.control, connections_max=card_control.CONNECTIONS_MAX)
        card_control.register(control, self)
        await enter.enter_async_context(control)

    async def stop(self) -> None:
        """In reverse order; devices and exports drain first. Safe to repeat."""
        await self._stack.aclose()
        try:
            self.config.folder.rmdir()
        except OSError as error:
            _log.debug("the folder %s stays: %s", self.config.folder, error)

    async def wait(self) -> None:
        """Until the card cannot go on.

        Raises:
            VhostNvmeError: why.
        """
        await self._runner.wait()

    def _listen(self) -> None:
        """The target, with nothing in it yet."""
        config = self.config
        if not config.target.listen:
            return
        runtime = self._running.runtime
        target = Target(runtime, self._running.placement.choose(), TARGET_LIMITS)
        self._running.names[target.id] = "target"
        self._exports = Exports(runtime, target, self._export_disk)

        async def end() -> None:
            await target.aclose()
            assert self._exports is not None
            self._exports.close()

        self._stack.push_async_callback(end)
        heard = []
        for address in map(numeric_of, config.target.listen):
            _, port = listen_on(target, address)
            heard.append(Address(address.host, port))
        self.addresses = [str(each) for each in config.target.advertise or heard]

    async def _leave(self) -> None:
        assert self._store is not None
        await leave(self._store, self._pool.lease if self._pool else 0)

    def _options(self) -> CardOptions:
        config, cluster = self.config, self.config.cluster
        times = {"ttl_s": cluster.ttl_s, "contention_s": cluster.contention_s} if cluster else {}
        times["replace_after_s"] = config.recovery.replace_after_s
        return CardOptions(
            name=config.name,
            uuid=self._catalog.card_uuid,
            session=secrets.token_hex(8),
            addresses=tuple(self.addresses),
            reserve=config.reserve,
            clustered=cluster is not None,
            seed=secrets.randbits(64),
            version=vhostnvme.__version__,
            **times,
        )

    def _works(self) -> Mapping[type[Effect], Work]:
        works: dict[type[Effect], Work] = {
            Carve: self._ssds.carve,
            Clone: self._ssds.clone,
            Stretch: self._stretch,
            Destroy: self._ssds.destroy,
            StartDevice: self._devices.start,
            StopDevice: self._devices.stop,
            Attach: self._devices.attach,
            Detach: self._devices.detach,
            Refit: self._devices.refit,
            AttachMirror: self._devices.attach_mirror,
            LegOut: self._mirrors.out,
            LegIn: self._mirrors.bring_in,
            LegCounts: self._mirrors.counts,
            LegDrop: self._mirrors.drop,
            Export: self._export,
            Unexport: self._unexport,
        }
        return works

    # --- Effects that concern two ---

    async def _stretch(self, effect: Stretch) -> None:
        """The medium first; then hosts that have it open are told."""
        await self._ssds.stretch(effect)
        namespace = self._exports.namespace(effect.uuid) if self._exports else None
        if namespace is not None:
            namespace.resize(effect.size)

    async def _export(self, effect: Export) -> None:
        if self._exports is None:
            raise ClusterError("this card listens nowhere: name an address in [target] listen")
        await self._exports.export(effect)

    async def _unexport(self, effect: Unexport) -> None:
        if self._exports is not None:
            await self._exports.unexport(effect)

    async def _export_disk(self, effect: Export) -> DiskSpec:
        return await self._ssds.disk(effect.ssd, effect.uuid, effect.size, effect.block_size)

    async def _disk(self, row: HoldingRow) -> DiskSpec:
        if row.giver != self.config.name:
            return remote_spec(self.config.name, row)
        return await self._ssds.disk(
            row.ssd, row.uuid, row.size, row.block_size, read_only=row.read_only
        )

    def _is_known(self, uuid: str) -> bool:
        return uuid in self.pool.mirrors or uuid in self.pool.holdings

    def _gone(self, name: str) -> None:
        self._runner.post(HostGone(name))

    # --- For the control socket ---

    @property
    def pool(self) -> Pool:
        """What the managers know."""
        assert self._pool is not None, "the card has not been started"
        return self._pool

    async def run(self, make: Callable[[int], Command]) -> Any:
        """Carries out a command; see Runner.command."""
        return await self._runner.command(make)

    def device_socket(self, name: str) -> Path:
        """The vfio-user socket of a device."""
        return self._devices.socket(name)

    def device_state(self, name: str) -> str:
        """`making`, `deleting`, `waiting` (a namespace cannot be reached), or as it runs."""
        row: DeviceRow | None = self.pool.devices.get(name)
        device = self._devices.get(name)
        if row is None or row.state is not RowState.READY:
            return str(row.state) if row else "deleted"
        if device is None or not self.pool.device_is_complete(name):
            return "waiting"
        return state_of(device.info())

    async def heartbeat_ages(self) -> dict[str, float | None]:
        """Seconds since each card was heard of, by name; None: its lease has run out.

        Raises:
            ClusterError: the store does not answer.
        """
        return await heartbeat_ages(self._store) if self._store else {}

    async def held(self) -> list[SpaceRecord]:
        """What cards hold of each other, all of it.

        Raises:
            ClusterError: the store does not answer.
        """
        return await held_by_all(self._store) if self._store else []

    async def uses(self) -> list[UsesRecord]:
        """What the VMs of all cards have of their own cards' SSDs.

        Raises:
            ClusterError: the store does not answer.
        """
        return await uses_of_all(self._store) if self._store else []


async def run_card(config: CardConfig, ready_fd: int | None = None) -> None:
    """Runs a card until SIGINT, SIGTERM or SIGHUP, or until it cannot go on; then ends in order.

    Args:
        ready_fd: gets a line, and is closed, once commands are taken.

    Raises:
        VhostNvmeError: it could not be started, or could not go on.
    """
    _allow_many_files()
    card = Card(config)
    with stopped_by_signals() as stop:
        try:
            await card.start()
            _log.info("card %s takes commands on %s", config.name, config.control)
            Announcement(ready_fd=ready_fd).tell_ready()
            waiting = [asyncio.ensure_future(each) for each in (stop.wait(), card.wait())]
            done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            _log.info("card %s is ending", config.name)
            for task in done:
                task.result()
        finally:
            await card.stop()


def _allow_many_files() -> None:
    """Each namespace of another card takes four descriptors here, and three there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
