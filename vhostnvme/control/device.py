"""The methods of a device's control socket, as both ends see them. Sizes in bytes."""

from __future__ import annotations

import msgspec

from vhostnvme.limits import Limits

STATUS = "device.status"
SET_LIMITS = "limits.set"


class NoParams(msgspec.Struct, forbid_unknown_fields=True):
    """Of methods that need none."""


class SetLimits(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is None stays as it is, 0 lifts the limit; `clear` lifts all others.

    The answer is the Limits that hold then.
    """

    namespace: int | None = None  # None: all of the device together
    clear: bool = False
    iops: int | None = None
    read_iops: int | None = None
    write_iops: int | None = None
    bandwidth: int | None = None
    read_bandwidth: int | None = None
    write_bandwidth: int | None = None
    burst_us: int | None = None


class LimitStatus(msgspec.Struct):
    """`waiting`: commands now; `throttled` and `waited_ns`: since the start."""

    limits: Limits
    waiting: int
    throttled: int
    waited_ns: int


class NamespaceStatus(msgspec.Struct):
    """A namespace; its counters run since it was opened."""

    nsid: int
    uuid: str
    size: int
    block_size: int
    spec: str
    reads: int
    writes: int
    read_bytes: int
    write_bytes: int
    flushes: int
    deallocates: int
    write_zeroes: int
    errors: int
    bounced: int
    limited: LimitStatus


class DeviceStatus(msgspec.Struct):
    """`state`: `listening`, `connected`, `running` (enabled by a driver) or `failed` (CSTS.CFS)."""

    socket: str
    serial: str
    state: str
    doorbells: str
    shadow_doorbells: bool
    submission_queues: int
    completion_queues: int
    inflight: int
    commands: int
    admin_commands: int
    errors: int
    interrupts: int
    doorbell_writes: int
    limited: LimitStatus
    namespaces: list[NamespaceStatus]
