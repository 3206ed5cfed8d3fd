"""Identify (Base 5.17): what the controller and its namespaces say of themselves is true."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

import pytest
from tests_protocol import MAPPED, PAGE, TRAPPED, Serve, refused

from vhostnvme.testing import NvmeHost, nvme
from vhostnvme.testing.nvme import Status

UUID_TEXT = "8f6f2c6a-8c4f-4f5e-9d0a-0123456789ab"


def u16(page: bytes, at: int) -> int:
    return int(struct.unpack_from("<H", page, at)[0])


def u32(page: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", page, at)[0])


def u64(page: bytes, at: int) -> int:
    return int(struct.unpack_from("<Q", page, at)[0])


def descriptors(page: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while page[at]:
        found[page[at]] = page[at + 4 : at + 4 + page[at + 1]]
        at += 4 + page[at + 1]
    return found


@pytest.fixture
def three(serve: Serve) -> NvmeHost:
    """Namespaces of 1 MiB in 512 and 4096-byte blocks, and one that is read-only."""
    return serve("mem:1M", "mem:2M?block=4096", "mem:1M?readonly=on").connect()


def test_text_is_ascii_and_padded_with_spaces(serve: Serve) -> None:
    page = serve("mem:1M", serial="A7", model="A model").connect().identify_controller()
    assert page[4:24] == b"A7".ljust(20)
    assert page[24:64] == b"A model".ljust(40)
    assert page[64:72].rstrip() and b"\0" not in page[64:72]
    subnqn = page[768:1024].rstrip(b"\0")
    assert subnqn.startswith(b"nqn.") and b"\0" not in subnqn and len(subnqn) <= 223


def test_text_of_full_length(serve: Serve) -> None:
    served = serve("mem:1M", serial="s" * 20, model="m" * 40, subnqn="nqn.2014-08.x:" + "n" * 209)
    page = served.connect().identify_controller()
    assert page[4:24] == b"s" * 20 and page[24:64] == b"m" * 40
    assert page[768:1024] == b"nqn.2014-08.x:" + b"n" * 209 + bytes(33)


def test_the_controller_says_what_it_can(three: NvmeHost) -> None:
    page = three.identify_controller()
    assert page[77] == 8  # MDTS: 1 MiB
    assert u32(page, 80) == 0x20000  # VER
    assert page[111] == 1  # CNTRLTYPE: I/O
    assert page[512] == 0x66 and page[513] == 0x44  # SQES, CQES
    assert u32(page, 516) >= 3  # NN
    # ONCS: Compare, Write Uncorrectable, Dataset Management, Write Zeroes, Verify, Copy
    assert u16(page, 520) & 0x18F == 0x18F
    assert u16(page, 534) == 3  # OCFS: Copy descriptor formats 0h and 1h
    assert u16(page, 522) == 1  # FUSES: Compare and Write
    assert page[525] & 6 == 6  # VWC: Flush to FFFFFFFFh flushes all
    assert u32(page, 536) & 3  # SGLS
    assert u32(page, 536) >> 16 & 1  # bit buckets
    assert page[76] == 0 and page[343] == 0  # CMIC, ANACAP: neither shared nor asymmetric
    assert u64(page, 280) == 4 << 20  # TNVMCAP
    assert page[2048:2050] != b"\0\0"  # power state 0


@pytest.mark.parametrize("mdts", [1, 5])
def test_mdts_is_what_it_was_set_to(serve: Serve, mdts: int) -> None:
    host = serve("mem:1M", mdts=mdts).connect()
    assert host.identify_controller()[77] == mdts
    queue = host.create_queue_pair()
    blocks = (PAGE << mdts) // 512
    with host.alloc((PAGE << mdts) + PAGE) as buffer:
        assert queue.command(nvme.read(1, 0, blocks), buffer, blocks * 512).ok
        refused(
            queue.command(nvme.read(1, 0, blocks + 1), buffer, (blocks + 1) * 512),
            Status.INVALID_FIELD,
        )


def test_shadow_doorbells_are_offered_only_where_doorbells_are_trapped(serve: Serve) -> None:
    for kind, offered in ((MAPPED, False), (TRAPPED, True)):
        host = serve("mem:1M", **kind).connect()
        assert bool(u16(host.identify_controller(), 256) & 1 << 8) is offered
        effects = host.log_page(5, PAGE)
        assert bool(u32(effects, 4 * nvme.Admin.DOORBELL_CONFIG) & 1) is offered
        if not offered:
            sqe = nvme.Sqe(nvme.Admin.DOORBELL_CONFIG, prp1=host.alloc(PAGE).iova)
            refused(host.admin(sqe), Status.INVALID_OPCODE)


def test_the_volatile_write_cache_is_told_truly(serve: Serve, tmp_path: Path) -> None:
    assert serve("mem:1M").connect().identify_controller()[525] & 1 == 0
    host = serve(f"file:{tmp_path}/d?size=1M").connect()
    assert host.identify_controller()[525] & 1 == 1


@pytest.mark.parametrize("cns", [0x00, 0x11])
def test_namespace_geometry(three: NvmeHost, cns: int) -> None:
    expected = {1: (2048, 9), 2: (512, 12), 3: (2048, 9)}
    for nsid, (blocks, shift) in expected.items():
        page = three.identify(cns, nsid)
        assert u64(page, 0) == u64(page, 8) == blocks  # NSZE, NCAP
        assert u64(page, 16) <= blocks  # NUSE
        assert page[25] == 5 and page[26] == (3 if shift == 12 else 0)  # NLBAF, FLBAS
        at = 128 + 4 * page[26]
        assert page[at + 2] == shift and u16(page, at) == 0  # LBADS, no metadata
        assert page[99] & 1 == (nsid == 3)  # NSATTR: write protected
        assert u64(page, 48) == blocks << shift  # NVMCAP


@pytest.mark.parametrize("cns", [0x00, 0x05, 0x08, 0x11])
def test_an_inactive_namespace_is_zeros(three: NvmeHost, cns: int) -> None:
    for nsid in (4, 256):
        assert three.identify(cns, nsid) == bytes(PAGE)


@pytest.mark.parametrize("cns", [0x00, 0x03, 0x05, 0x08, 0x11])
@pytest.mark.parametrize("nsid", [0, 257, 0xFFFFFFFE])
def test_an_invalid_namespace_is_refused(three: NvmeHost, cns: int, nsid: int) -> None:
    sqe = nvme.identify(cns, nsid)
    refused(three.admin(sqe, three.alloc(PAGE)), Status.INVALID_NAMESPACE)


def test_the_broadcast_namespace_has_no_structure_of_its_own(three: NvmeHost) -> None:
    sqe = nvme.identify(0, 0xFFFFFFFF)  # only with namespace management
    refused(three.admin(sqe, three.alloc(PAGE)), Status.INVALID_NAMESPACE)


def test_every_namespace_has_identifiers_of_its_own(three: NvmeHost) -> None:
    uuids, nguids = set(), set()
    for nsid in (1, 2, 3):
        found = descriptors(three.identify(3, nsid))
        assert len(found[3]) == 16 and any(found[3])  # UUID
        assert found[4] == b"\0"  # CSI: NVM
        page = three.identify(0, nsid)
        assert page[104:120] == found[2]  # NGUID
        uuids.add(found[3])
        nguids.add(found[2])
    assert len(uuids) == len(nguids) == 3


def test_identifiers_are_stable(serve: Serve, tmp_path: Path) -> None:
    spec = f"file:{tmp_path}/d?size=1M&uuid={UUID_TEXT}"
    seen = set()
    for _ in range(3):
        served = serve(spec)
        host = served.connect()
        found = descriptors(host.identify(3, 1))
        assert uuid.UUID(bytes=found[3]) == uuid.UUID(UUID_TEXT)
        seen.add((found[3], found[2], host.identify(0, 1)[104:128]))
        served.close()
    assert len(seen) == 1


def test_a_file_without_a_uuid_option_keeps_its_identifiers(serve: Serve, tmp_path: Path) -> None:
    seen = set()
    for _ in range(2):
        served = serve(f"file:{tmp_path}/d?size=1M")
        seen.add(descriptors(served.connect().identify(3, 1))[3])
        served.close()
    served = serve(f"file:{tmp_path}/e?size=1M")
    other = descriptors(served.connect().identify(3, 1))[3]
    assert len(seen) == 1 and other not in seen


@pytest.mark.parametrize("cns", [0x02, 0x07, 0x10])
def test_namespace_lists(serve: Serve, cns: int) -> None:
    served = serve("mem:1M", "mem:1M", "mem:1M")
    host = served.connect()
    served.controller.detach(2)
    lists = {
        start: [nsid for nsid in struct.unpack("<1024I", host.identify(cns, start)) if nsid]
        for start in (0, 1, 2, 3, 0xFFFFFFFD)
    }
    assert lists == {0: [1, 3], 1: [3], 2: [3], 3: [], 0xFFFFFFFD: []}
    for start in (0xFFFFFFFE, 0xFFFFFFFF):
        sqe = nvme.identify(cns, start)
        refused(host.admin(sqe, host.alloc(PAGE)), Status.INVALID_NAMESPACE)


def test_a_controller_without_namespaces(serve: Serve, served: object) -> None:
    host = serve("mem:1M").connect()
    controller = serve("mem:1M")
    controller.controller.detach(1)
    empty = controller.connect()
    assert empty.active_namespaces() == []
    assert host.active_namespaces() == [1]
    queue = empty.create_queue_pair()
    refused(queue.command(nvme.read(1, 0, 1)), Status.INVALID_NAMESPACE)
    assert queue.command(nvme.flush(0xFFFFFFFF)).ok
    empty.shutdown()


def test_controller_lists(serve: Serve) -> None:
    host = serve("mem:1M", cntlid=7).connect()
    assert u16(host.identify_controller(), 78) == 7
    for cns, nsid in ((0x12, 1), (0x13, 0)):
        for start, expected in ((0, [1, 7]), (7, [1, 7]), (8, [0, 0])):
            page = host.identify(cns, nsid, cntid=start)
            assert list(struct.unpack_from("<2H", page)) == expected
    refused(host.admin(nvme.identify(0x12, 9), host.alloc(PAGE)), Status.INVALID_NAMESPACE)


def test_the_command_set_structures_that_linux_asks_for(three: NvmeHost) -> None:
    assert three.identify(6) == bytes(PAGE)  # no limits beyond MDTS
    assert three.identify(5, 1) == bytes(PAGE)  # no extended formats
    assert u64(three.identify(0x1C, cntid=0xFFFF), 0) == 1  # combination 0: NVM
    page = three.identify(8, 1)
    assert page[14] & 1  # NSTAT: ready
    for cns in (5, 6, 7):
        sqe = nvme.identify(cns, 1, csi=2)  # zoned
        refused(three.admin(sqe, three.alloc(PAGE)), Status.INVALID_FIELD)


@pytest.mark.parametrize("cns", [0x04, 0x09, 0x14, 0x20, 0x80, 0xFF])
def test_an_unknown_structure_is_refused(three: NvmeHost, cns: int) -> None:
    refused(three.admin(nvme.identify(cns, 1), three.alloc(PAGE)), Status.INVALID_FIELD)


def test_deallocation_is_told_as_it_is(three: NvmeHost) -> None:
    page = three.identify(0, 1)
    assert page[33] & 7 == 1  # DLFEAT: deallocated blocks read as zeros
