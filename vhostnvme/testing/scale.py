"""What a cluster of real cards on this machine costs: times, memory, and the load on its store.

`python -m vhostnvme.testing.scale [--cards 10] [--namespaces 100] [--per-device 1]
[--store sqlite|etcd] [--placement local|remote|auto] [--size 1M] [--at-once N] [--seconds S]`

Starts the cards, has them create devices, one after the other (or N at a time), looks at the full
cluster, and deletes everything. Prints one JSON object: `create_ms` and `delete_ms` of a device
(`p50`, `p90`, `p99`, `max`), `status_ms` of `cluster status` when all is there, `rss_bytes` of a
card (`empty`, `full`), `descriptors` of a full one, and the store's load by card: `idle` without
devices, `full` with all of them, `creating` meanwhile; each has `transactions`, `renewals`,
`reads`, `events`, `bytes_out` and `bytes_in` a second, and `cpu_ms` of the card; `creating` and
`deleting` also have them by device, of all cards together (`for_each`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vhostnvme.errors import PeerError
from vhostnvme.testing.cards import CardPlan, CardProcess, Cards
from vhostnvme.testing.etcd import EtcdServer
from vhostnvme.testing.metered_card import METER_NAME
from vhostnvme.units import parse_size

PROGRAM = ("-m", "vhostnvme.testing.metered_card")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePlan:
    """Sizes in bytes; `namespaces` of each card; `at_once`: how many commands are under way."""

    cards: int = 10
    namespaces: int = 100
    per_device: int = 1
    store: str = "sqlite"
    placement: str = "remote"
    size: int = 1 << 20
    at_once: int = 1
    seconds: float = 5.0  # of a look at a cluster in which nothing happens


def measure(plan: ScalePlan) -> dict[str, Any]:
    """See the module.

    Raises:
        VhostNvmeError: a card did not start, or refused.
    """
    # Whoever creates most gets from the emptiest: with a little more than is needed all fits.
    ssd_bytes = plan.size * plan.namespaces * 2
    with _store(plan.store) as url:
        each = CardPlan(ssd_bytes=ssd_bytes, store=url, program=PROGRAM)
        with Cards(plan.cards, each) as cards:
            return _measure(cards, plan)


def _measure(cards: Cards, plan: ScalePlan) -> dict[str, Any]:
    found: dict[str, Any] = {"idle": _idle(cards, plan.seconds)}
    rss = {"empty": max(card.rss_bytes() for card in cards)}
    devices = plan.namespaces // plan.per_device
    asked = [(card, f"vm{number}") for number in range(devices) for card in cards]
    sizes = [plan.size] * plan.per_device

    def create(each: tuple[CardProcess, str]) -> float:
        return _ms(lambda: each[0].create_device(each[1], *sizes, placement=plan.placement))

    def delete(each: tuple[CardProcess, str]) -> float:
        return _ms(lambda: each[0].delete_vm(each[1]))

    with _Load(cards) as creating:
        found["create_ms"] = _spread(_all(create, asked, plan.at_once))
    found["creating"] = creating.by_second() | {"for_each": creating.by(len(asked))}
    found["full"] = _idle(cards, plan.seconds)
    found["status_ms"] = _spread([_ms(card.cluster) for card in cards for _ in range(3)])
    rss["full"] = max(card.rss_bytes() for card in cards)
    found["rss_bytes"] = rss
    found["descriptors"] = max(len(card.descriptors()) for card in cards)
    found["namespaces"] = sum(card.status().namespaces for card in cards)
    found["given"] = sum(card.status().given for card in cards)
    with _Load(cards) as deleting:
        found["delete_ms"] = _spread(_all(delete, asked, plan.at_once))
    found["deleting"] = deleting.by_second() | {"for_each": deleting.by(len(asked))}
    found["left"] = sum(ssd.used for card in cards for ssd in card.ssds())
    return found


class _Load:
    """What all cards ask of the store within a `with`."""

    def __init__(self, cards: Iterable[CardProcess]) -> None:
        self._cards = list(cards)
        self._seconds = self._cpu_s = 0.0
        self._counts: dict[str, int] = {}

    def __enter__(self) -> _Load:
        self._begin = time.monotonic()
        self._before = [_meter(card) for card in self._cards]
        self._cpu_s = -sum(card.cpu_s() for card in self._cards)
        return self

    def __exit__(self, *exc: object) -> None:
        self._seconds = time.monotonic() - self._begin
        self._cpu_s += sum(card.cpu_s() for card in self._cards)
        after = [_meter(card) for card in self._cards]
        for name in after[0]:
            pairs = zip(self._before, after, strict=True)
            self._counts[name] = sum(new[name] - old[name] for old, new in pairs)

    def by_second(self) -> dict[str, float]:
        """Of one card."""
        return self.by(self._seconds * len(self._cards))

    def by(self, number: float) -> dict[str, float]:
        counts = {name: round(count / number, 2) for name, count in self._counts.items()}
        return counts | {"cpu_ms": round(self._cpu_s * 1000 / number, 2)}


def _meter(card: CardProcess) -> dict[str, int]:
    path = card.folder / METER_NAME
    before = path.stat().st_size if path.exists() else 0
    card.tell("\n")
    deadline = time.monotonic() + 10
    while not path.exists() or path.stat().st_size == before or not _lines(path)[-1].endswith("}"):
        if time.monotonic() > deadline:
            raise PeerError(f"card {card.name} does not tell what it has counted")
        time.sleep(0.005)
    counts: dict[str, int] = json.loads(_lines(path)[-1])
    return counts


def _lines(path: Any) -> list[str]:
    return str(path.read_text(encoding="ascii")).splitlines() or [""]


def _idle(cards: Cards, seconds: float) -> dict[str, float]:
    time.sleep(0.5)  # for what was done before
    with _Load(cards) as load:
        time.sleep(seconds)
    return load.by_second()


def _all(
    work: Callable[[tuple[CardProcess, str]], float],
    asked: Sequence[tuple[CardProcess, str]],
    at_once: int,
) -> list[float]:
    with ThreadPoolExecutor(at_once) as threads:
        return list(threads.map(work, asked))


def _ms(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) * 1000


def _spread(values: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {
        "p50": round(cuts[49], 2),
        "p90": round(cuts[89], 2),
        "p99": round(cuts[98], 2),
        "max": round(max(values), 2),
    }


@contextmanager
def _store(kind: str) -> Iterator[str | None]:
    if kind == "sqlite":
        yield None
        return
    with EtcdServer() as server:
        yield server.url


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="scale", description=main.__doc__)
    default = ScalePlan()
    for name in ("cards", "namespaces", "per_device", "at_once"):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=int, default=getattr(default, name), metavar="N")
    parser.add_argument("--store", choices=["sqlite", "etcd"], default=default.store)
    parser.add_argument("--placement", default=default.placement)
    parser.add_argument("--size", type=parse_size, default=default.size)
    parser.add_argument("--seconds", type=float, default=default.seconds)
    plan = ScalePlan(**vars(parser.parse_args(arguments)))
    sys.stdout.write(json.dumps(measure(plan)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
