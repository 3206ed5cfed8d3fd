"""Tables for people, on stdout."""

from __future__ import annotations

from collections.abc import Sequence

COLUMNS_MIN = 100  # what the tables need; a narrower terminal wraps them


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Cells that are too long are folded; a table without any headings has none."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console = Console(width=max(console.width, COLUMNS_MIN))
    table = Table(
        title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, show_header=any(headings)
    )
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a peer's brackets are no markup
    console.print(table)
