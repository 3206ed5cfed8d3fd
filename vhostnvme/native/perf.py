"""The load generator, as the C library has it (csrc/host/perf.c)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vhostnvme.native.host_errors import check
from vhostnvme.native.library import ffi, lib

__all__ = ["perf_run", "perf_stop"]

_FLAGS = ("verify", "irq", "shadow", "fill", "ceiling_thread", "ceiling_inline")
_HISTOGRAM_BUCKETS = 8192  # more than the library has


def perf_run(
    paths: Sequence[str | Path], pattern: str, options: Mapping[str, int], histogram: bool = False
) -> dict[str, Any]:
    """Runs one load to its end, without the GIL.

    Args:
        paths: a vfio-user socket for each device; of a ceiling only their number counts.
        pattern: `read`, `write`, `rw`, `randread`, `randwrite` or `randrw`.
        options: fields of `struct vn_perf_opts`, and its flags as 0 or 1: `verify`, `irq`,
            `shadow`, `fill`, `ceiling_thread`, `ceiling_inline`.
        histogram: whether `buckets` is wanted.

    Returns:
        The fields of `struct vn_perf_result`: integers in ns, bytes and counts, a dictionary of
        them for each of `all`, `reads` and `writes`, `statuses` as {status: count}, `devices` as
        a list of dictionaries like `struct vn_perf_device`, and `buckets` as a list of (ns, count).

    Raises:
        PeerError, PeerTimeout, ProtocolError, NativeError: as `HostHandle`; EINVAL for options that
            the controller or the namespace cannot serve, EIO when it refuses a set-up command.
    """
    opts = ffi.new("struct vn_perf_opts *")
    texts = [ffi.new("char[]", os.fsencode(path)) for path in paths]
    pointers = ffi.new("char *[]", texts)
    opts.socket_paths = pointers
    opts.nr_devices = len(texts)
    opts.pattern = getattr(lib, f"VN_PERF_{pattern.upper()}")
    for name, value in options.items():
        if name in _FLAGS:
            opts.flags |= getattr(lib, f"VN_PERF_{name.upper()}") if value else 0
        else:
            setattr(opts, name, value)
    buckets = ffi.new("struct vn_perf_bucket[]", _HISTOGRAM_BUCKETS if histogram else 1)
    opts.buckets = buckets
    opts.max_buckets = _HISTOGRAM_BUCKETS if histogram else 0
    out = ffi.new("struct vn_perf_result *")
    devices = ffi.new("struct vn_perf_device[]", max(len(texts), 1))
    check(lib.vn_perf_run(opts, out, devices))
    result: dict[str, Any] = _integers(out)
    result.update({name: _integers(getattr(out, name)) for name in ("all", "reads", "writes")})
    result["statuses"] = {entry.status: entry.nr for entry in out.statuses if entry.nr}
    result["buckets"] = [(buckets[i].ns, buckets[i].nr) for i in range(out.nr_buckets)]
    result["devices"] = [
        _integers(device) | {"all": _integers(device.all)} for device in devices[0 : len(texts)]
    ]
    return result


def perf_stop() -> None:
    """Ends every load of this process soon; from any thread."""
    lib.vn_perf_stop()


def _integers(struct: Any) -> dict[str, int]:
    values = {name: getattr(struct, name) for name in dir(struct) if name != "reserved"}
    return {name: value for name, value in values.items() if isinstance(value, int)}
