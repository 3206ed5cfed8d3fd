"""A card is cut off, frozen, or without its store, while its VM writes; another takes over.

Each write is a stamp: who wrote it, where, and its number. Once the new owner has written a block,
nothing of the old one may ever be in it. Needs root, and etcd.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests_cluster import BLOCK, MIB, is_refused, opened
from tests_lab import traces

from vhostnvme.control import card as methods
from vhostnvme.control.card import (
    AdoptDeviceParams,
    CardStatus,
    ClusterCard,
    CreatedDevice,
    CreateDeviceParams,
    DeviceInfo,
    ListParams,
    PartParams,
    ReleasedInfo,
    SsdInfo,
    VmParams,
)
from vhostnvme.control.client import call
from vhostnvme.control.device import NoParams
from vhostnvme.errors import VhostNvmeError
from vhostnvme.lab import Lab, LabPlan
from vhostnvme.testing import NvmeHost, nvme

SIZE = 4 * MIB
BLOCKS = 64  # that are written
TTL_S = 3.0
WAIT_S = 60.0
GIVER, OWNER, HEIR = "a", "b", "c"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("partition") / "lab"
    plan = LabPlan(cards=3, store="etcd", ssd_size=64 * MIB, ttl_us=round(TTL_S * 1e6))
    with Lab.up(directory, plan) as made:
        yield made
    assert traces(directory) == []


@pytest.fixture
def device(lab: Lab) -> Iterator[CreatedDevice]:
    """Of the owner, on the giver's SSD; in the end all is well, without a human."""
    params = CreateDeviceParams(vm="vm1", parts=[PartParams(SIZE, GIVER)], name="d")
    yield call(control(lab, OWNER), methods.DEVICE_CREATE, params, CreatedDevice, 60)
    lab.heal()  # when the test has failed
    if any(host.state != "running" for host in lab.status()):
        lab.restart("store")
    until(lambda: all(healths(lab, name) == dict.fromkeys("abc", "online") for name in "abc"))
    for name in (OWNER, HEIR):
        if devices(lab, name):
            call(control(lab, name), methods.VM_DELETE, VmParams("vm1"), ReleasedInfo, 60)
    until(lambda: all(not used(lab, name) for name in "abc"))


def until(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def control(lab: Lab, name: str) -> Path:
    return lab.card(name).control


def is_member(lab: Lab, name: str) -> bool:
    return call(control(lab, name), methods.CARD_STATUS, NoParams(), CardStatus).member


def healths(lab: Lab, name: str) -> dict[str, str]:
    cards = call(control(lab, name), methods.CLUSTER_STATUS, NoParams(), list[ClusterCard])
    return {each.card: each.health for each in cards}


def devices(lab: Lab, name: str) -> list[str]:
    listed = call(control(lab, name), methods.DEVICE_LIST, ListParams(), list[DeviceInfo])
    return [each.device for each in listed]


def used(lab: Lab, name: str) -> int:
    ssds = call(control(lab, name), methods.SSD_LIST, NoParams(), list[SsdInfo])
    return sum(each.used for each in ssds)


def adopt(lab: Lab) -> CreatedDevice:
    """By the heir, as soon as the owner is lost to it."""
    until(lambda: healths(lab, HEIR)[OWNER] == "lost")
    params = AdoptDeviceParams("d", OWNER)
    return call(control(lab, HEIR), methods.DEVICE_ADOPT, params, CreatedDevice, 60)


def stamp(owner: str, lba: int, number: int) -> bytes:
    return f"{owner} {lba} {number};".encode().ljust(32) * (BLOCK // 32)


class Writer:
    """A VM that writes stamps all the time, whatever becomes of them, until it is told to end.

    Attributes:
        done: how many writes have ended well.
        failed: how many have ended with an error.
        gone: its device has been taken away.
    """

    DEPTH = 8

    def __init__(self, socket: str, owner: str) -> None:
        self.done = self.failed = 0
        self.gone = False
        self._owner = owner
        self._over = threading.Event()
        self._host = NvmeHost.connect(socket, memory_bytes=4 << 20)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._host as host:
                self._write(host)
        except VhostNvmeError:
            self.gone = True

    def _write(self, host: NvmeHost) -> None:
        host.enable()
        queue = host.create_queue_pair(depth=2 * self.DEPTH)
        free = [host.alloc(BLOCK) for _ in range(self.DEPTH)]
        inflight = {}
        number = 0
        while not self._over.is_set():
            while free:
                number += 1
                lba, buffer = number % BLOCKS, free.pop()
                buffer.put(stamp(self._owner, lba, number))
                inflight[queue.submit(nvme.write(1, lba, 1), buffer)] = buffer
            for completion in queue.poll():
                free.append(inflight.pop(completion.cid))
                self.done += completion.ok
                self.failed += not completion.ok
            host.read32(nvme.Reg.CSTS)  # notices that the server has gone
            time.sleep(0.001)

    def goes_on(self) -> None:
        wanted = self.done + 100
        until(lambda: self.done > wanted)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


class Heir:
    """The new owner: it writes all blocks once and again, and looks what is in the giver's file."""

    def __init__(self, lab: Lab, device: CreatedDevice) -> None:
        self._host, self._queue = opened(device.socket)
        uuid = device.namespaces[0].uuid
        self._file = lab.card(GIVER).ssds[0] / f"{uuid}.ns"
        self._rounds = 0

    def check(self, seconds: float) -> None:
        """For so long, and twice at least, nothing but its own stamps is in the file."""
        end = time.monotonic() + seconds
        rounds = self._rounds + 2
        while time.monotonic() < end or self._rounds < rounds:
            self._rounds += 1
            expected = [stamp(HEIR, lba, self._rounds) for lba in range(BLOCKS)]
            for lba, block in enumerate(expected):
                self._queue.write(lba, block)
            time.sleep(0.05)  # for writes of others to come, if any can
            with self._file.open("rb") as file:
                found = file.read(BLOCKS * BLOCK)
            wrong = [lba for lba in range(BLOCKS) if found[lba * BLOCK :][:BLOCK] != expected[lba]]
            assert not wrong, f"in blocks {wrong} is {found[wrong[0] * BLOCK :][:32]!r}"

    def __enter__(self) -> Heir:
        return self

    def __exit__(self, *exc: object) -> None:
        self._host.close()


@pytest.mark.slow
@pytest.mark.parametrize("one_way", [None, "in", "out"])
def test_a_card_that_is_cut_off_has_let_go(lab: Lab, device: CreatedDevice, one_way: str) -> None:
    with Writer(device.socket, OWNER) as writer:
        writer.goes_on()
        lab.partition(OWNER, one_way=one_way)  # type: ignore[arg-type]
        taken = adopt(lab)
        assert not is_member(lab, OWNER)
        with Heir(lab, taken) as heir:
            heir.check(1)
            lab.heal()
            heir.check(0)
            until(lambda: is_member(lab, OWNER) and not devices(lab, OWNER))
            heir.check(1)
    assert devices(lab, HEIR) == ["d"]


@pytest.mark.slow
def test_a_card_that_was_frozen_writes_nothing_late(lab: Lab, device: CreatedDevice) -> None:
    with Writer(device.socket, OWNER) as writer:
        writer.goes_on()
        lab.freeze(OWNER)
        with Heir(lab, adopt(lab)) as heir:
            heir.check(0)
            lab.thaw(OWNER)
            heir.check(1)
            until(lambda: is_member(lab, OWNER) and not devices(lab, OWNER))
            heir.check(0)


@pytest.mark.slow
def test_nobody_takes_over_while_the_store_is_away(lab: Lab, device: CreatedDevice) -> None:
    with Writer(device.socket, OWNER) as writer:
        writer.goes_on()
        lab.kill("store")
        until(lambda: not any(is_member(lab, name) for name in "abc"))
        began = time.monotonic()
        for method, params, result in (
            (methods.DEVICE_ADOPT, AdoptDeviceParams("d", OWNER), CreatedDevice),
            (
                methods.DEVICE_CREATE,
                CreateDeviceParams(vm="vm2", parts=[PartParams(SIZE, GIVER)]),
                CreatedDevice,
            ),
        ):
            with pytest.raises(VhostNvmeError) as refused:
                call(control(lab, HEIR), method, params, result, 60)
            assert "store" in is_refused(refused.value)
        assert devices(lab, HEIR) == []
        while time.monotonic() < began + 3 * TTL_S:
            writer.goes_on()
        seen = {name: healths(lab, HEIR)[name] for name in (GIVER, OWNER)}
        assert set(seen.values()) == {"unknown"}
        lab.restart("store")
        until(lambda: all(is_member(lab, name) for name in "abc"))
        writer.goes_on()
        assert writer.failed == 0 and not writer.gone
        assert devices(lab, OWNER) == ["d"]


@pytest.mark.slow
def test_a_giver_without_the_store_goes_on_serving(lab: Lab, device: CreatedDevice) -> None:
    """Whom it has let in already; it lets in nobody new until it is back."""
    with Writer(device.socket, OWNER) as writer:
        lab.partition(GIVER, "store")
        until(lambda: healths(lab, HEIR)[GIVER] == "lost")
        assert not is_member(lab, GIVER)
        writer.goes_on()
        params = CreateDeviceParams(vm="vm2", parts=[PartParams(SIZE, GIVER)])
        with pytest.raises(VhostNvmeError) as refused:
            call(control(lab, HEIR), methods.DEVICE_CREATE, params, CreatedDevice, 60)
        assert f"{GIVER}" in is_refused(refused.value)
        lab.heal()
        until(lambda: is_member(lab, GIVER))
        writer.goes_on()
        assert writer.failed == 0 and not writer.gone
    assert devices(lab, HEIR) == []
