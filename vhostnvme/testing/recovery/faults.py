"""What can happen to a copy: to the card that gives it, to that card's link, or to its SSD."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from vhostnvme.testing.faulty_ssd import EVERYTHING
from vhostnvme.testing.recovery.bed import OWNER, Bed, Copy

__all__ = ["KINDS", "Deck", "Fault", "draw_fault"]

# The last word of an SSD's fault says whose SSD it is: the guest's own card's, or another card's.
KINDS = ("kill", "freeze", "cut", "fail own", "fail other", "hang own", "hang other")
_SSD_REQUESTS = (EVERYTHING, EVERYTHING, ("read",), ("write", "sync"))


@dataclass(frozen=True, slots=True)
class Fault:
    """`requests`: those of an SSD that it meets."""

    kind: str
    card: str
    requests: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.requests:
            return f"{self.kind} {self.card}"
        met = "" if self.requests == EVERYTHING else f" ({', '.join(self.requests)})"
        return f"{self.kind.split()[0]} the SSD of {self.card}{met}"

    async def begin(self, bed: Bed) -> None:
        """
        Raises:
            VhostNvmeError: it cannot be brought about.
        """
        match self.kind.split()[0]:
            case "kill":
                await asyncio.to_thread(bed.lab.kill, self.card)
            case "freeze":
                await asyncio.to_thread(bed.lab.freeze, self.card)
            case "cut":
                await asyncio.to_thread(bed.lab.partition, self.card)
            case "fail":
                await asyncio.to_thread(bed.ssds[self.card].fail, self.requests)
            case "hang":
                await asyncio.to_thread(bed.ssds[self.card].hang, self.requests)

    async def heal(self, bed: Bed) -> None:
        """
        Raises:
            VhostNvmeError: a card does not start again.
        """
        match self.kind.split()[0]:
            case "kill":
                await asyncio.to_thread(bed.lab.restart, self.card)
            case "freeze":
                await asyncio.to_thread(bed.lab.thaw, self.card)
            case "cut":
                await asyncio.to_thread(bed.lab.heal, self.card)
            case _:
                await asyncio.to_thread(bed.ssds[self.card].heal)


class Deck:
    """All kinds in random order, and again: a few cycles meet many, many cycles all alike."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._left: list[str] = []

    def draw(self) -> str:
        if not self._left:
            self._left = self._dice.sample(KINDS, len(KINDS))
        return self._left.pop()


def draw_fault(dice: random.Random, kind: str, copies: Sequence[Copy]) -> Fault:
    """One of this kind at a card that has a copy; at another card when the owner has none."""
    cards = sorted({copy.card for copy in copies})
    if OWNER not in cards:
        kind = kind.replace("own", "other")
    others = [card for card in cards if card != OWNER]
    card = OWNER if kind.endswith("own") else dice.choice(others)
    requests = dice.choice(_SSD_REQUESTS) if " " in kind else ()
    return Fault(kind, card, requests)
