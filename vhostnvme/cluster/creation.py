"""A command that makes something, until it is answered."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Creation:
    """A command that waits until a device, or one namespace of it, is whole."""

    command: int
    device: str
    nsid: int | None = None  # one namespace of a device that is there
    adds: bool = False  # that namespace goes when it cannot be had
    adopts_until: float | None = None  # what is taken over is not undone, only answered
    give_up_at: float | None = None  # set once all space is there
