"""Mirrors, as SPECs name them: one namespace on two or three disks.

::

    mirror:?leg=SPEC&leg=SPEC&bitmap=PATH[&OPTION=VALUE...]

In the SPEC of a leg, `&` and `%` are written as %26 and %25: it stands in the query of another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from vhostnvme.errors import ConfigError
from vhostnvme.storage.common import (
    DiskSpec,
    Options,
    common_options,
    parse_on_off,
    take_common,
    whole_number,
)
from vhostnvme.units import format_duration_us, format_size, parse_duration_us, parse_size

LEGS_MAX = 3  # VN_MIRROR_MAX_LEGS
TIMEOUT_MS_MIN = 100
TIMEOUT_MS_MAX = 60_000
REGION_BYTES_MIN = 64 << 10
REGION_BYTES_MAX = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorSpec(DiskSpec):
    """A namespace on several disks. 0: the library's defaults.

    `bitmap`: the file of the write-intent bitmap; beside it, as PATH.legs, lies the record of which
    leg counts. `preferred`: the number of the leg that is read, from 0. `rate`: bytes a second of a
    rebuild. `same`: the legs hold the same when the mirror is first made.
    """

    legs: tuple[DiskSpec, ...]
    bitmap: str
    preferred: int = 0
    region: int = 0
    rate: int = 0
    leg_timeout_ms: int = 0
    same: bool = False

    def resolved(self, base: Path) -> Path:
        """Where the bitmap lies, seen from the folder `base`."""
        return base / self.bitmap


def parser_of_mirrors(parse_leg: Callable[[str], DiskSpec]) -> Callable[[str, Options], DiskSpec]:
    """The parser of what follows `mirror:`; `parse_leg`: of the SPECs in it."""

    def parse(body: str, options: Options) -> DiskSpec:
        if body:
            raise ConfigError("write mirror:?leg=SPEC&leg=SPEC&bitmap=PATH, nothing before the ?")
        legs = options.take_all("leg", parse_leg)
        if not 1 <= len(legs) <= LEGS_MAX:
            raise ConfigError(f"a mirror has 1 to {LEGS_MAX} legs, not {len(legs)}: write leg=SPEC")
        if any(isinstance(leg, MirrorSpec) for leg in legs):
            raise ConfigError("option 'leg': a mirror cannot be the leg of another one")
        spec = MirrorSpec(
            legs=legs,
            bitmap=options.take("bitmap", _parse_path, ""),
            preferred=options.take("prefer", whole_number(LEGS_MAX - 1), 0),
            region=options.take("region", _parse_region, 0),
            rate=options.take("rate", parse_size, 0),
            leg_timeout_ms=options.take("leg-timeout", _parse_timeout, 0),
            same=options.take("same", parse_on_off, False),
            size=options.take("size", parse_size, None),
            **take_common(options, block_size=0),
        )
        options.finish()
        _check(spec)
        return spec

    return parse


def _check(spec: MirrorSpec) -> None:
    if not spec.bitmap:
        raise ConfigError("option 'bitmap' is missing: a file that is on none of the legs' disks")
    if spec.preferred >= len(spec.legs):
        raise ConfigError(f"option 'prefer': there is no leg {spec.preferred}: they begin with 0")
    blocks = {leg.block_size for leg in (*spec.legs, spec) if leg.block_size}
    if len(blocks) > 1:
        raise ConfigError("all legs need the same block size: give each of them 'block'")
    if any(leg.limits or leg.read_only for leg in spec.legs):
        raise ConfigError("option 'leg': limits and 'readonly' are the mirror's, not a leg's")
    if len(set(spec.legs)) < len(spec.legs):
        raise ConfigError("option 'leg': two legs are the same disk")


def format_mirror(spec: MirrorSpec, format_leg: Callable[[DiskSpec], str]) -> str:
    """The shortest SPEC that parses to this mirror."""
    options = [("leg", format_leg(leg)) for leg in spec.legs]
    options.append(("bitmap", spec.bitmap))
    if spec.preferred:
        options.append(("prefer", str(spec.preferred)))
    for name, size in (("region", spec.region), ("rate", spec.rate), ("size", spec.size)):
        if size:
            options.append((name, format_size(size)))
    if spec.leg_timeout_ms:
        options.append(("leg-timeout", format_duration_us(spec.leg_timeout_ms * 1000)))
    if spec.same:
        options.append(("same", "on"))
    options += common_options(spec, block_size=0).items()
    query = "&".join(
        f"{name}={quote(value, safe='/:@,+=?[]', errors='surrogateescape')}"
        for name, value in options
    )
    return f"mirror:?{query}"


def _parse_path(text: str) -> str:
    if not text:
        raise ConfigError("the path is missing")
    return text


def _parse_region(text: str) -> int:
    size = parse_size(text)
    if not REGION_BYTES_MIN <= size <= REGION_BYTES_MAX or size & (size - 1):
        raise ConfigError(f"{text!r} is no region: a power of two from 64K to 1G")
    return size


def _parse_timeout(text: str) -> int:
    milliseconds, rest = divmod(parse_duration_us(text), 1000)
    if rest or not TIMEOUT_MS_MIN <= milliseconds <= TIMEOUT_MS_MAX:
        raise ConfigError(f"{text!r} is no time from {TIMEOUT_MS_MIN}ms to 60s")
    return milliseconds
