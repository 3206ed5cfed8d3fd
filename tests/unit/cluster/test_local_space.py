"""What a card's SSDs have for anybody: the account by itself."""

from __future__ import annotations

from dataclasses import replace

from tests_pool import GIB, ssd

from vhostnvme.cluster.board import Board
from vhostnvme.cluster.local_space import LocalSpace
from vhostnvme.cluster.messages import CardOptions, SsdReport
from vhostnvme.cluster.rows import SpaceRow

ROW = SpaceRow(uuid="u", ssd="ssd0", size=GIB, block_size=512, owner="b", vm="v")
WELL = ssd("ssd0", 4 * GIB, promised=GIB)
ILL = replace(WELL, failing=True, reason="3 of 5 commands within 60 s ended with an error")


def account(*ssds: SsdReport) -> LocalSpace:
    board = Board(CardOptions(name="a", uuid="a", session="s"), [ROW], 0.0)
    return LocalSpace(board, ssds)


def test_a_failing_ssd_has_room_for_nobody_and_says_so() -> None:
    space = account(ILL)
    assert (space.free(ILL), space.largest(ILL), space.best(GIB, with_reserve=True)) == (0, 0, None)
    (offer,) = space.offer().ssds
    assert (offer.failing, offer.healthy, offer.reason) == (True, True, ILL.reason)
    assert (offer.capacity, offer.remote, offer.free, offer.largest) == (4 * GIB, GIB, 0, 0)
    assert (space.offer().free, space.offer().largest) == (0, 0)


def test_what_is_on_a_failing_ssd_does_not_grow_there() -> None:
    assert account(WELL).can_grow(ROW, 2 * GIB, with_reserve=True)
    assert not account(ILL).can_grow(ROW, 2 * GIB, with_reserve=True)


def test_another_ssd_is_chosen_and_the_mark_goes_again() -> None:
    other = ssd("ssd1", 2 * GIB)
    space = account(ILL, other)
    assert space.best(GIB, with_reserve=True) is other
    assert space.best(GIB, with_reserve=True, only="ssd0") is None
    space.see([WELL, other])
    assert space.best(GIB, with_reserve=True) is WELL
    assert not any(each.failing for each in space.offer().ssds)
