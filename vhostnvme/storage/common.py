"""What the SPECs of all kinds of disks share: the query of a SPEC, its filters and its limits."""

from __future__ import annotations

import difflib
import errno
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypedDict, TypeVar
from urllib.parse import unquote

from vhostnvme.errors import ConfigError
from vhostnvme.limits import NAMES, NO_LIMITS, Limits, format_limit, option_of, parse_limit
from vhostnvme.units import format_duration_us, format_size, parse_duration_us

BLOCK_SIZES = (512, 4096)
DELAY_US_MAX = 60_000_000
NO_STATE = "none"  # as DiskSpec.state
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
    """What every kind has. Sizes in bytes.

    `state`: the file in which its format, marks and reservations are kept; "none": they are not;
    None: beside a file, else they are not.
    """

    size: int | None = None
    block_size: int = 512
    read_only: bool = False
    uuid: uuid.UUID | None = None
    delay_us: int = 0
    error: ErrorFilter | None = None
    record: str | None = None
    state: str | None = None
    limits: Limits = NO_LIMITS


def common_options(spec: DiskSpec, block_size: int = 512) -> dict[str, str]:
    """The options that differ from what they are when left out; `block_size`: what that is then."""
    options: dict[str, str] = {}
    if spec.block_size != block_size:
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
    if spec.state is not None:
        options["state"] = spec.state
    for name in NAMES:
        value = getattr(spec.limits, name)
        if value != getattr(NO_LIMITS, name):
            options[option_of(name)] = format_limit(name, value)
    return options


def on_off(value: bool) -> str:
    return "on" if value else "off"


class Options:
    """The query of a SPEC: each option is taken once; what is left over is a mistake.

    `several` names the options that may be there more than once.
    """

    def __init__(self, scheme: str, query: str, several: tuple[str, ...] = ()) -> None:
        self._scheme = scheme
        self._known: list[str] = []
        self._values: dict[str, list[str]] = {}
        for item in query.split("&") if query else ():
            name, equals, value = item.partition("=")
            if not equals or not name:
                raise ConfigError(f"{item!r} is no option: write NAME=VALUE, and & between two")
            if name in self._values and name not in several:
                raise ConfigError(f"option {name!r} is there twice")
            self._values.setdefault(name, []).append(decoded(value, f"option {name!r}"))

    def take_all(self, name: str, parse: Callable[[str], T]) -> tuple[T, ...]:
        """Every value that it was given, in order."""
        self._known.append(name)
        try:
            return tuple(parse(value) for value in self._values.pop(name, ()))
        except ConfigError as error:
            raise ConfigError(f"option {name!r}: {error}") from None

    def take(self, name: str, parse: Callable[[str], T], default: T) -> T:
        values = self.take_all(name, parse)
        return values[0] if values else default

    def has(self, name: str) -> bool:
        return name in self._values

    def finish(self) -> None:
        for name in self._values:
            raise ConfigError(
                f"{name!r} is no option of {self._scheme}{nearest(name, self._known)}"
            )


def nearest(word: str, known: Mapping[str, object] | list[str]) -> str:
    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    if close:
        return f": did you mean {close[0]!r}?"
    return f": write one of {', '.join(sorted(known))}"


def decoded(text: str, where: str) -> str:
    if re.search(r"%(?![0-9a-fA-F]{2})", text) and where != "option 'error'":
        raise ConfigError(f"{where}: a % must be followed by two hexadecimal digits (%25 is a %)")
    result = unquote(text, errors="surrogateescape")
    if "\0" in result:
        raise ConfigError(f"{where}: no byte may be zero")
    try:
        result.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ConfigError(f"{where}: it holds a character that no file name can have") from None
    return result


class Common(TypedDict):
    block_size: int
    read_only: bool
    uuid: uuid.UUID | None
    delay_us: int
    error: ErrorFilter | None
    record: str | None
    state: str | None
    limits: Limits


def take_common(options: Options, block_size: int = 512) -> Common:
    """`block_size`: what it is when it is left out."""
    return {
        "block_size": options.take("block", _parse_block, block_size),
        "read_only": options.take("readonly", parse_on_off, False),
        "uuid": options.take("uuid", _parse_uuid, None),
        "delay_us": options.take("delay", _parse_delay, 0),
        "error": _take_error(options),
        "record": options.take("record", _parse_path, None),
        "state": options.take("state", _parse_path, None),
        "limits": _take_limits(options),
    }


def _take_error(options: Options) -> ErrorFilter | None:
    details = ("error-ops", "error-errno", "error-after", "error-seed")
    stray = None if options.has("error") else next(filter(options.has, details), None)
    if stray:
        raise ConfigError(f"option {stray!r} says nothing without 'error': add error=RATE")
    ppm = options.take("error", _parse_rate, 0)
    error = ErrorFilter(
        ppm=ppm,
        operations=options.take("error-ops", _parse_operations, ()),
        errno=options.take("error-errno", _parse_errno, errno.EIO),
        after=options.take("error-after", whole_number(_UINT32_MAX), 0),
        seed=options.take("error-seed", whole_number(_UINT64_MAX), 0),
    )
    return error if ppm else None


def _take_limits(options: Options) -> Limits:
    values = {
        name: options.take(option_of(name), partial(parse_limit, name), getattr(NO_LIMITS, name))
        for name in NAMES
    }
    limits = Limits(**values)
    if not limits and limits != NO_LIMITS:
        raise ConfigError("option 'burst' says nothing without a limit: add iops=N or another")
    return limits


def parse_on_off(text: str) -> bool:
    if text not in ("on", "off"):
        raise ConfigError(f"{text!r} is neither on nor off")
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
            raise ConfigError(f"{name!r} is no operation{nearest(name, list(OPERATIONS))}")
    return tuple(name for name in OPERATIONS if name in names)


def _parse_errno(text: str) -> int:
    for number, name in errno.errorcode.items():
        if text.upper() == name or text == str(number):
            return number
    raise ConfigError(f"{text!r} is no errno: write its name, such as EIO or ENOSPC")


def whole_number(largest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,20}", text, re.ASCII) or int(text) > largest:
            raise ConfigError(f"{text!r} is no whole number up to {largest}")
        return int(text)

    return parse


def _parse_path(text: str) -> str:
    if not text:
        raise ConfigError("the path is missing")
    return text
