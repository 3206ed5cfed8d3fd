"""Limits on their way into the library and back."""

from __future__ import annotations

from typing import Any

from vhostnvme.limits import BURST_US_DEFAULT, RATES, Limits
from vhostnvme.native.library import ffi
from vhostnvme.native.types import LimitInfo


def native_limits(limits: Limits) -> Any:
    """A struct vn_limits."""
    raw = ffi.new("struct vn_limits *")
    for kind, name in enumerate(RATES):
        raw.of[kind].rate = getattr(limits, name)
        raw.of[kind].burst_us = limits.burst_us
    return raw


def limit_info(raw: Any) -> LimitInfo:
    """What a struct vn_limit_info says."""
    rates = {name: raw.limits.of[kind].rate for kind, name in enumerate(RATES)}
    # We give the same burst to all.
    burst_us = raw.limits.of[0].burst_us or BURST_US_DEFAULT
    limits = Limits(burst_us=burst_us, **rates)
    return LimitInfo(limits, raw.waiting, raw.throttled, raw.waited_ns)
