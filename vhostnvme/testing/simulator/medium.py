"""The simulated SSDs of a card: what is really on them, whatever catalogs and records say."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

from vhostnvme.cluster.messages import (
    Carve,
    Clone,
    Destroy,
    Failure,
    FailureKind,
    SsdReport,
    Stretch,
)
from vhostnvme.testing.simulator.engine import RuleBroken
from vhostnvme.testing.simulator.plan import SsdPlan

SsdEffect = Carve | Clone | Stretch | Destroy


@dataclass(slots=True)
class SimSpace:
    """A namespace on the medium.

    Attributes:
        born: tells it from an earlier one of the same UUID.
        half: a crash has interrupted its making or its end.
        let_in: the newest owner that may write, and its epoch; 0 for VMs of the card itself.
        stamp: the last write.
        content: what guests have written to it, by region: the version; 0 where there is none.
    """

    uuid: str
    size: int
    born: int
    half: bool = False
    let_in: tuple[str, int] | None = None
    stamp: int = 0
    content: dict[int, int] = field(default_factory=dict)

    def admit(self, owner: str, epoch: int) -> None:
        """
        Raises:
            RuleBroken: another owner of this epoch, or a newer epoch, has been let in before.
        """
        if self.let_in is not None:
            last, newest = self.let_in
            if epoch < newest or (epoch == newest and owner != last):
                raise RuleBroken(
                    f"{owner} is let in to {self.uuid} at epoch {epoch}, after {last} was at epoch"
                    f" {newest}: epochs only grow, and each has one owner"
                )
        self.let_in = (owner, epoch)

    def write(self, owner: str, epoch: int, stamp: int) -> None:
        """
        Raises:
            RuleBroken: somebody else has been let in: two write.
        """
        self._check(owner, epoch)
        self.stamp = stamp

    def put(self, owner: str, epoch: int, region: int, version: int) -> None:
        """The same, of a region of it."""
        self._check(owner, epoch)
        self.content[region] = version

    def _check(self, owner: str, epoch: int) -> None:
        if self.let_in != (owner, epoch):
            raise RuleBroken(
                f"a write of {owner} at epoch {epoch} reaches {self.uuid}, which belongs to"
                f" {self.let_in}: a namespace has one writer"
            )


@dataclass(slots=True)
class SimSsd:
    """`foreign`: what others have written to the same file system.

    `fault`: `vanish`, `error` or `hang`; "" for none. `dead`: `error`, to the
    end of all faults. `failing`: it says that it will not last.
    """

    plan: SsdPlan
    spaces: dict[str, SimSpace] = field(default_factory=dict)
    foreign: int = 0
    fault: str = ""
    failing: bool = False
    dead: bool = False

    def taken(self, size: int) -> int:
        granule = self.plan.granule
        return -(-size // granule) * granule

    @property
    def used(self) -> int:
        return sum(self.taken(space.size) for space in self.spaces.values())

    @property
    def available(self) -> int:
        return max(self.plan.capacity - self.used - self.foreign, 0)

    def report(self) -> SsdReport:
        plan = self.plan
        there = self.fault != "vanish"
        return SsdReport(
            name=plan.name,
            kind="directory",
            capacity=plan.capacity,
            available=self.available if there else 0,
            largest=self.available if there else 0,
            granule=plan.granule,
            promised=self.used,
            healthy=there,
            reason="" if there else "it has vanished",
            can_clone=plan.can_clone,
            failing=self.failing,
        )


class Medium:
    """All SSDs of one card."""

    def __init__(self, ssds: tuple[SsdPlan, ...], rng: random.Random, births: itertools.count[int]):
        self.ssds = {plan.name: SimSsd(plan) for plan in ssds}
        self._rng = rng
        self._births = births

    def reports(self) -> tuple[SsdReport, ...]:
        return tuple(ssd.report() for ssd in self.ssds.values())

    def find(self, uuid: str, *, there: bool = True) -> SimSpace | None:
        """`there`: not while its SSD has vanished."""
        for ssd in self.ssds.values():
            if uuid in ssd.spaces:
                return None if there and ssd.fault == "vanish" else ssd.spaces[uuid]
        return None

    def fault_of(self, uuid: str) -> str:
        """What is wrong with the SSD of a namespace; "" also when there is no such namespace."""
        return next((ssd.fault for ssd in self.ssds.values() if uuid in ssd.spaces), "")

    def hangs(self, name: str) -> bool:
        return name in self.ssds and self.ssds[name].fault == "hang"

    def do(self, effect: SsdEffect) -> Failure | None:
        """Does it wholly, or says why not."""
        ssd = self.ssds.get(effect.ssd)
        if ssd is None or ssd.fault:
            return Failure(FailureKind.FAILED, f"Input/output error of {effect.ssd}")
        space = ssd.spaces.get(effect.uuid)
        match effect:
            case Destroy():
                ssd.spaces.pop(effect.uuid, None)
                return None
            case Carve():
                return self._carve(ssd, space, effect.uuid, effect.size)
            case Clone():
                source = ssd.spaces.get(effect.source)
                if source is None or not ssd.plan.can_clone:
                    return Failure(FailureKind.FAILED, f"{effect.source} cannot be cloned")
                return self._carve(ssd, space, effect.uuid, source.size)
            case Stretch():
                if space is None:
                    return Failure(FailureKind.FAILED, f"{effect.uuid} is not there")
                more = ssd.taken(effect.size) - ssd.taken(space.size)
                if more > ssd.available:
                    return Failure(FailureKind.NO_SPACE, "No space left on device")
                space.size = effect.size
                return None

    def _carve(self, ssd: SimSsd, space: SimSpace | None, uuid: str, size: int) -> Failure | None:
        if space is not None and not space.half:
            if space.size != size:
                return Failure(FailureKind.FAILED, f"{uuid} is there with another size")
            return None
        before = ssd.taken(space.size) if space else 0
        if ssd.taken(size) - before > ssd.available:
            return Failure(FailureKind.NO_SPACE, "No space left on device")
        ssd.spaces[uuid] = SimSpace(uuid, size, next(self._births))
        return None

    def interrupt(self, effect: SsdEffect) -> None:
        """The card ends while this is under way: it is done, half done, or not done."""
        fate = self._rng.choice(("done", "half", "not"))
        if fate == "not":
            return
        ssd = self.ssds.get(effect.ssd)
        was_there = ssd is not None and effect.uuid in ssd.spaces
        if fate == "done" or ssd is None or ssd.fault or isinstance(effect, Stretch):
            self.do(effect)
        elif isinstance(effect, Destroy):
            if was_there:
                ssd.spaces[effect.uuid].half = True
        elif not was_there and self.do(effect) is None:
            space = ssd.spaces[effect.uuid]
            space.half = True
            space.size = max(space.size // 2, 1)
