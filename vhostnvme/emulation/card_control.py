"""What a card answers on its control socket: commands for its managers, and what its pool holds.

The managers check what they are asked for; here only what they do not get to see is checked.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import vhostnvme
from vhostnvme.cluster import commands
from vhostnvme.cluster.commands import Command, Part, Released
from vhostnvme.cluster.records import SpaceRecord, UsesRecord, check_name
from vhostnvme.cluster.rows import DeviceRow, HoldingRow
from vhostnvme.config import CardConfig
from vhostnvme.control import card as methods
from vhostnvme.control.card import (
    AddNamespaceParams,
    AdoptDeviceParams,
    AttachNamespaceParams,
    CardParams,
    CardStatus,
    CloneNamespaceParams,
    ClusterCard,
    CreatedDevice,
    CreateDeviceParams,
    CreateNamespaceParams,
    DeviceInfo,
    DeviceParams,
    DrainInfo,
    DrainParams,
    ForgottenCard,
    ListParams,
    MovedInfo,
    MoveNamespaceParams,
    NamespaceInfo,
    NamespaceParams,
    PartParams,
    PromoteCopyParams,
    ReleasedInfo,
    ResizeNamespaceParams,
    SsdInfo,
    VmInfo,
    VmParams,
)
from vhostnvme.control.device import NoParams
from vhostnvme.control.paths import CONTROL_NAME, PATH_BYTES_MAX
from vhostnvme.control.server import ControlServer
from vhostnvme.emulation import card_views as views
from vhostnvme.errors import ConfigError, PeerError, VhostNvmeError

_log = logging.getLogger(__name__)

CONNECTIONS_MAX = 256  # a command that waits for space keeps its connection
WAIT_S_MAX = 24 * 3600.0


class Card(Protocol):
    """The card behind the socket."""

    @property
    def config(self) -> CardConfig: ...
    @property
    def pool(self) -> views.Pool: ...
    @property
    def addresses(self) -> Sequence[str]: ...  # where others reach its target
    async def run(self, make: Callable[[int], Command]) -> Any: ...
    def device_socket(self, name: str) -> Path: ...
    def device_state(self, name: str) -> str: ...
    async def heartbeat_ages(self) -> dict[str, float | None]: ...
    async def held(self) -> list[SpaceRecord]: ...
    async def uses(self) -> list[UsesRecord]: ...


def register(server: ControlServer, card: Card) -> None:
    """Gives the server the methods of a card."""
    does = _Does(card)
    known: tuple[tuple[str, type[Any], Callable[[Any], object]], ...] = (
        (methods.CARD_STATUS, NoParams, does.card_status),
        (methods.CARD_DRAIN, DrainParams, does.card_drain),
        (methods.SSD_LIST, NoParams, does.ssd_list),
        (methods.NAMESPACE_LIST, ListParams, does.namespace_list),
        (methods.NAMESPACE_CREATE, CreateNamespaceParams, does.namespace_create),
        (methods.NAMESPACE_CLONE, CloneNamespaceParams, does.namespace_clone),
        (methods.NAMESPACE_ADD, AddNamespaceParams, does.namespace_add),
        (methods.NAMESPACE_ATTACH, AttachNamespaceParams, does.namespace_attach),
        (methods.NAMESPACE_RESIZE, ResizeNamespaceParams, does.namespace_resize),
        (methods.NAMESPACE_DELETE, NamespaceParams, does.namespace_delete),
        (methods.NAMESPACE_MOVE, MoveNamespaceParams, does.namespace_move),
        (methods.NAMESPACE_PROMOTE, PromoteCopyParams, does.namespace_promote),
        (methods.DEVICE_CREATE, CreateDeviceParams, does.device_create),
        (methods.DEVICE_LIST, ListParams, does.device_list),
        (methods.DEVICE_SHOW, DeviceParams, does.device_show),
        (methods.DEVICE_DELETE, DeviceParams, does.device_delete),
        (methods.DEVICE_ADOPT, AdoptDeviceParams, does.device_adopt),
        (methods.VM_LIST, NoParams, does.vm_list),
        (methods.VM_DELETE, VmParams, does.vm_delete),
        (methods.CLUSTER_STATUS, NoParams, does.cluster_status),
        (methods.CLUSTER_FORGET, CardParams, does.cluster_forget),
    )
    for name, params, handler in known:
        server.register(name, params, handler)


class _Does:
    """The handlers. Each command is answered from the pool as it is after it."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self._me = card.config.name

    @property
    def _pool(self) -> views.Pool:
        return self._card.pool

    # --- What there is ---------------------------------------------------------------------------

    def card_status(self, _: NoParams) -> CardStatus:
        config, pool = self._card.config, self._pool
        return CardStatus(
            card=self._me,
            pid=os.getpid(),
            version=vhostnvme.__version__,
            run_dir=str(config.run_dir),
            state_dir=str(config.state_dir),
            store=config.cluster.store if config.cluster else None,
            clustered=pool.clustered,
            member=pool.member or not pool.clustered,
            addresses=list(self._card.addresses),
            ssds=len(config.ssds),
            devices=len(pool.devices),
            namespaces=len(pool.holdings),
            given=sum(row.owner != self._me for row in pool.spaces.values()),
            remarks=config.remarks(),
            draining=pool.draining,
            spaces=len(pool.spaces),
        )

    async def card_drain(self, params: DrainParams) -> DrainInfo:
        left = await self._card.run(lambda number: commands.DrainCard(number, params.on))
        return DrainInfo(card=self._me, draining=params.on, left=left)

    def ssd_list(self, _: NoParams) -> list[SsdInfo]:
        return views.own_ssds(self._card.config, self._pool)

    def namespace_list(self, params: ListParams) -> list[NamespaceInfo]:
        return views.namespaces(self._me, self._pool, params.vm, params.device)

    def device_list(self, params: ListParams) -> list[DeviceInfo]:
        return [
            self._device(name)
            for name, row in sorted(self._pool.devices.items())
            if params.vm in (None, row.vm) and params.device in (None, name)
        ]

    def device_show(self, params: DeviceParams) -> DeviceInfo:
        return self._device(params.device)

    def vm_list(self, _: NoParams) -> list[VmInfo]:
        return views.vms(self._me, self._pool)

    async def cluster_status(self, _: NoParams) -> list[ClusterCard]:
        ages: dict[str, float | None] = {}
        held: list[SpaceRecord] | None = None if self._pool.clustered else []
        uses: list[UsesRecord] = []
        if self._pool.clustered:
            try:
                ages = await self._card.heartbeat_ages()
                held = await self._card.held()
                uses = await self._card.uses()
            except VhostNvmeError as error:  # what is known without the store is told all the same
                _log.warning("cluster status without the store: %s", error)
        vms = {each.name: each.vms for each in uses} | {self._me: self._pool.uses().vms}
        return views.cluster(self._card.config, self._pool, self._card.addresses, ages, held, vms)

    # --- Namespaces ------------------------------------------------------------------------------

    async def namespace_create(self, params: CreateNamespaceParams) -> NamespaceInfo:
        uuid = await self._card.run(
            lambda number: commands.CreateNamespace(
                number,
                vm=params.vm,
                size=params.size,
                block_size=params.block_size,
                ssd=params.ssd,
                priority=params.priority,
            )
        )
        return self._namespace(uuid)

    async def namespace_clone(self, params: CloneNamespaceParams) -> NamespaceInfo:
        source = self._held(params.uuid)
        vm = params.vm or source.vm
        uuid = await self._card.run(
            lambda number: commands.CloneNamespace(number, source.uuid, vm, params.read_only)
        )
        return self._namespace(uuid)

    async def namespace_add(self, params: AddNamespaceParams) -> NamespaceInfo:
        self._device_row(params.device)
        part = _part(params.part)
        _check_wait(params.wait_s)
        uuid = await self._card.run(
            lambda number: commands.AddNamespace(
                number,
                device=params.device,
                part=part,
                priority=params.priority,
                wait_s=params.wait_s,
            )
        )
        return self._namespace(uuid)

    async def namespace_attach(self, params: AttachNamespaceParams) -> NamespaceInfo:
        row = self._held(params.uuid)
        self._device_row(params.device)
        await self._card.run(
            lambda number: commands.AttachNamespace(number, row.uuid, params.device)
        )
        return self._namespace(row.uuid)

    async def namespace_resize(self, params: ResizeNamespaceParams) -> NamespaceInfo:
        uuid = views.find_uuid(self._me, self._pool, params.uuid)
        if uuid not in self._pool.mirrors:
            uuid = self._held(uuid).uuid
        await self._card.run(lambda number: commands.ResizeNamespace(number, uuid, params.size))
        return self._namespace(uuid)

    async def namespace_delete(self, params: NamespaceParams) -> ReleasedInfo:
        uuid = views.find_uuid(self._me, self._pool, params.uuid)
        return await self._release(lambda number: commands.DeleteNamespace(number, uuid))

    async def namespace_move(self, params: MoveNamespaceParams) -> MovedInfo:
        uuid = views.find_uuid(self._me, self._pool, params.uuid)
        begun = await self._card.run(
            lambda number: commands.MoveNamespace(number, uuid, params.to, params.source)
        )
        return MovedInfo(begun=begun, namespace=self._namespace(uuid))

    async def namespace_promote(self, params: PromoteCopyParams) -> NamespaceInfo:
        uuid = views.find_uuid(self._me, self._pool, params.uuid)
        copy = views.find_uuid(self._me, self._pool, params.copy)
        await self._card.run(lambda number: commands.PromoteCopy(number, uuid, copy))
        return self._namespace(uuid)

    # --- Devices and VMs -------------------------------------------------------------------------

    async def device_create(self, params: CreateDeviceParams) -> CreatedDevice:
        self._check_device_name(params.name)
        parts = tuple(_part(each) for each in params.parts)
        _check_wait(params.wait_s)
        name = await self._card.run(
            lambda number: commands.CreateDevice(
                number,
                vm=params.vm,
                parts=parts,
                name=params.name,
                priority=params.priority,
                wait_s=params.wait_s,
                release_on_disconnect=params.release_on_disconnect,
            )
        )
        return self._created(name)

    async def device_delete(self, params: DeviceParams) -> ReleasedInfo:
        return await self._release(lambda number: commands.DeleteDevice(number, params.device))

    async def device_adopt(self, params: AdoptDeviceParams) -> CreatedDevice:
        name = await self._card.run(
            lambda number: commands.AdoptDevice(number, params.device, params.owner, params.force)
        )
        return self._created(name)

    async def vm_delete(self, params: VmParams) -> ReleasedInfo:
        return await self._release(lambda number: commands.DeleteVm(number, params.vm))

    async def cluster_forget(self, params: CardParams) -> ForgottenCard:
        records = await self._card.run(lambda number: commands.ForgetCard(number, params.card))
        return ForgottenCard(card=params.card, records=records)

    # --- Of use to several -----------------------------------------------------------------------

    async def _release(self, make: Callable[[int], Command]) -> ReleasedInfo:
        released: Released = await self._card.run(make)
        return ReleasedInfo(
            devices=list(released.devices),
            namespaces=list(released.namespaces),
            pending=list(released.pending),
            already=released.already,
        )

    def _check_device_name(self, name: str | None) -> None:
        """Its socket lies beside the card's."""
        if name == CONTROL_NAME:
            raise ConfigError(f"no device can be called {name!r}: choose another name")
        if name is not None:
            check_name("device", name)
            socket = self._card.device_socket(name)
            if len(os.fsencode(socket)) > PATH_BYTES_MAX:
                raise ConfigError(
                    f"the socket's path {socket} is longer than {PATH_BYTES_MAX} bytes: choose a"
                    " shorter name for the device"
                )

    def _created(self, name: str) -> CreatedDevice:
        socket = self._card.device_socket(name)
        return views.created(self._me, self._pool, self._device_row(name), socket)

    def _device(self, name: str) -> DeviceInfo:
        row = self._device_row(name)
        socket, state = self._card.device_socket(name), self._card.device_state(name)
        return views.device(self._me, self._pool, row, socket, state)

    def _device_row(self, name: str) -> DeviceRow:
        row = self._pool.devices.get(name)
        if row is None:
            raise ConfigError(
                f"card {self._me} has no device {name!r}: `vhostnvme device list` shows them"
            )
        return row

    def _held(self, uuid: str) -> HoldingRow:
        row = self._pool.holdings.get(views.find_uuid(self._me, self._pool, uuid))
        if row is None:
            raise ConfigError(
                f"card {self._me} holds no namespace {uuid}: `vhostnvme namespace list` shows them"
            )
        return row

    def _namespace(self, uuid: str) -> NamespaceInfo:
        for each in views.namespaces(self._me, self._pool):
            if each.uuid == uuid:
                return each
        raise PeerError(f"namespace {uuid} has been deleted meanwhile")


def _part(params: PartParams) -> Part:
    return Part(
        size=params.size,
        placement=params.placement,
        block_size=params.block_size,
        copies=params.copies,
        scratch=params.scratch,
        degraded=params.degraded,
    )


def _check_wait(wait_s: float) -> None:
    if not 0 <= wait_s <= WAIT_S_MAX:
        raise ConfigError(f"a request waits from 0 to {WAIT_S_MAX:.0f} s, not {wait_s:g} s")
