"""Devices and namespaces as users ask for them, on one card and with peers."""

from __future__ import annotations

import pytest
from tests_pool import GIB, MIB, World, ssd

from vhostnvme.cluster.commands import (
    AddNamespace,
    AttachNamespace,
    CloneNamespace,
    CreateDevice,
    CreateNamespace,
    DeleteDevice,
    DeleteNamespace,
    DeleteVm,
    Part,
    Released,
    ResizeNamespace,
)
from vhostnvme.cluster.messages import (
    Attach,
    Carve,
    Destroy,
    Detach,
    Failure,
    FailureKind,
    HostGone,
    Refit,
    StartDevice,
    StopDevice,
    Stretch,
)
from vhostnvme.errors import ClusterError, ConfigError, NoSpace


@pytest.fixture
def world() -> World:
    return World()


def alone(world: World, size: int = 4 * GIB, **options: object):
    return world.add("a", size, clustered=False, **options)


def create(*parts: Part, vm: str = "vm1", **options: object):
    return lambda number: CreateDevice(number, vm, parts, **options)


def test_a_device_of_two_namespaces_and_its_end(world: World) -> None:
    card = alone(world)
    name = card.do(create(Part(GIB), Part(2 * GIB, block_size=4096)))
    rows = list(card.pool.holdings.values())
    assert [(row.nsid, row.size, row.giver) for row in rows] == [
        (1, GIB, "a"),
        (2, 2 * GIB, "a"),
    ]
    assert card.pool.offer().ssds[0].local == 3 * GIB
    released = card.do(lambda n: DeleteDevice(n, name))
    assert released == Released((name,), tuple(row.uuid for row in rows))
    assert not card.pool.holdings and not card.pool.spaces and not card.pool.devices
    assert card.pool.offer().ssds[0].free == 4 * GIB


def test_a_device_is_started_when_all_its_space_is_there(world: World) -> None:
    card = alone(world)
    card.holds = lambda effect: isinstance(effect, Carve)
    card.ask(create(Part(GIB), Part(GIB)))
    first, second = card.held
    card.finish(first)
    assert not card.begun(StartDevice)
    card.finish(second)
    kinds = [type(each) for each in card.effects if isinstance(each, StartDevice | Attach)]
    assert kinds == [StartDevice, Attach, Attach]


def test_what_does_not_fit_leaves_nothing(world: World) -> None:
    card = alone(world)
    with pytest.raises(NoSpace, match="no space for a namespace of 3G"):
        card.do(create(Part(GIB), Part(3 * GIB + 4096 - 4096), Part(3 * GIB)))
    world.advance(1.0)
    assert not card.rows
    assert card.pool.offer().ssds[0].free == 4 * GIB


def test_a_medium_that_is_fuller_than_thought_leaves_nothing(world: World) -> None:
    card = alone(world)
    full = Failure(FailureKind.NO_SPACE, "the SSD is full")
    card.fails = lambda effect: full if isinstance(effect, Carve) else None
    with pytest.raises(NoSpace):
        card.do(create(Part(GIB)))
    world.advance(3.0)
    assert not card.rows and card.begun(Destroy)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (create(Part(0)), "cannot be"),
        (create(Part(-4096)), "cannot be"),
        (create(Part(4097)), "no multiple of 4096"),
        (create(), "1 to 256"),
        (create(Part(GIB), vm="../x"), "no name of a VM"),
        (create(Part(GIB), name="a b"), "no name of a device"),
        (create(Part(GIB, "nowhere")), "no card 'nowhere'"),
        (create(Part(GIB, block_size=1024)), "512 or 4096"),
        (create(Part(GIB), priority=101), "from 0 to 100"),
        (lambda n: DeleteDevice(n, "x"), "no device 'x'"),
        (lambda n: DeleteVm(n, "x"), "no VM 'x'"),
        (lambda n: DeleteNamespace(n, "x"), "no namespace 'x'"),
        (lambda n: CreateNamespace(n, "vm", GIB, ssd="x"), "no SSD 'x'"),
        (lambda n: AddNamespace(n, "x", Part(GIB)), "no device 'x'"),
        (lambda n: AttachNamespace(n, "x", "y"), "no device 'y'"),
        (lambda n: ResizeNamespace(n, "x", GIB), "no namespace x"),
        (lambda n: CloneNamespace(n, "x", "vm"), "no namespace x"),
    ],
)
def test_mistakes_are_told_and_change_nothing(world: World, make, sentence: str) -> None:
    card = alone(world)
    with pytest.raises(ConfigError, match=sentence):
        card.do(make)
    assert not card.rows


def test_a_name_is_there_once_and_free_again_after_its_deletion(world: World) -> None:
    card = alone(world)
    assert card.do(create(Part(GIB), name="disk")) == "disk"
    with pytest.raises(ConfigError, match="there is a device 'disk' already"):
        card.do(create(Part(GIB), name="disk"))
    card.do(lambda n: DeleteDevice(n, "disk"))
    assert card.do(create(Part(GIB), name="disk")) == "disk"


def test_a_deletion_may_be_repeated_also_after_a_restart(world: World) -> None:
    card = alone(world)
    name = card.do(create(Part(GIB)))
    card.do(lambda n: DeleteVm(n, "vm1"))
    assert card.do(lambda n: DeleteVm(n, "vm1")).already
    world.restart(card)
    assert card.do(lambda n: DeleteDevice(n, name)).already


def test_a_restart_undoes_what_was_not_answered_and_keeps_what_was(world: World) -> None:
    card = alone(world)
    kept = card.do(create(Part(GIB)))
    card.holds = lambda effect: isinstance(effect, Carve)
    card.ask(create(Part(GIB), vm="vm2"))
    assert len(card.pool.spaces) == 2
    card.holds = lambda _: False
    world.restart(card)
    world.advance(1.0)
    assert list(card.pool.devices) == [kept]
    assert len(card.pool.spaces) == len(card.pool.holdings) == 1
    assert [each.device.name for each in card.begun(StartDevice)].count(kept) == 2


def test_a_deletion_goes_on_after_a_restart(world: World) -> None:
    card = alone(world)
    name = card.do(create(Part(GIB)))
    card.holds = lambda effect: isinstance(effect, StopDevice)
    card.ask(lambda n: DeleteDevice(n, name))
    card.holds = lambda _: False
    world.restart(card)
    assert not card.pool.devices and not card.pool.spaces


def test_a_namespace_comes_and_goes_while_the_device_runs(world: World) -> None:
    card = alone(world)
    name = card.do(create(Part(GIB)))
    uuid = card.do(lambda n: AddNamespace(n, name, Part(GIB)))
    assert card.pool.holdings[uuid].nsid == 2
    card.do(lambda n: DeleteNamespace(n, uuid))
    assert [each.uuid for each in card.begun(Detach)] == [uuid]
    assert uuid not in card.pool.spaces
    with pytest.raises(ConfigError, match="only one of device"):
        card.do(lambda n: DeleteNamespace(n, card.holdings_of(name)[0].uuid))


def test_a_namespace_that_cannot_be_attached_is_given_back(world: World) -> None:
    card = alone(world)
    name = card.do(create(Part(GIB)))
    broken = Failure(FailureKind.FAILED, "it is broken")
    card.fails = lambda effect: broken if isinstance(effect, Attach) else None
    with pytest.raises(ClusterError, match="it is broken"):
        card.do(lambda n: AddNamespace(n, name, Part(GIB)), seconds=15)
    world.advance(1.0)
    assert len(card.pool.spaces) == len(card.pool.holdings) == 1


def test_a_loose_namespace_is_made_attached_and_deleted_with_its_vm(world: World) -> None:
    card = alone(world, ssds=[ssd("ssd0", 4 * GIB), ssd("ssd1", GIB)])
    uuid = card.do(lambda n: CreateNamespace(n, "vm1", GIB, ssd="ssd1"))
    assert card.pool.spaces[uuid].ssd == "ssd1"
    name = card.do(create(Part(GIB)))
    card.do(lambda n: AttachNamespace(n, uuid, name))
    assert card.begun(Attach)[-1].holding.nsid == 2
    with pytest.raises(ConfigError, match="belongs to device"):
        card.do(lambda n: AttachNamespace(n, uuid, name))
    loose = card.do(lambda n: CreateNamespace(n, "vm1", GIB))
    released = card.do(lambda n: DeleteVm(n, "vm1"))
    assert loose in released.namespaces and not card.pool.spaces


def test_a_copy_shares_blocks_where_the_ssd_can(world: World) -> None:
    card = alone(world, ssds=[ssd("x", 4 * GIB, can_clone=True), ssd("y", GIB)])
    uuid = card.do(lambda n: CreateNamespace(n, "vm1", GIB, ssd="x"))
    copy = card.do(lambda n: CloneNamespace(n, uuid, "vm2", read_only=True))
    assert card.pool.spaces[copy].source == uuid and card.pool.holdings[copy].read_only
    plain = card.do(lambda n: CreateNamespace(n, "vm1", GIB, ssd="y"))
    with pytest.raises(ConfigError, match="cannot share blocks"):
        card.do(lambda n: CloneNamespace(n, plain, "vm2"))


def test_a_namespace_grows_in_use_and_shrinks_only_out_of_it(world: World) -> None:
    card = alone(world)
    name = card.do(create(Part(GIB)))
    (row,) = card.holdings_of(name)
    assert card.do(lambda n: ResizeNamespace(n, row.uuid, 2 * GIB)) == 2 * GIB
    assert [each.size for each in card.begun(Stretch)] == [2 * GIB]
    assert card.begun(Refit)[-1].row.size == 2 * GIB
    with pytest.raises(ConfigError, match="it can only grow"):
        card.do(lambda n: ResizeNamespace(n, row.uuid, GIB))
    with pytest.raises(NoSpace):
        card.do(lambda n: ResizeNamespace(n, row.uuid, 5 * GIB))
    loose = card.do(lambda n: CreateNamespace(n, "vm1", GIB))
    assert card.do(lambda n: ResizeNamespace(n, loose, MIB)) == MIB
    assert card.pool.offer().ssds[0].local == 2 * GIB + MIB


def test_a_resize_that_fails_leaves_the_old_size_and_account(world: World) -> None:
    card = alone(world)
    uuid = card.do(lambda n: CreateNamespace(n, "vm1", GIB))
    full = Failure(FailureKind.NO_SPACE, "the SSD is full")
    card.fails = lambda effect: full if isinstance(effect, Stretch) else None
    with pytest.raises(ClusterError, match="the SSD is full"):
        card.do(lambda n: ResizeNamespace(n, uuid, 2 * GIB))
    assert card.pool.holdings[uuid].size == GIB
    assert card.pool.offer().ssds[0].local == GIB


def test_a_restart_in_the_middle_of_a_resize_finishes_it(world: World) -> None:
    card = alone(world)
    uuid = card.do(lambda n: CreateNamespace(n, "vm1", GIB))
    card.holds = lambda effect: isinstance(effect, Stretch)
    card.ask(lambda n: ResizeNamespace(n, uuid, 2 * GIB))
    card.holds = lambda _: False
    world.restart(card)
    assert card.pool.spaces[uuid].size == card.pool.holdings[uuid].size == 2 * GIB


def test_a_throw_away_vm_that_goes_takes_its_space_with_it(world: World) -> None:
    card = alone(world)
    name = card.do(create(Part(GIB), release_on_disconnect=True))
    kept = card.do(create(Part(GIB), vm="vm2"))
    for device in (name, kept):
        card.step(HostGone(device))
    world.advance(1.0)
    assert list(card.pool.devices) == [kept]


def test_a_deletion_during_the_making_ends_both(world: World) -> None:
    card = alone(world)
    card.holds = lambda effect: isinstance(effect, Carve)
    number = card.ask(create(Part(GIB), name="disk"))
    card.ask(lambda n: DeleteDevice(n, "disk"))
    card.finish(card.held[0])
    world.advance(1.0)
    assert isinstance(card.replies[number].error, ClusterError)
    assert not card.pool.spaces and not card.pool.devices
