"""Disk SPECs: the URIs that say what stands behind a namespace.

::

    file:PATH[?size=10G&direct=on]     a file or a block device
    mem:1G                             memory of this process; gone at its end
    null:1T                            takes every write, reads as zeros
    nvme+tcp://HOST:PORT/SUBNQN/NSID   a namespace elsewhere (not in this release)

A SPEC that has been parsed is valid: what remains can only be wrong with the file itself.
"""

from __future__ import annotations

import difflib
import errno
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict, TypeVar
from urllib.parse import quote, unquote

from vhostnvme.errors import ConfigError
from vhostnvme.limits import NAMES, NO_LIMITS, Limits, format_limit, option_of, parse_limit
from vhostnvme.units import format_duration_us, format_size, parse_duration_us, parse_size

BLOCK_SIZES = (512, 4096)
DELAY_US_MAX = 60_000_000
OPERATIONS = ("read", "write", "flush", "write-zeroes", "deallocate", "compare")
_UINT32_MAX = (1 << 32) - 1
_UINT64_MAX = (1 << 64) - 1
_PPM = 1_000_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorFilter:
    """Fail `ppm` commands of a million, drawn at random from `seed`, once `after` have passed.

    `operations` is a subset of OPERATIONS, empty for all.
    """

    ppm: int
    operations: tuple[str, ...] = ()
    errno: int = errno.EIO
    after: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpec:
    """What every kind has. Sizes in bytes."""

    size: int | None = None
    block_size: int = 512
    read_only: bool = False
    uuid: uuid.UUID | None = None
    delay_us: int = 0
    error: ErrorFilter | None = None
    record: str | None = None
    limits: Limits = NO_LIMITS


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpec(DiskSpec):
    """A file or block device. `direct`: True must, False must not, None if it can.

    `create` makes a missing file, of `size` bytes, which must then be given.
    """

    path: str
    direct: bool | None = None
    create: bool = False
    preallocate: bool = False

    def resolved(self, base: Path) -> Path:
        """Where it lies, seen from the folder `base`."""
        return base / self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySpec(DiskSpec):
    """Memory of the serving process."""


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
    if isinstance(spec, FileSpec):
        head = "file:" + quote(spec.path, safe="/:@,+=", errors="surrogateescape")
        if spec.path.startswith("//"):
            head = "file://" + head.removeprefix("file:")
        if spec.size is not None:
            options["size"] = format_size(spec.size)
        if spec.direct is not None:
            options["direct"] = _on_off(spec.direct)
        if spec.create != (spec.size is not None):
            options["create"] = _on_off(spec.create)
        if spec.preallocate:
            options["preallocate"] = "on"
    else:
        assert spec.size is not None
        head = ("mem:" if isinstance(spec, MemorySpec) else "null:") + format_size(spec.size)
    options |= _common_options(spec)
    query = "&".join(
        f"{name}={quote(value, safe='/:@,+', errors='surrogateescape')}"
        for name, value in options.items()
    )
    return f"{head}?{query}" if query else head


def _common_options(spec: DiskSpec) -> dict[str, str]:
    options: dict[str, str] = {}
    if spec.block_size != 512:
        options["block"] = str(spec.block_size)
    if spec.read_only:
        options["readonly"] = "on"
    if spec.uuid is not None:
        options["uuid"] = str(spec.uuid)
    if spec.delay_us:
        options["delay"] = format_duration_us(spec.delay_us)
    if spec.error is not None:
        options["error"] = f"{spec.error.ppm}ppm"
        if spec.error.operations:
            options["error-ops"] = ",".join(spec.error.operations)
        if spec.error.errno != errno.EIO:
            options["error-errno"] = errno.errorcode[spec.error.errno]
        if spec.error.after:
            options["error-after"] = str(spec.error.after)
        if spec.error.seed:
            options["error-seed"] = str(spec.error.seed)
    if spec.record is not None:
        options["record"] = spec.record
    for name in NAMES:
        value = getattr(spec.limits, name)
        if value != getattr(NO_LIMITS, name):
            options[option_of(name)] = format_limit(name, value)
    return options


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")


def _on_off(value: bool) -> str:
    return "on" if value else "off"


def _parse(text: str) -> DiskSpec:
    scheme, colon, rest = text.partition(":")
    if not colon:
        raise ConfigError(
            "it has no kind in front: write file:PATH, mem:SIZE or null:SIZE"
            + (f", such as file:{text}" if text and _shown(text) == f"'{text}'" else "")
        )
    kind = _KINDS.get(scheme)
    if kind is None:
        raise ConfigError(f"{scheme!r} is no kind of disk{_nearest(scheme, _KINDS)}")
    body, _, query = rest.partition("?")
    return kind(body, _Options(scheme, query))


class _Options:
    """The query of a SPEC: each option is taken once; what is left over is a mistake."""

    def __init__(self, scheme: str, query: str) -> None:
        self._scheme = scheme
        self._known: list[str] = []
        self._values: dict[str, str] = {}
        for item in query.split("&") if query else ():
            name, equals, value = item.partition("=")
            if not equals or not name:
                raise ConfigError(f"{item!r} is no option: write NAME=VALUE, and & between two")
            if name in self._values:
                raise ConfigError(f"option {name!r} is there twice")
            self._values[name] = _decoded(value, f"option {name!r}")

    def take(self, name: str, parse: Callable[[str], T], default: T) -> T:
        self._known.append(name)
        if name not in self._values:
            return default
        try:
            return parse(self._values.pop(name))
        except ConfigError as error:
            raise ConfigError(f"option {name!r}: {error}") from None

    def has(self, name: str) -> bool:
        return name in self._values

    def finish(self) -> None:
        for name in self._values:
            raise ConfigError(
                f"{name!r} is no option of {self._scheme}{_nearest(name, self._known)}"
            )


def _nearest(word: str, known: Mapping[str, object] | list[str]) -> str:
    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    if close:
        return f": did you mean {close[0]!r}?"
    return f": write one of {', '.join(sorted(known))}"


def _decoded(text: str, where: str) -> str:
    if re.search(r"%(?![0-9a-fA-F]{2})", text) and where != "option 'error'":
        raise ConfigError(f"{where}: a % must be followed by two hexadecimal digits (%25 is a %)")
    decoded = unquote(text, errors="surrogateescape")
    if "\0" in decoded:
        raise ConfigError(f"{where}: no byte may be zero")
    try:
        decoded.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ConfigError(f"{where}: it holds a character that no file name can have") from None
    return decoded


def _parse_file(body: str, options: _Options) -> DiskSpec:
    if body.startswith("//"):
        host, slash, tail = body[2:].partition("/")
        if host not in ("", "localhost"):
            raise ConfigError(f"{host!r} is a host, and files are local: write file:PATH")
        body = slash + tail
    path = _decoded(body, "the path")
    if not path:
        raise ConfigError("the path is missing: write file:PATH")
    common = _take_common(options)
    size = options.take("size", parse_size, None)
    direct = options.take("direct", _parse_direct, None)
    create = options.take("create", _parse_on_off, size is not None)
    preallocate = options.take("preallocate", _parse_on_off, False)
    options.finish()
    if create and size is None:
        raise ConfigError("option 'create': a new file needs a size, such as size=10G")
    _check_size(size, common["block_size"])
    if common["read_only"] and preallocate:
        raise ConfigError("option 'preallocate': a read-only disk cannot reserve space")
    return FileSpec(
        path=path,
        size=size,
        direct=direct,
        create=create,
        preallocate=preallocate,
        **common,
    )


def _parse_sized(
    scheme: str, make: type[MemorySpec] | type[NullSpec]
) -> Callable[[str, _Options], DiskSpec]:
    def parse(body: str, options: _Options) -> DiskSpec:
        common = _take_common(options)
        size = options.take("size", parse_size, None)
        options.finish()
        if bool(body) == (size is not None):
            raise ConfigError(
                "the size is there twice"
                if body
                else f"the size is missing: write {scheme}:SIZE, such as {scheme}:1G"
            )
        size = size if size is not None else parse_size(body)
        _check_size(size, common["block_size"])
        return make(size=size, **common)

    return parse


def _parse_nvme_tcp(body: str, _options: _Options) -> DiskSpec:
    pattern = r"//(\[[0-9a-fA-F:.]+\]|[^/:\[\]]+):([0-9]{1,5})/([^/]+)/([0-9]{1,10})"
    match = re.fullmatch(pattern, body, re.ASCII)
    if match is None:
        raise ConfigError("the address must read nvme+tcp://HOST:PORT/SUBNQN/NSID")
    if not 0 < int(match[2]) < 65536:
        raise ConfigError(f"{match[2]} is no port: it must be between 1 and 65535")
    raise ConfigError("namespaces over NVMe/TCP are not in this release; use file:, mem: or null:")


_KINDS: dict[str, Callable[[str, _Options], DiskSpec]] = {
    "file": _parse_file,
    "mem": _parse_sized("mem", MemorySpec),
    "null": _parse_sized("null", NullSpec),
    "nvme+tcp": _parse_nvme_tcp,
}


class _Common(TypedDict):
    block_size: int
    read_only: bool
    uuid: uuid.UUID | None
    delay_us: int
    error: ErrorFilter | None
    record: str | None
    limits: Limits


def _take_common(options: _Options) -> _Common:
    return {
        "block_size": options.take("block", _parse_block, 512),
        "read_only": options.take("readonly", _parse_on_off, False),
        "uuid": options.take("uuid", _parse_uuid, None),
        "delay_us": options.take("delay", _parse_delay, 0),
        "error": _take_error(options),
        "record": options.take("record", _parse_record, None),
        "limits": _take_limits(options),
    }


def _take_error(options: _Options) -> ErrorFilter | None:
    details = ("error-ops", "error-errno", "error-after", "error-seed")
    stray = None if options.has("error") else next(filter(options.has, details), None)
    if stray:
        raise ConfigError(f"option {stray!r} says nothing without 'error': add error=RATE")
    ppm = options.take("error", _parse_rate, 0)
    error = ErrorFilter(
        ppm=ppm,
        operations=options.take("error-ops", _parse_operations, ()),
        errno=options.take("error-errno", _parse_errno, errno.EIO),
        after=options.take("error-after", _whole_number(_UINT32_MAX), 0),
        seed=options.take("error-seed", _whole_number(_UINT64_MAX), 0),
    )
    return error if ppm else None


def _take_limits(options: _Options) -> Limits:
    values = {
        name: options.take(option_of(name), partial(parse_limit, name), getattr(NO_LIMITS, name))
        for name in NAMES
    }
    limits = Limits(**values)
    if not limits and limits != NO_LIMITS:
        raise ConfigError("option 'burst' says nothing without a limit: add iops=N or another")
    return limits


def _check_size(size: int | None, block_size: int) -> None:
    if size is not None and size % block_size:
        raise ConfigError(f"the size, {size} bytes, is no multiple of the block, {block_size}")


def _parse_on_off(text: str) -> bool:
    if text not in ("on", "off"):
        raise ConfigError(f"{text!r} is neither on nor off")
    return text == "on"


def _parse_direct(text: str) -> bool | None:
    if text == "auto":
        return None
    if text not in ("on", "off"):
        raise ConfigError(f"{text!r} is none of on, off and auto")
    return text == "on"


def _parse_block(text: str) -> int:
    for size in BLOCK_SIZES:
        if text in (str(size), format_size(size)):
            return size
    raise ConfigError(f"{text!r} is no block size: write 512 or 4096")


def _parse_uuid(text: str) -> uuid.UUID:
    try:
        parsed = uuid.UUID(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no UUID: write 32 hexadecimal digits, 8-4-4-4-12") from None
    if parsed.int == 0:
        raise ConfigError("the UUID of all zeros names nothing: leave the option out for a new one")
    return parsed


def _parse_delay(text: str) -> int:
    delay_us = parse_duration_us(text)
    if delay_us > DELAY_US_MAX:
        raise ConfigError(f"{text!r} is too long: at most 60s")
    return delay_us


def _parse_rate(text: str) -> int:
    """Of a million: `1%`, `0.5%`, `100ppm`."""
    if match := re.fullmatch(r"([0-9]{1,7})ppm", text, re.ASCII):
        ppm = int(match[1])
    elif match := re.fullmatch(r"([0-9]{1,3})(?:\.([0-9]{1,4}))?%", text, re.ASCII):
        ppm = int(match[1]) * 10_000 + int((match[2] or "").ljust(4, "0"))
    else:
        raise ConfigError(f"{text!r} is no rate: write it as 1%, 0.5% or 100ppm")
    if not 0 < ppm <= _PPM:
        raise ConfigError(f"{text!r} is no possible rate: it must be above 0 and at most 100%")
    return ppm


def _parse_operations(text: str) -> tuple[str, ...]:
    names = text.split(",")
    for name in names:
        if name not in OPERATIONS:
            raise ConfigError(f"{name!r} is no operation{_nearest(name, list(OPERATIONS))}")
    return tuple(name for name in OPERATIONS if name in names)


def _parse_errno(text: str) -> int:
    for number, name in errno.errorcode.items():
        if text.upper() == name or text == str(number):
            return number
    raise ConfigError(f"{text!r} is no errno: write its name, such as EIO or ENOSPC")


def _whole_number(largest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,20}", text, re.ASCII) or int(text) > largest:
            raise ConfigError(f"{text!r} is no whole number up to {largest}")
        return int(text)

    return parse


def _parse_record(text: str) -> str:
    if not text:
        raise ConfigError("the path is missing")
    return text
