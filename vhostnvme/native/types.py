"""What crosses the border by value: options, infos and events, as frozen dataclasses."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vhostnvme.limits import NO_LIMITS, Limits
from vhostnvme.native.library import lib

if TYPE_CHECKING:
    from vhostnvme.native.drive import Drive
    from vhostnvme.native.medium import Medium


class Doorbells(enum.IntEnum):
    """How the guest's doorbell writes arrive."""

    AUTO = lib.VN_DOORBELLS_AUTO
    MAPPED = lib.VN_DOORBELLS_MAPPED
    TRAPPED = lib.VN_DOORBELLS_TRAPPED


class EventType(enum.IntEnum):
    """What the library tells on its own; see enum vn_event_type."""

    LOST = lib.VN_EVENT_LOST
    CLIENT_ATTACHED = lib.VN_EVENT_CLIENT_ATTACHED
    CLIENT_DETACHED = lib.VN_EVENT_CLIENT_DETACHED
    CONTROLLER_ENABLED = lib.VN_EVENT_CTRL_ENABLED
    CONTROLLER_DISABLED = lib.VN_EVENT_CTRL_DISABLED
    CONTROLLER_SHUTDOWN = lib.VN_EVENT_CTRL_SHUTDOWN
    CONTROLLER_FATAL = lib.VN_EVENT_CTRL_FATAL
    MEMORY_NOT_SHARED = lib.VN_EVENT_MEMORY_NOT_SHARED
    BACKEND_ERROR = lib.VN_EVENT_BACKEND_ERROR
    MESSAGE = lib.VN_EVENT_MESSAGE
    CONTROLLER_DESTROYED = lib.VN_EVENT_CTRL_DESTROYED
    TARGET_DESTROYED = lib.VN_EVENT_TARGET_DESTROYED
    REMOTE_ATTACHED = lib.VN_EVENT_REMOTE_ATTACHED
    REMOTE_LOST = lib.VN_EVENT_REMOTE_LOST
    REMOTE_BACK = lib.VN_EVENT_REMOTE_BACK
    REMOTE_ANA = lib.VN_EVENT_REMOTE_ANA
    REMOTE_RESIZED = lib.VN_EVENT_REMOTE_RESIZED
    REMOTE_REFUSED = lib.VN_EVENT_REMOTE_REFUSED
    LEG_FAILED = lib.VN_EVENT_LEG_FAILED
    LEG_LOST = lib.VN_EVENT_LEG_LOST
    LEG_IN_SYNC = lib.VN_EVENT_LEG_IN_SYNC
    DECISION = lib.VN_EVENT_DECISION
    HOST_CONNECTED = lib.VN_EVENT_HOST_CONNECTED
    HOST_DISCONNECTED = lib.VN_EVENT_HOST_DISCONNECTED
    HOST_REFUSED = lib.VN_EVENT_HOST_REFUSED


class LegState(enum.IntEnum):
    """Whether a leg of a mirror counts; see enum vn_leg_state."""

    NONE = lib.VN_LEG_NONE
    OUT = lib.VN_LEG_OUT
    REBUILDING = lib.VN_LEG_REBUILDING
    READY = lib.VN_LEG_READY
    IN_SYNC = lib.VN_LEG_IN_SYNC
    FAILED = lib.VN_LEG_FAILED


class AnaState(enum.IntEnum):
    """How well a namespace is reached by one way (Base 8.1.1.2)."""

    OPTIMIZED = 1
    NON_OPTIMIZED = 2
    INACCESSIBLE = 3
    PERSISTENT_LOSS = 4
    CHANGE = 15


class Operation(enum.IntFlag):
    """Operations of a backend: bits 1 << enum vn_op."""

    READ = 1
    WRITE = 2
    FLUSH = 4
    WRITE_ZEROES = 8
    DEALLOCATE = 16
    COMPARE = 32


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """`poll_us`: the longest that a reactor spins for what is about to come; 0: never.

    `sqpoll`: a thread of the kernel for each reactor submits its I/O, and spins for it.
    `pin_memory`: guests' memory is pinned for io_uring where the kernel takes it.
    """

    reactors: int = 1
    poll_us: int = 100
    sqpoll: bool = False
    pin_memory: bool = False


@dataclass(frozen=True, slots=True)
class ReactorStats:
    """Counters of one reactor since its start; `cpu_ns` is its thread's CPU time."""

    rounds: int
    sleeps: int
    enters: int
    cpu_ns: int
    ops: int


@dataclass(frozen=True, slots=True)
class Event:
    """One event; `controller` is 0 when it concerns none. What `a` and `b` mean, the type says."""

    type: EventType
    controller: int = 0
    a: int = 0
    b: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawKeys:
    """Raw secrets, empty for none: the host proves `dhchap_key`, the target `dhchap_ctrl_key`.

    `tls_key` is a configured pre-shared key. With each is the hash that its text form names.
    """

    dhchap_key: bytes = field(default=b"", repr=False)
    dhchap_hash: int = 0
    dhchap_ctrl_key: bytes = field(default=b"", repr=False)
    dhchap_ctrl_hash: int = 0
    tls_key: bytes = field(default=b"", repr=False)
    tls_hash: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteOptions(RawKeys):
    """A namespace of another target; 0 stands for the library's defaults.

    `paths` are hosts (addresses or names) and ports.
    """

    paths: tuple[tuple[str, int], ...]
    subnqn: str
    nsid: int
    hostnqn: str
    hostid: uuid.UUID
    queues: int = 0
    depth: int = 0
    header_digest: bool = False
    data_digest: bool = False
    keep_alive_ms: int = 0
    reconnect_ms: int = 0
    connect_ms: int = 0
    timeout_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorOptions:
    """What a mirror stands on, up to three legs; 0 stands for the library's defaults.

    A leg that is not IN_SYNC is not opened, and may be None. `uuid` names the mirror in its
    bitmap's file. `same`: a new bitmap begins empty, because all legs hold the same; else all is
    copied from one leg. `rebuild_rate` in bytes a second. `direct_reads`: reads of local disks are
    not copied, and one that hangs holds its command.
    """

    legs: tuple[NamespaceOptions | None, ...]
    states: tuple[LegState, ...]
    bitmap_path: str
    uuid: uuid.UUID
    preferred: int = 0
    region_bytes: int = 0
    rebuild_rate: int = 0
    leg_timeout_ms: int = 0
    clean_ms: int = 0
    same: bool = False
    direct_reads: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ZonedOptions:
    """Zones of a namespace; 0: as the table at `path` says, or the default. Sizes in bytes.

    `path` None: they last as long as the namespace is open.
    """

    path: str | None = None
    zone_size: int = 0
    capacity: int = 0
    append: int = 0
    max_open: int = 0
    max_active: int = 0
    extension: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceOptions:
    """What a namespace stands on. Sizes in bytes; `size` 0 means what the file has.

    `offset`: it has only this part of the file or device, of `size` bytes; None: all of it.
    `thick`: zeros that are written keep the blocks of a file.
    `remote` is what the backend "forward" needs, `mirror` what "mirror" does. `medium`: what a file
    lies on, which counts for it. `state_path`: the file in which its state is kept; None: nowhere.
    `zoned`: its zones; None: it is a conventional one.
    """

    backend: str
    path: str | None = None
    remote: RemoteOptions | None = None
    mirror: MirrorOptions | None = None
    zoned: ZonedOptions | None = None
    medium: Medium | None = field(default=None, compare=False)
    size: int = 0
    offset: int | None = None
    block_size: int = 512
    read_only: bool = False
    create: bool = False
    direct: bool = True
    preallocate: bool = False
    thick: bool = False
    uuid: uuid.UUID | None = None
    record_path: str | None = None
    state_path: str | None = None
    delay_us: int = 0
    error_ppm: int = 0
    error_operations: int = 0  # of Operation; 0: all
    error_errno: int = 0
    error_after: int = 0
    error_seed: int = 0
    limits: Limits = NO_LIMITS


@dataclass(frozen=True, slots=True)
class LimitInfo:
    """Limits as they are, the commands that wait now, and what has waited since the start."""

    limits: Limits
    waiting: int
    throttled: int
    waited_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceInfo:
    """A namespace as it is. Sizes in bytes; the counters run since it was opened."""

    size: int
    block_size: int
    read_only: bool
    direct: bool
    deallocate: bool
    uuid: uuid.UUID
    reads: int
    writes: int
    read_bytes: int
    write_bytes: int
    flushes: int
    deallocates: int
    write_zeroes: int
    errors: int
    bounced: int
    limited: LimitInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerOptions:
    """0 and None stand for the library's defaults. `serial` has up to 20 characters, `model` 40.

    `drive`: that it belongs to, on whose reactor it is; `cntlid` is its number there.
    """

    serial: str
    model: str | None = None
    subnqn: str | None = None
    max_queues: int = 0
    max_entries: int = 0
    mdts: int = 0
    doorbells: Doorbells = Doorbells.AUTO
    reactor: int = 0
    cntlid: int = 0
    drive: Drive | None = None
    limits: Limits = NO_LIMITS


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerInfo:
    """A controller as it is; the counters run since it was created."""

    id: int
    attached: bool
    enabled: bool
    fatal: bool
    doorbells: Doorbells
    shadow_doorbells: bool
    submission_queues: int
    completion_queues: int
    inflight: int
    reactor: int
    commands: int
    admin_commands: int
    errors: int
    interrupts: int
    doorbell_writes: int
    limited: LimitInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetLimits:
    """What a target takes at most; 0 stands for the library's default.

    `half_open`: connections that have not sent a whole Connect yet; `handshake_ms`: how long they
    may take.
    """

    connections: int = 0
    half_open: int = 0
    controllers: int = 0
    handshake_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetInfo:
    """A target as it is; the counters run since it was created."""

    connections: int
    half_open: int
    controllers: int
    commands: int
    errors: int
    accepted: int
    refused: int
    read_bytes: int
    write_bytes: int
    resident_bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetHost:
    """A controller that a host has made on a target, `seconds` ago."""

    hostnqn: str
    subnqn: str
    address: str
    cntlid: int
    queues: int
    tls: bool
    authenticated: bool
    commands: int
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostAccess(RawKeys):
    """A host that may connect. `nsids`: the namespaces that it sees; empty: all."""

    hostnqn: str
    nsids: tuple[int, ...] = ()
