"""Who asks for this card's space, in the order in which they get it. Sizes in bytes.

The highest priority first; a request gains one for each `aging_s` that it has waited, and equals
draw lots. While there is room for more, nobody is kept waiting. Who would take the last space waits
for `contention_s` from the first request on, so that of those who ask at about the same time the
best gets it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vhostnvme.cluster.board import Board
from vhostnvme.cluster.local_space import LocalSpace
from vhostnvme.cluster.messages import SsdReport
from vhostnvme.cluster.records import SpaceRecord
from vhostnvme.cluster.rows import SpaceRow

# The SSD on which there is space now, or why it could not be made ("": there is none).
Granted = Callable[[str | None, str], None]


@dataclass(slots=True)
class Request:
    """Somebody wants space here: another card by its record, or this one (`granted`)."""

    uuid: str
    owner: str
    vm: str
    device: str
    size: int
    block_size: int
    priority: int
    waited_s: float  # before it came here
    since: float
    draw: float  # decides between equals
    ssd: str | None = None
    with_reserve: bool = False
    mirror: str = ""
    granted: Granted | None = None

    def rank(self, now: float, aging_s: float) -> tuple[float, float]:
        waited_s = self.waited_s + now - self.since
        return (self.priority + waited_s / aging_s, self.draw)

    def row(self, ssd: str) -> SpaceRow:
        """As it is written when it is granted."""
        return SpaceRow(
            uuid=self.uuid,
            ssd=ssd,
            size=self.size,
            block_size=self.block_size,
            owner=self.owner,
            vm=self.vm,
            device=self.device,
        )


class Requests:
    """Of one card."""

    def __init__(self, board: Board, local: LocalSpace) -> None:
        self._board = board
        self._local = local
        self._requests: dict[str, Request] = {}

    def add(self, request: Request) -> None:
        self._requests[request.uuid] = request

    def add_record(self, record: SpaceRecord) -> None:
        """Another card's; one that is here already keeps its place."""
        if record.uuid in self._requests:
            return
        self.add(
            Request(
                uuid=record.uuid,
                owner=record.owner,
                vm=record.vm,
                device=record.device,
                size=record.size,
                block_size=record.block_size,
                priority=record.priority,
                waited_s=record.waited_ms / 1000,
                since=self._board.now,
                draw=self._board.random.random(),
            )
        )

    def remove(self, uuid: str) -> None:
        self._requests.pop(uuid, None)

    def remove_record(self, uuid: str) -> None:
        """One of another card: its record has gone."""
        request = self._requests.get(uuid)
        if request is not None and request.granted is None:
            del self._requests[uuid]

    def next(self, can_answer: Callable[[Request], bool]) -> tuple[Request, str | None] | None:
        """Takes out the request to be answered now, and the SSD for it (None: it is refused).

        Args:
            can_answer: whether a request can be answered at the moment.
        """
        waiting = [each for each in self._requests.values() if can_answer(each)]
        if not waiting:
            return None
        now, options = self._board.now, self._board.options
        first = max(waiting, key=lambda each: each.rank(now, options.aging_s))
        ssd = self._local.best(
            first.size,
            with_reserve=first.with_reserve,
            only=first.ssd,
            without=self._local.ssds_with_copies(first.mirror),
        )
        early = now < min(each.since for each in waiting) + options.contention_s
        if ssd is not None and early and not self._fits_again(first, ssd):
            return None
        del self._requests[first.uuid]
        gives = first.granted is not None or options.addresses
        return first, ssd.name if ssd is not None and gives else None

    def _fits_again(self, request: Request, ssd: SsdReport) -> bool:
        return self._local.fits_again(request.size, ssd, with_reserve=request.with_reserve)
