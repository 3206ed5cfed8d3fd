"""Disk SPECs: the URIs that say what stands behind a namespace.

::

    file:PATH[?size=10G&direct=on]     a file or a block device, or a part of it (offset=4M)
    mem:1G                             memory of this process; gone at its end
    null:1T                            takes every write, reads as zeros
    nvme+tcp://HOST:PORT/SUBNQN/NSID   a namespace on another target
    mirror:?leg=SPEC&leg=SPEC&bitmap=PATH    one namespace on several of the others

A SPEC that has been parsed is valid: what remains can only be wrong with the file itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from vhostnvme.errors import ConfigError
from vhostnvme.storage.common import (
    BLOCK_SIZES,
    DELAY_US_MAX,
    OPERATIONS,
    DiskSpec,
    ErrorFilter,
    Options,
    common_options,
    decoded,
    nearest,
    on_off,
    parse_on_off,
    take_common,
)
from vhostnvme.storage.mirror import MirrorSpec, format_mirror, parser_of_mirrors
from vhostnvme.storage.remote import SEVERAL, RemoteSpec, format_remote, parse_remote
from vhostnvme.storage.zoned import Zoned, take_zoned, zoned_options
from vhostnvme.units import SIZE_BYTES_MAX, format_size, parse_size

if TYPE_CHECKING:
    from vhostnvme.native import Medium

__all__ = [
    "BLOCK_SIZES",
    "DELAY_US_MAX",
    "OFFSET_STEP",
    "OPERATIONS",
    "DiskSpec",
    "ErrorFilter",
    "FileSpec",
    "MemorySpec",
    "MirrorSpec",
    "NullSpec",
    "RemoteSpec",
    "format_spec",
    "parse_spec",
]

OFFSET_STEP = 4096  # of a part of a file or device, bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpec(DiskSpec):
    """A file or block device. `direct`: True must, False must not, None if it can.

    `create` makes a missing file, of `size` bytes, which must then be given. `offset`: only the
    `size` bytes from there on are served, and nothing else is touched; None: all of it. `zoned`: it
    has zones; None: it is a conventional one. `medium` counts for it, and `thick`: zeros that are
    written to it keep its blocks; both are in no text.
    """

    path: str
    offset: int | None = None
    direct: bool | None = None
    create: bool = False
    preallocate: bool = False
    zoned: Zoned | None = None
    thick: bool = field(default=False, compare=False, repr=False)
    medium: Medium | None = field(default=None, compare=False, repr=False)

    def resolved(self, base: Path) -> Path:
        """Where it lies, seen from the folder `base`."""
        return base / self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySpec(DiskSpec):
    """Memory of the serving process."""

    zoned: Zoned | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NullSpec(DiskSpec):
    """Nothing: writes vanish, reads give zeros."""


def parse_spec(text: str) -> DiskSpec:
    """The disk that a SPEC names.

    Raises:
        ConfigError: one sentence on what is wrong, where in the SPEC, and what may stand there.
    """
    try:
        return _parse(text)
    except ConfigError as error:
        raise ConfigError(f"disk {_shown(text)}: {error}") from None


def format_spec(spec: DiskSpec) -> str:
    """The shortest SPEC that parses to this disk."""
    options: dict[str, str] = {}
    if isinstance(spec, RemoteSpec):
        return format_remote(spec)
    if isinstance(spec, MirrorSpec):
        return format_mirror(spec, format_spec)
    if isinstance(spec, FileSpec):
        head = "file:" + quote(spec.path, safe="/:@,+=", errors="surrogateescape")
        if spec.path.startswith("//"):
            head = "file://" + head.removeprefix("file:")
        if spec.size is not None:
            options["size"] = format_size(spec.size)
        if spec.offset is not None:
            options["offset"] = format_size(spec.offset)
        if spec.direct is not None:
            options["direct"] = on_off(spec.direct)
        if spec.create != (spec.size is not None and spec.offset is None):
            options["create"] = on_off(spec.create)
        if spec.preallocate:
            options["preallocate"] = "on"
    else:
        assert spec.size is not None
        head = ("mem:" if isinstance(spec, MemorySpec) else "null:") + format_size(spec.size)
    options |= common_options(spec)
    if isinstance(spec, FileSpec | MemorySpec):
        options |= zoned_options(spec.zoned)
    query = "&".join(
        f"{name}={quote(value, safe='/:@,+', errors='surrogateescape')}"
        for name, value in options.items()
    )
    return f"{head}?{query}" if query else head


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")


def _parse(text: str) -> DiskSpec:
    scheme, colon, rest = text.partition(":")
    if not colon:
        raise ConfigError(
            "it has no kind in front: write file:PATH, mem:SIZE or null:SIZE"
            + (f", such as file:{text}" if text and _shown(text) == f"'{text}'" else "")
        )
    kind = _KINDS.get(scheme)
    if kind is None:
        raise ConfigError(f"{scheme!r} is no kind of disk{nearest(scheme, _KINDS)}")
    body, _, query = rest.partition("?")
    return kind(body, Options(scheme, query, _SEVERAL.get(scheme, ())))


def _parse_file(body: str, options: Options) -> DiskSpec:
    if body.startswith("//"):
        host, slash, tail = body[2:].partition("/")
        if host not in ("", "localhost"):
            raise ConfigError(f"{host!r} is a host, and files are local: write file:PATH")
        body = slash + tail
    path = decoded(body, "the path")
    if not path:
        raise ConfigError("the path is missing: write file:PATH")
    common = take_common(options)
    size = options.take("size", parse_size, None)
    offset = options.take("offset", _parse_offset, None)
    direct = options.take("direct", _parse_direct, None)
    create = options.take("create", parse_on_off, size is not None and offset is None)
    preallocate = options.take("preallocate", parse_on_off, False)
    zoned = take_zoned(options)
    options.finish()
    if create and size is None:
        raise ConfigError("option 'create': a new file needs a size, such as size=10G")
    if offset is not None and size is None:
        raise ConfigError("option 'offset': a part of a file needs a size, such as size=10G")
    if offset is not None and zoned:
        raise ConfigError("option 'zoned': a part of a file cannot be zoned")
    if (offset or 0) + (size or 0) > SIZE_BYTES_MAX:
        raise ConfigError("option 'offset': the part ends beyond 2^63-1 bytes")
    _check_size(size, common["block_size"])
    if common["read_only"] and preallocate:
        raise ConfigError("option 'preallocate': a read-only disk cannot reserve space")
    return FileSpec(
        path=path,
        size=size,
        offset=offset,
        direct=direct,
        create=create,
        preallocate=preallocate,
        zoned=zoned,
        **common,
    )


def _parse_sized(
    scheme: str, make: Callable[..., DiskSpec], zoned: bool = False
) -> Callable[[str, Options], DiskSpec]:
    def parse(body: str, options: Options) -> DiskSpec:
        common = take_common(options)
        size = options.take("size", parse_size, None)
        more = {"zoned": take_zoned(options)} if zoned else {}
        options.finish()
        if bool(body) == (size is not None):
            raise ConfigError(
                "the size is there twice"
                if body
                else f"the size is missing: write {scheme}:SIZE, such as {scheme}:1G"
            )
        size = size if size is not None else parse_size(body)
        _check_size(size, common["block_size"])
        return make(size=size, **more, **common)

    return parse


_KINDS: dict[str, Callable[[str, Options], DiskSpec]] = {
    "file": _parse_file,
    "mem": _parse_sized("mem", MemorySpec, zoned=True),
    "null": _parse_sized("null", NullSpec),
    "nvme+tcp": parse_remote,
    "mirror": parser_of_mirrors(_parse),
}
_SEVERAL = SEVERAL | {"mirror": ("leg",)}


def _check_size(size: int | None, block_size: int) -> None:
    if size is not None and size % block_size:
        raise ConfigError(f"the size, {size} bytes, is no multiple of the block, {block_size}")


def _parse_offset(text: str) -> int:
    offset = 0 if text == "0" else parse_size(text)
    if offset % OFFSET_STEP:
        raise ConfigError(f"{text!r} is no multiple of {OFFSET_STEP} bytes")
    return offset


def _parse_direct(text: str) -> bool | None:
    if text == "auto":
        return None
    if text not in ("on", "off"):
        raise ConfigError(f"{text!r} is none of on, off and auto")
    return text == "on"
