"""The simulated world of one history: cards, their store, the network between them, and guests."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any, NoReturn

from vhostnvme.cluster.pool import Pool
from vhostnvme.cluster.rows import HoldingRow
from vhostnvme.testing.simulator import events as ev
from vhostnvme.testing.simulator.card import Card, MakeManagers, Trap
from vhostnvme.testing.simulator.engine import Engine, RuleBroken, Trace
from vhostnvme.testing.simulator.ledger import Ledger
from vhostnvme.testing.simulator.legs import ATTACHED
from vhostnvme.testing.simulator.medium import SimSpace
from vhostnvme.testing.simulator.mirror import REGIONS
from vhostnvme.testing.simulator.orders import Orders
from vhostnvme.testing.simulator.plan import Plan
from vhostnvme.testing.simulator.rules import Rules
from vhostnvme.testing.simulator.store import SimStore

if TYPE_CHECKING:
    from vhostnvme.testing.simulator.bugs import Bug

LATE_WRITE_SHARE = 0.1
READ_SHARE = 0.3


class World:
    """Runs a plan. Everything in it follows from the plan alone.

    Args:
        make: of a card's managers.
        bug: a seeded bug.
    """

    def __init__(self, plan: Plan, make: MakeManagers = Pool, bug: Bug | None = None) -> None:
        self.plan = plan
        self.make = make
        self.bug = bug
        self.engine = Engine()
        self.trace = Trace()
        self.births = itertools.count(1)
        self.tokens = itertools.count(1)  # of connections
        self.store = SimStore(self.engine)
        self.rules = Rules(self)
        self.ledger = Ledger(self)
        self.orders = Orders(self)
        self.cards = {card.name: Card(self, card) for card in plan.cards}
        self.steps = 0
        self._cuts: dict[frozenset[str], int] = {}
        self._stamps = itertools.count(1)
        self._quiet = False
        if bug is not None and bug.prepare is not None:
            bug.prepare(self)
        for card in self.cards.values():
            self.engine.after(card.plan.joins_at, card.start)
            self._guests_of(card)
        for event in plan.events:
            self.engine.after(event.at, lambda event=event: self._happens(event))  # type: ignore[misc]

    def rng(self, purpose: str) -> random.Random:
        """Chance of its own for each purpose: what is left out changes little elsewhere."""
        return random.Random(f"{self.plan.seed} {purpose}")

    def note(self, card: str, what: str, thing: Any = None) -> None:
        self.trace.note(self.engine.now, card, what, thing)

    def fail(self, sentence: str) -> NoReturn:
        raise RuleBroken(sentence)

    def run_until(self, end: float) -> None:
        """
        Raises:
            RuleBroken
        """
        self.engine.run_until(end)

    # --- Who reaches whom ---

    def reaches(self, card: Card, peer: str) -> bool:
        if peer == card.name:
            return True
        other = self.cards.get(peer)
        return (
            other is not None and other.running and not self._cuts.get(frozenset((card.name, peer)))
        )

    def find(self, giver: str, uuid: str) -> SimSpace | None:
        """What there is of a namespace, also on an SSD that has vanished for a while."""
        card = self.cards.get(giver)
        return card.medium.find(uuid, there=False) if card else None

    def local_epoch(self, card: Card, uuid: str) -> int:
        """At which a card has its own space: 0, or more when it was another card's before."""
        row = card.rows.spaces.get(uuid)
        return row.epoch if row is not None else 0

    def admits(self, card: Card, holding: HoldingRow) -> bool:
        """Whether a card gets at a namespace that it says it holds."""
        if holding.giver == card.name:
            space = card.medium.find(holding.uuid)
            if space is None or space.half:
                return False
            export = card.target.find(holding.uuid)
            if export is not None:
                self.fail(f"{card.name} opens {holding.uuid}, which it exports to {export.owner}")
            space.admit(card.name, self.local_epoch(card, holding.uuid))
            return True
        giver = self.cards.get(holding.giver)
        return (
            giver is not None
            and self.reaches(card, holding.giver)
            and giver.target.lets_in(card.name, holding.uuid, holding.epoch)
        )

    # --- Guests ---

    def _guests_of(self, card: Card) -> None:
        """One write after the other, to any namespace of any device that runs.

        One goes through its mirror, another straight to a copy, and may come late: nobody waits
        for that, it only must not get in where it has no business any more.
        """
        rng = self.rng(f"{card.name} guests")
        pace = self.plan.guest_write_s
        if not pace:
            return

        def write() -> None:
            mirrors = card.running_devices.mirrors() if card.running else []
            if mirrors:
                mirror = rng.choice(mirrors)
                region = rng.randrange(REGIONS)
                if rng.random() < READ_SHARE:
                    mirror.read(region)
                else:
                    mirror.write(region, next(self._stamps))
                legs = [leg for leg in mirror.legs if leg.state in ATTACHED]
                held = [leg.path.holding for leg in legs if leg.path is not None]
                if held and rng.random() < 0.5:
                    self._write(card, rng.choice(held), rng)
            self.engine.after(rng.uniform(0.5, 1.5) * pace, write)

        self.engine.after(pace, write)

    def _write(self, card: Card, holding: HoldingRow, rng: random.Random) -> None:
        stamp = next(self._stamps)
        if holding.giver == card.name:
            space = card.medium.find(holding.uuid)
            if space is not None:
                space.write(card.name, self.local_epoch(card, holding.uuid), stamp)
            return
        giver = self.cards.get(holding.giver)
        if giver is None:
            return
        life, pair = giver.life, frozenset((card.name, giver.name))
        survives = rng.random() < 0.5  # the end of its card, or a cut network

        def arrive() -> None:
            if giver.life != life or not giver.up or not (card.up or survives):
                return
            if giver.pauses or self._cuts.get(pair):
                if survives or giver.pauses:
                    self.engine.after(0.2, arrive)
                return
            giver.target.receive(card.name, holding.uuid, holding.epoch, stamp)

        late = not self._quiet and rng.random() < LATE_WRITE_SHARE
        self.engine.after(rng.uniform(0.1, 5.0) if late else 0.001, arrive)

    # --- Events ---

    def _happens(self, event: ev.Event) -> None:
        self.note(event.card, "has an event", event)
        if isinstance(event, ev.Order):
            self.orders.obey(event)
        elif isinstance(event, ev.StoreAway):
            self.store.go_away()
            for card in self.cards.values():
                card.link.separated()
            self.engine.after(event.for_s, lambda: self.store.come_back(grace=event.grace))
        elif event.card in self.cards:
            self._befalls(self.cards[event.card], event)

    def _befalls(self, card: Card, event: ev.Event) -> None:
        match event:
            case ev.Crash():
                card.crash(event.down_s)
            case ev.Leave():
                card.crash(None)
                card.left = True
            case ev.Pause():
                card.pause(event.for_s)
            case ev.CrashAt() | ev.PauseAt():
                card.traps.append(Trap(event, event.nth))
            case ev.CutStore():
                card.link.cut += 1
                card.link.separated()
                self.engine.after(event.for_s, lambda: self._rejoin(card))
            case ev.CutPeer():
                pair = frozenset((card.name, event.peer))
                self._cuts[pair] = self._cuts.get(pair, 0) + 1
                self.engine.after(event.for_s, lambda: self._mend(pair))
            case ev.BadCall():
                card.link.spoil(event)
            case ev.BreakWatch():
                card.link.lose("the watch has ended")
            case ev.LagWatch():
                card.link.lag_s = event.lag_s
                self.engine.after(event.for_s, lambda: setattr(card.link, "lag_s", 0.0))
            case ev.RepeatChanges():
                card.link.repeat(event.count)
            case ev.SlowSsd():
                card.target.slow += 1
                self.engine.after(event.for_s, lambda: self._speed_up(card))
            case ev.SsdFault():
                self._ssd_fails(card, event)
            case ev.SsdFailing():
                self._ssd_is_failing(card, event)

    def _rejoin(self, card: Card) -> None:
        card.link.cut = max(card.link.cut - 1, 0)

    def _mend(self, pair: frozenset[str]) -> None:
        self._cuts[pair] = max(self._cuts.get(pair, 0) - 1, 0)

    def _speed_up(self, card: Card) -> None:
        card.target.slow = max(card.target.slow - 1, 0)

    def _ssd_fails(self, card: Card, event: ev.SsdFault) -> None:
        ssds = list(card.medium.ssds.values())
        ssd = ssds[event.ssd % len(ssds)]
        if ssd.dead:
            return
        if event.how == "full":
            ssd.foreign += event.size
        elif event.how == "die":
            ssd.fault, ssd.dead = "error", True
            ssd.failing = event.size % 2 == 0
        else:
            ssd.fault = event.how
        if event.size % 2 == 0:  # else it is noticed later, at some change
            card.tell_ssds()

        def over() -> None:
            ssd.foreign = 0
            ssd.fault = "error" if ssd.dead else ""
            card.tell_ssds()

        self.engine.after(event.for_s, over)

    def _ssd_is_failing(self, card: Card, event: ev.SsdFailing) -> None:
        ssds = list(card.medium.ssds.values())
        ssd = ssds[event.ssd % len(ssds)]
        ssd.failing = event.on
        card.tell_ssds()

    def calm(self) -> None:
        """All faults end, and everybody but those who have left for good is there."""
        self.note("", "all faults end")
        self._quiet = True
        self._cuts.clear()
        self.store.come_back(grace=True)
        for card in self.cards.values():
            card.traps.clear()
            card.link.calm()
            card.target.slow = 0
            for ssd in card.medium.ssds.values():
                ssd.foreign, ssd.fault, ssd.dead = 0, "", False
            while card.pauses:
                card.resume()
            card.start()
            card.tell_ssds()
