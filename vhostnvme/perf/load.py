"""One load from its arguments: checks them, and runs the C loop where Ctrl-C still works."""

from __future__ import annotations

import argparse
import os
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhostnvme.errors import ConfigError, VhostNvmeError
from vhostnvme.perf.targets import is_remote, parse_remote_target, server_pid
from vhostnvme.storage.remote import DEPTH_MAX, QUEUES_MAX

if TYPE_CHECKING:
    from vhostnvme.native.types import RemoteOptions

SOCKET_NAME = "cntrl"
WAIT_SECONDS = 0.2
DEFAULT_SECONDS = 10.0
DEVICES_MAX = 256
LANES_MAX = 1024  # queues of all devices
PAGE_BYTES = 4096
RECONNECT_MS = 5000  # a load does not wait longer for a target that has gone


def run_load(args: argparse.Namespace) -> dict[str, Any]:
    """The library's result of the load that these arguments of `vhostnvme perf` ask for.

    Raises:
        ConfigError: an argument makes no sense.
        PeerError, ProtocolError, NativeError: a server is not there, misbehaves or refuses.
    """
    from vhostnvme.native.perf import perf_run

    options = make_options(args)
    paths = [Path()]
    remotes: list[tuple[RemoteOptions, int]] = []
    if any(map(is_remote, args.targets)):
        remotes = _find_remotes(args)
    elif not args.ceiling:
        paths = find_sockets(args.targets)
    load = partial(perf_run, paths, args.rw, options, args.histogram, remotes)
    return _run_in_thread(load, args.cpu)


def find_socket(target: str) -> Path:
    """The socket that a TARGET means.

    Raises:
        ConfigError: it is something else than a socket.
        VhostNvmeError: there is nothing.
    """
    if "://" in target:
        raise ConfigError(
            f"{target} is no vfio-user socket, nor nvme+tcp://HOST:PORT/SUBNQN: give either"
        )
    path = Path(target)
    if path.is_dir():
        path /= SOCKET_NAME
    if not path.exists():
        raise VhostNvmeError(f"there is no socket at {path}; is the server running?")
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigError(f"{path} is no socket: give the path that the server listens on")
    return path


def find_sockets(targets: Sequence[str]) -> list[Path]:
    """The sockets of several targets, each once.

    Raises:
        ConfigError, VhostNvmeError: as `find_socket`; or a socket is there twice.
    """
    paths: list[Path] = []
    for target in targets:
        path = find_socket(target)
        if any(path.samefile(other) for other in paths):
            raise ConfigError(f"{path} is given twice: a server takes one host at a time")
        paths.append(path)
    return paths


def _find_remotes(args: argparse.Namespace) -> list[tuple[RemoteOptions, int]]:
    """What there is to connect to, with the process that serves it, as far as that is known."""
    from vhostnvme.storage.disk import remote_options

    found = []
    for target in args.targets:
        spec, nsid = parse_remote_target(target)
        if args.nsid and nsid and args.nsid != nsid:
            raise ConfigError(f"--nsid {args.nsid} is not the namespace of {target}: leave it out")
        if args.queues > QUEUES_MAX or args.qd >= DEPTH_MAX:
            raise ConfigError(
                f"over NVMe/TCP --queues is at most {QUEUES_MAX}, and --qd below {DEPTH_MAX}"
            )
        options = replace(
            remote_options(spec),
            nsid=nsid or args.nsid or 1,
            queues=spec.queues or args.queues,
            depth=spec.depth or max(args.qd + 1, 2),
            reconnect_ms=spec.reconnect_ms or RECONNECT_MS,
        )
        found.append((options, server_pid(spec.paths[0])))
    return found


def _check_targets(args: argparse.Namespace) -> None:
    if args.ceiling:
        if args.targets:
            raise ConfigError("--ceiling measures the load generator alone: leave TARGET out")
        for name in ("verify", "irq", "shadow"):
            if getattr(args, name):
                raise ConfigError(f"--{name} needs a server: leave it or --ceiling out")
    elif not args.targets:
        raise ConfigError(
            "give a TARGET: the vfio-user socket of a server, or its directory, or"
            " nvme+tcp://HOST:PORT/SUBNQN"
        )
    elif any(map(is_remote, args.targets)):
        _check_remotes(args)
    if len(args.targets) > DEVICES_MAX:
        raise ConfigError(f"{len(args.targets)} targets are too many: at most {DEVICES_MAX}")
    if len(args.targets) * args.queues > LANES_MAX:
        raise ConfigError(
            f"{args.queues} queues on each of {len(args.targets)} targets are too many:"
            f" at most {LANES_MAX} together"
        )


def _check_remotes(args: argparse.Namespace) -> None:
    if not all(map(is_remote, args.targets)):
        raise ConfigError("vfio-user sockets and NVMe/TCP do not mix in one load")
    of_sockets = ("irq", "shadow", "memory", "regions")
    for name in of_sockets:
        if getattr(args, name):
            raise ConfigError(f"--{name} is for vfio-user sockets: leave it out over NVMe/TCP")
    if args.doorbells != "auto":
        raise ConfigError("--doorbells is for vfio-user sockets: leave it out over NVMe/TCP")


def _check_numbers(args: argparse.Namespace) -> None:
    for option, value, low, high in (
        ("rwmixread", args.rwmixread, 0, 100),
        ("qd", args.qd, 1, 4096),
        ("queues", args.queues, 1, 128),
        ("rate", args.rate, 0, 10**9),
        ("nsid", args.nsid, 1, 2**32 - 2),
        ("offset", args.offset, 0, 2**63),
        ("blocks", args.blocks, 0, 2**63),
        ("seed", args.seed, 0, 2**63),
        ("warmup", args.warmup, 0, 10**6),
        ("time", args.time, 0.001, 10**6),
        ("io-limit", args.io_limit, 1, 2**62),
        ("memory", args.memory, 0, 64 << 30),
    ):
        # `not` around it: a NaN is in no range
        if value is not None and not low <= value <= high:
            raise ConfigError(f"--{option} must be from {low} to {high}, not {value}")
    if args.bs % 512 or args.bs > 16 << 20:
        raise ConfigError(f"--bs must be a multiple of 512 up to 16M, not {args.bs}")
    if args.blocks and args.size:
        raise ConfigError("--size and --blocks both give the length of the range: leave one out")
    if args.regions and (args.regions % PAGE_BYTES or args.regions > 1 << 30):
        raise ConfigError(f"--regions must be a multiple of 4K up to 1G, not {args.regions}")
    if args.cpu is not None and args.cpu not in os.sched_getaffinity(0):
        usable = ", ".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0)))
        raise ConfigError(f"--cpu {args.cpu} is no CPU that this process may use: {usable}")


def make_options(args: argparse.Namespace) -> dict[str, int]:
    """Fields and flags of `struct vn_perf_opts`.

    Raises:
        ConfigError: an argument makes no sense.
    """
    from vhostnvme.native.host import HostFlags

    _check_targets(args)
    _check_numbers(args)
    seconds = args.time if args.time is not None else (0.0 if args.io_limit else DEFAULT_SECONDS)
    flags = {
        "auto": HostFlags(0),
        "trapped": HostFlags.TRAP_DOORBELLS,
        "sync": HostFlags.TRAP_DOORBELLS | HostFlags.SYNC_DOORBELLS,
    }[args.doorbells]
    if args.doorbells == "auto" and not (args.irq or args.shadow):
        # As polling hosts do: the server need not be woken, and maps the doorbells.
        flags |= HostFlags.VERSION_BARE
    return {
        "host_flags": int(flags),
        "read_percent": args.rwmixread,
        "block_bytes": args.bs,
        "depth": args.qd,
        "nr_queues": args.queues,
        "nsid": args.nsid or 1,
        "time_ms": round(seconds * 1000),
        "ramp_ms": round(args.warmup * 1000),
        "nr_ios": args.io_limit or 0,
        "rate_iops": args.rate,
        "lba_start": args.offset,
        "lba_count": args.blocks,
        "range_bytes": args.size,
        "seed": args.seed,
        "memory_bytes": args.memory,
        "region_bytes": args.regions,
        "verify": int(args.verify),
        "irq": int(args.irq),
        "shadow": int(args.shadow),
        "fill": int(args.fill),
        "ceiling_thread": int(args.ceiling == "thread"),
        "ceiling_inline": int(args.ceiling == "inline"),
    }


def _run_in_thread(load: Callable[[], dict[str, Any]], cpu: int | None) -> dict[str, Any]:
    """Ctrl-C reaches only Python code on the main thread, so that the load runs on another one."""
    from vhostnvme.native.perf import perf_stop

    outcome: dict[str, Any] = {}
    done = threading.Event()

    def work() -> None:
        try:
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})  # this thread, and a ceiling's peer would follow
            outcome["result"] = load()
        except Exception as error:
            outcome["error"] = error
        finally:
            done.set()

    thread = threading.Thread(target=work, name="perf")
    thread.start()
    while not done.is_set():
        try:
            done.wait(
                WAIT_SECONDS
            )  # Thread.join must not be interrupted: it loses track of the thread
        except KeyboardInterrupt:
            perf_stop()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    result: dict[str, Any] = outcome["result"]
    return result
