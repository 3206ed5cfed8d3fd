"""What a benchmark measures: a load, a contestant under it, and what each round gave."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

OURS = "vhostnvme"
# Percentiles of tables and of bench.json's medians; fio and `vhostnvme perf` both have them.
PERCENTILES = (50.0, 99.0, 99.9)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Load:
    """`rw` is fio's name of the pattern, `block_size` in bytes, `depth` is of each device."""

    rw: str
    block_size: int
    depth: int
    devices: int = 1

    @property
    def pattern(self) -> str:
        return f"{self.rw} {self.block_size >> 10}K"

    @property
    def label(self) -> str:
        return f"{self.pattern} depth {self.depth}"


@dataclass(frozen=True, slots=True)
class Case:
    """A contestant under a load. `backing` says on what kind of file or memory."""

    section: str
    backing: str
    load: Load
    contestant: str

    @property
    def is_ours(self) -> bool:
        return self.contestant.startswith(OURS)


@dataclass(frozen=True, slots=True)
class Sample:
    """One round.

    Attributes:
        latency_us: by percentile (50.0, 99.9, ...), from submission to completion; only those
            that so many I/Os can tell.
        cpu_s_per_10k: CPU seconds of all processes that take part, for 10,000 I/Os.
        server_cpu_s_per_10k: the server's share of it; None where server and load are one process.
    """

    iops: float
    latency_us: dict[float, float]
    cpu_s_per_10k: float
    server_cpu_s_per_10k: float | None = None


@dataclass(slots=True)
class Results:
    """All samples of a run, by case, in the order in which cases were first seen."""

    samples: dict[Case, list[Sample]] = field(default_factory=dict)

    def add(self, case: Case, sample: Sample) -> None:
        self.samples.setdefault(case, []).append(sample)

    def sections(self) -> list[str]:
        return list(dict.fromkeys(case.section for case in self.samples))

    def groups(self, section: str) -> list[list[Case]]:
        """The cases of a section that may be compared with each other: same backing and load.

        Contestants are in the same order in each group, whoever had the first turn.
        """
        cases = [case for case in self.samples if case.section == section]
        order = list(dict.fromkeys(case.contestant for case in cases))
        groups: dict[tuple[str, Load], list[Case]] = {}
        for case in sorted(cases, key=lambda case: order.index(case.contestant)):
            groups.setdefault((case.backing, case.load), []).append(case)
        first = list(dict.fromkeys((case.backing, case.load) for case in cases))
        return [groups[key] for key in first]

    def iops(self, case: Case) -> float:
        return median(sample.iops for sample in self.samples[case])

    def latency_us(self, case: Case, percentile: float) -> float | None:
        """The median over the rounds; None when a round had too few I/Os to tell."""
        samples = self.samples[case]
        if any(percentile not in sample.latency_us for sample in samples):
            return None
        return median(sample.latency_us[percentile] for sample in samples)

    def percentiles(self, case: Case) -> list[float]:
        """Those that every round could tell: medians of fewer rounds could fall along a curve."""
        return sorted(set.intersection(*(set(each.latency_us) for each in self.samples[case])))

    def cpu(self, case: Case) -> float:
        return median(sample.cpu_s_per_10k for sample in self.samples[case])

    def server_cpu(self, case: Case) -> float | None:
        shares = [sample.server_cpu_s_per_10k for sample in self.samples[case]]
        values = [share for share in shares if share is not None]
        return median(values) if values else None

    def peers(self, case: Case) -> list[Case]:
        """The others in the same place under the same load."""
        place = (case.section, case.backing, case.load)
        return [
            other
            for other in self.samples
            if not other.is_ours and (other.section, other.backing, other.load) == place
        ]

    def best_peer(self, case: Case) -> Case | None:
        """The peer with the highest median IOPS."""
        return max(self.peers(case), key=self.iops, default=None)

    def ratio(self, case: Case) -> float | None:
        """A case of ours to its best peer; None without one."""
        best = self.best_peer(case)
        if best is None or not case.is_ours or not self.iops(best):
            return None
        return self.iops(case) / self.iops(best)

    def cpu_ratio(self, case: Case) -> float | None:
        """The least CPU time that a peer takes for an I/O, to that of a case of ours.

        Above 1: ours takes less. A busy machine disturbs it less than IOPS. None without a
        peer, and where the load's time is in it: a host that polls takes what there is.
        """
        least = min((self.cpu(peer) for peer in self.peers(case)), default=None)
        if least is None or not case.is_ours or self.server_cpu(case) is not None:
            return None
        return least / self.cpu(case) if self.cpu(case) else None


def median(values: Iterable[float]) -> float:
    listed = list(values)
    return statistics.median(listed) if listed else 0.0


def percentiles_that_tell(latency_us: dict[float, float], nr_ios: int) -> dict[float, float]:
    """Leaves out percentiles above which less than one of the I/Os lies: p99.9 takes 1,000."""
    return {
        percentile: value
        for percentile, value in latency_us.items()
        if nr_ios * (100 - percentile) >= 100 or math.isclose(nr_ios * (100 - percentile), 100)
    }


def rotated(items: Sequence[T], by: int) -> list[T]:
    """The same items, beginning with another: who comes first is another one in each round."""
    start = by % len(items) if items else 0
    return [*items[start:], *items[:start]]
