"""How a load went: the stable JSON object (docs/perf.md describes each key), and a table."""

from __future__ import annotations

import argparse
from typing import Any

from vhostnvme.perf.targets import is_remote, parse_remote_target
from vhostnvme.testing.nvme import status_name
from vhostnvme.units import format_size

TABLE_COLUMNS = 100  # what the table needs; a narrower terminal wraps it
BEHIND_SHARE = 1e-3  # of the commands; less is only what had just become due at the end
LATENCIES = ("min", "mean", "p50", "p90", "p99", "p99_9", "p99_99", "max")


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
    names = ["ceiling"] if args.ceiling else args.targets
    over_tcp = any(map(is_remote, names))
    report = {
        "rw": args.rw,
        "rwmixread": args.rwmixread,
        "bs": args.bs,
        "qd": args.qd,
        "queues": args.queues,
        "nsid": nsid_of(args),
        "seed": args.seed,
        "ceiling": args.ceiling,
        "warmup": args.warmup,
        "fill": _fill(result) if args.fill else None,
        "rate": {"iops": args.rate, "behind": result["nr_behind"]} if args.rate else None,
        "seconds": seconds,
        "iops": _per(commands, seconds),
        "mb_per_s": _per(data, seconds) / 1e6,
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
        "cpu": _cpu(result, seconds, commands),
        "doorbells": None if over_tcp else _doorbells(result),
        "interrupts": result["nr_interrupts"],
        "memory": {"bytes": result["memory_bytes"], "regions": result["nr_regions"]},
        "stopped": bool(result["stopped"]),
        "devices": [
            _device(name, device, seconds)
            for name, device in zip(names, result["devices"], strict=True)
        ],
    }
    if args.histogram:
        report["histogram"] = [list(bucket) for bucket in result["buckets"]]
    return report


def nsid_of(args: argparse.Namespace) -> int:
    """The namespace of the (first) target."""
    written = parse_remote_target(args.targets[0])[1] if any(map(is_remote, args.targets)) else None
    number: int = written or args.nsid or 1
    return number


def _per(amount: float, of: float) -> float:
    return amount / of if of else 0.0


def _fill(result: dict[str, Any]) -> dict[str, Any]:
    return {"bytes": result["fill_bytes"], "seconds": result["fill_ns"] / 1e9}


def _cpu(result: dict[str, Any], seconds: float, commands: int) -> dict[str, float | None]:
    host_us = result["host_cpu_ns"] / 1e3
    server_us = result["server_cpu_ns"] / 1e3 if result["server_cpu_known"] else None
    return {
        "host_cores": _per(host_us / 1e6, seconds),
        "server_cores": None if server_us is None else _per(server_us / 1e6, seconds),
        "host_us_per_io": _per(host_us, commands),
        "server_us_per_io": None if server_us is None else _per(server_us, commands),
    }


def _doorbells(result: dict[str, Any]) -> dict[str, int]:
    return {
        "stores": result["nr_doorbell_stores"],
        "messages": result["nr_doorbell_messages"],
    }


def _device(name: str, device: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "target": name,
        "iops": _per(device["nr_reads"] + device["nr_writes"], seconds),
        "reads": device["nr_reads"],
        "writes": device["nr_writes"],
        "errors": device["nr_errors"],
        "latency_ns": _latency(device["all"]),
        "blocks": device["nr_blocks"],
        "block_bytes": device["lba_bytes"],
        "doorbells_mapped": None if is_remote(name) else bool(device["doorbells_mapped"]),
        "shadow_doorbells": None if is_remote(name) else bool(device["shadow_doorbells"]),
        "server_pid": device["server_pid"] if device["server_pid"] > 0 else None,
    }


def _latency(values: dict[str, int]) -> dict[str, int]:
    return {"count": values["nr"]} | {name: values[name] for name in LATENCIES}


def _microseconds(ns: int) -> str:
    return f"{ns / 1000:.2f}" if ns < 100_000 else f"{ns / 1000:.0f}"


def _title(report: dict[str, Any]) -> str:
    title = f"{report['rw']} {format_size(report['bs'])}, depth {report['qd']}"
    if report["queues"] > 1:
        title += f", {report['queues']} queues"
    if len(report["devices"]) > 1:
        title += f", {len(report['devices'])} devices"
    if report["ceiling"]:
        title += f": ceiling of the load generator ({report['ceiling']})"
    return title


def _rows(report: dict[str, Any]) -> list[tuple[str, dict[str, int]]]:
    rows = [(kind, report["latency_ns"][kind]) for kind in ("reads", "writes")]
    if len(report["devices"]) > 1:
        rows += [(device["target"], device["latency_ns"]) for device in report["devices"]]
    return [(name, latency) for name, latency in rows if latency["count"]]


def print_table(report: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console = Console(width=max(console.width, TABLE_COLUMNS))
    table = Table(title=_title(report), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for heading in ("IOPS", "MB/s", "mean us", "p50", "p90", "p99", "p99.9", "p99.99", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    seconds = report["seconds"] or 1.0
    for name, latency in _rows(report):
        iops = latency["count"] / seconds
        table.add_row(
            name,
            f"{iops:,.0f}",
            f"{iops * report['bs'] / 1e6:,.1f}",
            *(_microseconds(latency[key]) for key in LATENCIES[1:]),
        )
    console.print(table)
    for line in _remarks(report):
        console.print(line, highlight=False, markup=False)


def _way(devices: list[dict[str, Any]]) -> str:
    mapped = {device["doorbells_mapped"] for device in devices}
    if mapped == {None}:
        return "over NVMe/TCP"
    kind = "mapped" if mapped == {True} else "trapped" if mapped == {False} else "of both kinds"
    if any(device["shadow_doorbells"] for device in devices):
        kind += ", with shadow doorbells"
    return f"doorbells {kind}"


def _remarks(report: dict[str, Any]) -> list[str]:
    cpu, devices = report["cpu"], report["devices"]
    server = "the server's is not known"
    if cpu["server_cores"] is not None:
        server = f"{cpu['server_cores']:.2f} cores the server"
        server += f" ({cpu['server_us_per_io']:.2f} us per I/O)"
    lines = [
        f"{report['seconds']:.2f} s; CPU: {cpu['host_cores']:.2f} cores here"
        + (f", {server}; {_way(devices)}" if not report["ceiling"] else "")
    ]
    if report["fill"]:
        lines.append(
            f"filled {report['fill']['bytes']:,} bytes in {report['fill']['seconds']:.2f} s before"
        )
    commands = report["reads"] + report["writes"]
    if report["rate"] and report["rate"]["behind"] > BEHIND_SHARE * commands:
        lines.append(
            f"{report['rate']['behind']:,} commands were due at the end and not yet sent:"
            f" the rate of {report['rate']['iops']:,} was not reached"
        )
    if report["verify"]:
        lines.append(
            f"verified {report['verify']['blocks']:,} blocks, {report['verify']['errors']} wrong"
        )
        if report["verify"]["errors"]:
            lines[-1] += f", the first at LBA {report['verify']['first_error_lba']}"
    for code, count in report["statuses"].items():
        status_type, status_code = (int(part, 16) for part in code.split("/"))
        lines.append(f"{count:,} commands failed: {status_name(status_type << 8 | status_code)}")
    if report["stopped"]:
        lines.append("stopped before its end")
    return lines
