"""The pictures of a benchmark: one file for each question, a row of panels for each section."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vhostnvme.bench.samples import Case, Results

# Okabe and Ito's colours, which people with any colour vision tell apart; ours are dark and thick,
# and each line has a marker of its own as well.
OURS_STYLES = (("#000000", "o"), ("#0072B2", "D"), ("#56B4E9", "^"))
PEER_STYLES = (
    ("#D55E00", "s"),
    ("#E69F00", "v"),
    ("#009E73", "P"),
    ("#CC79A7", "X"),
    ("#56B4E9", "^"),
    ("#999999", "D"),
)
PANEL_INCHES = (3.7, 3.1)
SIDE_INCHES = 1.1
LEGEND_INCHES = 2.2
TITLE_INCHES = 0.95
DPI = 120
SCALING = "scaling"
SECTION_NAMES = {
    "guest": "in a guest",
    "host": "without a VM, a file",
    "engine": "without a VM, no file",
    "tcp": "over NVMe/TCP, memory",
}

Draw = Callable[[Any, list[Case], dict[str, Any]], None]


def draw_all(results: Results, machine: dict[str, Any], folder: Path) -> list[Path]:
    """Draws what the results have; returns the files.

    Raises:
        ImportError: there is no matplotlib.
    """
    from matplotlib import use

    use("Agg")
    where = f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}"
    sections = [section for section in results.sections() if section != SCALING]
    paths = []
    if sections:
        for name, title, draw in _questions(results):
            path = folder / f"bench-{name}.png"
            _draw_panels(results, sections, f"{title}\n{where}", draw, path)
            paths.append(path)
    if SCALING in results.sections():
        path = folder / "bench-scaling.png"
        _draw_scaling(results, where, path)
        paths.append(path)
    return paths


def _questions(results: Results) -> list[tuple[str, str, Draw]]:
    depths = sorted({c.load.depth for c in results.samples if c.section != SCALING})
    asked: list[tuple[str, str, Draw]] = [
        ("iops", "IOPS over queue depth, medians", _iops_panel(results)),
        (
            "cpu",
            "CPU time of server and load for 10,000 I/Os (less is better), medians;"
            " dashed: the server's part",
            _cpu_panel(results),
        ),
    ]
    for depth in depths:
        title = f"Latency percentiles at queue depth {depth} (lower is better), medians"
        asked.append((f"latency-{depth}", title, _latency_panel(results, depth)))
    return asked


def _panels(results: Results, section: str) -> list[tuple[str, list[Case]]]:
    """A panel for each backing and pattern: its title and its cases."""
    panels: dict[tuple[str, str], list[Case]] = {}
    for case in results.samples:
        if case.section == section:
            panels.setdefault((case.load.pattern, case.backing), []).append(case)
    return [
        (f"{pattern.replace('K', ' KiB')}, {backing}", cases)
        for (pattern, backing), cases in panels.items()
    ]


def _styles(names: Sequence[str], ours: Callable[[str], bool]) -> dict[str, dict[str, Any]]:
    styles = {}
    mine, theirs = iter(OURS_STYLES * 9), iter(PEER_STYLES * 9)
    for name in names:
        colour, marker = next(mine) if ours(name) else next(theirs)
        styles[name] = {
            "color": colour,
            "marker": marker,
            "markersize": 6 if ours(name) else 5,
            "linewidth": 2.4 if ours(name) else 1.3,
            "zorder": 4 if ours(name) else 3,
            "label": name,
        }
    return styles


def _draw_panels(
    results: Results, sections: Sequence[str], title: str, draw: Draw, path: Path
) -> None:
    """A row for each section, with its legend to the right of it."""
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    rows = [(section, _panels(results, section)) for section in sections]
    columns = max(len(panels) for _, panels in rows)
    wide, high = PANEL_INCHES
    width, height = wide * columns + SIDE_INCHES + LEGEND_INCHES, high * len(rows) + TITLE_INCHES
    figure = pyplot.figure(figsize=(width, height))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    # By hand: a layout engine takes seconds for so many panels.
    figure.subplots_adjust(
        left=SIDE_INCHES / width,
        right=1 - LEGEND_INCHES / width,
        bottom=0.5 / height,
        top=1 - TITLE_INCHES / height,
        wspace=0.27,
        hspace=0.4,
    )
    figure.suptitle(title, fontsize=11, y=1 - 0.12 / height, va="top")
    for axes, (section, panels) in zip(grid, rows, strict=True):
        cases = [case for _, listed in panels for case in listed]
        own = {case.contestant for case in cases if case.is_ours}
        styles = _styles(list(dict.fromkeys(c.contestant for c in cases)), own.__contains__)
        for axis, (name, listed) in zip(axes, panels, strict=False):
            axis.set_title(name, fontsize=10)
            draw(axis, listed, styles)
            axis.grid(alpha=0.3)
            axis.tick_params(labelsize=8)
        for axis in axes[len(panels) :]:
            axis.axis("off")
        place = axes[0].get_position()
        middle = (place.y0 + place.y1) / 2
        figure.text(
            0.12 / width, middle, SECTION_NAMES[section], rotation=90, va="center", weight="bold"
        )
        figure.legend(
            handles=[Line2D([], [], **style) for style in styles.values()],
            loc="center left",
            bbox_to_anchor=(1 - (LEGEND_INCHES - 0.1) / width, middle),
            fontsize=9,
            frameon=False,
        )
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)


def _over_depth(
    axis: Any,
    cases: list[Case],
    styles: dict[str, Any],
    value: Callable[[Case], float],
) -> None:
    if not cases:
        return
    depths = sorted({case.load.depth for case in cases})
    for name, style in styles.items():
        mine = sorted((c for c in cases if c.contestant == name), key=lambda c: c.load.depth)
        axis.plot([c.load.depth for c in mine], [value(c) for c in mine], **style)
    axis.set_xscale("log", base=2)
    axis.set_xticks(depths, [str(depth) for depth in depths])
    axis.minorticks_off()
    axis.set_xlabel("queue depth", fontsize=9)


def _iops_panel(results: Results) -> Draw:
    def draw(axis: Any, cases: list[Case], styles: dict[str, Any]) -> None:
        most = max(results.iops(case) for case in cases)
        scale, unit = (1e6, "million ") if most >= 1.5e6 else (1e3, "thousand ")
        _over_depth(axis, cases, styles, lambda case: results.iops(case) / scale)
        axis.set_ylim(bottom=0)
        axis.set_ylabel(f"{unit}IOPS", fontsize=9)

    return draw


def _cpu_panel(results: Results) -> Draw:
    def draw(axis: Any, cases: list[Case], styles: dict[str, Any]) -> None:
        _over_depth(axis, cases, styles, results.cpu)
        shared = [case for case in cases if results.server_cpu(case) is not None]
        thin = {
            name: {**style, "linestyle": "--", "linewidth": 1.0, "markersize": 3}
            for name, style in styles.items()
        }
        _over_depth(axis, shared, thin, lambda case: results.server_cpu(case) or 0.0)
        axis.set_yscale("log")
        axis.set_ylabel("CPU s for 10,000 I/Os", fontsize=9)
        _plain_log_labels(axis.yaxis)

    return draw


def _latency_panel(results: Results, depth: int) -> Draw:
    def draw(axis: Any, cases: list[Case], styles: dict[str, Any]) -> None:
        ticks = (50.0, 90.0, 99.0, 99.9, 99.99)
        for case in cases:
            if case.load.depth != depth:
                continue
            known = [each for each in results.percentiles(case) if each >= ticks[0]]
            values = [results.latency_us(case, each) for each in known]
            style = {**styles[case.contestant], "markevery": _indices(known, ticks)}
            axis.plot([nines(each) for each in known], values, **style)
        axis.set_xticks([nines(each) for each in ticks], [f"{each:g}" for each in ticks])
        axis.set_xlim(nines(50) - 0.15, nines(99.99) + 0.15)
        axis.set_yscale("log")
        axis.set_xlabel("percentile", fontsize=9)
        axis.set_ylabel("latency, µs", fontsize=9)
        _plain_log_labels(axis.yaxis)

    return draw


def nines(percentile: float) -> float:
    """The place of a percentile on an axis that gives each further nine the same room."""
    return -math.log10(1 - percentile / 100)


def _indices(known: Sequence[float], wanted: Sequence[float]) -> list[int]:
    return [index for index, each in enumerate(known) if each in wanted]


def _plain_log_labels(axis: Any) -> None:
    """1, 2, 5, 10 in place of powers, and few enough not to meet."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def _draw_scaling(results: Results, where: str, path: Path) -> None:
    """Total IOPS, and the server's CPU time for 10,000 I/Os, over the number of devices."""
    from matplotlib import pyplot

    cases = [case for case in results.samples if case.section == SCALING]
    names = sorted({case.contestant for case in cases})
    styles = _styles(names, lambda name: True)
    load = cases[0].load
    figure, axes = pyplot.subplots(1, 2, figsize=(9.8, 4.6))
    figure.subplots_adjust(left=0.08, right=0.98, top=0.86, bottom=0.22, wspace=0.24)
    panels: list[tuple[str, Callable[[Case], float]]] = [
        ("thousand IOPS, all devices together", lambda case: results.iops(case) / 1e3),
        ("server CPU s for 10,000 I/Os", lambda case: results.server_cpu(case) or 0.0),
    ]
    for axis, (label, value) in zip(axes, panels, strict=True):
        counts = sorted({case.load.devices for case in cases})
        for name in names:
            mine = sorted(
                (case for case in cases if case.contestant == name),
                key=lambda case: case.load.devices,
            )
            axis.plot([c.load.devices for c in mine], [value(c) for c in mine], **styles[name])
        axis.set_xscale("log", base=2)
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.set_xlabel("devices of one server process")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    figure.suptitle(
        f"Scaling over devices, {load.label} each, null namespaces\n{where}", fontsize=11
    )
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
