"""Scratch disks: what is lost for good gives way to something empty, where that was asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests_pool import GIB, TestCard, World, ssd

from vhostnvme.cluster.commands import CreateDevice, DeleteDevice, Part
from vhostnvme.cluster.messages import Attach, Detach, SsdsSeen
from vhostnvme.errors import ConfigError


@pytest.fixture
def world() -> World:
    return World()


def scratch(card: TestCard, placement: str, *, scratch: bool = True) -> str:
    part = Part(GIB, placement, scratch=scratch)
    name: str = card.do(lambda number: CreateDevice(number, vm="vm1", parts=(part,)))
    return name


def test_a_giver_that_stays_away_is_replaced(world: World) -> None:
    a, b, c = (world.add(name) for name in ("a", "b", "c"))
    world.advance(1.0)
    name = scratch(a, "b")
    (old,) = a.holdings_of(name)
    world.kill(b)
    world.advance(a.options.replace_after_s - 5.0)
    assert a.holdings_of(name) == [old]
    world.advance(10.0)
    (new,) = [row for row in a.holdings_of(name) if row.state == "held"]
    assert (new.nsid, new.giver, new.uuid != old.uuid) == (2, "a", True)
    attached, detached = a.begun(Attach)[-1], a.begun(Detach)[-1]
    assert attached.holding.uuid == new.uuid and detached.uuid == old.uuid
    assert a.effects.index(attached) < a.effects.index(detached)
    world.bring_back(b)
    assert not b.pool.spaces  # what was given up is given back
    a.do(lambda number: DeleteDevice(number, name), 20.0)
    world.advance(2.0)
    assert not a.pool.holdings and not c.pool.spaces


def test_an_own_ssd_that_is_lost_is_replaced(world: World) -> None:
    a = world.add("a", ssds=[ssd("ssd0", 8 * GIB), ssd("ssd1", 4 * GIB)])
    name = scratch(a, "auto")
    (old,) = a.holdings_of(name)
    gone = [replace(each, healthy=each.name != old.ssd) for each in a.ssds]
    a.step(SsdsSeen(gone))
    world.advance(a.options.replace_after_s + 5.0)
    (new,) = [row for row in a.holdings_of(name) if row.state == "held"]
    assert new.ssd != old.ssd and new.nsid == 2


def test_without_being_asked_for_nothing_is_replaced(world: World) -> None:
    a, b = world.add("a"), world.add("b")
    world.advance(1.0)
    name = scratch(a, "b", scratch=False)
    (old,) = a.holdings_of(name)
    world.kill(b)
    world.advance(200.0)
    assert a.holdings_of(name) == [old]


def test_copies_are_never_replaced_by_something_empty(world: World) -> None:
    a = world.add("a")
    part = Part(GIB, copies=2, scratch=True)
    with pytest.raises(ConfigError, match="never replaced by something empty"):
        a.do(lambda number: CreateDevice(number, vm="vm1", parts=(part,)))
