"""What happens in which cycle, what is compared, and what is said of it in the end."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from tests_storage import FIRST, SECOND, file_of, opened

from vhostnvme.errors import PeerError
from vhostnvme.testing.recovery.bed import Copy, digest_of, extents_of
from vhostnvme.testing.recovery.cycles import Cycle, summary
from vhostnvme.testing.recovery.faults import KINDS, Deck, Fault, draw_fault
from vhostnvme.testing.recovery.load import LoadResult

MIB = 1 << 20


def copies(*cards: str) -> list[Copy]:
    return [Copy(card, "ssd0", FIRST, "in-sync") for card in cards]


def cycle(number: int, kind: str, pause_s: float, sync_s: float) -> Cycle:
    load = LoadResult(3 * MIB, 4 * MIB, pause_s, pause_s / 2)
    return Cycle(number, Fault(kind, "b"), 1, 1.0, sync_s, load, copies("a", "b"))


def test_every_kind_comes_before_one_comes_again() -> None:
    deck = Deck(random.Random(1))
    for _ in range(3):
        assert sorted(deck.draw() for _ in KINDS) == sorted(KINDS)


def test_a_seed_gives_the_same_faults() -> None:
    def drawn() -> list[Fault]:
        rng = random.Random(7)
        deck = Deck(rng)
        return [draw_fault(rng, deck.draw(), copies("b", "c")) for _ in range(20)]

    assert drawn() == drawn()


@pytest.mark.parametrize("kind", KINDS)
def test_the_guests_own_card_loses_its_ssd_only(kind: str) -> None:
    rng = random.Random(3)
    met = {draw_fault(rng, kind, copies("a", "b")).card for _ in range(20)}
    assert met == {"a" if kind.endswith("own") else "b"}
    without = [draw_fault(rng, kind, copies("b", "c")) for _ in range(40)]
    assert {each.card for each in without} == {"b", "c"}
    assert not any(each.kind.endswith("own") for each in without)


def test_a_copy_is_known_by_what_lies_on_the_ssd(tmp_path: Path) -> None:
    image = file_of(tmp_path, 32 * MIB)
    ssd = opened(image)
    for uuid in (FIRST, SECOND):
        ssd.carve(uuid, 8 * MIB)
    offset = ssd.disk(SECOND, 8 * MIB, 4096).offset  # type: ignore[attr-defined]
    ssd.close()
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(b"a" * MIB)
    assert extents_of(image).keys() == {FIRST, SECOND}
    expected = hashlib.sha256(b"a" * MIB + bytes(7 * MIB)).hexdigest()
    assert digest_of(image, SECOND, 8 * MIB) == expected
    assert digest_of(image, FIRST, 8 * MIB) == hashlib.sha256(bytes(8 * MIB)).hexdigest()
    with pytest.raises(PeerError, match="is not on"):
        digest_of(image, "30000000-0000-4000-8000-000000000003", 8 * MIB)


def test_the_summary_has_the_longest_of_each_kind() -> None:
    text = summary(
        [cycle(1, "kill", 2.5, 1.0), cycle(2, "kill", 1.5, 3.0), cycle(3, "cut", 5.5, 2)]
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[1] == "kill 2 2.50 s 3.0 s"
    assert lines[2] == "cut 1 5.50 s 2.0 s"
    assert "3 cycles" in lines[-1] and lines[-1].endswith("pauses over 5 s: 1")
    assert "PAUSE OVER" in str(cycle(3, "cut", 5.5, 2))
    assert "PAUSE OVER" not in str(cycle(3, "cut", 4.9, 2))
