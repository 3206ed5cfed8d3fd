"""Personas over the wire: what a drive says that looks like another, and that it keeps to it."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests_protocol import refused
from tests_ssd import SsdServer, attach, capacities, create, created

from vhostnvme.emulation.persona import ours
from vhostnvme.errors import PeerError
from vhostnvme.personas import load_persona, problems, shipped
from vhostnvme.personas.honour import FORMATS
from vhostnvme.testing import NvmeHost, nvme
from vhostnvme.testing.nvme import Admin, Sqe, Status

SMART, FIRMWARE, SUPPORTED = 2, 3, 0
POWER, TIMESTAMP, QUEUES = 2, 0x0E, 7


@pytest.fixture(scope="module", params=sorted(shipped()))
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def ssd(tmp_path: Path, name: str) -> Iterator[SsdServer]:
    with SsdServer(tmp_path, query="", others=("--persona", name)) as server:
        yield server


@pytest.fixture
def host(ssd: SsdServer) -> NvmeHost:
    return ssd.connect()


def dumped(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shipped()[name].read_text())
    return found


def number(page: bytes, at: int, size: int) -> int:
    return int.from_bytes(page[at : at + size], "little")


def served(tmp_path: Path, **persona: Any) -> SsdServer:
    path = tmp_path / "persona.json"
    path.write_text(json.dumps(persona))
    query = "capacity=64M&namespaces=0"
    return SsdServer(tmp_path, query=query, others=("--persona", str(path)))


def test_those_that_are_shipped_can_be_honoured(name: str) -> None:
    assert problems(load_persona(name), ours()) == []


def test_identify_controller_says_what_the_persona_says(name: str, host: NvmeHost) -> None:
    wanted, page = dumped(name)["id_ctrl"], host.identify_controller()
    assert page[24:64].decode().rstrip() == wanted["mn"]
    assert page[64:72].decode().rstrip() == wanted["fr"]
    for field, at, size in [
        ("vid", 0, 2),
        ("ssvid", 2, 2),
        ("rab", 72, 1),
        ("ieee", 73, 3),
        ("mdts", 77, 1),
        ("rtd3r", 84, 4),
        ("rtd3e", 88, 4),
        ("npss", 263, 1),
        ("wctemp", 266, 2),
        ("cctemp", 268, 2),
        ("nn", 516, 4),
        ("oncs", 520, 2),
    ]:
        assert number(page, at, size) == wanted[field], field
    assert number(page, 256, 2) == wanted["oacs"]
    assert capacities(host)[0] == wanted["tnvmcap"] // 4096 * 4096
    for index, state in enumerate(wanted["psds"]):
        power = page[2048 + 32 * index :]
        assert number(power, 0, 2) == state["max_power"]
        assert power[3] == state["max_power_scale"] | state["non-operational_state"] << 1
        assert struct.unpack_from("<II4B", power, 4) == (
            *(state["entry_lat"], state["exit_lat"]),
            *(state["read_tput"], state["read_lat"], state["write_tput"], state["write_lat"]),
        )


def test_pci_says_the_same_vendor(name: str, host: NvmeHost) -> None:
    wanted = dumped(name)["id_ctrl"]
    assert struct.unpack("<H", host.config_read(0, 2)) == (wanted["vid"],)
    assert struct.unpack("<H", host.config_read(0x2C, 2)) == (wanted["ssvid"],)


def test_the_first_namespace_has_its_format(name: str, host: NvmeHost) -> None:
    wanted, page = dumped(name)["id_ns"], host.identify(0, 1)
    block = 1 << wanted["lbafs"][wanted["flbas"]]["ds"]
    assert struct.unpack_from("<Q", page) == (wanted["nsze"],)
    assert 1 << page[128 + 4 * page[26] + 2] == block


def test_formats_are_a_subset_and_others_are_refused(name: str, host: NvmeHost) -> None:
    listed = {(1 << each["ds"], each["ms"]) for each in dumped(name)["id_ns"]["lbafs"]}
    page = host.identify(0, 1)
    for index, (block, metadata) in enumerate(FORMATS):
        found = struct.unpack_from("<HB", page, 128 + 4 * index)
        if (block, metadata) in listed:
            assert found == (metadata, block.bit_length() - 1)
            continue
        assert found == (0, 0)
        done = host.admin(Sqe(Admin.FORMAT_NVM, nsid=1, cdw10=index))
        refused(done, 0x10A)


def test_commands_that_it_has_not_are_refused(name: str, host: NvmeHost) -> None:
    wanted = dumped(name)["id_ctrl"]
    effects = host.log_page(5, 4096)
    managed = bool(wanted["oacs"] & 1 << 3)
    assert bool(number(effects, 4 * Admin.NS_MANAGEMENT, 4) & 1) is managed
    if not managed:
        refused(create(host, 8), Status.INVALID_OPCODE)
    verifies = bool(wanted["oncs"] & 1 << 7)
    queue = host.create_queue_pair(1, depth=8)
    assert queue.command(nvme.verify(1, 0, 1)).ok is verifies
    assert bool(number(effects, 1024 + 4 * 0x0C, 4) & 1) is verifies


def test_power_states_can_be_set(name: str, host: NvmeHost) -> None:
    last = dumped(name)["id_ctrl"]["npss"]
    for state in range(last + 1):
        host.set_feature(POWER, state)
        assert host.get_feature(POWER) == state
    refused(host.admin(nvme.set_features(POWER, last + 1)), Status.INVALID_FIELD)


def test_limits_are_its_limits(name: str, host: NvmeHost) -> None:
    limits = dumped(name)["limits"]
    granted = host.set_feature(QUEUES, 0x00FF_00FF)
    assert granted & 0xFFFF == limits["queues"] - 1
    assert host.info.cap & 0xFFFF == limits["entries"] - 1


def test_the_smart_log_begins_as_it_says(name: str, ssd: SsdServer, host: NvmeHost) -> None:
    wanted, page = dumped(name)["smart"], host.log_page(SMART, 512)
    assert (page[3], page[4], page[5]) == (
        *(wanted["avail_spare"], wanted["spare_thresh"]),
        wanted["percent_used"],
    )
    fields = (
        "data_units_read data_units_written host_read_commands host_write_commands"
        " controller_busy_time power_cycles power_on_hours unsafe_shutdowns"
    )
    for index, field in enumerate(fields.split()):
        begun = int(field == "power_cycles")
        assert number(page, 32 + 16 * index, 16) == wanted[field] + begun, field
    host.shutdown()
    ssd.restart()
    again = ssd.connect().log_page(SMART, 512)
    assert number(again, 112, 16) == wanted["power_cycles"] + 2  # not begun anew


def test_logs_of_its_own(name: str, host: NvmeHost) -> None:
    supported = host.log_page(SUPPORTED, 1024)
    for lid, data in load_persona(name).logs.items():
        assert supported[4 * lid] & 1
        padded = data.ljust((len(data) + 3) // 4 * 4, b"\0")
        assert host.log_page(lid, len(padded)) == padded
    done = host.admin(nvme.get_log_page(0xFE, 16), host.alloc(16))
    refused(done, Status.INVALID_LOG_PAGE)
    assert host.log_page(FIRMWARE, 512)[8:16].decode().rstrip() == dumped(name)["id_ctrl"]["fr"]


def test_it_stays_with_its_folder(name: str, ssd: SsdServer, tmp_path: Path) -> None:
    ssd.server.stop()
    (tmp_path / "again").mkdir()
    with SsdServer(tmp_path / "again", query="", others=("--ssd", str(ssd.folder))) as again:
        page = again.connect().identify_controller()
    assert page[24:64].decode().rstrip() == dumped(name)["id_ctrl"]["mn"]
    assert page[64:72].decode().rstrip() == dumped(name)["id_ctrl"]["fr"]


def test_features_that_it_has_not_are_refused(tmp_path: Path) -> None:
    with served(tmp_path, id_ctrl={"oncs": 0, "oacs": 8}) as ssd:
        host = ssd.connect()
        page = host.identify_controller()
        assert (number(page, 256, 2), number(page, 520, 2)) == (8, 0)
        refused(host.admin(nvme.get_features(TIMESTAMP)), Status.INVALID_FIELD)
        refused(host.admin(nvme.set_features(POWER, 0, save=True)), Status.FEATURE_NOT_SAVEABLE)
        nsid = created(host, 64)
        assert attach(host, nsid, 1).ok
        queue = host.create_queue_pair(1, depth=8)
        with host.alloc(4096) as buffer:
            buffer.put(nvme.dsm_ranges([(0, 8)]))
            for sqe in (nvme.write_zeroes(nsid, 0, 8), nvme.dataset_management(nsid, 1)):
                refused(queue.command(sqe, buffer), Status.INVALID_OPCODE)
            assert queue.command(nvme.write(nsid, 0, 8), buffer).ok
            assert queue.command(nvme.flush(nsid)).ok


def test_what_cannot_be_honoured_ends_the_server_with_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=r"id_ctrl\.hmpre cannot be honoured.*host memory buffer"):
        served(tmp_path, id_ctrl={"hmpre": 16384})
    assert not (tmp_path / "ssd").exists()
    with served(tmp_path, id_ctrl={"hmpre": 16384}, ignore=["id_ctrl.hmpre"]) as ssd:
        assert number(ssd.connect().identify_controller(), 272, 4) == 0
