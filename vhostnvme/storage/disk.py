"""Opens what a SPEC names, as a namespace of the C library."""

from __future__ import annotations

import uuid
from pathlib import Path

from vhostnvme.errors import ConfigError
from vhostnvme.native import Namespace, NamespaceOptions, Operation, Runtime
from vhostnvme.storage.spec import DiskSpec, FileSpec, MemorySpec, format_spec


def open_disk(runtime: Runtime, spec: DiskSpec) -> Namespace:
    """The namespace, ready to be attached.

    Raises:
        ConfigError: the SPEC cannot be used here.
        NativeError: the library refused: a file, a size, a lock.
    """
    namespace = Namespace(runtime, native_options(spec))
    if isinstance(spec, FileSpec) and spec.direct and not namespace.info().direct:
        namespace.close()
        raise ConfigError(
            f"disk {format_spec(spec)!r}: its file system does not take direct I/O;"
            " leave the option 'direct' out"
        )
    return namespace


def native_options(spec: DiskSpec) -> NamespaceOptions:
    """The C library's view of a SPEC."""
    error = spec.error
    operations = 0
    for name in error.operations if error else ():
        operations |= Operation[name.upper().replace("-", "_")]
    file = spec if isinstance(spec, FileSpec) else None
    path = file.resolved(Path.cwd()) if file else None
    return NamespaceOptions(
        backend="file" if file else "mem" if isinstance(spec, MemorySpec) else "null",
        path=str(path) if path else None,
        size=spec.size or 0,
        block_size=spec.block_size,
        read_only=spec.read_only,
        create=bool(file and file.create),
        direct=not file or file.direct is not False,
        preallocate=bool(file and file.preallocate),
        uuid=spec.uuid or (_uuid_of(path) if path else None),
        record_path=None if spec.record is None else str(Path.cwd() / spec.record),
        delay_us=spec.delay_us,
        error_ppm=error.ppm if error else 0,
        error_operations=operations,
        error_errno=error.errno if error else 0,
        error_after=error.after if error else 0,
        error_seed=error.seed if error else 0,
        limits=spec.limits,
    )


def _uuid_of(path: Path) -> uuid.UUID:
    """The same whenever this machine serves this file, so that guests know their disk again."""
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        machine = ""
    url = f"file://{machine}{path.resolve()}"
    return uuid.uuid5(uuid.NAMESPACE_URL, url.encode("utf-8", "surrogateescape").hex())
