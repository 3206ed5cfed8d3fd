"""UUIDs of what is the vendor's own, by which hosts ask for it, and the sizes that namespaces had
better have (Base 5.17.2.16, 5.17.2.17, 8.25)."""

from __future__ import annotations

import json
import struct
import uuid
from pathlib import Path

import pytest
from tests_protocol import refused
from tests_ssd import SsdServer, capacities, created

from vhostnvme.testing import NvmeHost, nvme
from vhostnvme.testing.nvme import Admin, Status

GRANULARITY, UUID_LIST = 0x16, 0x17
OURS = uuid.UUID("5b0b2a8e-6d1f-4c39-9a4e-3f1c7d2e8a61")
THEIRS = uuid.UUID("c194d55b-e094-4794-a21d-29998f56be6f")
TELEMETRY, SMART = (7, 8), 2
SELECTS = {Admin.GET_LOG_PAGE, Admin.IDENTIFY, Admin.SET_FEATURES, Admin.GET_FEATURES}


def listed(host: NvmeHost) -> list[uuid.UUID]:
    page = host.identify(UUID_LIST)
    assert page[:32] == bytes(32)  # index 0 is none
    found = [uuid.UUID(bytes=page[at + 16 : at + 32]) for at in range(32, 4096, 32)]
    kept = [one for one in found if one.int]
    assert found[: len(kept)] == kept  # no gaps
    return kept


def test_the_uuid_list_is_told_of(host: NvmeHost) -> None:
    assert host.identify_controller()[97] & 1 << 1  # CTRATT bit 9
    assert listed(host) == [OURS]
    effects = struct.unpack("<256I", host.log_page(5, 4096)[:1024])
    assert {op for op, bits in enumerate(effects) if bits >> 19 & 1} == SELECTS


def test_a_uuid_index_selects_what_is_of_it_alone(host: NvmeHost) -> None:
    with host.alloc(4096) as data:
        for lid in TELEMETRY:
            sqe = nvme.get_log_page(lid, 512)
            for index in (0, 1):
                assert host.admin(data.point(sqe.with_fields(cdw14=index))).ok
            for index in (2, 127):
                refused(host.admin(data.point(sqe.with_fields(cdw14=index))), Status.INVALID_FIELD)
        for sqe in (
            nvme.get_log_page(SMART, 512),
            nvme.identify(1),
            nvme.get_features(1),
            nvme.set_features(1, 0),
        ):
            assert host.admin(data.point(sqe)).ok
            refused(host.admin(data.point(sqe.with_fields(cdw14=1))), Status.INVALID_FIELD)
            assert host.admin(data.point(sqe.with_fields(cdw14=0x80))).ok  # not of the index
    error = host.log_page(1, 64)
    assert struct.unpack_from("<H", error, 14)[0] == 56  # CDW14


@pytest.mark.parametrize("theirs", [THEIRS, None])
def test_log_pages_of_a_persona_are_its_vendors(tmp_path: Path, theirs: uuid.UUID | None) -> None:
    persona = {"logs": {"0xc0": {"hex": "01020304"}}} | ({"uuid": str(theirs)} if theirs else {})
    path = tmp_path / "persona.json"
    path.write_text(json.dumps(persona))
    others = ("--persona", str(path))
    with SsdServer(tmp_path, query="capacity=64M&namespaces=0", others=others) as ssd:
        host = ssd.connect()
        assert listed(host) == ([OURS, THEIRS] if theirs else [OURS])
        sqe = nvme.get_log_page(0xC0, 4)
        assert host.admin_data("its log", sqe, 4) == b"\x01\x02\x03\x04"
        with host.alloc(512) as data:
            refused(host.admin(data.point(sqe.with_fields(cdw14=1))), Status.INVALID_FIELD)
            done = host.admin(data.point(sqe.with_fields(cdw14=2)))
            assert done.ok is (theirs is not None)
            sqe = nvme.get_log_page(7, 512).with_fields(cdw14=2)
            refused(host.admin(data.point(sqe)), Status.INVALID_FIELD)


def test_sizes_in_the_granularity_of_a_format_waste_nothing(tmp_path: Path) -> None:
    """What a namespace takes of the capacity is its data and its metadata, and no more."""
    with SsdServer(tmp_path, query="capacity=64M&namespaces=0") as ssd:
        host = ssd.connect()
        assert host.identify_controller()[96] & 1 << 7  # CTRATT
        page = host.identify(GRANULARITY)
        assert struct.unpack_from("<IB", page) == (1, 5)  # one for each of six formats
        formats = host.identify(0, 0xFFFFFFFF)[128:]
        for index in range(6):
            metadata, shift = struct.unpack_from("<HB", formats, 4 * index)
            size, capacity = struct.unpack_from("<QQ", page, 32 + 16 * index)
            assert size == capacity and size % (1 << shift) == 0
            before = capacities(host)[1]
            created(host, size >> shift, flbas=index)
            took = before - capacities(host)[1]
            assert took == size + (size >> shift) * metadata
        assert page[32 + 16 * 6 :] == bytes(4096 - 32 - 16 * 6)
