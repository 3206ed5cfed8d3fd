"""The pictures of docs/performance.md, from the figures of budget.py and trace_guest.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which people with any colour vision tell apart; the last two are greys.
COLOURS = "#0072B2 #56B4E9 #009E73 #F0E442 #E69F00 #D55E00 #CC79A7 #999999 #DDDDDD".split()
DARK = {"#0072B2", "#009E73", "#D55E00", "#000000", "#666666"}  # their labels are white
DPI = 120
NR_COLUMNS = 4  # of the legend
LABEL_SHARE_MIN = 0.028  # a narrower part of the axis has no room for its figure

Bars = Mapping[str, Mapping[str, float]]


def draw(kept: Mapping[str, Any], folder: Path, stages: Sequence[str]) -> list[Path]:
    """Draws what there are figures of; returns the files. `stages`: those of instructions."""
    from matplotlib import use

    use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    if "instructions" in kept:
        shapes = kept["instructions"]["shapes"]
        names = {shape: shape.replace("/read-4k/", ", depth ") for shape in shapes}
        paths.append(folder / "budget-instructions.png")
        _draw_bars(
            {names[shape]: _without_nothing(stages) for shape, stages in shapes.items()},
            paths[-1],
            title="Instructions of one 4 KiB read in user space, by stage",
            label=f"instructions per I/O ({kept['instructions']['compiler']}, callgrind)",
            order=stages,
            gaps=[list(shapes).index("null/read-4k/32")],
        )
    if "guest" in kept:
        paths.append(folder / "budget-guest.png")
        bars = {
            f"{name}\n({bar['nr_cycles']} I/Os)": _without_nothing(bar["stages"])
            for name, bar in kept["guest"]["bars"].items()
        }
        _draw_bars(
            bars,
            paths[-1],
            title="A guest's 4 KiB read at depth 1: a disk file, TCG, two cores",
            label="µs, median of each stage",
            order=list(next(iter(kept["guest"]["bars"].values()))["stages"]),
        )
    return paths


def _without_nothing(stages: Mapping[str, float]) -> dict[str, float]:
    return {stage: own for stage, own in stages.items() if own > 0}


def _draw_bars(
    bars: Bars,
    path: Path,
    *,
    title: str,
    label: str,
    order: Sequence[str] = (),
    gaps: Sequence[int] = (),
) -> None:
    """A bar for each, its stages side by side, and the sum at its end.

    `order`: of the legend, else as they come; `gaps`: the bars with some room before them.
    """
    from matplotlib import pyplot

    used = dict.fromkeys(stage for parts in bars.values() for stage in parts)
    stages = [*(stage for stage in order if stage in used), *(s for s in used if s not in order)]
    colours = dict(zip(stages, COLOURS, strict=False))
    rows = (len(stages) + NR_COLUMNS - 1) // NR_COLUMNS
    longest = max(sum(parts.values()) for parts in bars.values())
    high = 1.5 + 0.42 * len(bars) + 0.3 * rows
    figure, axis = pyplot.subplots(figsize=(10.5, high))
    places = [index + 0.45 * sum(index >= gap for gap in gaps) for index in range(len(bars))]
    for place, parts in zip(places, bars.values(), strict=True):
        left = 0.0
        for stage, own in parts.items():
            colour = colours[stage]
            axis.barh(place, own, left=left, height=0.74, color=colour, edgecolor="white")
            if own > LABEL_SHARE_MIN * longest:
                axis.text(
                    left + own / 2,
                    place,
                    f"{own:,.0f}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if colour in DARK else "black",
                )
            left += own
        axis.text(left + 0.006 * longest, place, f"{left:,.0f}", va="center", weight="bold")
    axis.set_yticks(places, list(bars))
    axis.invert_yaxis()
    axis.set_xlim(0, longest * 1.07)
    axis.set_xlabel(label, fontsize=9)
    axis.tick_params(labelsize=9)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colours[stage]) for stage in stages]
    figure.legend(handles, stages, loc="lower center", ncols=NR_COLUMNS, fontsize=9, frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.tight_layout(rect=(0, 0.24 * rows / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
