"""A drive: the emulated SSD that controllers belong to, its kept state and its namespaces."""

from __future__ import annotations

import enum
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from vhostnvme.errors import NativeError
from vhostnvme.native.handle import Handle
from vhostnvme.native.library import check, ffi, lib, native_text

if TYPE_CHECKING:
    from vhostnvme.native.namespace import Namespace
    from vhostnvme.native.runtime import Runtime

ECANCELED = 125
ENOENT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonaOptions:
    """What a drive looks like; 0 and None are as it is without. See struct vn_persona.

    `power_states` are 32 bytes each, as in Identify Controller; `logs` are vendor specific pages,
    and `uuid` says whose.
    """

    firmware: str | None = None
    vid: int = 0
    ssvid: int = 0
    ieee: int = 0
    rab: int = 0
    rtd3r: int = 0
    rtd3e: int = 0
    wctemp: int = 0
    cctemp: int = 0
    oacs_off: int = 0
    oncs_off: int = 0
    formats: int = 0
    power_states: tuple[bytes, ...] = ()
    power_off: int = 0
    mntmt: int = 0
    mxtmt: int = 0
    logs: Mapping[int, bytes] = field(default_factory=dict)
    uuid: uuid.UUID | None = None
    data_units_read: int = 0
    data_units_written: int = 0
    host_reads: int = 0
    host_writes: int = 0
    busy_minutes: int = 0
    power_cycles: int = 0
    power_on_hours: int = 0
    unsafe_shutdowns: int = 0
    media_errors: int = 0
    percent_used: int = 0
    avail_spare: int = 0
    spare_thresh: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveOptions:
    """What a drive is. `state_path`: where its state is kept; None: it ends with the drive.

    `managed`: hosts may create, delete, attach and detach namespaces, which `Drive.decision` tells
    of. `shared`: it may have several controllers. `ana`: these tell how well they reach namespaces.
    `nsid_max`: the highest id of a namespace, 0 for the library's.
    """

    state_path: str | None = None
    uuid: uuid.UUID | None = None
    reactor: int = 0
    managed: bool = False
    shared: bool = False
    ana: bool = False
    nsid_max: int = 0
    persona: PersonaOptions | None = None


class DecisionKind(enum.IntEnum):
    """What a host wants; see enum vn_decision_kind."""

    CREATE = lib.VN_DECIDE_CREATE
    DELETE = lib.VN_DECIDE_DELETE
    ATTACH = lib.VN_DECIDE_ATTACH
    DETACH = lib.VN_DECIDE_DETACH


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a host asks of a drive; see struct vn_decision. Sizes in bytes.

    `nsid`: of delete, BROADCAST_NSID for all. The fields from `blocks` to `dps` are of create;
    `controllers`, of attach and detach, are CNTLIDs.
    """

    id: int
    kind: DecisionKind
    nsid: int
    blocks: int
    size: int
    block_size: int
    shared: bool
    group: int
    flbas: int
    dps: int
    controllers: tuple[int, ...]


class Drive(Handle):
    """Open from construction to `close`, which its controllers must be closed before.

    Raises:
        NativeError: its kept state cannot be read, is another drive's or is in use.
    """

    def __init__(self, runtime: Runtime, options: DriveOptions | None = None) -> None:
        super().__init__("drive")
        options = options or DriveOptions()
        self._runtime = runtime
        self.options = options
        opts = ffi.new("struct vn_drive_opts *")
        path = options.state_path
        alive = ffi.NULL if path is None else ffi.new("char[]", os.fsencode(path))
        opts.state_path = alive
        opts.reactor = options.reactor
        opts.nsid_max = options.nsid_max
        opts.flags = (
            (lib.VN_DRIVE_MANAGED if options.managed else 0)
            | (lib.VN_DRIVE_SHARED if options.shared else 0)
            | (lib.VN_DRIVE_ANA if options.ana else 0)
        )
        if options.uuid is not None:
            opts.uuid = options.uuid.bytes
        kept: list[Any] = []
        if options.persona is not None:
            opts.persona, kept = _native_persona(options.persona)
        out = ffi.new("vn_drive **")
        check(lib.vn_drive_create(runtime.handle, opts, out))
        del kept
        self._handle = out[0]
        runtime.drives.append(self)

    def format_space(self, namespace: Namespace, flbas: int, dps: int, blocks: int) -> None:
        """Before it is added: it has this format, as Identify Namespace tells of it, durably.

        Raises:
            NativeError: it cannot have it, or that cannot be kept.
        """
        check(lib.vn_drive_format_space(self.handle, namespace.handle, flbas, dps, blocks))

    def add_space(
        self, namespace: Namespace, nsid: int, *, shared: bool = False, group: int = 1
    ) -> None:
        """The namespace is the drive's, whether a controller has it attached or not.

        Raises:
            NativeError: EEXIST: the id is taken.
        """
        flags = lib.VN_SPACE_SHARED if shared else 0
        check(lib.vn_drive_add_space(self.handle, namespace.handle, nsid, flags, group))

    def drop_space(self, nsid: int) -> None:
        """The end of that.

        Raises:
            NativeError: EBUSY: a controller has it attached.
        """
        check(lib.vn_drive_drop_space(self.handle, nsid))

    def set_capacity(self, total: int, unallocated: int) -> None:
        """What hosts are told, in bytes."""
        check(lib.vn_drive_set_capacity(self.handle, total, unallocated))

    def decision(self) -> Decision | None:
        """What a host asks now; the next one is asked when this one has its answer."""
        out = ffi.new("struct vn_decision *")
        try:
            check(lib.vn_drive_get_decision(self.handle, out))
        except NativeError as error:
            if error.errno == ENOENT:
                return None
            raise
        return Decision(
            id=out.id,
            kind=DecisionKind(out.kind),
            nsid=out.nsid,
            blocks=out.nr_blocks,
            size=out.bytes,
            block_size=out.block_size,
            shared=bool(out.flags & lib.VN_SPACE_SHARED),
            group=out.group,
            flbas=out.flbas,
            dps=out.dps,
            controllers=tuple(out.ctrls[0 : out.nr_ctrls]),
        )

    def answer(
        self, decision: Decision, status: int = 0, result: int = 0, specific: int = 0
    ) -> bool:
        """Ends the host's command with this status (type << 8 | code).

        Args:
            result: the id of the namespace that was created.
            specific: for the error log: bytes needed, when there are not so many.

        Returns:
            Whether the host has heard it; False: what was done is to be undone.
        """
        try:
            check(lib.vn_drive_answer(self.handle, decision.id, status, result, specific))
        except NativeError as error:
            if error.errno == ECANCELED:
                return False
            raise
        return True

    def close(self) -> None:
        """Saves its state, and ends.

        Raises:
            NativeError: EBUSY while it has controllers.
        """
        if self._handle is None:
            return
        check(lib.vn_drive_destroy(self._handle))
        self._handle = None
        self._runtime.drives.remove(self)


_NUMBERS = tuple(
    each.name
    for each in fields(PersonaOptions)
    if each.name not in ("firmware", "power_states", "logs", "uuid")
)


def _native_persona(persona: PersonaOptions) -> tuple[Any, list[Any]]:
    """The persona as the library takes it, and what must live as long as it does."""
    native = ffi.new("struct vn_persona *")
    for name in _NUMBERS:
        setattr(native, name, getattr(persona, name))
    firmware = native_text(persona.firmware)
    states = ffi.new("char[]", b"".join(persona.power_states))
    logs = ffi.new("struct vn_persona_log[]", max(len(persona.logs), 1))
    alive = [native, firmware, states, logs]
    for log, (lid, data) in zip(logs, sorted(persona.logs.items()), strict=False):
        alive.append(ffi.new("char[]", data))
        log.lid, log.bytes, log.data = lid, len(data), alive[-1]
    native.firmware = firmware
    native.nr_power_states, native.power_states = len(persona.power_states), states
    native.nr_logs, native.logs = len(persona.logs), logs
    if persona.uuid:
        native.uuid = list(persona.uuid.bytes)
    return native, alive
