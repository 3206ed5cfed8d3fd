"""Plans follow from their seeds, and lose events and cards one by one when they are made small."""

from __future__ import annotations

import pytest

from vhostnvme.testing.simulator import events as ev
from vhostnvme.testing.simulator.plan import Plan, card_names, make_plan
from vhostnvme.testing.simulator.shrink import format_idents, kind_of, parse_idents, shrink


def test_a_seed_is_a_plan() -> None:
    assert make_plan(5) == make_plan(5)
    assert make_plan(5) != make_plan(6)


@pytest.mark.parametrize("seed", range(20))
def test_a_plan_is_in_order(seed: int) -> None:
    plan = make_plan(seed)
    assert 3 <= len(plan.cards) <= 5
    assert len(plan.events) >= 100
    assert [each.at for each in plan.events] == sorted(each.at for each in plan.events)
    assert len({each.ident for each in plan.events}) == len(plan.events)
    assert all(each.at <= plan.ends for each in plan.events)
    assert all(0.9 <= card.clock.rate <= 1.1 for card in plan.cards)


def test_cards_and_steps_may_be_chosen() -> None:
    plan = make_plan(1, cards=2, steps=30)
    assert [card.name for card in plan.cards] == ["a", "b"]
    assert 15 <= len(plan.events) <= 60
    assert card_names(30)[29] == "card29"


def test_what_is_favoured_happens_often() -> None:
    def share(plan: Plan) -> float:
        adopted = [each for each in plan.events if isinstance(each, ev.Adopt)]
        return len(adopted) / len(plan.events)

    plain = sum(share(make_plan(seed)) for seed in range(10))
    assert sum(share(make_plan(seed, favour=("lost_owner",))) for seed in range(10)) > plain


def test_a_plan_without_a_card() -> None:
    plan = make_plan(3).without("b")
    assert "b" not in [card.name for card in plan.cards]
    assert not [each for each in plan.events if each.card == "b"]
    assert not [each for each in plan.events if getattr(each, "peer", "") == "b"]


def test_shrinking_leaves_what_is_needed() -> None:
    plan = make_plan(7, cards=4)
    needed = {plan.events[10].ident, plan.events[-5].ident}

    def run(each: Plan) -> str:
        return "b has 12 bytes" if needed <= {event.ident for event in each.events} else ""

    small, tried = shrink(plan, "a has 3 bytes", run, limit_s=60.0)
    assert {event.ident for event in small.events} == needed
    assert {card.name for card in small.cards} <= {event.card for event in small.events} | {"d"}
    assert tried < 300


def test_shrinking_stays_with_the_rule() -> None:
    plan = make_plan(7)
    small, _ = shrink(plan, "one rule", lambda _plan: "another rule", limit_s=60.0)
    assert small == plan


def test_shrinking_ends_in_time() -> None:
    plan = make_plan(7)
    small, tried = shrink(plan, "x", lambda _plan: "x", limit_s=0.0)
    assert (small, tried) == (plan, 0)


def test_kinds_of_failures() -> None:
    uuid = "00000000-0000-4000-8000-000000000000"
    assert kind_of(f"a has 3 of {uuid} in d17") == kind_of(f"c has 44 of {uuid} in d2")
    assert kind_of("a has 3 bytes") != kind_of("a holds 3 bytes")


def test_lists_of_numbers() -> None:
    assert format_idents([7, 1, 2, 3]) == "1-3,7"
    assert parse_idents("1-3,7") == [1, 2, 3, 7]
    assert parse_idents("") == []
    assert format_idents([]) == ""
