"""`vhostnvme perf`: puts load on a vfio-user NVMe server and says how it did.

The load generator is C (csrc/host/perf.c): one thread polls all queues. This file turns arguments
into its options, and its result into a table or JSON. The JSON object is stable:

``target rw bs qd queues nsid seed``     what was asked for
``seconds``                              the measured interval
``iops mb_per_s``                        all commands; 1 MB is 10^6 bytes
``reads writes bytes_read bytes_written``
``latency_ns``                           ``all``, ``reads``, ``writes``: each ``count min mean p50
                                         p90 p99 p99_9 p99_99 max``, percentiles within 1 %
``errors statuses``                      failed commands; {"SCT/SC": count}
``verify``                               null, or ``blocks errors first_error_lba`` (null: none)
``cpu``                                  ``host_cores``, ``server_cores`` (null: not known)
``doorbells``                            ``mapped shadow stores messages``
``interrupts stopped``                   wake-ups with --irq; true after Ctrl-C
``namespace``                            ``blocks block_bytes``
"""

from __future__ import annotations

import argparse
import json
import stat
import sys
import threading
from pathlib import Path
from typing import Any

from vhostnvme.errors import ConfigError, VhostNvmeError
from vhostnvme.testing.nvme import status_name
from vhostnvme.units import format_size, parse_size

PATTERNS = ("read", "write", "rw", "randread", "randwrite", "randrw")
DOORBELLS = ("auto", "trapped", "sync")
SOCKET_NAME = "cntrl"
WAIT_SECONDS = 0.2
TABLE_COLUMNS = 100  # what the table needs; a narrower terminal wraps it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `vhostnvme perf`."""
    parser.add_argument("target", metavar="TARGET", help="a vfio-user socket, or its directory")
    parser.add_argument(
        "--rw",
        choices=PATTERNS,
        default="randread",
        help="default randread; patterns that write destroy what the namespace holds",
    )
    parser.add_argument(
        "--mix", type=int, default=50, metavar="PERCENT", help="reads in rw, randrw"
    )
    parser.add_argument("--bs", type=_size, default=4096, help="bytes of one I/O (default 4K)")
    parser.add_argument("--qd", type=int, default=32, help="commands in flight per queue (32)")
    parser.add_argument(
        "--queues", type=int, default=1, help="I/O queues, all polled by one thread"
    )
    parser.add_argument("--time", type=float, metavar="S", help="seconds to measure (10)")
    parser.add_argument("--ios", type=int, metavar="N", help="end after N commands")
    parser.add_argument("--ramp", type=float, default=0.0, metavar="S", help="seconds of warm-up")
    parser.add_argument("--rate", type=int, default=0, metavar="IOPS", help="limit, all queues")
    parser.add_argument("--nsid", type=int, default=1, help="namespace (1)")
    parser.add_argument("--offset", type=int, default=0, metavar="LBA", help="start of the range")
    parser.add_argument("--blocks", type=int, default=0, metavar="N", help="length of the range")
    parser.add_argument("--seed", type=int, default=1, help="of the random order and the data")
    parser.add_argument(
        "--verify", action="store_true", help="stamp writes, check what is read back"
    )
    parser.add_argument("--irq", action="store_true", help="sleep on interrupts instead of polling")
    parser.add_argument(
        "--shadow", action="store_true", help="use shadow doorbells if there are any"
    )
    parser.add_argument(
        "--doorbells",
        choices=DOORBELLS,
        default="auto",
        help="auto: mapped if the server offers it; trapped: by posted message; sync: with a reply",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, not a table")


def run(args: argparse.Namespace) -> int:
    """Runs the load; 0 when every command succeeded and every block was as written, else 1.

    Raises:
        ConfigError: an argument makes no sense.
        PeerError, ProtocolError, NativeError: the server is not there, misbehaves or refuses.
    """
    path = _socket(args.target)
    report = make_report(args, _run_in_thread(path, args.rw, _options(args)))
    if args.json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        _print_table(report)
    bad = report["errors"] or report["stopped"] or (report["verify"] or {}).get("errors")
    return 1 if bad else 0


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _socket(target: str) -> Path:
    if "://" in target:
        raise ConfigError(f"{target} is no vfio-user socket: give the path that `serve` listens on")
    path = Path(target)
    if path.is_dir():
        path /= SOCKET_NAME
    if not path.exists():
        raise VhostNvmeError(f"there is no socket at {path}; is the server running?")
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigError(f"{path} is no socket: give the path that the server listens on")
    return path


def _options(args: argparse.Namespace) -> dict[str, int]:
    from vhostnvme.native.host import HostFlags

    for name, low, high in (
        ("mix", 0, 100),
        ("qd", 1, 4096),
        ("queues", 1, 128),
        ("rate", 0, 10**9),
        ("nsid", 1, 2**32 - 2),
        ("offset", 0, 2**63),
        ("blocks", 0, 2**63),
        ("seed", 0, 2**63),
        ("ramp", 0, 10**6),
        ("time", 0.001, 10**6),
        ("ios", 1, 2**62),
    ):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise ConfigError(f"--{name} must be from {low} to {high}, not {value}")
    if args.bs % 512 or args.bs > 16 << 20:
        raise ConfigError(f"--bs must be a multiple of 512 up to 16M, not {args.bs}")
    seconds = args.time if args.time is not None else (0.0 if args.ios else 10.0)
    flags = {
        "auto": HostFlags(0),
        "trapped": HostFlags.TRAP_DOORBELLS,
        "sync": HostFlags.TRAP_DOORBELLS | HostFlags.SYNC_DOORBELLS,
    }[args.doorbells]
    return {
        "host_flags": int(flags),
        "read_percent": args.mix,
        "block_bytes": args.bs,
        "depth": args.qd,
        "nr_queues": args.queues,
        "nsid": args.nsid,
        "time_ms": round(seconds * 1000),
        "ramp_ms": round(args.ramp * 1000),
        "nr_ios": args.ios or 0,
        "rate_iops": args.rate,
        "lba_start": args.offset,
        "lba_count": args.blocks,
        "seed": args.seed,
        "verify": int(args.verify),
        "irq": int(args.irq),
        "shadow": int(args.shadow),
    }


def _run_in_thread(path: Path, pattern: str, options: dict[str, int]) -> dict[str, Any]:
    """Ctrl-C reaches only Python code on the main thread, so that the load runs on another one."""
    from vhostnvme.native.host import perf_run, perf_stop

    outcome: dict[str, Any] = {}
    done = threading.Event()

    def work() -> None:
        try:
            outcome["result"] = perf_run(path, pattern, options)
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


def make_report(args: argparse.Namespace, result: dict[str, Any]) -> dict[str, Any]:
    """The stable JSON object from the library's result."""
    seconds = result["elapsed_ns"] / 1e9
    commands = result["nr_reads"] + result["nr_writes"]
    data = result["bytes_read"] + result["bytes_written"]
    verify = {
        "blocks": result["nr_verified"],
        "errors": result["nr_verify_errors"],
        "first_error_lba": result["verify_error_lba"] if result["nr_verify_errors"] else None,
    }
    return {
        "target": str(args.target),
        "rw": args.rw,
        "bs": args.bs,
        "qd": args.qd,
        "queues": args.queues,
        "nsid": args.nsid,
        "seed": args.seed,
        "seconds": seconds,
        "iops": commands / seconds if seconds else 0.0,
        "mb_per_s": data / seconds / 1e6 if seconds else 0.0,
        "reads": result["nr_reads"],
        "writes": result["nr_writes"],
        "bytes_read": result["bytes_read"],
        "bytes_written": result["bytes_written"],
        "latency_ns": {kind: _latency(result[kind]) for kind in ("all", "reads", "writes")},
        "errors": result["nr_errors"],
        "statuses": {
            f"{code >> 8:X}/{code & 0xFF:02X}": count for code, count in result["statuses"].items()
        },
        "verify": verify if args.verify else None,
        "cpu": {
            "host_cores": result["host_cpu_ns"] / 1e9 / seconds if seconds else 0.0,
            "server_cores": (
                result["server_cpu_ns"] / 1e9 / seconds
                if seconds and result["server_cpu_known"]
                else None
            ),
        },
        "doorbells": {
            "mapped": bool(result["doorbells_mapped"]),
            "shadow": bool(result["shadow_doorbells"]),
            "stores": result["nr_doorbell_stores"],
            "messages": result["nr_doorbell_messages"],
        },
        "interrupts": result["nr_interrupts"],
        "stopped": bool(result["stopped"]),
        "namespace": {"blocks": result["nr_blocks"], "block_bytes": result["lba_bytes"]},
    }


def _latency(values: dict[str, int]) -> dict[str, int]:
    names = ("min", "mean", "p50", "p90", "p99", "p99_9", "p99_99", "max")
    return {"count": values["nr"]} | {name: values[name] for name in names}


def _microseconds(ns: int) -> str:
    return f"{ns / 1000:.2f}" if ns < 100_000 else f"{ns / 1000:.0f}"


def _print_table(report: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console = Console(width=max(console.width, TABLE_COLUMNS))
    title = f"{report['rw']} {format_size(report['bs'])}, depth {report['qd']}"
    if report["queues"] > 1:
        title += f", {report['queues']} queues"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for heading in ("IOPS", "MB/s", "mean us", "p50", "p90", "p99", "p99.9", "p99.99", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    seconds = report["seconds"] or 1.0
    for kind in ("reads", "writes"):
        latency = report["latency_ns"][kind]
        if latency["count"]:
            data = report["bytes_read" if kind == "reads" else "bytes_written"]
            names = ("mean", "p50", "p90", "p99", "p99_9", "p99_99", "max")
            table.add_row(
                kind,
                f"{latency['count'] / seconds:,.0f}",
                f"{data / seconds / 1e6:,.1f}",
                *(_microseconds(latency[name]) for name in names),
            )
    console.print(table)
    server = report["cpu"]["server_cores"]
    doorbells = report["doorbells"]
    console.print(
        f"{report['seconds']:.2f} s; CPU: {report['cpu']['host_cores']:.2f} cores here, "
        + (f"{server:.2f} cores the server" if server is not None else "the server's is not known")
        + f"; doorbells {'mapped' if doorbells['mapped'] else 'trapped'}"
        + (", with shadow doorbells" if doorbells["shadow"] else ""),
        highlight=False,
    )
    if report["verify"]:
        console.print(
            f"verified {report['verify']['blocks']:,} blocks, {report['verify']['errors']} wrong"
            + (
                f", the first at LBA {report['verify']['first_error_lba']}"
                if report["verify"]["errors"]
                else ""
            )
        )
    for code, count in report["statuses"].items():
        status_type, status_code = (int(part, 16) for part in code.split("/"))
        console.print(f"{count:,} commands failed: {status_name(status_type << 8 | status_code)}")
    if report["stopped"]:
        console.print("stopped before its end")
