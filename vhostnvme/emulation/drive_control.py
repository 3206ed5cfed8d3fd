"""What a server does on its control socket with the namespaces of its drive."""

from __future__ import annotations

from vhostnvme.control.device import NoParams
from vhostnvme.control.drive import (
    DRIVE_ADD,
    DRIVE_ANA,
    DRIVE_ATTACH,
    DRIVE_DETACH,
    DRIVE_NAMESPACES,
    DRIVE_REMOVE,
    DRIVE_RESIZE,
    AddSpace,
    AttachSpace,
    DriveInfo,
    RemoveSpace,
    ResizeSpace,
    SetAna,
    SpaceInfo,
)
from vhostnvme.control.server import ControlServer
from vhostnvme.emulation.drive import EmulatedDrive
from vhostnvme.emulation.ssd import EmulatedSsd
from vhostnvme.errors import ConfigError
from vhostnvme.native import AnaState
from vhostnvme.storage.spec import format_spec, parse_spec

ANA_NAMES = {state.name.lower().replace("_", "-"): state for state in AnaState}


def register_drive(server: ControlServer, drive: EmulatedDrive) -> None:
    """Gives the server the methods of a drive."""

    async def add(params: AddSpace) -> SpaceInfo:
        return space_info(drive, await _add(drive, params))

    async def remove(params: RemoveSpace) -> DriveInfo:
        await drive.remove(params.nsid)
        return drive_info(drive)

    async def resize(params: ResizeSpace) -> SpaceInfo:
        await drive.resize(params.nsid, params.size)
        return space_info(drive, params.nsid)

    async def attach(params: AttachSpace) -> SpaceInfo:
        await drive.attach(params.nsid, params.controllers)
        return space_info(drive, params.nsid)

    async def detach(params: AttachSpace) -> SpaceInfo:
        await drive.detach(params.nsid, params.controllers)
        return space_info(drive, params.nsid)

    def set_ana(params: SetAna) -> DriveInfo:
        state = ANA_NAMES.get(params.state)
        if state is None:
            raise ConfigError(f"{params.state!r} is no ANA state: write {', '.join(ANA_NAMES)}")
        drive.set_ana(state, params.group, params.controllers)
        return drive_info(drive)

    server.register(DRIVE_NAMESPACES, NoParams, lambda _: drive_info(drive))
    server.register(DRIVE_ADD, AddSpace, add)
    server.register(DRIVE_REMOVE, RemoveSpace, remove)
    server.register(DRIVE_RESIZE, ResizeSpace, resize)
    server.register(DRIVE_ATTACH, AttachSpace, attach)
    server.register(DRIVE_DETACH, AttachSpace, detach)
    server.register(DRIVE_ANA, SetAna, set_ana)


async def _add(drive: EmulatedDrive, params: AddSpace) -> int:
    if not isinstance(drive, EmulatedSsd):
        if params.spec is None or params.size is not None:
            raise ConfigError("give a SPEC, such as mem:1G: this drive has no capacity of its own")
        spec = parse_spec(params.spec)
        return await drive.add(
            spec, shared=not params.private, group=params.group, controllers=params.controllers
        )
    if params.spec is not None or params.size is None:
        raise ConfigError("give a size, such as 1G: this drive carves namespaces from its folder")
    return await drive.create(
        params.size,
        params.block_size,
        shared=not params.private,
        group=params.group,
        controllers=params.controllers,
    )


def drive_info(drive: EmulatedDrive) -> DriveInfo:
    """All of it."""
    record = drive.folder.record if isinstance(drive, EmulatedSsd) else None
    return DriveInfo(
        controllers=sorted(drive.devices),
        namespaces=[space_info(drive, nsid) for nsid in sorted(drive.spaces)],
        capacity=record.capacity if record else None,
        unallocated=record.unallocated if record else None,
    )


def space_info(drive: EmulatedDrive, nsid: int) -> SpaceInfo:
    """
    Raises:
        ConfigError: there is no such namespace.
    """
    space = drive.space(nsid)
    info = space.namespace.info()
    return SpaceInfo(
        nsid=nsid,
        uuid=str(info.uuid),
        size=info.size,
        block_size=info.block_size,
        shared=space.shared,
        group=space.group,
        controllers=[number for number in sorted(drive.devices) if drive.has(number, nsid)],
        spec=format_spec(space.spec),
    )
