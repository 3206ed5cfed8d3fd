"""The options of zoned namespaces in a SPEC of a file or of memory.

::

    file:PATH?size=10G&zoned=on&zone-size=64M
        [&zone-capacity=48M][&max-open=14][&max-active=14][&zone-append=128K][&zone-extension=64]

What is left out is as the zones' table beside the file says; in a new one it is the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vhostnvme.errors import ConfigError
from vhostnvme.storage.common import Options, parse_on_off, whole_number
from vhostnvme.units import format_size, parse_size

ZONE_BYTES_MIN = 64 << 10
ZONE_BYTES_MAX = 1 << 40
EXTENSION_BYTES = 64
TABLE_SUFFIX = ".zones"
_PAGE_BYTES = 4096
_UINT32_MAX = (1 << 32) - 1
_DETAILS = ("zone-size", "zone-capacity", "zone-append", "max-open", "max-active", "zone-extension")


@dataclass(frozen=True, slots=True, kw_only=True)
class Zoned:
    """The zones of a namespace; 0: as its table says, or the default. Sizes in bytes.

    `append`: what one Zone Append can have. `extension`: of a zone descriptor.
    """

    zone_size: int = 0
    capacity: int = 0
    append: int = 0
    max_open: int = 0
    max_active: int = 0
    extension: int = 0


def table_of(path: Path) -> Path:
    """The table that keeps the zones of the file at `path`."""
    return path.with_name(path.name + TABLE_SUFFIX)


def take_zoned(options: Options) -> Zoned | None:
    """None: the namespace is a conventional one.

    Raises:
        ConfigError: an option is wrong, or says nothing without zoned=on.
    """
    wanted = options.take("zoned", parse_on_off, False)
    stray = next(filter(options.has, _DETAILS), None)
    if stray and not wanted:
        raise ConfigError(f"option {stray!r} says nothing without 'zoned': add zoned=on")
    zoned = Zoned(
        zone_size=options.take("zone-size", _parse_zone_size, 0),
        capacity=options.take("zone-capacity", parse_size, 0),
        append=options.take("zone-append", _parse_append, 0),
        max_open=options.take("max-open", _parse_number, 0),
        max_active=options.take("max-active", _parse_number, 0),
        extension=options.take("zone-extension", _parse_extension, 0),
    )
    if zoned.zone_size and zoned.capacity > zoned.zone_size:
        raise ConfigError("option 'zone-capacity': it is more than the zone's size")
    if zoned.max_active and zoned.max_open > zoned.max_active:
        raise ConfigError("option 'max-open': no more zones can be open than may be active")
    return zoned if wanted else None


def zoned_options(zoned: Zoned | None) -> dict[str, str]:
    """The options of a SPEC that say this."""
    if zoned is None:
        return {}
    options = {"zoned": "on"}
    for name, size in (
        ("zone-size", zoned.zone_size),
        ("zone-capacity", zoned.capacity),
        ("zone-append", zoned.append),
    ):
        if size:
            options[name] = format_size(size)
    for name, number in (
        ("max-open", zoned.max_open),
        ("max-active", zoned.max_active),
        ("zone-extension", zoned.extension),
    ):
        if number:
            options[name] = str(number)
    return options


def _parse_zone_size(text: str) -> int:
    size = parse_size(text)
    if size & (size - 1) or not ZONE_BYTES_MIN <= size <= ZONE_BYTES_MAX:
        raise ConfigError(f"{text!r} is no power of two from 64K to 1T")
    return size


def _parse_append(text: str) -> int:
    size = parse_size(text)
    if size & (size - 1) or size < _PAGE_BYTES:
        raise ConfigError(f"{text!r} is no power of two of at least 4K")
    return size


def _parse_number(text: str) -> int:
    number = whole_number(_UINT32_MAX)(text)
    if not number:
        raise ConfigError("'0' is none: leave the option out for no limit")
    return number


def _parse_extension(text: str) -> int:
    if text != str(EXTENSION_BYTES):
        raise ConfigError(f"{text!r} is not possible: write {EXTENSION_BYTES}, or leave it out")
    return EXTENSION_BYTES
