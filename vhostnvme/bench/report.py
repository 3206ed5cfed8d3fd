"""What a comparison shows: a table with ratios, JSON, and a picture."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vhostnvme.bench.contestants import CONTESTANTS, OURS
from vhostnvme.bench.guest import Cell, Results, median


def contestants_of(results: Results) -> list[str]:
    return list(dict.fromkeys(name for name, _, _ in results))


def groups_of(results: Results) -> list[tuple[str, Cell]]:
    return list(dict.fromkeys((backing, cell) for _, backing, cell in results))


def best_peer(results: Results, backing: str, cell: Cell) -> float:
    """The highest median IOPS among the others; 0 when there are none."""
    ours = {contestant.name for contestant in CONTESTANTS if contestant.is_ours}
    peers = [name for name in contestants_of(results) if name not in ours]
    return max((median(results[name, backing, cell].iops) for name in peers), default=0.0)


def show(results: Results, accel: str) -> None:
    """Prints a line for each disk and load; the ratio is ours to the best of the others."""
    table = Table(title=f"In one guest ({accel}), in turns, medians")
    table.add_column("file, load")
    table.add_column("disk")
    for heading in ("IOPS", "p50 us", "p99 us", "host CPU s\nper 10k I/Os", "ours /\nbest peer"):
        table.add_column(heading, justify="right")
    for backing, cell in groups_of(results):
        ours = median(results[OURS, backing, cell].iops)
        best = best_peer(results, backing, cell)
        for name in contestants_of(results):
            samples = results[name, backing, cell]
            first = name == OURS
            table.add_row(
                f"{backing}, {cell.label}" if first else "",
                name,
                f"{median(samples.iops):,.0f}",
                f"{median(samples.latency_p50_us):,.0f}",
                f"{median(samples.latency_p99_us):,.0f}",
                f"{median(samples.host_cpu_s_per_10k):.2f}",
                f"{ours / best:.2f}" if first and best else "",
            )
        table.add_section()
    Console().print(table)


def write_json(results: Results, accel: str, path: Path) -> None:
    """A list of flat objects: medians and all samples of each disk and load."""
    rows = []
    for (name, backing, cell), samples in results.items():
        best = best_peer(results, backing, cell)
        rows.append(
            {
                "contestant": name,
                "backing": backing,
                "accel": accel,
                "rw": cell.rw,
                "block_size": cell.block_size,
                "depth": cell.depth,
                "iops": median(samples.iops),
                "latency_p50_us": median(samples.latency_p50_us),
                "latency_p99_us": median(samples.latency_p99_us),
                "host_cpu_s_per_10k": median(samples.host_cpu_s_per_10k),
                "ratio_to_best_peer": median(samples.iops) / best if best else None,
                "iops_samples": samples.iops,
            }
        )
    path.write_text(json.dumps(rows, indent=2) + "\n")


def draw(results: Results, accel: str, path: Path) -> None:
    """IOPS over queue depth, one panel for each pattern and kind of file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys((backing, cell.rw) for _, backing, cell in results))
    figure, axes = pyplot.subplots(
        2, len(panels), figsize=(4.2 * len(panels), 7), squeeze=False, layout="constrained"
    )
    for column, (backing, rw) in enumerate(panels):
        for name in contestants_of(results):
            mine = sorted(
                (
                    (cell.depth, samples)
                    for (who, where, cell), samples in results.items()
                    if who == name and where == backing and cell.rw == rw
                ),
                key=lambda pair: pair[0],
            )
            depths = [depth for depth, _ in mine]
            style = {"marker": "o", "linewidth": 2.4 if name == OURS else 1.2, "label": name}
            axes[0][column].plot(depths, [median(s.iops) for _, s in mine], **style)
            axes[1][column].plot(depths, [median(s.host_cpu_s_per_10k) for _, s in mine], **style)
        axes[0][column].set_title(f"4 KiB {rw}, file on {backing}")
        for row, label in enumerate(("IOPS", "host CPU seconds per 10,000 I/Os")):
            axis = axes[row][column]
            axis.set_xscale("log", base=2)
            axis.set_xticks(depths, [str(depth) for depth in depths])
            axis.set_ylim(bottom=0)
            axis.set_xlabel("queue depth")
            axis.set_ylabel(label)
            axis.grid(alpha=0.3)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    figure.suptitle(f"In one guest ({accel}), in turns, medians")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
