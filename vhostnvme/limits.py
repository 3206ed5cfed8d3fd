"""Limits of a namespace or a device: commands and bytes a second, and how much can be saved up."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from vhostnvme.errors import ConfigError
from vhostnvme.units import format_duration_us, format_size, parse_duration_us, parse_size

# As in csrc/include/vhostnvme.h, which refuses more.
IOPS_MAX = 100_000_000
BANDWIDTH_MAX = 64 << 30
BURST_US_MAX = 3_600_000_000
BURST_US_DEFAULT = 100_000
# In the order of enum vn_limit_kind.
IOPS = ("iops", "read_iops", "write_iops")
BANDWIDTHS = ("bandwidth", "read_bandwidth", "write_bandwidth")
RATES = IOPS + BANDWIDTHS


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Rates a second, 0 for none; all that are set hold at once.

    A read (or compare) counts for `iops` and `read_iops`, everything else for `iops` and
    `write_iops`; only reads, compares and writes have bytes. What is not used is saved up for
    `burst_us` microseconds, and can be spent at once.

    Raises:
        ConfigError: a number beyond IOPS_MAX, BANDWIDTH_MAX or BURST_US_MAX, or below 0.
    """

    iops: int = 0
    read_iops: int = 0
    write_iops: int = 0
    bandwidth: int = 0
    read_bandwidth: int = 0
    write_bandwidth: int = 0
    burst_us: int = BURST_US_DEFAULT

    def __post_init__(self) -> None:
        for name in RATES:
            most = IOPS_MAX if name in IOPS else BANDWIDTH_MAX
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(
                    f"a limit of {getattr(self, name)} is not possible for {option_of(name)}:"
                    f" it must be at most {most if name in IOPS else format_size(most)} a second"
                )
        if not 0 < self.burst_us <= BURST_US_MAX:
            raise ConfigError("a burst must be worth between 1us and 3600s of its limit")

    def __bool__(self) -> bool:
        """Whether anything is limited."""
        return any(getattr(self, name) for name in RATES)


NO_LIMITS = Limits()
NAMES = tuple(field.name for field in fields(Limits))


def option_of(name: str) -> str:
    """What the attribute `name` of Limits is called in SPECs and on the command line."""
    return {"burst_us": "burst"}.get(name, name.replace("_", "-"))


def parse_limit(name: str, text: str) -> int:
    """The value of the attribute `name`, as people write it; `none` is 0.

    Raises:
        ConfigError: no number, no size, no duration, or beyond the bounds.
    """
    if name == "burst_us":
        value = parse_duration_us(text)
    elif text == "none":
        return 0
    elif name in IOPS:
        if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII):
            raise ConfigError(f"{text!r} is no whole number of commands a second")
        value = int(text)
    else:
        value = 0 if text == "0" else parse_size(text)
    Limits(**{name: value})
    return value


def format_limit(name: str, value: int) -> str:
    """The shortest text that `parse_limit` reads as this value."""
    if name == "burst_us":
        return format_duration_us(value)
    return str(value) if name in IOPS else format_size(value)


def format_limits(limits: Limits) -> str:
    """All that are set, as they are written in a SPEC, on one line."""
    if not limits:
        return "none"
    shown = [name for name in NAMES if getattr(limits, name)]
    return " ".join(
        f"{option_of(name)}={format_limit(name, getattr(limits, name))}" for name in shown
    )
