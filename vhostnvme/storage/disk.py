"""Opens what a SPEC names, as a namespace of the C library."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

from vhostnvme.errors import ConfigError
from vhostnvme.fabric.keys import read_keys
from vhostnvme.fabric.nqn import host_identity
from vhostnvme.native import (
    LegState,
    MirrorOptions,
    Namespace,
    NamespaceOptions,
    Operation,
    RemoteOptions,
    Runtime,
    ZonedOptions,
)
from vhostnvme.storage.common import NO_STATE
from vhostnvme.storage.kept_mirror import KeptMirror
from vhostnvme.storage.mirror_record import MirrorRecord, Standing
from vhostnvme.storage.spec import (
    DiskSpec,
    FileSpec,
    MemorySpec,
    MirrorSpec,
    NullSpec,
    RemoteSpec,
    format_spec,
)
from vhostnvme.storage.zoned import table_of


def open_disk(runtime: Runtime, spec: DiskSpec) -> Namespace:
    """The namespace, ready to be attached. Blocks: for a remote one until its target answers.

    Raises:
        ConfigError: the SPEC cannot be used here.
        NativeError: the library refused: a file, a size, a lock.
    """
    if isinstance(spec, MirrorSpec):
        record = _record_of(spec)
        return _kept(KeptMirror(runtime, _mirror_options(spec, record)), spec, record)
    return _checked(Namespace(runtime, native_options(spec)), spec)


async def open_disk_async(runtime: Runtime, spec: DiskSpec) -> Namespace:
    """The same without blocking the event loop; raises the same. See `Namespace.aopen`."""
    if isinstance(spec, MirrorSpec):
        record = _record_of(spec)
        mirror = await KeptMirror.aopen(runtime, _mirror_options(spec, record))
        return _kept(mirror, spec, record)
    return _checked(await Namespace.aopen(runtime, native_options(spec)), spec)


def _checked(namespace: Namespace, spec: DiskSpec) -> Namespace:
    if isinstance(spec, FileSpec) and spec.direct and not namespace.info().direct:
        namespace.close()
        raise ConfigError(
            f"disk {format_spec(spec)!r}: its file system does not take direct I/O;"
            " leave the option 'direct' out"
        )
    return namespace


def _kept(mirror: Namespace, spec: MirrorSpec, record: MirrorRecord) -> Namespace:
    assert isinstance(mirror, KeptMirror)
    names = tuple(f"leg {number}, {format_spec(leg)}" for number, leg in enumerate(spec.legs))
    mirror.keep_with(record, names)
    return mirror


def _record_of(spec: MirrorSpec) -> MirrorRecord:
    """What is in memory, or nowhere, has nothing after a restart."""
    kept = tuple(not isinstance(leg, MemorySpec | NullSpec) for leg in spec.legs)
    bare = tuple(replace(leg, delay_us=0, error=None, record=None) for leg in spec.legs)
    return MirrorRecord.of(spec, tuple(map(format_spec, bare)), kept, Path.cwd())


def _mirror_options(spec: MirrorSpec, record: MirrorRecord) -> NamespaceOptions:
    path = spec.resolved(Path.cwd())
    mirror_uuid = spec.uuid or _uuid_of(path, None)
    mirror = MirrorOptions(
        legs=tuple(
            _leg_options(leg, may_create=record.is_first or standing is Standing.NEW)
            for leg, standing in zip(spec.legs, record.standings(), strict=True)
        ),
        states=tuple(
            LegState.IN_SYNC if standing is Standing.IN_SYNC else LegState.OUT
            for standing in record.standings()
        ),
        bitmap_path=str(path),
        uuid=mirror_uuid,
        preferred=spec.preferred,
        region_bytes=spec.region,
        rebuild_rate=spec.rate,
        leg_timeout_ms=spec.leg_timeout_ms,
        same=spec.same and record.is_first,
    )
    return replace(native_options(spec), backend="mirror", mirror=mirror, uuid=mirror_uuid)


def _leg_options(spec: DiskSpec, *, may_create: bool) -> NamespaceOptions:
    """A leg that had something, and is missing now, must not come into being as an empty one."""
    options = native_options(spec)
    return options if may_create or options.offset is not None else replace(options, create=False)


def native_options(spec: DiskSpec) -> NamespaceOptions:
    """The C library's view of a SPEC."""
    error = spec.error
    operations = 0
    for name in error.operations if error else ():
        operations |= Operation[name.upper().replace("-", "_")]
    file = spec if isinstance(spec, FileSpec) else None
    path = file.resolved(Path.cwd()) if file else None
    remote = spec if isinstance(spec, RemoteSpec) else None
    return NamespaceOptions(
        backend="file"
        if file
        else "forward"
        if remote
        else "mem"
        if isinstance(spec, MemorySpec)
        else "null",
        remote=remote_options(remote) if remote else None,
        path=str(path) if path else None,
        medium=file.medium if file else None,
        zoned=_zoned_options(spec, path),
        size=spec.size or 0,
        offset=file.offset if file else None,
        block_size=spec.block_size,
        read_only=spec.read_only,
        create=bool(file and file.create),
        direct=not file or file.direct is not False,
        preallocate=bool(file and file.preallocate),
        thick=bool(file and file.thick),
        uuid=spec.uuid or (_uuid_of(path, file.offset) if file and path else None),
        record_path=None if spec.record is None else str(Path.cwd() / spec.record),
        state_path=_state_path(spec),
        delay_us=spec.delay_us,
        error_ppm=error.ppm if error else 0,
        error_operations=operations,
        error_errno=error.errno if error else 0,
        error_after=error.after if error else 0,
        error_seed=error.seed if error else 0,
        limits=spec.limits,
    )


def remote_options(spec: RemoteSpec) -> RemoteOptions:
    """The C library's view of a namespace on another target; this machine is the host.

    Raises:
        ConfigError: a file cannot be read, or holds no key of its kind.
    """
    identity = host_identity()
    return RemoteOptions(
        paths=tuple((path.host, path.port) for path in spec.paths),
        subnqn=spec.subnqn,
        nsid=spec.nsid,
        hostnqn=spec.hostnqn or identity.nqn,
        hostid=spec.hostid or identity.hostid,
        queues=spec.queues,
        depth=spec.depth,
        header_digest=spec.header_digest,
        data_digest=spec.data_digest,
        keep_alive_ms=spec.keep_alive_ms,
        reconnect_ms=spec.reconnect_ms,
        connect_ms=spec.connect_ms,
        timeout_ms=spec.timeout_ms,
        **read_keys(
            dhchap=spec.dhchap_key_file,
            dhchap_ctrl=spec.dhchap_ctrl_key_file,
            tls=spec.tls_psk_file,
        ),
    )


def _state_path(spec: DiskSpec) -> str | None:
    """Beside a whole file, when the SPEC does not say."""
    if spec.state is not None:
        return None if spec.state == NO_STATE else str(Path.cwd() / spec.state)
    if not isinstance(spec, FileSpec) or spec.offset is not None or spec.medium is not None:
        return None
    path = spec.resolved(Path.cwd())
    return f"{path}.state" if path.is_file() or spec.create else None


def _zoned_options(spec: DiskSpec, path: Path | None) -> ZonedOptions | None:
    """Served as a conventional one, a zoned file would lose what its zones say of it."""
    zoned = spec.zoned if isinstance(spec, FileSpec | MemorySpec) else None
    table = table_of(path) if path else None
    if zoned is None:
        if table and table.is_file():
            raise ConfigError(
                f"disk {format_spec(spec)!r} is zoned, as {table.name} beside it says: add zoned=on"
            )
        return None
    return ZonedOptions(
        path=str(table) if table else None,
        zone_size=zoned.zone_size,
        capacity=zoned.capacity,
        append=zoned.append,
        max_open=zoned.max_open,
        max_active=zoned.max_active,
        extension=zoned.extension,
    )


def _uuid_of(path: Path, offset: int | None) -> uuid.UUID:
    """The same whenever this machine serves this file, so that guests know their disk again.

    Each part of a file, by its offset, has one of its own.
    """
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        machine = ""
    url = f"file://{machine}{path.resolve()}" + ("" if offset is None else f"?offset={offset}")
    return uuid.uuid5(uuid.NAMESPACE_URL, url.encode("utf-8", "surrogateescape").hex())
