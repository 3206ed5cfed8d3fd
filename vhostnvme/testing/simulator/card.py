"""A simulated card: its managers, its catalog, and how their effects are carried out.

A crash loses everything but the catalog and the SSDs; it may come between any two effects of a
step. A pause holds effects and messages up, and then all goes on as if nothing had happened.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vhostnvme.cluster import messages as msg
from vhostnvme.cluster.messages import CardOptions, Done, Effect, Failure, Message
from vhostnvme.cluster.records import MIRRORS
from vhostnvme.storage.catalog import Deleted, Row
from vhostnvme.testing.simulator import events as ev
from vhostnvme.testing.simulator.catalog import Rows
from vhostnvme.testing.simulator.devices import Devices, SimDevice
from vhostnvme.testing.simulator.engine import RuleBroken
from vhostnvme.testing.simulator.link import MIRROR_TXN, Link
from vhostnvme.testing.simulator.medium import Medium
from vhostnvme.testing.simulator.mirror import SimMirror
from vhostnvme.testing.simulator.plan import CardPlan
from vhostnvme.testing.simulator.target import Target

if TYPE_CHECKING:
    from vhostnvme.testing.simulator.world import World


class Managers(Protocol):
    """What a card is run by: the Pool, or what a test puts in its place."""

    def start(self, now: float) -> list[Effect]: ...

    def step(self, message: Message, now: float) -> list[Effect]: ...


MakeManagers = Callable[
    [CardOptions, Iterable[Row | Deleted], Sequence[msg.SsdReport], float], Managers
]


@dataclass(slots=True)
class Trap:
    fault: ev.CrashAt | ev.PauseAt
    left: int


class Card:
    """`life` counts starts; what belongs to an older one is dropped."""

    def __init__(self, world: World, plan: CardPlan) -> None:
        self.world = world
        self.plan = plan
        self.name = plan.name
        self.rng = world.rng(plan.name)
        self.rows = Rows()
        self.medium = Medium(plan.ssds, self.rng, world.births)
        self.target = Target(world.engine, self.medium, self.rng)
        self.running_devices = Devices(world, self)
        self.managers: Managers | None = None
        self.life = 0
        self.left = False  # for good
        self.pauses = 0
        self.started_at = 0.0
        self.traps: list[Trap] = []
        self.link = Link(
            world.engine, world.store, plan.name, world.rng(f"{plan.name} link"),
            self.deliver, lambda what, thing: world.note(plan.name, what, thing),
        )  # fmt: skip
        self.held_until = 0.0  # on its clock: so long it may count on its lease
        self._inbox: deque[Message] = deque()
        self._effects: deque[Effect] = deque()
        self._under_way: dict[int, msg.Carve | msg.Clone | msg.Stretch | msg.Destroy] = {}
        self._keys = itertools.count()

    @property
    def up(self) -> bool:
        return self.managers is not None

    @property
    def running(self) -> bool:
        return self.up and not self.pauses

    @property
    def devices(self) -> dict[str, SimDevice]:
        """Those that run, by name."""
        return self.running_devices.devices

    def find_mirror(self, unit: str) -> SimMirror | None:
        """A namespace of a device that runs."""
        return self.running_devices.find(unit)

    def open_holdings(self) -> set[str]:
        """The copies, and plain namespaces, that its devices have open."""
        return self.running_devices.open_holdings()

    def clock(self) -> float:
        return self.plan.clock.read(self.world.engine.now)

    # --- Life ---

    def start(self) -> None:
        if self.up or self.left:
            return
        self.life += 1
        world = self.world
        world.note(self.name, f"starts, life {self.life}")
        options = CardOptions(
            name=self.name,
            uuid=f"uuid-{self.name}",
            session=f"{self.name}-{self.life}",
            addresses=(f"{self.name}:4420",),
            reserve=self.plan.reserve,
            ttl_s=world.plan.ttl_s,
            ask_timeout_s=world.plan.ttl_s,
            contention_s=0.2,
            aging_s=2.0,
            release_wait_s=1.0,
            replace_after_s=world.plan.replace_after_s,
            seed=world.rng(f"{self.name} {self.life}").getrandbits(64),
            version="simulated",
        )
        now = self.clock()
        self.held_until = 0.0
        self.started_at = world.engine.now
        self.managers = world.make(options, self.rows.all(), self.medium.reports(), now)
        self.link.start(self.life)
        self._begin(self.managers.start(now), None)
        self._tick(self.life)

    def crash(self, down_s: float | None) -> None:
        """`down_s` None: it stays away until somebody starts it."""
        if not self.up:
            return
        world = self.world
        world.note(self.name, "crashes")
        self.managers = None
        self.life += 1
        self.link.stop()
        for effect in self._under_way.values():
            self.medium.interrupt(effect)
        self._under_way.clear()
        self._inbox.clear()
        self._effects.clear()
        self.target.clear()
        self.running_devices.clear()
        self.pauses = 0
        world.orders.card_crashed(self.name)
        if down_s is not None:
            world.engine.after(down_s, self.start)

    def pause(self, for_s: float) -> None:
        if not self.up:
            return
        self.world.note(self.name, f"is stopped for {for_s} s")
        self.pauses += 1
        life = self.life

        def go_on() -> None:
            if life == self.life:
                self.resume()

        self.world.engine.after(for_s, go_on)

    def resume(self) -> None:
        if self.pauses:
            self.pauses -= 1
        if self.running:
            self.world.note(self.name, "goes on")
            self._drain()

    def _tick(self, life: int) -> None:
        if life != self.life:
            return
        if self.running:
            self.deliver(life, msg.Tick())
        self.world.engine.after(self.plan.clock.true(msg.TICK_S), lambda: self._tick(life))

    # --- Messages and effects ---

    def deliver(self, life: int, message: Message) -> None:
        """Passes a message on, in its order; none to another life."""
        if life != self.life or not self.up:
            return
        self._inbox.append(message)
        self._drain()

    def ask(self, command: Message) -> None:
        self.deliver(self.life, command)

    def tell_ssds(self) -> None:
        self.deliver(self.life, msg.SsdsSeen(self.medium.reports()))

    def _drain(self) -> None:
        while self.managers is not None and not self.pauses:
            if self._effects:
                self._next_effect()
            elif self._inbox:
                message = self._inbox.popleft()
                now = self.clock()
                try:
                    effects = self.managers.step(message, now)
                except (RuleBroken, AssertionError):
                    raise
                except Exception as error:
                    raise RuleBroken(
                        f"{self.name} breaks down at {type(message).__name__}: {error!r}"
                    ) from error
                if effects or not isinstance(message, msg.Tick):
                    self.world.note(self.name, "gets", message)
                self._begin(effects, message)
            else:
                break

    def _begin(self, effects: list[Effect], message: Message | None) -> None:
        if self.world.bug is not None:
            effects = self.world.bug.effects(self, message, effects)
        self.world.rules.decided(self, effects)
        self._effects.extend(effects)
        if message is None:
            self._drain()

    def _next_effect(self) -> None:
        effect = self._effects[0]
        trap = self._trap(type(effect).__name__) if self.traps else None
        if trap is not None:
            fault = trap.fault
            self.world.note(self.name, "is trapped at", effect)
            if isinstance(fault, ev.PauseAt):
                self.pause(fault.for_s)
                return
            if fault.after:
                self._do(effect)
            self.crash(fault.down_s)
            return
        self._effects.popleft()
        self._do(effect)

    def _trap(self, kind: str) -> Trap | None:
        for trap in self.traps:
            if trap.fault.effect == kind:
                trap.left -= 1
                if trap.left <= 0:
                    self.traps.remove(trap)
                    return trap
        return None

    def done(self, op: int) -> Callable[[Any, Failure | None], None]:
        """To be called at the end of an effect that this life has begun."""
        life = self.life

        def ended(value: Any, failure: Failure | None) -> None:
            self.deliver(life, Done(op, value, failure))

        return ended

    def _do(self, effect: Effect) -> None:
        world = self.world
        world.note(self.name, "does", effect)
        world.rules.begins(self, effect)
        world.ledger.begins(self, effect)
        match effect:
            case msg.Write(changes):
                world.ledger.write(self, changes)
                world.rules.write(self, changes)
                self.running_devices.forget_bitmaps(changes)
            case msg.Carve() | msg.Clone() | msg.Stretch() | msg.Destroy():
                self._on_ssd(effect)
            case msg.Export():
                end = self.done(effect.op)
                self.target.export(effect, lambda failure: self._soon(lambda: end(None, failure)))
            case msg.Unexport():
                end = self.done(effect.op)
                self.target.unexport(effect, lambda failure: self._soon(lambda: end(None, failure)))
            case msg.Reply():
                world.orders.answered(self, effect)
            case msg.EndCard():
                raise RuleBroken(f"{self.name} has ended itself: {effect.error}")
            case msg.Log():
                pass
            case (
                msg.Txn() | msg.ListStore() | msg.GrantLease() | msg.KeepAlive()
                | msg.RevokeLease()
            ):  # fmt: skip
                self._on_store(effect)
            case _:
                self.running_devices.begin(effect)

    def _soon(self, call: Callable[[], None]) -> None:
        self.world.engine.after(self.rng.uniform(0.0005, 0.02), call)

    def _on_ssd(self, effect: msg.Carve | msg.Clone | msg.Stretch | msg.Destroy) -> None:
        key, life, end = next(self._keys), self.life, self.done(effect.op)
        self._under_way[key] = effect

        def act() -> None:
            if life != self.life:
                return
            if self.medium.hangs(effect.ssd):
                self.world.engine.after(0.2, act)
                return
            del self._under_way[key]
            failure = self.medium.do(effect)
            self._soon(self.tell_ssds)
            end(None, failure)

        if self.target.slow:
            self.world.engine.after(self.rng.uniform(0.02, 0.6), act)
        else:
            self._soon(act)

    def _on_store(
        self,
        effect: msg.Txn | msg.ListStore | msg.GrantLease | msg.KeepAlive | msg.RevokeLease,
    ) -> None:
        store = self.world.store
        end = self.done(effect.op)
        sent, life = self.clock(), self.life
        kind = type(effect).__name__
        if isinstance(effect, msg.Txn) and any(
            each.key.startswith(MIRRORS) for each in effect.then
        ):
            kind = MIRROR_TXN

        def ended(value: Any, failure: Failure | None) -> None:
            if isinstance(effect, msg.GrantLease | msg.KeepAlive) and failure is None:
                until = sent + 0.75 * self.world.plan.ttl_s
                self.held_until = max(self.held_until, until)
            end(value, failure)

        def act() -> Any:
            match effect:
                case msg.Txn():
                    return self.world.rules.transaction(self, life, effect)
                case msg.ListStore():
                    return store.snapshot(effect.prefixes)
                case msg.GrantLease():
                    return store.grant(effect.ttl_s)
                case msg.KeepAlive():
                    return store.keep_alive(effect.lease)
                case msg.RevokeLease():
                    return store.revoke(effect.lease)

        self.link.call(kind, act, ended)
