"""Namespaces with two copies on real cards: lost and come back, replaced, moved, taken over.

An oracle writes and reads all the time: no command may fail, and each read finds what was written
last.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests_cluster import BLOCK, MIB, check_accounts, opened, wait_empty
from tests_cluster_load import RunningLoad, load_on
from tests_protocol import dice

from vhostnvme.control.card import CreatedDevice, DeviceNamespace
from vhostnvme.errors import ConfigError, NoSpace, VhostNvmeError
from vhostnvme.testing.cards import CardPlan, CardProcess, Cards

SIZE = 16 * MIB
PAUSE_S_MAX = 5.0  # QEMU drops a device that is silent for longer
SETTLED_S = 40.0
PLAN = CardPlan(ssd_bytes=64 * MIB, ttl_s=2.0, replace_after_s=600.0)


@pytest.fixture(scope="module")
def cards() -> Iterator[Cards]:
    with Cards(3, PLAN) as running:
        yield running


def create(cards: Cards) -> CreatedDevice:
    """Of card a, with a copy on card b, and one on card a itself, where it fits."""
    return cards["a"].create_device("vm1", SIZE, placement="b", copies=2)


def namespace(cards: Cards, made: CreatedDevice, owner: str = "a") -> DeviceNamespace:
    (one,) = cards[owner].show_device(made.device).namespaces
    return one


def places(one: DeviceNamespace) -> list[str]:
    return sorted(copy.card for copy in one.copies)


def settled(cards: Cards, made: CreatedDevice, *where: str, owner: str = "a") -> DeviceNamespace:
    """Waits until the copies are on these cards, and count."""

    def there() -> bool:
        one = namespace(cards, made, owner)
        standings = {copy.standing for copy in one.copies} | {copy.state for copy in one.copies}
        moving = any(copy.moving for copy in one.copies)
        return places(one) == sorted(where) and standings == {"in-sync"} and not moving

    try:
        cards.wait(there, f"copies on {where}", SETTLED_S)
    except VhostNvmeError as error:
        log = cards[owner].log_text()[-1500:]
        raise AssertionError(f"{error}: {namespace(cards, made, owner)}\n{log}") from None
    return namespace(cards, made, owner)


def path_of(cards: Cards, card: str, uuid: str) -> Path:
    (path,) = [each for each in cards[card].namespace_files() if each.stem == uuid]
    return path


def check_same(cards: Cards, one: DeviceNamespace) -> None:
    """All copies have the same bytes. Nothing writes meanwhile."""
    paths = [path_of(cards, copy.card, copy.uuid) for copy in one.copies]
    hashes = {hashlib.sha256(path.read_bytes()[: one.size]).hexdigest() for path in paths}
    assert len(paths) > 0 and len(hashes) == 1, f"copies differ: {paths}"


def stale(cards: Cards, made: CreatedDevice) -> bool:
    return any(copy.standing == "stale" for copy in namespace(cards, made).copies)


def goes_on(load: RunningLoad) -> None:
    load.goes_on()
    assert load.oracle.errors == 0


def killed(cards: Cards, load: RunningLoad, made: CreatedDevice) -> None:
    cards["b"].kill()
    goes_on(load)
    cards.wait(lambda: stale(cards, made), "it is known to be stale")
    one = namespace(cards, made)
    assert one.safety == "at risk" and "card a, ssd0 only" in one.words, one.words
    goes_on(load)
    cards.start()


def frozen(cards: Cards, load: RunningLoad, made: CreatedDevice) -> None:
    cards["b"].signal(signal.SIGSTOP)
    try:
        goes_on(load)
        cards.wait(lambda: stale(cards, made), "it is known to be stale")
        goes_on(load)
    finally:
        cards["b"].signal(signal.SIGCONT)
    cards.wait_together()


@pytest.mark.slow
@pytest.mark.parametrize("fault", [killed, frozen])
def test_a_copy_is_lost_and_comes_back(
    cards: Cards, fault: Callable[[Cards, RunningLoad, CreatedDevice], None]
) -> None:
    rng = dice("test_a_copy_is_lost_and_comes_back")
    made = create(cards)
    settled(cards, made, "a", "b")
    with load_on(made.socket, SIZE, rng) as load:
        goes_on(load)
        fault(cards, load, made)
        settled(cards, made, "a", "b")
        goes_on(load)
    assert load.longest_s < PAUSE_S_MAX
    check_same(cards, settled(cards, made, "a", "b"))
    check_accounts(cards)
    cards["a"].delete_device(made.device)
    wait_empty(cards)


@pytest.mark.slow
def test_a_namespace_moves_under_its_guest(cards: Cards) -> None:
    rng = dice("test_a_namespace_moves_under_its_guest")
    made = cards["a"].create_device("vm1", SIZE)
    uuid = made.namespaces[0].uuid
    with load_on(made.socket, SIZE, rng) as load:
        for to in ("b", "c", "a", "b"):
            goes_on(load)
            assert cards["a"].move_namespace(uuid, to).begun
            one = settled(cards, made, to)
            assert (one.uuid, one.card) == (uuid, to)
        assert not cards["a"].move_namespace(uuid, "b").begun
        assert not cards["a"].move_namespace(uuid, None).begun
        goes_on(load)
    assert load.longest_s < PAUSE_S_MAX
    check_accounts(cards)
    cards["a"].restart()
    settled(cards, made, "b")
    host, queue = opened(made.socket)
    with host:
        content = b"".join(queue.read(lba, 128) for lba in range(0, SIZE // BLOCK, 128))
    load.oracle.check(content)
    cards["a"].delete_device(made.device)
    wait_empty(cards)


@pytest.mark.slow
def test_a_card_is_emptied(cards: Cards) -> None:
    """What others have of it, and what its own VMs have, goes elsewhere; then nothing new comes."""
    rng = dice("test_a_card_is_emptied")
    two = create(cards)
    own = cards["b"].create_device("vm2", MIB)
    with load_on(two.socket, SIZE, rng) as load:
        goes_on(load)
        assert cards["b"].drain().draining
        settled(cards, two, "a", "c")
        cards.wait(lambda: not cards["b"].status().spaces, "card b is empty")
        (moved,) = cards["b"].show_device(own.device).namespaces
        assert moved.card in ("a", "c")
        with pytest.raises(NoSpace):
            cards["b"].create_device("vm3", MIB, placement="local")
        goes_on(load)
    check_same(cards, namespace(cards, two))
    cards["b"].drain(False)
    cards["b"].create_device("vm3", MIB, placement="local")
    cards.wait(lambda: takes(cards, "b"), "card a knows that card b takes namespaces again")
    for vm in ("vm2", "vm3"):
        cards["b"].delete_vm(vm)
    cards["a"].delete_device(two.device)
    wait_empty(cards)


def takes(cards: Cards, name: str) -> bool:
    """Whether card a gets space of another one."""
    try:
        made = cards["a"].create_device("vm4", MIB, placement=name)
    except NoSpace:
        return False
    return not cards["a"].delete_device(made.device).pending


@pytest.mark.slow
def test_an_owner_that_is_killed_finds_its_copies_again(cards: Cards) -> None:
    rng = dice("test_an_owner_that_is_killed_finds_its_copies_again")
    made = create(cards)
    settled(cards, made, "a", "b")
    written: dict[int, bytes] = {}
    for life in range(3):
        host, queue = opened(made.socket)
        with host:
            for lba in rng.sample(range(SIZE // BLOCK), 200):
                written[lba] = f"{life} {lba}".encode().ljust(BLOCK)
                queue.write(lba, written[lba])
            cards["a"].kill()
        cards.start()
        settled(cards, made, "a", "b")
        host, queue = opened(made.socket)
        with host:
            for lba, content in written.items():
                assert queue.read(lba, 1) == content
    cards.wait(lambda: not namespace(cards, made).progress, "all has been repaired")
    check_same(cards, settled(cards, made, "a", "b"))
    cards["a"].delete_device(made.device)
    wait_empty(cards)


@pytest.mark.slow
def test_an_owner_without_its_own_ssd_goes_on_with_the_other_copy(cards: Cards) -> None:
    made = create(cards)
    settled(cards, made, "a", "b")
    host, queue = opened(made.socket)
    with host:
        queue.write(8, b"both".ljust(BLOCK))
    cards["a"].stop()
    (folder,) = cards["a"].ssd_folders
    aside = folder.rename(folder.with_name("aside"))
    cards["a"].start()
    cards.wait(lambda: stale(cards, made), "it is known to be stale")
    host, queue = opened(made.socket)
    with host:
        assert queue.read(8, 1) == b"both".ljust(BLOCK)
        queue.write(16, b"one".ljust(BLOCK))
    aside.rename(folder)
    settled(cards, made, "a", "b")
    cards.wait(lambda: not namespace(cards, made).progress, "all has been repaired")
    check_same(cards, settled(cards, made, "a", "b"))
    host, queue = opened(made.socket)
    with host:
        assert queue.read(8, 1) == b"both".ljust(BLOCK)
        assert queue.read(16, 1) == b"one".ljust(BLOCK)
    cards["a"].delete_device(made.device)
    wait_empty(cards)


@pytest.mark.slow
def test_a_vm_begins_again_where_its_other_copy_is() -> None:
    """Its card has gone; the card with the copy takes it over, and is the only one that has it."""
    with Cards(3, PLAN) as cards:
        made = create(cards)
        settled(cards, made, "a", "b")
        host, queue = opened(made.socket)
        with host:
            queue.write(8, b"mine".ljust(BLOCK))
        cards["a"].kill()
        cards.wait(lambda: lost(cards["b"], "a"), "card a is lost")
        taken = cards["b"].adopt_device(made.device, "a")
        host, queue = opened(taken.socket)
        with host:
            assert queue.read(8, 1) == b"mine".ljust(BLOCK)
            queue.write(8, b"newer".ljust(BLOCK))
        cards["a"].start()
        cards.wait(lambda: not cards["a"].devices(), "card a lets go of it")
        host, queue = opened(taken.socket)
        with host:
            assert queue.read(8, 1) == b"newer".ljust(BLOCK)
        cards["b"].delete_device(taken.device)
        wait_empty(cards)


def lost(card: CardProcess, name: str) -> bool:
    return any(each.card == name and each.health == "lost" for each in card.cluster())


@pytest.mark.slow
def test_a_stale_copy_is_taken_over_by_force_only() -> None:
    with Cards(3, PLAN) as cards:
        made = create(cards)
        settled(cards, made, "a", "b")
        host, queue = opened(made.socket)
        with host:
            queue.write(8, b"old".ljust(BLOCK))
            cards["b"].kill()
            queue.write(8, b"new".ljust(BLOCK))
        cards.wait(lambda: stale(cards, made), "it is known to be stale")
        cards["a"].kill()
        cards["b"].start()
        cards.wait(lambda: lost(cards["b"], "a"), "card a is lost")
        with pytest.raises(VhostNvmeError, match="lacks what was written last"):
            cards["b"].adopt_device(made.device, "a")
        taken = cards["b"].adopt_device(made.device, "a", force=True)
        host, queue = opened(taken.socket)
        with host:
            assert queue.read(8, 1) == b"old".ljust(BLOCK)
        cards["a"].start()
        cards.wait(lambda: not cards["a"].devices(), "card a lets go of it")
        cards["b"].delete_device(taken.device)
        wait_empty(cards)


@pytest.mark.slow
def test_a_card_that_is_gone_for_good_is_replaced() -> None:
    rng = dice("test_a_card_that_is_gone_for_good_is_replaced")
    plan = CardPlan(ssd_bytes=64 * MIB, ttl_s=2.0, replace_after_s=2.0)
    with Cards(3, plan) as cards:
        made = create(cards)
        settled(cards, made, "a", "b")
        with load_on(made.socket, SIZE, rng) as load:
            goes_on(load)
            cards["b"].kill()
            settled(cards, made, "a", "c")
            goes_on(load)
        assert load.longest_s < PAUSE_S_MAX
        check_same(cards, namespace(cards, made))
        cards["b"].start()  # its space is given back, late
        cards.wait(lambda: not cards["b"].namespace_files(), "card b has nothing of it")
        cards["a"].delete_device(made.device)
        wait_empty(cards)


def test_what_cannot_be(cards: Cards) -> None:
    a = cards["a"]
    with pytest.raises(ConfigError, match="1 or 2 copies"):
        a.create_device("vm1", MIB, copies=3)
    with pytest.raises(NoSpace, match="another card, or another SSD"):
        a.create_device("vm1", MIB, placement="local", copies=2)
    made = create(cards)
    (one,) = made.namespaces
    with pytest.raises(ConfigError, match="say with --from which one moves"):
        a.move_namespace(one.uuid, "c")
    with pytest.raises(ConfigError, match="there is no card 'z'"):
        a.move_namespace(one.uuid, "z", "b")
    with pytest.raises(ConfigError, match="is a copy of namespace"):
        a.move_namespace(one.copies[0].uuid, "c")
    filler = cards["c"].create_device("vm9", 60 * MIB, placement="local")
    assert a.move_namespace(one.uuid, "c", "b").begun
    cards.wait(lambda: "no space" in namespace(cards, made).words, "it says why it does not move")
    assert places(namespace(cards, made)) == ["a", "b"]
    assert a.move_namespace(one.uuid, None).begun
    settled(cards, made, "a", "b")
    done = a.cli("namespace", "promote", one.uuid, "--copy", one.copies[1].uuid)
    assert done.returncode == 2 and "say --force" in done.stderr
    done = a.cli("namespace", "promote", one.uuid, "--copy", one.copies[1].uuid, "--force")
    assert done.returncode == 2 and "is in sync already" in done.stderr
    cards["c"].delete_device(filler.device)
    a.delete_device(made.device)
    wait_empty(cards)
