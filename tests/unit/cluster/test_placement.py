"""The rule of placement, by itself."""

from __future__ import annotations

import pytest
from tests_pool import GIB

from vhostnvme.cluster.cluster_manager import PeerView
from vhostnvme.cluster.placement import candidates, check_placement, uses_reserve, why_not
from vhostnvme.cluster.records import OfferRecord, SsdOffer
from vhostnvme.errors import ConfigError


def peer(name: str, free: int, *, tenants: int = 0, health: str = "online", listens: bool = True):
    offer = SsdOffer("ssd0", "directory", 8 * GIB, 0, 0, 0, free, free)
    return PeerView(
        name=name,
        uuid=name,
        health=health,
        addresses=("10.0.0.9:4420",) if listens else (),
        offer=OfferRecord(name=name, ssds=(offer,), tenants=tenants),
    )


def test_local_first_then_the_most_free_then_the_fewest_tenants_then_by_name() -> None:
    peers = [
        peer("b", 2 * GIB),
        peer("c", 4 * GIB, tenants=2),
        peer("d", 4 * GIB, tenants=1),
        peer("e", 2 * GIB),
    ]
    assert candidates("auto", GIB, "a", fits_here=True, peers=peers) == ["a", "d", "c", "b", "e"]
    assert candidates("auto", GIB, "a", fits_here=False, peers=peers) == ["d", "c", "b", "e"]
    assert candidates("remote", GIB, "a", fits_here=True, peers=peers) == ["d", "c", "b", "e"]


def test_who_is_lost_full_or_listens_nowhere_is_not_asked() -> None:
    peers = [
        peer("b", 8 * GIB, health="lost"),
        peer("c", GIB - 1),
        peer("d", 8 * GIB, listens=False),
    ]
    assert candidates("remote", GIB, "a", fits_here=True, peers=peers) == []


def test_a_named_card_is_asked_whatever_it_has_said() -> None:
    peers = [peer("b", 0), peer("c", 8 * GIB)]
    assert candidates("b", GIB, "a", fits_here=True, peers=peers) == ["b"]
    assert candidates("a", GIB, "a", fits_here=False, peers=peers) == ["a"]
    assert candidates("local", GIB, "a", fits_here=False, peers=peers) == ["a"]
    assert candidates("d", GIB, "a", fits_here=True, peers=[peer("d", GIB, health="lost")]) == []


def test_only_who_names_this_card_may_use_the_reserve() -> None:
    assert uses_reserve("local", "a") and uses_reserve("a", "a")
    assert not uses_reserve("auto", "a") and not uses_reserve("b", "a")


def test_an_unknown_card_is_a_mistake_that_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no card 'x' in this cluster: there are a, b"):
        check_placement("x", "a", [peer("b", 0)])


def test_the_sentence_names_the_best_card_and_those_that_are_lost() -> None:
    peers = [peer("b", GIB), peer("c", 8 * GIB, health="lost")]
    sentence = why_not("auto", 2 * GIB, "a", 0, peers)
    assert "a namespace of 2G" in sentence
    assert "1G on card 'b'" in sentence
    assert "(c cannot be asked now)" in sentence


def test_the_sentence_says_when_there_is_nothing_at_all() -> None:
    assert "card 'a' is full" in why_not("local", GIB, "a", 0, [])
    assert "all cards are full" in why_not("auto", GIB, "a", 0, [peer("b", 0)])
