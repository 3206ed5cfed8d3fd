"""What a target's control socket tells, as both ends see it. Sizes in bytes."""

from __future__ import annotations

import msgspec

from vhostnvme.control.device import DeviceStatus, NamespaceStatus

SERVER_STATUS = "server.status"


class ListenerStatus(msgspec.Struct):
    """`address` is numeric."""

    address: str
    port: int
    tls: bool


class ConnectedHost(msgspec.Struct):
    """A controller that a host has made: `subnqn` is the discovery service's for its own.

    `queues` counts I/O queues; `commands` since it connected, `seconds` ago.
    """

    hostnqn: str
    subnqn: str
    address: str
    cntlid: int
    queues: int
    tls: bool
    authenticated: bool
    commands: int
    seconds: int


class SubsystemStatus(msgspec.Struct):
    """`allowed_hosts` are those that may connect; `any_host`: everybody may."""

    subnqn: str
    serial: str
    any_host: bool
    allowed_hosts: list[str]
    namespaces: list[NamespaceStatus]


class TargetStatus(msgspec.Struct):
    """`connections` of TCP, of which `half_open` have not sent a whole Connect yet.

    The counters run since the start; `memory_bytes_max` is what the connections can take.
    """

    listeners: list[ListenerStatus]
    subsystems: list[SubsystemStatus]
    hosts: list[ConnectedHost]
    connections: int
    half_open: int
    controllers: int
    commands: int
    errors: int
    accepted: int
    refused: int
    read_bytes: int
    write_bytes: int
    memory_bytes_max: int


class ServerStatus(msgspec.Struct):
    """All that a server has; None: it has no such thing."""

    device: DeviceStatus | None
    target: TargetStatus | None
    others: list[DeviceStatus] = []  # controllers of the same drive
