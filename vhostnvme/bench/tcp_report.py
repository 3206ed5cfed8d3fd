"""The tcp section's own table: each way over the network as a ratio to what bounds it."""

from __future__ import annotations

from rich import box
from rich.table import Table

from vhostnvme.bench.samples import Case, Results
from vhostnvme.bench.tcp import LOCAL, SECTION, WIRE

# What is wanted: of local throughput for 4 KiB, of bare TCP's for more; and at depth 1 no more
# latency than local access, a round trip of bare TCP, and so many microseconds.
LOCAL_RATIO = 0.7
WIRE_RATIO = 0.9
ADDED_US = 10.0
SMALL_BYTES = 8 << 10


def tcp_table(results: Results) -> Table:
    """A line for each load and each way of ours."""
    table = Table(
        title=f"tcp: IOPS to those of local access ({LOCAL_RATIO:g} is wanted for 4K), of bare"
        f" TCP ({WIRE_RATIO:g}, 128K);\nlatency at depth 1 beyond both together ({ADDED_US:g} us)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("load", "way"):
        table.add_column(heading, no_wrap=True)
    for heading in (
        "IOPS",
        "to\nlocal",
        "to\nTCP",
        "",
        "p50\nus",
        "local\nus",
        "TCP\nus",
        "beyond\nus",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for group in results.groups(SECTION):
        by_name = {case.contestant: case for case in group}
        local, wire = by_name.get(LOCAL), by_name.get(WIRE)
        for case in group:
            if case.is_ours and local and wire:
                table.add_row(
                    case.load.label if case is group[0] else "", *_cells(results, case, local, wire)
                )
        table.add_section()
    return table


def _cells(results: Results, case: Case, local: Case, wire: Case) -> list[str]:
    to_local = results.iops(case) / results.iops(local)
    to_wire = results.iops(case) / results.iops(wire)
    median, below, ground = (results.latency_us(each, 50.0) for each in (case, local, wire))
    added = None
    if median is not None and below is not None and ground is not None:
        added = median - below - ground
    return [
        case.contestant.partition(", ")[2] or "one card",
        f"{results.iops(case):,.0f}",
        f"{to_local:.2f}",
        f"{to_wire:.2f}",
        verdict(case, to_local, to_wire, added),
        *(_us(value) for value in (median, below, ground)),
        _us(added) if case.load.depth == 1 else "",
    ]


def verdict(case: Case, to_local: float, to_wire: float, added_us: float | None) -> str:
    """`ok` or `below`; "" where nothing is asked for."""
    if case.load.depth == 1:
        asked = case.load.block_size <= SMALL_BYTES and added_us is not None
        return "" if not asked else "ok" if (added_us or 0) <= ADDED_US else "below"
    if case.load.block_size <= SMALL_BYTES:
        return "ok" if to_local >= LOCAL_RATIO else "below"
    return "ok" if to_wire >= WIRE_RATIO else "below"


def _us(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"
