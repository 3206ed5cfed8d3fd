"""Several controllers on one drive: what they share, what each has, and how well it reaches it."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_protocol import BLOCK, pattern, refused
from tests_ssd import active, allocated, controllers, ids

from vhostnvme.native import (
    AnaState,
    Controller,
    ControllerOptions,
    Drive,
    DriveOptions,
    Namespace,
    Runtime,
)
from vhostnvme.storage.disk import native_options
from vhostnvme.storage.spec import parse_spec
from vhostnvme.testing import Completion, NvmeHost, nvme
from vhostnvme.testing.nvme import Status

NOTICE_ANA = 0x0C_03_02
OAES_ANA = 1 << 11
GROUPS = 32


class Pair:
    """A drive of two controllers: namespaces 1 and 2 are shared, 3 is the second one's alone."""

    def __init__(self, runtime: Runtime, folder: Path, stack: contextlib.ExitStack) -> None:
        self.namespaces = [
            stack.enter_context(Namespace(runtime, native_options(parse_spec("mem:1M"))))
            for _ in range(3)
        ]
        self.drive = stack.enter_context(Drive(runtime, DriveOptions(shared=True, ana=True)))
        self.controllers = [
            stack.enter_context(
                Controller(runtime, ControllerOptions(serial="PAIR", cntlid=id_, drive=self.drive))
            )
            for id_ in (1, 2)
        ]
        for nsid, namespace in enumerate(self.namespaces, 1):
            self.drive.add_space(namespace, nsid, shared=nsid < 3, group=nsid)
        for number, controller in enumerate(self.controllers):
            for nsid in (1, 2, 3)[: 2 + number]:
                controller.attach(self.namespaces[nsid - 1], nsid)
            controller.listen(folder / f"pair{number}")
        self.hosts = [
            stack.enter_context(NvmeHost.connect(folder / f"pair{number}", memory_bytes=8 << 20))
            for number in (0, 1)
        ]
        for host in self.hosts:
            host.enable()


@pytest.fixture
def pair(runtime: Runtime, tmp_path: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        yield Pair(runtime, tmp_path, stack)


def read(host: NvmeHost, nsid: int = 1, length: int = BLOCK) -> tuple[Completion, bytes]:
    queue = host.create_queue_pair(1, depth=8)
    with host.alloc(length) as buffer:
        done = queue.command(nvme.read(nsid, 0, length // BLOCK), buffer)
        data = buffer.get()
    queue.delete()
    return done, data


def write(host: NvmeHost, data: bytes, nsid: int = 1) -> None:
    queue = host.create_queue_pair(1, depth=8)
    with host.alloc(len(data)) as buffer:
        buffer.put(data)
        assert queue.command(nvme.write(nsid, 0, len(data) // BLOCK), buffer).ok
    queue.delete()


def ana_log(host: NvmeHost) -> tuple[int, dict[int, tuple[int, list[int]]]]:
    """The change count; and state and namespaces by group."""
    page = host.log_page(0x0C, 4096)
    count, groups = struct.unpack_from("<QH", page)
    found, at = {}, 16
    for _ in range(groups):
        group, number, _, state = struct.unpack_from("<IIQB", page, at)
        listed = struct.unpack_from(f"<{number}I", page, at + 32)
        found[group] = (state, list(listed))
        at += 32 + 4 * number
    return count, found


# --- What they are ---


def test_they_are_controllers_of_one_subsystem(pair: Pair) -> None:
    pages = [host.identify_controller() for host in pair.hosts]
    for number, page in enumerate(pages, 1):
        assert page[76] == 0b1011  # CMIC: ports, controllers, ANA
        assert struct.unpack_from("<H", page, 78) == (number,)
        assert page[4:24] == pages[0][4:24]  # serial number
        assert page[768:1024] == pages[0][768:1024]  # SUBNQN
        assert struct.unpack_from("<I", page, 92)[0] & OAES_ANA
        assert struct.unpack_from("<II", page, 344) == (GROUPS, GROUPS)
    for host in pair.hosts:
        assert controllers(host.identify(0x13)) == [1, 2]


def test_a_single_controller_says_nothing_of_others(host: NvmeHost) -> None:
    page = host.identify_controller()
    assert page[76] == 0
    assert not struct.unpack_from("<I", page, 92)[0] & OAES_ANA
    refused(host.admin(nvme.get_log_page(0x0C, 64), host.alloc(64)), Status.INVALID_LOG_PAGE)
    assert host.identify(0, 1)[30] == 0  # NMIC


def test_each_says_which_namespaces_it_has_and_who_shares_them(pair: Pair) -> None:
    first, second = pair.hosts
    assert active(first) == [1, 2]
    assert active(second) == allocated(second) == allocated(first) == [1, 2, 3]
    for nsid, shared in ((1, 1), (2, 1), (3, 0)):
        assert second.identify(0, nsid)[30] == shared  # NMIC
        assert first.identify(0x11, nsid)[30] == shared
        expected = [1, 2] if shared else [2]
        assert controllers(first.identify(0x12, nsid)) == expected
        assert struct.unpack_from("<I", second.identify(0, nsid), 92) == (nsid,)  # ANAGRPID
    for nsid in (1, 2):
        assert first.identify(3, nsid) == second.identify(3, nsid)
    refused(read(first, 3)[0], Status.INVALID_NAMESPACE)


def test_what_one_writes_the_other_reads(pair: Pair) -> None:
    first, second = pair.hosts
    data = pattern(1, 16 * BLOCK)
    write(first, data)
    assert read(second, length=len(data))[1] == data
    assert read(second, 2)[1] == bytes(BLOCK)


def test_a_reset_of_one_is_not_the_others(pair: Pair) -> None:
    first, second = pair.hosts
    queue = second.create_queue_pair(1, depth=8)
    first.reset()
    with second.alloc(BLOCK) as buffer:
        assert queue.command(nvme.read(1, 0, 1), buffer).ok
    first.enable()
    assert active(first) == [1, 2]


def test_both_hear_of_another_size(pair: Pair) -> None:
    events = []
    for host in pair.hosts:
        host.set_feature(0x0B, 1 << 8)
        events.append(host.submit_async_event())
    pair.namespaces[0].resize(2 << 20)
    for host, event in zip(pair.hosts, events, strict=True):
        assert host.wait_async_event(event).result == 0x04_00_02
        assert ids(host.log_page(4, 4096)) == [1]
        assert struct.unpack_from("<Q", host.identify(0, 1)) == ((2 << 20) // BLOCK,)


# --- ANA ---


def test_all_is_optimized_at_first(pair: Pair) -> None:
    first, second = pair.hosts
    assert ana_log(first)[1] == {1: (1, [1]), 2: (1, [2])}
    assert ana_log(second)[1] == {1: (1, [1]), 2: (1, [2]), 3: (1, [3])}


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (AnaState.NON_OPTIMIZED, Status.SUCCESS),
        (AnaState.INACCESSIBLE, Status.ANA_INACCESSIBLE),
        (AnaState.PERSISTENT_LOSS, Status.ANA_LOSS),
        (AnaState.CHANGE, Status.ANA_TRANSITION),
    ],
)
def test_a_state_is_told_and_holds_for_one_controller(
    pair: Pair, state: AnaState, status: Status
) -> None:
    first, second = pair.hosts
    for host in pair.hosts:
        host.set_feature(0x0B, OAES_ANA)
    event = first.submit_async_event()
    before, _ = ana_log(first)
    pair.controllers[0].set_ana(state, 1)
    assert first.wait_async_event(event).result == NOTICE_ANA
    after, groups = ana_log(first)
    assert after == before + 1
    assert groups == {1: (state, [1]), 2: (1, [2])}
    assert ana_log(second)[1][1] == (1, [1])
    done, _ = read(first)
    assert done.code == status
    assert not done.dnr  # another path, or this one later
    assert read(first, 2)[0].ok
    assert read(second)[0].ok
    pair.controllers[0].set_ana(AnaState.OPTIMIZED, 1)
    assert read(first)[0].ok


def test_a_flush_of_all_needs_all(pair: Pair) -> None:
    first = pair.hosts[0]
    pair.controllers[0].set_ana(AnaState.INACCESSIBLE, 2)
    queue = first.create_queue_pair(1, depth=8)
    assert queue.command(nvme.flush(0xFFFFFFFF)).code == Status.ANA_INACCESSIBLE
    assert queue.command(nvme.flush(1)).ok


def test_namespaces_that_come_and_go_are_in_the_log(pair: Pair) -> None:
    first = pair.hosts[0]
    before, _ = ana_log(first)
    pair.controllers[0].detach(2)
    after, groups = ana_log(first)
    assert after > before
    assert list(groups) == [1]
    pair.controllers[0].attach(pair.namespaces[1], 2)
    assert list(ana_log(first)[1]) == [1, 2]
