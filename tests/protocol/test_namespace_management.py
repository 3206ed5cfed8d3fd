"""Namespace Management and Attachment (Base 5.22, 5.23): hosts carve namespaces from an SSD that is
a folder, use them, and give them back; what was acknowledged outlives the server."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_protocol import Serve, pattern, refused
from tests_ssd import (
    CAPACITY,
    EVERY,
    SsdServer,
    active,
    allocated,
    attach,
    capacities,
    controllers,
    create,
    created,
    delete,
    detach,
    ids,
    manage,
)

from vhostnvme.testing import NvmeHost, nvme
from vhostnvme.testing.nvme import Admin, Sqe, Status

BLOCKS = 4096
FORMATS = [(9, 0), (9, 8), (9, 64), (12, 0), (12, 8), (12, 64)]  # LBADS, MS
INVALID_FORMAT, NO_CAPACITY, NO_ID = 0x10A, 0x115, 0x116
IS_ATTACHED, IS_PRIVATE, NOT_ATTACHED, NOT_THIN, BAD_LIST = 0x118, 0x119, 0x11A, 0x11B, 0x11C
BAD_GROUP, BAD_COMMAND_SET = 0x124, 0x129
NEW_EVENT = 0x04_00_02  # notice, namespace attribute changed, log page 04h


@pytest.fixture
def ssd(tmp_path: Path) -> Iterator[SsdServer]:
    """Two controllers on an SSD without namespaces."""
    with SsdServer(tmp_path, controllers=2, query="capacity=64M&namespaces=0") as server:
        yield server


@pytest.fixture
def host(ssd: SsdServer) -> NvmeHost:
    return ssd.connect()


def put(host: NvmeHost, nsid: int, data: bytes, lba: int = 0) -> None:
    queue = host.create_queue_pair(1, depth=8)
    with host.alloc(len(data)) as buffer:
        buffer.put(data)
        block = host.block_bytes(nsid)
        assert queue.command(nvme.write(nsid, lba, len(data) // block), buffer).ok
    queue.delete()


def got(host: NvmeHost, nsid: int, length: int, lba: int = 0) -> bytes:
    queue = host.create_queue_pair(1, depth=8)
    with host.alloc(length) as buffer:
        block = host.block_bytes(nsid)
        assert queue.command(nvme.read(nsid, lba, length // block), buffer).ok
        data = buffer.get()
    queue.delete()
    return data


# --- What there is ---


def test_a_new_ssd_is_one_namespace_over_its_whole_capacity(tmp_path: Path) -> None:
    with SsdServer(tmp_path) as ssd:
        host = ssd.connect()
        assert active(host) == allocated(host) == [1]
        assert capacities(host) == (CAPACITY, 0)
        assert host.identify_namespace(1)
        assert struct.unpack_from("<Q", host.identify(0, 1)) == (CAPACITY // 512,)


def test_identify_and_the_effects_log_tell_of_it(host: NvmeHost) -> None:
    page = host.identify_controller()
    assert page[256] & 1 << 3  # OACS
    effects = host.log_page(5, 4096)
    for opcode in (Admin.NS_MANAGEMENT, Admin.NS_ATTACHMENT):
        (of_opcode,) = struct.unpack_from("<I", effects, 4 * opcode)
        assert of_opcode & 0b1001 == 0b1001  # CSUPP, NIC
    common = host.identify(0, EVERY)
    assert common[25] == len(FORMATS) - 1  # NLBAF, zero-based
    formats = [struct.unpack_from("<HB", common, 128 + 4 * n) for n in range(len(FORMATS))]
    assert formats == [(metadata, shift) for shift, metadata in FORMATS]
    assert struct.unpack_from("<Q", common) == (0,)


def test_drives_without_a_folder_offer_none_of_it(serve: Serve) -> None:
    host = serve("mem:1M").connect()
    assert not host.identify_controller()[256] & 1 << 3
    refused(create(host, BLOCKS), Status.INVALID_OPCODE)
    refused(delete(host, 1), Status.INVALID_OPCODE)
    refused(attach(host, 1, 0), Status.INVALID_OPCODE)
    assert host.admin(nvme.identify(0, EVERY)).code == Status.INVALID_NAMESPACE


# --- A namespace's life ---


def test_a_namespace_is_created_used_and_given_back(ssd: SsdServer, host: NvmeHost) -> None:
    nsid = created(host, BLOCKS)
    assert nsid == 1
    assert allocated(host) == [1]
    assert active(host) == []
    assert capacities(host) == (CAPACITY, CAPACITY - BLOCKS * 512)
    assert struct.unpack_from("<Q", host.identify(0x11, nsid)) == (BLOCKS,)
    assert host.identify(0x00, nsid) == bytes(4096)  # inactive here
    assert controllers(host.identify(0x12, nsid)) == []
    assert ids(host.identify(0x1A)) == [1]
    assert host.identify(0x1B, nsid) == bytes(4096)

    assert attach(host, nsid, 1).ok
    assert active(host) == [1]
    assert controllers(host.identify(0x12, nsid)) == [1]
    data = pattern(1, 64 << 10)
    put(host, nsid, data)
    assert got(host, nsid, len(data)) == data

    assert detach(host, nsid, 1).ok
    assert active(host) == []
    assert allocated(host) == [1]
    assert attach(host, nsid, 1).ok
    assert got(host, nsid, len(data)) == data

    assert delete(host, nsid).ok
    assert active(host) == allocated(host) == []
    assert capacities(host) == (CAPACITY, CAPACITY)
    assert ssd.images() == []


@pytest.mark.parametrize(("flbas", "block"), [(0, 512), (3, 4096)])
def test_the_format_is_the_one_that_was_asked_for(host: NvmeHost, flbas: int, block: int) -> None:
    nsid = created(host, 1024, flbas=flbas)
    assert attach(host, nsid, 1).ok
    page = host.identify(0, nsid)
    assert page[26] == flbas
    assert page[128 + 4 * flbas + 2] == block.bit_length() - 1
    assert int.from_bytes(page[48:64], "little") == 1024 * block  # NVMCAP
    data = pattern(2, block)
    put(host, nsid, data, lba=1023)
    assert got(host, nsid, block, lba=1023) == data


@pytest.mark.parametrize("index", range(len(FORMATS)))
def test_every_format_has_as_many_blocks_as_were_asked_for(
    ssd: SsdServer, host: NvmeHost, index: int
) -> None:
    shift, metadata = FORMATS[index]
    extended, dps = metadata == 64, 1 if metadata == 8 else 0
    blocks = (40 << 10 >> shift) + 1  # no multiple of anything
    flbas = index | extended << 4
    nsid = created(host, blocks, flbas=flbas, dps=dps)
    assert attach(host, nsid, 1).ok
    for again in (False, True):
        page = host.identify(0, nsid)
        assert struct.unpack_from("<QQQ", page) == (blocks,) * 3
        assert (page[26], page[29]) == (flbas, dps)
        total, left = capacities(host)
        assert int.from_bytes(page[48:64], "little") == total - left  # NVMCAP
        assert total - left >= blocks * ((1 << shift) + metadata)
        if not again:
            ssd.kill()
            ssd.restart()
            host = ssd.connect()
    assert delete(host, nsid).ok
    assert capacities(host) == (CAPACITY, CAPACITY)


def test_an_ssd_may_have_fewer_ids(tmp_path: Path) -> None:
    query = "capacity=64M&namespaces=0&max-namespaces=4"
    with SsdServer(tmp_path, query=query) as ssd:
        host = ssd.connect()
        page = host.identify_controller()
        assert struct.unpack_from("<I", page, 516) == struct.unpack_from("<I", page, 540) == (4,)
        assert [created(host, 8) for _ in range(4)] == [1, 2, 3, 4]
        refused(create(host, 8), NO_ID)
        assert host.admin(nvme.identify(0, 5), host.alloc(4096)).code == Status.INVALID_NAMESPACE


def test_a_new_namespace_is_zeros_whatever_was_there_before(host: NvmeHost) -> None:
    for _ in range(2):
        nsid = created(host, CAPACITY // 512)
        assert attach(host, nsid, 1).ok
        assert got(host, nsid, 4096, lba=77) == bytes(4096)
        put(host, nsid, pattern(3, 4096), lba=77)
        assert delete(host, nsid).ok


def test_all_namespaces_go_at_once(ssd: SsdServer, host: NvmeHost) -> None:
    for attached in (True, False, True):
        nsid = created(host, BLOCKS)
        assert not attached or attach(host, nsid, 1).ok
    assert allocated(host) == [1, 2, 3]
    assert delete(host, EVERY).ok
    assert allocated(host) == active(host) == []
    assert capacities(host) == (CAPACITY, CAPACITY)
    assert delete(host, EVERY).ok
    assert ssd.images() == []


def test_ids_are_the_lowest_that_are_free(host: NvmeHost) -> None:
    assert [created(host, 8) for _ in range(3)] == [1, 2, 3]
    assert delete(host, 2).ok
    assert created(host, 8) == 2
    assert created(host, 8) == 4


def test_there_are_256_ids(host: NvmeHost) -> None:
    for nsid in range(1, 257):
        assert created(host, 8) == nsid
    refused(create(host, 8), NO_ID)
    assert delete(host, 100).ok
    assert created(host, 8) == 100


def test_what_is_under_way_ends_before_a_namespace_goes(host: NvmeHost) -> None:
    nsid = created(host, CAPACITY // 512)
    assert attach(host, nsid, 1).ok
    queue = host.create_queue_pair(1, depth=64)
    with host.alloc(256 << 10) as buffer:
        cids = [host.submit(1, buffer.point(nvme.write(nsid, 512 * lba, 512))) for lba in range(32)]
        assert detach(host, nsid, 1).ok
        for cid in cids:
            host.wait(1, cid)  # each ends, one way or the other
        late = queue.command(nvme.read(nsid, 0, 512), buffer)
        refused(late, Status.INVALID_NAMESPACE)


# --- Several controllers ---


def test_others_are_told_of_what_comes_and_goes(ssd: SsdServer, host: NvmeHost) -> None:
    other = ssd.connect(2)
    other.set_feature(0x0B, 1 << 8)
    assert controllers(host.identify(0x13)) == controllers(other.identify(0x13)) == [1, 2]
    assert controllers(host.identify(0x13, cntid=2)) == [2]
    nsid = created(host, BLOCKS, nmic=1)
    event = other.submit_async_event()
    assert attach(host, nsid, 2).ok
    assert other.wait_async_event(event).result == NEW_EVENT
    assert ids(other.log_page(4, 4096)) == [nsid]
    assert active(other) == [nsid]
    assert active(host) == []
    assert controllers(host.identify(0x12, nsid)) == [2]
    event = other.submit_async_event()
    assert delete(host, nsid).ok
    assert other.wait_async_event(event).result == NEW_EVENT
    assert ids(other.log_page(4, 4096)) == [nsid]
    assert active(other) == allocated(other) == []


def test_a_private_namespace_has_one_controller_at_a_time(host: NvmeHost) -> None:
    nsid = created(host, BLOCKS)
    assert host.identify(0x11, nsid)[30] == 0  # NMIC
    refused(attach(host, nsid, 1, 2), IS_PRIVATE)
    assert attach(host, nsid, 2).ok
    refused(attach(host, nsid, 1), IS_PRIVATE)
    assert detach(host, nsid, 2).ok
    assert attach(host, nsid, 1).ok


def test_hosts_that_ask_at_once_are_answered_one_by_one(ssd: SsdServer, host: NvmeHost) -> None:
    hosts = [host, ssd.connect(2)]
    seen: list[int] = []

    def ask(one: NvmeHost) -> None:
        for _ in range(20):
            seen.append(created(one, 8))

    threads = [threading.Thread(target=ask, args=(one,)) for one in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(1, 41)) == allocated(host)


# --- Refusals ---


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"blocks": 0}, Status.INVALID_FIELD),
        ({"blocks": 8, "capacity": 7}, NOT_THIN),
        ({"blocks": 8, "capacity": 9}, Status.INVALID_FIELD),
        ({"blocks": 8, "flbas": 15}, INVALID_FORMAT),
        ({"blocks": 8, "dps": 1}, INVALID_FORMAT),
        ({"blocks": 8, "flbas": 1, "dps": 4}, INVALID_FORMAT),
        ({"blocks": 8, "flbas": 6}, INVALID_FORMAT),
        ({"blocks": 8, "nmic": 2}, Status.INVALID_FIELD),
        ({"blocks": 8, "nvm_set": 1}, Status.INVALID_FIELD),
        ({"blocks": 8, "group": 33}, BAD_GROUP),
        ({"blocks": 8, "csi": 2}, BAD_COMMAND_SET),
        ({"blocks": 1 << 63}, NO_CAPACITY),
    ],
)
def test_what_no_namespace_can_be_is_refused(
    host: NvmeHost, fields: dict[str, int], status: int
) -> None:
    refused(create(host, **fields), status)
    assert allocated(host) == []


def test_no_space_is_told_with_what_is_needed(host: NvmeHost) -> None:
    created(host, BLOCKS)
    wanted = CAPACITY // 512
    refused(create(host, wanted), NO_CAPACITY)
    entry = host.log_page(1, 64)
    assert struct.unpack_from("<Q", entry, 32) == (CAPACITY,)
    assert create(host, wanted - BLOCKS).ok
    refused(create(host, 1), NO_CAPACITY)


def test_wrong_selects_are_refused(host: NvmeHost) -> None:
    nsid = created(host, BLOCKS)
    for opcode in (Admin.NS_MANAGEMENT, Admin.NS_ATTACHMENT):
        refused(manage(host, Sqe(opcode, nsid=nsid, cdw10=2), b""), Status.INVALID_FIELD)
    assert allocated(host) == [nsid]


@pytest.mark.parametrize("nsid", [0, 2, 257, 0xFFFFFFFE])
def test_namespaces_that_there_are_not_are_refused(host: NvmeHost, nsid: int) -> None:
    created(host, BLOCKS)
    refused(delete(host, nsid), Status.INVALID_NAMESPACE)
    refused(attach(host, nsid, 1), Status.INVALID_NAMESPACE)
    refused(detach(host, nsid, 1), Status.INVALID_NAMESPACE)
    refused(host.admin(nvme.identify(0x12, nsid), host.alloc(4096)), Status.INVALID_NAMESPACE)


@pytest.mark.parametrize("listed", [(), (3,), (0,), (2, 1), (1, 1), (1, 0xFFFF)])
def test_controllers_that_there_are_not_are_refused(
    host: NvmeHost, listed: tuple[int, ...]
) -> None:
    nsid = created(host, BLOCKS, nmic=1)
    refused(attach(host, nsid, *listed), BAD_LIST)
    refused(manage(host, Sqe(Admin.NS_ATTACHMENT, nsid=nsid), b"\xff" * 4096), BAD_LIST)
    assert controllers(host.identify(0x12, nsid)) == []


def test_attached_twice_and_detached_twice_are_refused(host: NvmeHost) -> None:
    nsid = created(host, BLOCKS, nmic=1)
    refused(detach(host, nsid, 1), NOT_ATTACHED)
    assert attach(host, nsid, 1).ok
    refused(attach(host, nsid, 1), IS_ATTACHED)
    refused(attach(host, nsid, 1, 2), IS_ATTACHED)
    refused(detach(host, nsid, 1, 2), NOT_ATTACHED)
    assert active(host) == [nsid]


def test_a_reset_does_not_wait_for_an_answer(ssd: SsdServer, host: NvmeHost) -> None:
    with host.alloc(4096) as buffer:
        host.submit(0, buffer.point(Sqe(Admin.NS_MANAGEMENT, nsid=EVERY, cdw10=1)))
        host.reset()
        host.enable()
        assert allocated(host) == []
    assert created(host, BLOCKS) == 1


# --- It lasts ---


def test_all_is_as_it_was_after_a_restart(ssd: SsdServer, host: NvmeHost) -> None:
    data = pattern(4, 16 << 10)
    first, second = created(host, BLOCKS, nmic=1), created(host, 512, flbas=3)
    assert attach(host, first, 1, 2).ok
    assert attach(host, second, 1).ok
    put(host, second, data)
    before = [host.identify(3, nsid) for nsid in (first, second)]
    serial = host.identify_controller()[4:24]
    for end in (ssd.kill, lambda: None):
        end()
        ssd.restart()
        host, other = ssd.connect(), ssd.connect(2)
        assert active(host) == [first, second]
        assert active(other) == [first]
        assert [host.identify(3, nsid) for nsid in (first, second)] == before
        assert host.identify_controller()[4:24] == other.identify_controller()[4:24] == serial
        assert capacities(host) == (CAPACITY, CAPACITY - BLOCKS * 512 - 512 * 4096)
        assert got(host, second, len(data)) == data


def test_a_second_server_does_not_get_the_folder(ssd: SsdServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(Exception, match="in use by another process"):
        SsdServer(tmp_path / "other", query="", others=("--ssd", str(ssd.folder)))


def test_space_that_the_file_system_has_not_is_refused(ssd: SsdServer, host: NvmeHost) -> None:
    """The record cannot be written, so nothing has been created."""
    block = ssd.folder / "ssd.json.new"
    block.mkdir()  # nothing can be written there
    assert create(host, BLOCKS).code == Status.INTERNAL
    assert allocated(host) == []
    assert ssd.images() == []
    block.rmdir()
    assert created(host, BLOCKS) == 1
