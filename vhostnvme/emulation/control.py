"""What a server answers on its control socket: of its drive, and of its target."""

from __future__ import annotations

import dataclasses

from vhostnvme.control.device import (
    SET_LIMITS,
    STATUS,
    DeviceStatus,
    LimitStatus,
    NamespaceStatus,
    NoParams,
    SetLimits,
)
from vhostnvme.control.server import ControlServer
from vhostnvme.control.target import (
    SERVER_STATUS,
    ConnectedHost,
    ListenerStatus,
    ServerStatus,
    SubsystemStatus,
    TargetStatus,
)
from vhostnvme.emulation.device import Device
from vhostnvme.emulation.drive import EmulatedDrive
from vhostnvme.emulation.drive_control import register_drive
from vhostnvme.fabric.options import SubsystemOptions
from vhostnvme.fabric.target import FabricTarget
from vhostnvme.limits import NAMES, NO_LIMITS, Limits
from vhostnvme.native import ControllerInfo, LimitInfo, Namespace
from vhostnvme.storage.spec import DiskSpec, format_spec


def register(
    server: ControlServer,
    drive: EmulatedDrive | None = None,
    target: FabricTarget | None = None,
) -> None:
    """Gives the server the methods of a drive, of a target, or of both."""
    devices = [drive.devices[number] for number in sorted(drive.devices)] if drive else []
    device = devices[0] if devices else None
    limited = drive or target
    assert limited is not None, "a server serves something"

    def status(_: NoParams) -> ServerStatus:
        return ServerStatus(
            device=device_status(device) if device else None,
            others=[device_status(each) for each in devices[1:]],
            target=target_status(target) if target else None,
        )

    def set_limits(params: SetLimits) -> Limits:
        current = NO_LIMITS if params.clear else limited.limits(params.namespace)
        given = {name: getattr(params, name) for name in NAMES}
        limits = dataclasses.replace(current, **{n: v for n, v in given.items() if v is not None})
        limited.set_limits(limits, params.namespace)
        return limited.limits(params.namespace)

    server.register(SERVER_STATUS, NoParams, status)
    server.register(SET_LIMITS, SetLimits, set_limits)
    if drive is not None:
        register_drive(server, drive)
    if device is not None:
        known = device
        server.register(STATUS, NoParams, lambda _: device_status(known))


def device_status(device: Device) -> DeviceStatus:
    """The device, its counters and its limits."""
    info = device.info()
    return DeviceStatus(
        socket=str(device.socket),
        serial=device.serial,
        state=state_of(info),
        doorbells=info.doorbells.name.lower(),
        shadow_doorbells=info.shadow_doorbells,
        submission_queues=info.submission_queues,
        completion_queues=info.completion_queues,
        inflight=info.inflight,
        commands=info.commands,
        admin_commands=info.admin_commands,
        errors=info.errors,
        interrupts=info.interrupts,
        doorbell_writes=info.doorbell_writes,
        limited=_limited(info.limited),
        namespaces=[_namespace_status(*each) for each in device.disks()],
    )


def target_status(target: FabricTarget) -> TargetStatus:
    """The target, who may connect to it and who has, and its counters."""
    info = target.info()
    return TargetStatus(
        listeners=[
            ListenerStatus(address=each.address.host, port=each.address.port, tls=each.tls)
            for each in target.listeners
        ],
        subsystems=[_subsystem_status(target, each) for each in target.options.subsystems],
        hosts=[ConnectedHost(**dataclasses.asdict(host)) for host in target.native.hosts()],
        connections=info.connections,
        half_open=info.half_open,
        controllers=info.controllers,
        commands=info.commands,
        errors=info.errors,
        accepted=info.accepted,
        refused=info.refused,
        read_bytes=info.read_bytes,
        write_bytes=info.write_bytes,
        memory_bytes_max=info.resident_bytes_max,
    )


def _subsystem_status(target: FabricTarget, options: SubsystemOptions) -> SubsystemStatus:
    return SubsystemStatus(
        subnqn=options.nqn,
        serial=target.serial(options),
        any_host=options.any_host,
        allowed_hosts=[host.nqn for host in options.hosts],
        namespaces=[_namespace_status(*disk) for disk in target.disks(options.nqn)],
    )


def _namespace_status(nsid: int, spec: DiskSpec, namespace: Namespace) -> NamespaceStatus:
    info = namespace.info()
    return NamespaceStatus(
        nsid=nsid,
        uuid=str(info.uuid),
        size=info.size,
        block_size=info.block_size,
        spec=format_spec(spec),
        reads=info.reads,
        writes=info.writes,
        read_bytes=info.read_bytes,
        write_bytes=info.write_bytes,
        flushes=info.flushes,
        deallocates=info.deallocates,
        write_zeroes=info.write_zeroes,
        errors=info.errors,
        bounced=info.bounced,
        limited=_limited(info.limited),
    )


def state_of(info: ControllerInfo) -> str:
    """`listening`, `connected`, `running` (enabled by a driver) or `failed` (CSTS.CFS)."""
    if info.fatal:
        return "failed"
    if info.enabled:
        return "running"
    return "connected" if info.attached else "listening"


def _limited(info: LimitInfo) -> LimitStatus:
    return LimitStatus(info.limits, info.waiting, info.throttled, info.waited_ns)
