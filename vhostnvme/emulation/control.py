"""What a device answers on its control socket."""

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
from vhostnvme.emulation.device import Device
from vhostnvme.limits import NAMES, NO_LIMITS, Limits
from vhostnvme.native import ControllerInfo, LimitInfo


def register(server: ControlServer, device: Device) -> None:
    """Gives the server this device's methods."""

    def status(_: NoParams) -> DeviceStatus:
        return status_of(device)

    def set_limits(params: SetLimits) -> Limits:
        current = NO_LIMITS if params.clear else device.limits(params.namespace)
        given = {name: getattr(params, name) for name in NAMES}
        limits = dataclasses.replace(current, **{n: v for n, v in given.items() if v is not None})
        device.set_limits(limits, params.namespace)
        return device.limits(params.namespace)

    server.register(STATUS, NoParams, status)
    server.register(SET_LIMITS, SetLimits, set_limits)


def status_of(device: Device) -> DeviceStatus:
    """The device, its counters and its limits."""
    info = device.info()
    return DeviceStatus(
        socket=str(device.socket),
        serial=device.serial,
        state=_state_of(info),
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
        namespaces=_namespaces_of(device),
    )


def _namespaces_of(device: Device) -> list[NamespaceStatus]:
    return [
        NamespaceStatus(
            nsid=known.nsid,
            uuid=str(known.uuid),
            size=known.size,
            block_size=known.block_size,
            spec=known.spec,
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
        for known, info in zip(device.namespaces(), device.namespace_infos(), strict=True)
    ]


def _state_of(info: ControllerInfo) -> str:
    if info.fatal:
        return "failed"
    if info.enabled:
        return "running"
    return "connected" if info.attached else "listening"


def _limited(info: LimitInfo) -> LimitStatus:
    return LimitStatus(info.limits, info.waiting, info.throttled, info.waited_ns)
