"""One effect for a namespace at a time, and when to take its next step after a failure."""

from __future__ import annotations

from collections.abc import Callable

from vhostnvme.cluster.board import Board, Then
from vhostnvme.cluster.cluster_manager import ClusterManager
from vhostnvme.cluster.messages import Effect, Failure, FailureKind
from vhostnvme.cluster.space_store import Told

RETRY_S = 2.0
BUSY_RETRY_S = 0.25
MEMBER_RETRY_S = 1.0  # without the store there is nothing to be written


class Steps:
    """Of one manager, whose `act_on` takes the next step for a UUID."""

    def __init__(
        self, board: Board, cluster: ClusterManager, act_on: Callable[[str], None]
    ) -> None:
        self._board = board
        self._cluster = cluster
        self._act_on = act_on
        self._busy: set[str] = set()
        self._retry_at: dict[str, float] = {}

    def is_busy(self, uuid: str) -> bool:
        """Whether an effect for it is under way."""
        return uuid in self._busy

    def is_free(self, uuid: str) -> bool:
        """Whether its next step may be taken now."""
        return uuid not in self._busy and self._retry_at.get(uuid, 0.0) <= self._board.now

    def at_once(self, uuid: str) -> None:
        """Its next step need not wait any more."""
        self._retry_at.pop(uuid, None)

    def tick(self) -> None:
        for uuid in [uuid for uuid, at in self._retry_at.items() if at <= self._board.now]:
            del self._retry_at[uuid]
            self._act_on(uuid)

    def begin(self, uuid: str, make: Callable[[int], Effect], then: Then) -> None:
        """Begins an effect; after its end, and `then`, comes the next step."""
        self._busy.add(uuid)

        def done(value: object, failure: Failure | None) -> None:
            self._busy.discard(uuid)
            if failure is not None:
                busy = failure.kind is FailureKind.BUSY
                self._retry_at[uuid] = self._board.now + (BUSY_RETRY_S if busy else RETRY_S)
            then(value, failure)
            self._act_on(uuid)

        self._board.begin(make, done)

    def write(self, uuid: str, begin: Callable[[Told], None]) -> None:
        """Begins a change of its record in the store, if this card may change anything."""
        if not self._cluster.member:
            self._retry_at[uuid] = self._board.now + MEMBER_RETRY_S
            return
        self._busy.add(uuid)

        def told(done: bool | None) -> None:
            self._busy.discard(uuid)
            if not done:
                self._retry_at[uuid] = self._board.now + BUSY_RETRY_S
            self._act_on(uuid)

        begin(told)

    def hold(self, uuid: str) -> None:
        """Something is under way that is not begun here; `release` ends it."""
        self._busy.add(uuid)

    def release(self, uuid: str) -> None:
        self._busy.discard(uuid)
