"""One pool over three real cards: what fits is granted, the rest is refused, nothing is left."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests_cluster import MIB, check_accounts, files_bytes, is_refused, wait_empty
from tests_protocol import dice

from vhostnvme.control.card import CreatedDevice
from vhostnvme.errors import NoSpace
from vhostnvme.testing.cards import CardPlan, CardProcess, Cards

SIZE = 4 * MIB
FIT = 20  # on each card
PLACES = 3 * FIT
ASKED = 100
Work = Callable[[], CreatedDevice | None]
PLAN = CardPlan(ssd_bytes=FIT * SIZE, contention_s=0.1)


@pytest.fixture(scope="module")
def cards() -> Iterator[Cards]:
    with Cards(3, PLAN) as running:
        yield running


def at_once(works: list[Work]) -> list[CreatedDevice | None]:
    """All begun together, each in a thread."""
    with ThreadPoolExecutor(len(works)) as threads:
        return [each.result() for each in [threads.submit(work) for work in works]]


def create(card: CardProcess, vm: str, rng: random.Random, wait_s: float = 0.0) -> Work:
    priority = rng.randint(0, 100)

    def work() -> CreatedDevice | None:
        try:
            return card.create_device(vm, SIZE, priority=priority, wait_s=wait_s)
        except NoSpace as error:
            assert "no space for a namespace of" in is_refused(error)
            return None

    return work


def delete(cards: Cards, device: CreatedDevice) -> Work:
    def work() -> None:
        released = cards[device.card].delete_device(device.device)
        assert not released.pending and not released.already

    return work


def storm(cards: Cards, rng: random.Random) -> None:
    """100 requests for 60 places; then half are given back while others wait for them."""
    names = [rng.choice("abc") for _ in range(ASKED)]
    made = at_once([create(cards[name], f"vm{n}", rng) for n, name in enumerate(names)])
    granted = [each for each in made if each is not None]
    assert len(granted) == PLACES
    check_accounts(cards)
    assert [files_bytes(card) for card in cards] == [FIT * SIZE] * 3

    assert not any(at_once([create(cards[name], "none", rng) for name in names[:10]]))
    rng.shuffle(granted)
    going, staying = granted[:30], granted[30:]
    works = [delete(cards, each) for each in going]
    works += [create(cards[rng.choice("abc")], f"late{n}", rng, wait_s=60) for n in range(30)]
    rng.shuffle(works)
    late = [each for each in at_once(works) if each is not None]
    assert len(late) == len(going)
    check_accounts(cards)
    at_once([delete(cards, each) for each in staying + late])
    wait_empty(cards)


@pytest.mark.slow
def test_what_fits_is_granted_and_nothing_is_left(cards: Cards) -> None:
    rng = dice("test_what_fits_is_granted_and_nothing_is_left")
    storm(cards, rng)
    before = {card.name: (len(card.descriptors()), card.rss_bytes()) for card in cards}
    for _ in range(2):
        storm(cards, rng)
    for card in cards:
        descriptors, rss = before[card.name]
        assert len(card.descriptors()) <= descriptors + 4, card.descriptors()
        assert card.rss_bytes() < rss + 8 * MIB
