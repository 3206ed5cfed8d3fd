"""Tables for people, on stdout."""

from __future__ import annotations

from collections.abc import Collection, Sequence

COLUMNS_MIN = 100  # what folded tables need; a narrower terminal wraps them


def print_table(
    title: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[str] = (),
    folded: bool = True,
) -> None:
    """A table without any headings has none, and one without rows is its title alone.

    Args:
        numbers: the headings of columns that are aligned to the right.
        folded: cells that are too long for the terminal are; else its lines are longer than that,
            so that what is in them can be copied.
    """
    from rich import box
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    console = Console()
    table = Table(
        title=Text(title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        show_header=any(headings),
    )
    if not rows:
        console.print(table.title, highlight=False)
        return
    for heading in headings:
        table.add_column(
            heading, overflow="fold", justify="right" if heading in numbers else "left"
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a peer's brackets are no markup
    width = max(console.width, COLUMNS_MIN)
    if not folded:
        wide = console.options.update(max_width=1 << 14)
        width = max(console.width, Measurement.get(console, wide, table).maximum)
    Console(width=width).print(table)
