"""Reads the tables of docs/nvme.md, for tests that hold them against sources and controllers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
DOCUMENT = TOP / "docs" / "nvme.md"
OFFERED = ("yes", "drive", "zoned", "fabrics", "no")
CHECKS = "What emulators get wrong"
TEST = re.compile(r"`(tests/[\w./-]+)(?:::(\w+))?`")


@dataclass(frozen=True)
class Row:
    """One thing that a host may ask for."""

    number: int
    name: str
    offered: str
    more: tuple[str, ...]  # columns between that one and the last
    last: str

    @property
    def tests(self) -> list[tuple[str, str]]:
        """Paths, and the function in it or ''."""
        return TEST.findall(self.last)


def lines_of(section: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    text = DOCUMENT.read_text()
    start = text.index(f"\n## {section}\n")
    part = text[start + 1 :].partition("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def table(section: str) -> dict[int, Row]:
    """A section's rows by their numbers."""
    rows: dict[int, Row] = {}
    for number, name, offered, *more, last in lines_of(section):
        value = int(number.strip("`h"), 16)
        assert value not in rows, f"{section}: {number} is there twice"
        rows[value] = Row(value, name, offered, tuple(more), last)
    return rows


def offered(section: str, *kinds: str) -> set[int]:
    """The numbers of what is offered so."""
    return {row.number for row in table(section).values() if row.offered in (kinds or ("yes",))}
