"""The way from a card to one copy of a namespace: commands that arrive, wait, fail or get lost.

A local copy answers as its SSD does. A remote one goes through its giver's target: a connection
that has ended is made anew, and what is still on its way by the old one is never carried out after
that, as docs/decisions/0010-no-ghost-writes.md has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vhostnvme.cluster.rows import HoldingRow

if TYPE_CHECKING:
    from vhostnvme.testing.simulator.card import Card
    from vhostnvme.testing.simulator.world import World

RETRY_S = 0.1
PATIENCE_S = 5.0  # so long a command is sent again; then it ends with an error
WAY_S = 0.001

# Whether it was carried out, and the version that was read.
Ended = Callable[[bool, int], None]


class Path:
    """A copy as a card has it open. `under_way`: what a local SSD still keeps of it."""

    def __init__(self, world: World, card: Card, holding: HoldingRow) -> None:
        self._world = world
        self._card = card
        self._life = card.life
        self.holding = holding
        self.closed = False
        self.under_way = 0
        self._token = 0

    @property
    def is_local(self) -> bool:
        return self.holding.giver == self._card.name

    def open(self) -> bool:
        """Whether the copy can be opened now."""
        if not self._world.admits(self._card, self.holding):
            return False
        if self.is_local:
            return self._card.medium.fault_of(self.holding.uuid) == ""
        return self._connect()

    def close(self) -> None:
        """Nobody waits for its commands any more; what was sent may still be carried out."""
        self.closed = True

    def command(self, region: int, version: int | None, ended: Ended) -> None:
        """Reads a region, or writes a version to it; `ended` is called once, or never."""
        if self.is_local:
            self._local(region, version, ended)
        else:
            self._Remote(self, region, version, ended).try_it()

    # --- Here ---

    def _local(self, region: int, version: int | None, ended: Ended) -> None:
        card, uuid = self._card, self.holding.uuid
        self.under_way += 1

        def act() -> None:
            if card.life != self._life:
                return
            fault = card.medium.fault_of(uuid)
            if fault == "hang":
                self._world.engine.after(RETRY_S, act)
                return
            self.under_way -= 1
            space = card.medium.find(uuid)
            if space is None or fault:
                ended(False, 0)
            elif version is None:
                ended(True, space.content.get(region, 0))
            else:
                epoch = self._world.local_epoch(card, uuid)
                space.put(card.name, epoch, region, version)
                ended(True, version)

        self._world.engine.after(WAY_S, act)

    # --- At another card ---

    def _connect(self) -> bool:
        """False: the giver is not reached, does not let us in, or still has our commands."""
        world, holding = self._world, self.holding
        giver = world.cards.get(holding.giver)
        if giver is None or not world.reaches(self._card, holding.giver):
            return False
        token = next(world.tokens)
        if not giver.target.connect(self._card.name, holding.uuid, holding.epoch, token):
            return False
        self._token = token
        return True

    def _is_connected(self) -> bool:
        giver = self._world.cards.get(self.holding.giver)
        export = giver.target.find(self.holding.uuid) if giver else None
        return export is not None and self._token != 0 and export.token == self._token

    class _Remote:
        """One command, until it is answered or given up."""

        def __init__(self, path: Path, region: int, version: int | None, ended: Ended) -> None:
            self._path = path
            self._region, self._version, self._ended = region, version, ended
            self._until = path._world.engine.now + PATIENCE_S
            self._sent_by = 0  # the connection
            self._answered = False

        def try_it(self) -> None:
            """Sends it, again when its connection has ended; looks after it until its end."""
            path = self._path
            if self._answered or path.closed or path._card.life != path._life:
                return
            engine = path._world.engine
            reached = path._world.reaches(path._card, path.holding.giver)
            if engine.now >= self._until:
                path._token = 0  # what may still be on its way ends with its connection
                self._end(False, 0)
                return
            connected = reached and (path._is_connected() or path._connect())
            if connected and self._sent_by != path._token:
                self._sent_by = path._token
                engine.after(WAY_S, self._arrive)
            engine.after(RETRY_S, self.try_it)

        def _arrive(self) -> None:
            path = self._path
            world, holding = path._world, path.holding
            giver = world.cards[holding.giver]
            if not giver.up or path._card.life != path._life:
                return
            if giver.pauses:
                world.engine.after(RETRY_S, self._arrive)
                return
            if not world.reaches(path._card, holding.giver):
                return  # it is sent again when the connection is
            if not giver.target.command(
                path._card.name, holding.uuid, holding.epoch, self._sent_by, self._region,
                self._version, self._return,
            ):  # fmt: skip
                self._lose()

        def _return(self, ok: bool, value: int) -> None:
            path = self._path

            def back() -> None:
                if path._card.life == path._life and path._world.reaches(
                    path._card, path.holding.giver
                ):
                    self._end(ok, value)
                else:
                    self._lose()

            path._world.engine.after(WAY_S, back)

        def _lose(self) -> None:
            """The connection has ended: it is made anew, and the command sent again."""
            if self._path._token == self._sent_by:
                self._path._token = 0
            self._sent_by = 0

        def _end(self, ok: bool, value: int) -> None:
            if not self._answered and not self._path.closed:
                self._answered = True
                self._ended(ok, value)
