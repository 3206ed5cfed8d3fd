"""A lab of real cards, on each store: a VM's space on another host, cut, slow, killed, and back.

Needs root, and etcd.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests_lab import traces

from vhostnvme.control.card import CLUSTER_STATUS, SSD_LIST, ClusterCard, SsdInfo
from vhostnvme.control.client import call
from vhostnvme.control.device import NoParams
from vhostnvme.lab import Lab, LabPlan

SIZE = 64 << 20
WAIT_S = 60.0


@pytest.fixture(scope="module", params=["sqlite", "etcd"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("cards") / "lab"
    plan = LabPlan(cards=3, store=request.param, ssd_size=256 << 20, ttl_us=3_000_000)
    with Lab.up(directory, plan) as made:
        yield made
    assert traces(directory) == []


@pytest.fixture(autouse=True)
def mended(lab: Lab) -> Iterator[None]:
    yield
    lab.heal()
    for host in lab.status():
        lab.slow(host.name, None)
        if host.state != "running":
            lab.restart(host.name)
    for card in lab.cards:
        until(lambda name=card.name: healths(lab, name) == dict.fromkeys("abc", "online"))


def until(fact: Callable[[], bool]) -> None:
    """Waits for what has to come."""
    deadline = time.monotonic() + WAIT_S
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def asked(lab: Lab, card: str, *words: str) -> Any:
    """What a command on a card's host answers in JSON."""
    done = lab.run(card, "vhostnvme", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def healths(lab: Lab, name: str) -> dict[str, str]:
    """Of all cards, as this one sees them."""
    cards = call(lab.card(name).control, CLUSTER_STATUS, NoParams(), list[ClusterCard])
    return {each.card: each.health for each in cards}


def used(lab: Lab) -> dict[str, int]:
    """Bytes on each card's SSD."""
    found = {}
    for card in lab.cards:
        (ssd,) = call(card.control, SSD_LIST, NoParams(), list[SsdInfo])
        found[card.name] = ssd.used
    return found


def verified_load(lab: Lab, socket: str) -> None:
    """Writes on the whole namespace, and reads it back."""
    load = ("--rw", "randrw", "--fill", "--verify", "--io-limit", "5000", "--json")
    done = lab.run("b", "vhostnvme", "perf", socket, *load)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verify"]["blocks"] > 0 and report["verify"]["errors"] == 0


@pytest.fixture
def socket(lab: Lab) -> Iterator[str]:
    """Of a device of b's, whose space is on a."""
    words = ("--vm", "vm1", "--size", str(SIZE), "--placement", "a")
    made = asked(lab, "b", "device", "create", *words)
    assert [each["card"] for each in made["namespaces"]] == ["a"]
    assert used(lab) == {"a": SIZE, "b": 0, "c": 0}
    yield made["socket"]
    asked(lab, "b", "vm", "delete", "vm1")
    assert used(lab) == {"a": 0, "b": 0, "c": 0}


def test_data_lives_on_another_host(lab: Lab, socket: str) -> None:
    verified_load(lab, socket)
    lab.slow("b", 1_000_000_000)
    verified_load(lab, socket)
    lab.slow("b", None)


def test_a_giver_that_is_killed_comes_back_with_the_data(lab: Lab, socket: str) -> None:
    verified_load(lab, socket)
    lab.kill("a")
    lab.restart("a")
    verified_load(lab, socket)


def test_a_device_outlives_its_card(lab: Lab, socket: str) -> None:
    lab.kill("b")
    lab.restart("b")
    until(lambda: asked(lab, "b", "device", "list")[0]["state"] == "listening")
    assert asked(lab, "b", "device", "list")[0]["socket"] == socket
    verified_load(lab, socket)


def test_a_frozen_card_is_lost_and_found(lab: Lab) -> None:
    lab.freeze("c")
    until(lambda: healths(lab, "a") == {"a": "online", "b": "online", "c": "lost"})
    lab.thaw("c")
    until(lambda: healths(lab, "a")["c"] == "online")


def test_a_card_that_is_cut_off_is_lost_and_found(lab: Lab, socket: str) -> None:
    lab.partition("b")
    if lab.store_is_a_file:  # which no network leads to
        assert healths(lab, "a")["b"] == "online"
    else:
        until(lambda: healths(lab, "a") == {"a": "online", "b": "lost", "c": "online"})
    lab.heal()
    until(lambda: healths(lab, "a")["b"] == "online")
    verified_load(lab, socket)


def test_the_store_is_away_for_a_while(lab: Lab, socket: str) -> None:
    """I/O goes on; once it is back, so is the cluster."""
    if lab.store_is_a_file:
        return
    lab.kill("store")
    verified_load(lab, socket)
    lab.restart("store")
    until(lambda: healths(lab, "a") == dict.fromkeys("abc", "online"))
