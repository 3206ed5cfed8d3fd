"""The load generator, as the C library has it (csrc/host/perf.c)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhostnvme.native.host_errors import check
from vhostnvme.native.library import ffi, lib
from vhostnvme.native.remote import native_remote

if TYPE_CHECKING:
    from vhostnvme.native.types import RemoteOptions

__all__ = ["perf_run", "perf_stop", "wire_run"]

_FLAGS = ("verify", "irq", "shadow", "fill", "ceiling_thread", "ceiling_inline")
_HISTOGRAM_BUCKETS = 8192  # more than the library has


def perf_run(
    paths: Sequence[str | Path],
    pattern: str,
    options: Mapping[str, int],
    histogram: bool = False,
    remotes: Sequence[tuple[RemoteOptions, int]] = (),
) -> dict[str, Any]:
    """Runs one load to its end, without the GIL.

    Args:
        paths: a vfio-user socket for each device; of a ceiling only their number counts.
        pattern: `read`, `write`, `rw`, `randread`, `randwrite` or `randrw`.
        options: fields of `struct vn_perf_opts`, and its flags as 0 or 1: `verify`, `irq`,
            `shadow`, `fill`, `ceiling_thread`, `ceiling_inline`.
        histogram: whether `buckets` is wanted.
        remotes: in place of paths: a namespace over NVMe/TCP for each device, with the process that
            serves it (0: not known).

    Returns:
        The fields of `struct vn_perf_result`: integers in ns, bytes and counts, a dictionary of
        them for each of `all`, `reads` and `writes`, `statuses` as {status: count}, `devices` as
        a list of dictionaries like `struct vn_perf_device`, and `buckets` as a list of (ns, count).

    Raises:
        PeerError, PeerTimeout, ProtocolError, NativeError: as `HostHandle`; EINVAL for options that
            the controller or the namespace cannot serve, EIO when it refuses a set-up command.
    """
    opts = ffi.new("struct vn_perf_opts *")
    alive = _put_remotes(opts, remotes) if remotes else _put_paths(opts, paths)
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
    devices = ffi.new("struct vn_perf_device[]", max(opts.nr_devices, 1))
    check(lib.vn_perf_run(opts, out, devices))
    del alive  # the library has read it
    result: dict[str, Any] = _integers(out)
    result.update({name: _integers(getattr(out, name)) for name in ("all", "reads", "writes")})
    result["statuses"] = {entry.status: entry.nr for entry in out.statuses if entry.nr}
    result["buckets"] = [(buckets[i].ns, buckets[i].nr) for i in range(out.nr_buckets)]
    result["devices"] = [
        _integers(device) | {"all": _integers(device.all)}
        for device in devices[0 : opts.nr_devices]
    ]
    return result


def _put_paths(opts: Any, paths: Sequence[str | Path]) -> list[Any]:
    """Answers what has to stay alive while the library reads it."""
    texts = [ffi.new("char[]", os.fsencode(path)) for path in paths]
    opts.socket_paths = pointers = ffi.new("char *[]", texts)
    opts.nr_devices = len(texts)
    return [*texts, pointers]


def _put_remotes(opts: Any, remotes: Sequence[tuple[RemoteOptions, int]]) -> list[Any]:
    """The same."""
    alive: list[Any] = []
    raw = []
    for options, _ in remotes:
        remote, kept = native_remote(options)
        raw.append(remote)
        alive += kept
    opts.remotes = pointers = ffi.new("struct vn_remote_opts *[]", raw)
    opts.server_pids = pids = ffi.new("int32_t[]", [pid for _, pid in remotes])
    opts.nr_devices = len(raw)
    return [*alive, pointers, pids]


def perf_stop() -> None:
    """Ends every load of this process soon; from any thread."""
    lib.vn_perf_stop()


def wire_run(
    request_bytes: int, reply_bytes: int, *, depth: int, seconds: float, warmup: float = 0.0
) -> dict[str, Any]:
    """What bare TCP over the loopback can do: requests one way, replies the other, by two threads.

    Returns:
        `elapsed_ns`, `nr` replies, `cpu_ns` and `peer_cpu_ns` of the two threads, and `latency` as
        `perf_run`'s `all`.

    Raises:
        NativeError: EINVAL for sizes or depths that cannot be.
    """
    opts = ffi.new("struct vn_wire_opts *")
    opts.request_bytes, opts.reply_bytes, opts.depth = request_bytes, reply_bytes, depth
    opts.time_ms, opts.ramp_ms = round(seconds * 1000), round(warmup * 1000)
    out = ffi.new("struct vn_wire_result *")
    check(lib.vn_wire_run(opts, out))
    return _integers(out) | {"latency": _integers(out.latency)}


def _integers(struct: Any) -> dict[str, int]:
    values = {name: getattr(struct, name) for name in dir(struct) if name != "reserved"}
    return {name: value for name, value in values.items() if isinstance(value, int)}
