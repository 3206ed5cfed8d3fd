"""What a benchmark prints: ratios first, then every figure beside its latency and CPU time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vhostnvme.bench.samples import PERCENTILES, Case, Load, Results
from vhostnvme.bench.tcp_report import tcp_table

# Above this, others had a hand in the figures.
DISTURBED_CORES = 0.1
COLUMNS = 112  # what the tables need; a narrower terminal wraps them


@dataclass(frozen=True, slots=True)
class Target:
    """Ratios to the best peer that are wanted: `bar` must be met, `goal` is better."""

    bar: float
    goal: float | None = None

    def verdict(self, ratio: float) -> Text:
        if self.goal is not None and ratio >= self.goal:
            return Text("goal", style="bold green")
        if ratio >= self.bar:
            return Text("bar", style="green")
        return Text("below", style="bold red")


TARGETS = {"guest": Target(1.0, 1.3), "host": Target(0.95)}
TITLES = {
    "guest": "In one guest, in turns: fio on our disk and on QEMU's",
    "host": "Without a VM: our server on a file, and fio with io_uring on the same file",
    "engine": "Without a file: memory and nothing behind the namespace, one reactor",
    "tcp": "Memory over NVMe/TCP on the loopback, by vhostnvme perf; locally; and TCP alone",
    "scaling": "One server process, 1 to 64 devices, one thread that loads them all",
}


def show(results: Results, about: dict[str, Any], console: Console | None = None) -> None:
    """Prints each section: the ratios if there are any, then all figures.

    Args:
        about: `machine` and `disturbance`, as bench.json has them.
    """
    machine = about["machine"]
    console = console or Console()
    if console.width < COLUMNS:
        console = Console(width=COLUMNS, file=console.file)
    for section in results.sections():
        console.print()
        if section == "scaling":
            console.print(scaling_table(results))
            continue
        if section == "tcp":
            console.print(tcp_table(results))
        if section in TARGETS:
            console.print(summary_table(results, section))
        console.print(section_table(results, section))
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items() if value)
    accel = f" guest on {machine['accel']};" if "accel" in machine else ""
    console.print(
        f"\nMedians of the rounds. {machine['cpu']}, {machine['cores']} cores,"
        f" Linux {machine['kernel']};{accel} {versions}.",
        highlight=False,
    )
    for section, note in about["disturbance"].items():
        if note["others_cores"] + note["stolen_cores"] > DISTURBED_CORES:
            console.print(
                f"{section}: others took {note['others_cores'] + note['stolen_cores']:.2f} cores"
                " meanwhile: trust these figures less.",
                style="yellow",
                highlight=False,
            )


def summary_table(results: Results, section: str) -> Table:
    """A line for each load: how many times as fast as the best of the others."""
    target = TARGETS[section]
    goal = "" if target.goal is None else f", goal {target.goal:g}"
    table = Table(
        title=f"{section}: ours to the best peer (bar {target.bar:g}{goal})",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("load", no_wrap=True)
    table.add_column("disk", no_wrap=True)
    table.add_column("IOPS", justify="right", no_wrap=True)
    table.add_column("best peer", no_wrap=True)
    table.add_column("IOPS", justify="right", no_wrap=True)
    thrifty = any(results.cpu_ratio(case) is not None for case in _cases(results, section))
    if thrifty:
        table.add_column("CPU an I/O:\npeer / ours", justify="right", no_wrap=True)
    for group in results.groups(section):
        for case in group:
            ratio, best = results.ratio(case), results.best_peer(case)
            if ratio is not None and best is not None:
                table.add_row(
                    f"{ratio:.2f}",
                    target.verdict(ratio),
                    f"{case.backing}, {case.load.label}",
                    case.contestant,
                    f"{results.iops(case):,.0f}",
                    best.contestant,
                    f"{results.iops(best):,.0f}",
                    *([f"{results.cpu_ratio(case) or 0:.2f}"] if thrifty else []),
                )
    return table


def section_table(results: Results, section: str) -> Table:
    """A line for each contestant under each load."""
    # The tcp section has a table of its own for that.
    compared = section != "tcp" and any(not c.is_ours for c in _cases(results, section))
    split = any(results.server_cpu(case) is not None for case in _cases(results, section))
    table = Table(title=TITLES[section], title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("load", no_wrap=True)
    table.add_column("contestant", no_wrap=True)
    if compared:
        table.add_column("ours /\nthis", justify="right")
    table.add_column("IOPS", justify="right", no_wrap=True)
    for percentile in PERCENTILES:
        table.add_column(f"p{percentile:g}\nus", justify="right", no_wrap=True)
    table.add_column("CPU s per\n10,000 I/Os", justify="right")
    if split:
        table.add_column("of it the\nserver", justify="right")
    for group in results.groups(section):
        ours = next((case for case in group if case.is_ours), None)
        for case in group:
            ratio = results.iops(ours) / results.iops(case) if ours and ours != case else None
            table.add_row(
                f"{case.backing}, {case.load.label}" if case is group[0] else "",
                Text(case.contestant, style="bold" if case.is_ours else ""),
                *(["" if ratio is None else f"{ratio:.2f}"] if compared else []),
                f"{results.iops(case):,.0f}",
                *(_us(results.latency_us(case, each)) for each in PERCENTILES),
                _cpu(results.cpu(case)),
                *([_cpu(results.server_cpu(case))] if split else []),
            )
        table.add_section()
    return table


def scaling_table(results: Results) -> Table:
    """A line for each number of devices, a pair of columns for each number of reactors."""
    cases = _cases(results, "scaling")
    names = sorted({case.contestant for case in cases})
    loads = sorted({case.load for case in cases}, key=lambda load: load.devices)
    label = loads[0].label if loads else ""
    table = Table(title=f"{TITLES['scaling']}: {label}", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("devices", justify="right")
    for name in names:
        short = name.partition(", ")[2]
        for heading in ("IOPS", "to 1\ndevice", "server CPU s\nper 10,000", "p99\nus"):
            table.add_column(
                f"{short}\n{heading}" if heading == "IOPS" else heading, justify="right"
            )
    for load in loads:
        row = [str(load.devices)]
        for name in names:
            row += _scaling_cells(results, load, name)
        table.add_row(*row)
    return table


def _scaling_cells(results: Results, load: Load, name: str) -> list[str]:
    found = [c for c in _cases(results, "scaling") if c.contestant == name]
    case = next((c for c in found if c.load == load), None)
    first = next((c for c in found if c.load.devices == 1), None)
    if case is None:
        return ["-"] * 4
    ratio = f"{results.iops(case) / results.iops(first):.2f}" if first else "-"
    return [
        f"{results.iops(case):,.0f}",
        ratio,
        _cpu(results.server_cpu(case)),
        _us(results.latency_us(case, 99.0)),
    ]


def _cases(results: Results, section: str) -> list[Case]:
    return [case for case in results.samples if case.section == section]


def _us(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _cpu(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if value < 0.1 else f"{value:.3f}" if value < 1 else f"{value:.2f}"
