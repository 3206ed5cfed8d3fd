"""What the tests of the lab share: a plan with stand-ins for cards, and that nothing is left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vhostnvme.lab import LabPlan, namespaces
from vhostnvme.lab.names import namespace_prefix
from vhostnvme.lab.plan import Layout, layout_of

STANDIN = Path(__file__).parent / "unit" / "lab" / "standin_card.py"


def standin_command(config: Path) -> Sequence[str]:
    return [sys.executable, str(STANDIN), str(config)]


def standin_plan(cards: int = 2, **options: Any) -> LabPlan:
    """A lab whose cards only answer."""
    return LabPlan(cards=cards, card_command=standin_command, **options)


def traces(directory: Path) -> list[str]:
    """What is there of the lab in this folder, its files but for the folder itself left out.

    Processes are told by the folder's or the sockets' path in what they were started with.
    """
    layout = layout_of(directory)
    found = [f"namespace {name}" for name in namespaces.find(namespace_prefix(layout.lab))]
    found += [f"file {path}" for path in Path("/run").glob(f"*{layout.lab}*")]
    found += [f"file {path}" for path in layout.directory.parent.glob(f"*{layout.lab}*")]
    found += [f"file {layout.directory}"] if layout.directory.exists() else []
    return found + _processes(layout)


def _processes(layout: Layout) -> list[str]:
    words = (str(layout.directory).encode(), layout.lab.encode())
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            said = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if any(word in said for word in words):
            found.append(f"process {folder.name}: {said[:200]!r}")
    return found
