"""Who gets a card's space: order, exclusiveness, epochs, and giving back."""

from __future__ import annotations

import pytest
from tests_pool import GIB, TestCard, World

from vhostnvme.cluster.commands import (
    AdoptDevice,
    CreateDevice,
    DeleteDevice,
    DeleteNamespace,
    Part,
    ResizeNamespace,
)
from vhostnvme.cluster.messages import (
    Attach,
    Carve,
    Destroy,
    Export,
    Failure,
    FailureKind,
    ListStore,
    Unexport,
    Write,
)
from vhostnvme.cluster.rows import SpaceRow
from vhostnvme.cluster.store.base import Snapshot
from vhostnvme.errors import ClusterError, ConfigError, NoSpace


@pytest.fixture
def world() -> World:
    return World()


def create(*parts: Part, vm: str = "vm1", **options: object):
    return lambda number: CreateDevice(number, vm, parts, **options)


def remote(size: int, **options: object):
    return create(Part(size, "remote"), **options)


def is_granted(card: TestCard, number: int) -> bool:
    return number in card.replies and card.replies[number].error is None


@pytest.mark.parametrize("seed", range(20))
def test_the_last_space_goes_to_the_higher_priority(world: World, seed: int) -> None:
    giver = world.add("g", GIB, seed=seed)
    asker, other = world.add("a", 4096), world.add("b", 4096)
    first, second = (asker, other) if seed % 2 else (other, asker)
    low = first.ask(remote(GIB, priority=10))
    world.run()
    world.advance(0.25)  # they ask at about the same time
    high = second.ask(remote(GIB, priority=11))
    world.run()
    world.advance(2.0)
    assert is_granted(second, high) and not is_granted(first, low)
    assert isinstance(first.replies[low].error, NoSpace)
    assert giver.pool.offer().free == 0


def test_own_vms_stand_in_the_same_line(world: World) -> None:
    giver, asker = world.add("g", GIB), world.add("a", 4096)
    low = giver.ask(create(Part(GIB), priority=1))
    high = asker.ask(remote(GIB, priority=2))
    world.advance(2.0)
    assert is_granted(asker, high) and not is_granted(giver, low)


def test_while_there_is_room_nobody_waits(world: World) -> None:
    world.add("g", 4 * GIB)
    asker = world.add("a", 4096)
    number = asker.ask(remote(GIB, priority=0))
    world.run()
    assert is_granted(asker, number)


def test_who_has_waited_overtakes_who_has_just_come(world: World) -> None:
    world.add("g", GIB)
    asker, other = world.add("a", 4096), world.add("b", 4096)
    holder = asker.do(remote(GIB))
    old = asker.ask(remote(GIB, vm="vm2", priority=10, wait_s=1000.0))
    world.advance(25.0)  # two priorities and a half, at one for each ten seconds
    asker.ask(lambda n: DeleteDevice(n, holder))
    young = other.ask(remote(GIB, priority=12, wait_s=20.0))
    world.advance(5.0)
    assert is_granted(asker, old) and not is_granted(other, young)


def test_equals_draw_lots(world: World) -> None:
    won = set()
    for seed in range(16):
        world = World()
        world.add("g", GIB, seed=seed)
        cards = [world.add(name, 4096) for name in ("a", "b")]
        numbers = [card.ask(remote(GIB)) for card in cards]
        world.advance(2.0)
        won |= {i for i in (0, 1) if is_granted(cards[i], numbers[i])}
    assert won == {0, 1}


def test_the_reserve_is_for_who_names_the_card(world: World) -> None:
    giver, asker = world.add("g", 4 * GIB, reserve=2 * GIB), world.add("a", 4096)
    (offer,) = giver.pool.offer().ssds
    assert (offer.free, offer.largest, offer.reserved) == (2 * GIB, 2 * GIB, 2 * GIB)
    with pytest.raises(NoSpace):
        asker.do(create(Part(3 * GIB, "g")))
    with pytest.raises(NoSpace):
        giver.do(create(Part(3 * GIB)))
    giver.do(create(Part(3 * GIB, "local")))
    assert giver.pool.offer().ssds[0].reserved == GIB


def test_a_card_that_listens_nowhere_gives_nothing(world: World) -> None:
    world.add("g", 4 * GIB, addresses=())
    asker = world.add("a", 4096)
    for placement in ("remote", "g"):
        with pytest.raises(NoSpace):
            asker.do(create(Part(GIB, placement)))


def test_the_epoch_is_in_the_catalog_before_anybody_is_let_in(world: World) -> None:
    giver, asker = world.add("g"), world.add("a", 4096)
    asker.do(remote(GIB))
    effects = giver.effects
    export = next(i for i, each in enumerate(effects) if isinstance(each, Export))
    written = [
        change.epoch
        for each in effects[:export]
        if isinstance(each, Write)
        for change in each.changes
        if isinstance(change, SpaceRow)
    ]
    assert written[-1] == effects[export].epoch == 1


def test_a_giver_that_starts_again_lets_its_owners_in_without_the_store(world: World) -> None:
    giver, asker = world.add("g"), world.add("a", 4096)
    asker.do(remote(GIB))
    giver.reachable = False
    world.run()
    world.restart(giver)
    assert list(world.admitted.values()) == [("a", 1)]


def test_release_denies_then_destroys_then_tells(world: World) -> None:
    giver, asker = world.add("g"), world.add("a", 4096)
    name = asker.do(remote(GIB))
    asker.do(lambda n: DeleteDevice(n, name))
    kinds = [type(each) for each in giver.effects if isinstance(each, Unexport | Destroy)]
    assert kinds == [Unexport, Destroy]
    assert not world.store.spaces() and not giver.rows and not asker.rows
    assert not [key for key in world.store.entries if key.startswith(("space/", "held/"))]


def test_space_that_is_still_in_use_is_not_destroyed(world: World) -> None:
    giver, asker = world.add("g"), world.add("a", 4096)
    name = asker.do(remote(GIB))
    busy = Failure(FailureKind.BUSY, "commands are under way")
    giver.fails = lambda effect: busy if isinstance(effect, Unexport) else None
    released = asker.do(lambda n: DeleteDevice(n, name), seconds=10)
    assert released.pending and not giver.begun(Destroy)
    giver.fails = lambda _: None
    world.advance(3.0)
    assert not giver.pool.spaces and not asker.pool.holdings


def test_a_release_is_remembered_while_the_giver_is_away(world: World) -> None:
    giver, asker = world.add("g"), world.add("a", 4096)
    name = asker.do(remote(GIB))
    world.kill(giver)
    released = asker.do(lambda n: DeleteDevice(n, name))
    assert len(released.pending) == 1
    assert asker.do(lambda n: DeleteDevice(n, name)).pending == released.pending
    world.bring_back(giver)
    assert not giver.pool.spaces and not asker.pool.holdings
    assert asker.do(lambda n: DeleteDevice(n, name)).already


def test_a_request_is_withdrawn_when_nobody_answers(world: World) -> None:
    giver, asker = world.add("g"), world.add("a", 4096)
    giver.holds = lambda effect: isinstance(effect, Carve)
    number = asker.ask(remote(GIB))
    world.advance(20.0)
    assert "card g was asked for space and did not answer" in str(asker.replies[number].error)
    giver.finish(giver.held[0])
    world.advance(3.0)
    assert not giver.pool.spaces and not asker.pool.holdings and not world.store.spaces()


def test_a_giver_that_cannot_carve_refuses_and_the_next_one_is_asked(world: World) -> None:
    broken, good = world.add("b", 8 * GIB), world.add("g", 4 * GIB)
    asker = world.add("a", 4096)
    failure = Failure(FailureKind.FAILED, "input/output error")
    broken.fails = lambda effect: failure if isinstance(effect, Carve) else None
    asker.do(remote(GIB))
    assert [row.giver for row in asker.pool.holdings.values()] == ["g"]
    world.advance(3.0)
    assert not broken.pool.spaces and len(good.pool.spaces) == 1


def test_an_owner_grows_what_it_has_on_another_card(world: World) -> None:
    giver, asker = world.add("g"), world.add("a", 4096)
    asker.do(remote(GIB))
    (row,) = asker.pool.holdings.values()
    assert asker.do(lambda n: ResizeNamespace(n, row.uuid, 2 * GIB)) == 2 * GIB
    assert giver.pool.offer().ssds[0].remote == 2 * GIB
    with pytest.raises(ClusterError, match="keeps its size: card 'g' has no space"):
        asker.do(lambda n: ResizeNamespace(n, row.uuid, 8 * GIB))
    assert asker.pool.holdings[row.uuid].size == 2 * GIB


def test_an_adopted_namespace_has_a_new_epoch_and_the_old_owner_lets_go(world: World) -> None:
    giver = world.add("g")
    old, new = world.add("a", 4096), world.add("b", 4096)
    name = old.do(remote(GIB))
    with pytest.raises(ClusterError, match="is online"):
        new.do(lambda n: AdoptDevice(n, name, "a"))
    world.lose(old)
    assert new.do(lambda n: AdoptDevice(n, name, "a")) == name
    assert list(world.admitted.values()) == [("b", 2)]
    assert [row.epoch for row in giver.pool.spaces.values()] == [2]
    old.reachable = True
    world.advance(5.0)
    assert not old.pool.holdings and not old.pool.devices
    assert any("is not this card's any more" in line for line in old.logs)
    assert list(world.admitted.values()) == [("b", 2)]
    new.do(lambda n: DeleteDevice(n, name))
    assert not giver.pool.spaces


def test_a_take_over_that_takes_long_is_answered_and_goes_on(world: World) -> None:
    giver = world.add("g")
    old, new = world.add("a", 4096), world.add("b", 4096)
    name = old.do(remote(GIB))
    world.lose(old)
    world.crash(giver)
    with pytest.raises(ClusterError, match="card g has not let this card in yet"):
        new.do(lambda n: AdoptDevice(n, name, "a"), seconds=15)
    world.bring_back(giver)
    assert list(world.admitted.values()) == [("b", 2)]
    world.advance(6.0)
    assert new.begun(Attach) and name in new.pool.devices


def test_an_owner_that_comes_back_in_time_keeps_what_it_has(world: World) -> None:
    world.add("g")
    old, new = world.add("a", 4096), world.add("b", 4096)
    name = old.do(remote(GIB))
    world.lose(old)
    new.holds = lambda effect: isinstance(effect, ListStore)
    number = new.ask(lambda n: AdoptDevice(n, name, "a"))
    (listing,) = new.held
    listed = Snapshot(
        world.store.revision,
        tuple(e for k, e in world.store.entries.items() if k.startswith("held/a/")),
    )
    old.reachable = True
    world.advance(2.0)
    new.holds = lambda _: False
    new.seen = world.store.revision  # the news has not come yet
    new.finish(listing, listed)
    world.advance(2.0)
    assert new.replies[number].error is not None
    assert not new.pool.devices and not new.pool.holdings
    assert [row.epoch for row in old.pool.holdings.values()] == [1]


def test_the_new_owner_waits_until_the_old_ones_commands_have_ended(world: World) -> None:
    giver = world.add("g")
    old, new = world.add("a", 4096), world.add("b", 4096)
    name = old.do(remote(GIB))
    world.lose(old)
    giver.holds = lambda effect: isinstance(effect, Export)
    number = new.ask(lambda n: AdoptDevice(n, name, "a"))
    world.advance(2.0)
    assert number not in new.replies
    (record,) = world.store.spaces()
    assert (record.epoch, record.admitted) == (2, 1)
    (export,) = giver.held
    giver.fails = lambda _: None
    world.admitted["g", export.uuid] = ("b", 2)
    giver.holds = lambda _: False
    giver.finish(export)
    world.advance(2.0)
    assert is_granted(new, number)


def test_space_of_which_the_store_knows_nothing_is_kept_until_somebody_says_so(
    world: World,
) -> None:
    giver, asker = world.add("g"), world.add("a", 4096)
    asker.do(remote(GIB))
    (uuid,) = giver.pool.spaces
    with pytest.raises(ConfigError, match="belongs to card 'a': delete it there"):
        giver.do(lambda n: DeleteNamespace(n, uuid))
    world.crash(asker)
    world.store.entries.clear()  # another store, or an empty one
    world.restart(giver)
    world.advance(5.0)
    assert uuid in giver.pool.spaces
    assert any("the store knows nothing any more" in line for line in giver.logs)
    giver.do(lambda n: DeleteNamespace(n, uuid))
    assert not giver.pool.spaces
