"""Sizes and durations as people write them. Powers of two; a duration needs its unit."""

from __future__ import annotations

import re

from vhostnvme.errors import ConfigError

_SIZE_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATION_FACTORS_US = {"us": 1, "ms": 1000, "s": 1_000_000}
SIZE_BYTES_MAX = (1 << 63) - 1


def parse_size(text: str) -> int:
    """Bytes of `4096`, `64K`, `10G`, …

    Raises:
        ConfigError: no whole number with K, M, G, T or nothing behind it; zero; 2^63 or more.
    """
    match = re.fullmatch(r"([0-9]{1,20})([KMGT]?)", text, re.ASCII | re.IGNORECASE)
    if match is None:
        raise ConfigError(f"{text!r} is no size: write a whole number, with K, M, G or T behind it")
    size = int(match[1]) * _SIZE_FACTORS[match[2].upper()]
    if not 0 < size <= SIZE_BYTES_MAX:
        raise ConfigError(f"{text!r} is no possible size: it must be between 1 and 2^63-1 bytes")
    return size


def format_size(size_bytes: int) -> str:
    """The shortest text that `parse_size` reads as this many bytes."""
    for suffix in "TGMK":
        if size_bytes and size_bytes % _SIZE_FACTORS[suffix] == 0:
            return f"{size_bytes // _SIZE_FACTORS[suffix]}{suffix}"
    return str(size_bytes)


def rounded_size(size_bytes: int) -> str:
    """For people, in at most six characters: exact if that is short, else `99.8G`, rounded down."""
    exact = format_size(size_bytes)
    if len(exact) <= 5:
        return exact
    unit = next(unit for unit in "TGMK" if size_bytes >= _SIZE_FACTORS[unit])
    tenths = size_bytes * 10 // _SIZE_FACTORS[unit]
    return f"{tenths // 10}.{tenths % 10}{unit}" if tenths < 1000 else f"{tenths // 10}{unit}"


def parse_duration_us(text: str) -> int:
    """Microseconds of `100us`, `5ms` or `1s`.

    Raises:
        ConfigError: no whole number with one of these units.
    """
    match = re.fullmatch(r"([0-9]{1,12})(us|ms|s)", text, re.ASCII)
    if match is None:
        raise ConfigError(f"{text!r} is no duration: write a whole number with us, ms or s behind")
    return int(match[1]) * _DURATION_FACTORS_US[match[2]]


def format_duration_us(duration_us: int) -> str:
    """The shortest text that `parse_duration_us` reads as this many microseconds."""
    for unit in ("s", "ms"):
        if duration_us and duration_us % _DURATION_FACTORS_US[unit] == 0:
            return f"{duration_us // _DURATION_FACTORS_US[unit]}{unit}"
    return f"{duration_us}us"
