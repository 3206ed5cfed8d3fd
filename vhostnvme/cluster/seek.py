"""The way of one wanted namespace from card to card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vhostnvme.cluster.rows import HoldingRow

# The holding as it is HELD, or why there is none.
Found = Callable[[HoldingRow | None, Exception | None], None]


@dataclass(slots=True)
class Seek:
    """`uuid` is that of the current attempt."""

    uuid: str
    found: Found
    started: float
    wait_until: float
    ssd: str | None = None
    tried: set[str] = field(default_factory=set)
    ask_until: float | None = None  # a peer has been asked
    written: bool = False  # its record is in the store
    retry_at: float | None = None  # nobody has been asked
    silent: list[str] = field(default_factory=list)  # who has been asked and did not answer
    reason: str = ""  # why space that there was could not be made
