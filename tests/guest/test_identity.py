"""What Linux and nvme-cli make of our controllers: names, sizes, Identify, logs, features."""

from __future__ import annotations

import re
import uuid

import pytest
from tests_guest import GuestRig, complaints

MIB = 1 << 20
ENDURANCE_GROUP, PERSISTENT_EVENTS = 0x09, 0x0D  # log pages that want to be told more


def test_the_boot_is_without_a_complaint(rig: GuestRig) -> None:
    lines = rig.boot_log
    found = {line.split()[-1] for line in lines if "pci function" in line}
    assert len(found) == 7
    # A read that our error filter fails is what it is for.
    assert complaints(lines, "I/O error, dev nvme") == []


def test_nvme_list_shows_each_disk_with_its_size_and_block(rig: GuestRig) -> None:
    listed = {
        (device["SerialNumber"], device["NameSpace"]): device
        for device in rig.json("nvme list -o json")["Devices"]
    }
    expected = {
        ("FILE", 1): (320 * MIB, 512),
        ("FILE4K", 1): (320 * MIB, 4096),
        ("MEM", 1): (192 * MIB, 512),
        ("THREE", 1): (64 * MIB, 512),
        ("THREE", 2): (32 * MIB, 4096),
        ("THREE", 3): (48 * MIB, 512),
        ("NULL", 1): (1 << 40, 512),
    }
    for key, (size, block) in expected.items():
        device = listed[key]
        assert (device["PhysicalSize"], device["SectorSize"]) == (size, block), key
        assert device["MaximumLBA"] == size // block
        assert device["ModelNumber"] == "vhostnvme"
    # Three namespaces are on one controller.
    paths = {listed["THREE", nsid]["DevicePath"] for nsid in (1, 2, 3)}
    assert paths == {rig.node("THREE", nsid) for nsid in (1, 2, 3)}
    table = rig.output("nvme list")
    assert re.search(r"FILE4K .* 4 KiB \+ +0 B", table), table
    assert re.search(r"FILE .* 512 +B \+ +0 B", table), table


def test_the_disks_have_their_names_in_the_order_of_their_sockets(rig: GuestRig) -> None:
    names = [rig.controller(disk) for disk in ("FILE", "FILE4K", "MEM", "THREE", "FAIL", "NULL")]
    assert names == [f"/dev/nvme{index}" for index in range(6)]


def test_id_ctrl_says_what_the_controller_is(rig: GuestRig) -> None:
    id_ctrl = rig.json(f"nvme id-ctrl {rig.controller('THREE')} -o json")
    assert id_ctrl["sn"] == "THREE".ljust(20)
    assert id_ctrl["mn"] == "vhostnvme".ljust(40)
    assert len(id_ctrl["fr"]) == 8
    assert id_ctrl["fr"].strip()
    assert id_ctrl["ver"] == 0x20000
    assert 4096 << id_ctrl["mdts"] == MIB
    assert (id_ctrl["sqes"], id_ctrl["cqes"]) == (0x66, 0x44)
    assert id_ctrl["nn"] >= 3
    assert id_ctrl["cntrltype"] == 1
    assert id_ctrl["tnvmcap"] == (64 + 32 + 48) * MIB
    assert id_ctrl["unvmcap"] == 0
    assert id_ctrl["oncs"] & 0xD == 0xD  # Compare, Dataset Management and Write Zeroes
    assert id_ctrl["oacs"] & 0x100  # Doorbell Buffer Config
    assert id_ctrl["vwc"] & 1  # one of the namespaces is a file
    assert id_ctrl["subnqn"].startswith("nqn.")
    assert id_ctrl["wctemp"] < id_ctrl["cctemp"]
    assert len(id_ctrl["psds"]) == id_ctrl["npss"] + 1


def test_no_volatile_cache_where_there_is_none(rig: GuestRig) -> None:
    assert rig.json(f"nvme id-ctrl {rig.controller('MEM')} -o json")["vwc"] & 1 == 0
    assert rig.output(f"cat {rig.sysfs('MEM')}/queue/write_cache") == "write through"
    assert rig.output(f"cat {rig.sysfs('FILE')}/queue/write_cache") == "write back"


@pytest.mark.parametrize(
    ("disk", "nsid", "size", "shift"),
    [("THREE", 1, 64 * MIB, 9), ("THREE", 2, 32 * MIB, 12), ("FILE4K", 1, 320 * MIB, 12)],
)
def test_id_ns_says_what_the_namespace_is(
    rig: GuestRig, disk: str, nsid: int, size: int, shift: int
) -> None:
    id_ns = rig.json(f"nvme id-ns {rig.node(disk, nsid)} -o json")
    assert id_ns["nsze"] == id_ns["ncap"] == id_ns["nuse"] == size >> shift
    assert id_ns["nvmcap"] == size
    assert id_ns["dps"] == 0 and id_ns["nlbaf"] == 5 and id_ns["mc"] == 3
    form = id_ns["lbafs"][id_ns["flbas"]]
    assert (form["ms"], form["ds"]) == (0, shift)
    assert id_ns["dlfeat"] & 7 == 1  # deallocated blocks read as zeros
    expected = rig.info(disk, nsid).uuid
    assert id_ns["nguid"] == expected.hex
    descriptors = rig.json(f"nvme ns-descs {rig.node(disk, nsid)} -o json")["ns-descs"]
    by_type = {one["Type"]: one for one in descriptors}
    assert uuid.UUID(by_type["uuid"]["uuid"]) == expected
    assert by_type["csi"]["csi"] == "0"
    assert rig.output(f"cat {rig.sysfs(disk, nsid)}/wwid") == f"uuid.{expected}"
    assert rig.output(f"cat {rig.sysfs(disk, nsid)}/uuid") == str(expected)


def test_list_ns_names_the_attached_ones(rig: GuestRig) -> None:
    listed = rig.json(f"nvme list-ns {rig.controller('THREE')} -o json")["nsid_list"]
    assert [entry["nsid"] for entry in listed] == [1, 2, 3]
    everything = rig.json(f"nvme list-ns {rig.controller('THREE')} --all -o json")["nsid_list"]
    assert [entry["nsid"] for entry in everything] == [1, 2, 3]
    listed = rig.json(f"nvme list-ns {rig.controller('THREE')} -n 3 -o json")["nsid_list"]
    assert [entry["nsid"] for entry in listed] == [3]
    controllers = rig.json(f"nvme list-ctrl {rig.controller('THREE')} -o json")
    assert controllers == {"num_ctrl": 1, "ctrl_list": [{"ctrl_id": 0}]}


def test_smart_log_counts_what_was_read_and_written(rig: GuestRig) -> None:
    node = rig.node("MEM")

    def smart() -> dict[str, int]:
        log: dict[str, int] = rig.json(f"nvme smart-log {rig.controller('MEM')} -o json")
        return log

    before = smart()
    rig.run(f"dd if=/dev/zero of={node} bs=64k count=256 oflag=direct")
    rig.run(f"dd if={node} of=/dev/null bs=128k count=256 iflag=direct")
    after = smart()
    assert after["host_write_commands"] - before["host_write_commands"] == 256
    assert after["host_read_commands"] - before["host_read_commands"] == 256
    # A unit is 1000 blocks of 512 bytes, rounded up.
    assert after["data_units_written"] - before["data_units_written"] in (32, 33)
    assert after["data_units_read"] - before["data_units_read"] in (65, 66)
    assert after["critical_warning"] == 0
    assert 273 < after["temperature"] < 343
    assert after["avail_spare"] == 100
    assert after["percent_used"] == 0
    assert after["power_cycles"] >= 1
    assert after["media_errors"] == 0


def test_error_log_grows_with_each_refused_command(rig: GuestRig) -> None:
    controller = rig.controller("MEM")
    command = f"nvme error-log {controller} -e 4 -o json"

    def newest() -> dict[str, int]:
        entry: dict[str, int] = rig.json(command)["errors"][0]
        return entry

    before = newest()["error_count"]
    rig.run(f"nvme get-log {controller} -i 0xc0 -l 512", check=False)
    entry = newest()
    assert entry["error_count"] == before + 1
    assert entry["sqid"] == 0
    assert entry["status_field"] & 0x7FF == 0x109  # Invalid Log Page
    smart = rig.json(f"nvme smart-log {controller} -o json")
    assert smart["num_err_log_entries"] == before + 1


def test_other_logs_make_sense(rig: GuestRig) -> None:
    controller = rig.controller("FILE")
    (firmware,) = rig.json(f"nvme fw-log {controller} -o json").values()
    assert firmware["Active Firmware Slot (afi)"] == 1
    revision = rig.json(f"nvme id-ctrl {controller} -o json")["fr"].strip()
    assert revision in firmware["Firmware Rev Slot 1"]
    changed = rig.json(f"nvme changed-ns-list-log {controller} -o json")
    assert not any(isinstance(value, dict) and value for value in changed.values()), changed
    supported = rig.run(f"nvme supported-log-pages {controller} -o json").stdout
    listed = {int(number, 16) for number in re.findall(r'"lid_0x([0-9a-f]+) *":1', supported)}
    assert listed >= {0, 1, 2, 3, 4, 5}
    choices = {ENDURANCE_GROUP: "--lsi=1", PERSISTENT_EVENTS: "--lsp=1"}
    for page in sorted(listed):
        rig.run(f"nvme get-log {controller} -i {page} -l 512 {choices.get(page, '')}")


def test_effects_log_agrees_with_identify(rig: GuestRig) -> None:
    text = rig.output(f"nvme effects-log {rig.controller('FILE')}")
    admin, _, io = text.partition("NVM Command Set")
    for opcode in ("Identify", "Get Log Page", "Set Features", "Get Features", "Abort"):
        assert re.search(rf"ACS\d+ .*{opcode}", text), f"{opcode} is missing in {text}"
    for opcode in ("Read", "Write", "Flush", "Compare", "Write Zeroes", "Dataset Management"):
        assert re.search(rf"IOCS\d+ .*{opcode}", text), f"{opcode} is missing in {text}"
    for absent in ("Namespace Management", "Zone Append"):
        assert absent not in text, f"{absent} is not there: {text}"
    assert admin or io


def test_get_feature_answers_each_mandatory_one(rig: GuestRig) -> None:
    controller = rig.controller("FILE")

    def value(feature: int, select: int = 0) -> int:
        text = rig.output(f"nvme get-feature {controller} -f {feature} -s {select}")
        match = re.search(r"[vV]alue ?: ?(?:0x)?([0-9a-fA-F]+)", text)
        assert match, text
        return int(match[1], 16)

    for feature in (1, 2, 4, 5, 6, 7, 8, 9, 0xA, 0xB):
        value(feature)
        value(feature, select=1)
    refused = rig.run(f"nvme get-feature {controller} -f 3", check=False)  # LBA Range Type
    assert refused.exit_code == 1
    assert "Invalid Field" in refused.stdout + refused.stderr
    assert value(0xB) & 0x100  # Linux has asked to be told of namespaces
    cpus = int(rig.output("nproc"))
    assert value(7) == (cpus - 1) << 16 | (cpus - 1)
    wctemp = rig.json(f"nvme id-ctrl {controller} -o json")["wctemp"]
    assert value(4) == wctemp


def test_a_feature_that_is_set_stays_until_a_reset(rig: GuestRig) -> None:
    controller = rig.controller("FILE")
    before = rig.json(f"nvme id-ctrl {controller} -o json")["wctemp"]
    rig.run(f"nvme set-feature {controller} -f 4 -V 0x141 --save")
    rig.run(f"nvme set-feature {controller} -f 4 -V 0x140")
    assert "0x00000140" in rig.output(f"nvme get-feature {controller} -f 4")
    rig.run(f"nvme reset {controller}")
    assert "0x00000141" in rig.output(f"nvme get-feature {controller} -f 4")  # what was saved
    rig.run(f"nvme set-feature {controller} -f 4 -V {before} --save")


def test_show_regs_names_a_ready_controller(rig: GuestRig) -> None:
    registers = rig.json(f"nvme show-regs {rig.controller('FILE')} -o json")
    assert registers["csts"] == 1
    assert registers["cc"] & 1
    assert registers["vs"] == 0x20000
    assert registers["cap"] & 0xFFFF == 1023
    assert registers["asq"]
    assert registers["acq"]


def test_the_block_layer_knows_the_limits(rig: GuestRig) -> None:
    def limit(disk: str, name: str) -> int:
        return int(rig.output(f"cat {rig.sysfs(disk)}/queue/{name}"))

    assert limit("FILE", "logical_block_size") == 512
    assert limit("FILE4K", "logical_block_size") == 4096
    assert limit("FILE4K", "physical_block_size") >= 4096
    for disk in ("FILE", "FILE4K", "MEM"):
        assert limit(disk, "max_hw_sectors_kb") == 1024
        assert limit(disk, "discard_max_hw_bytes") > 0
        assert limit(disk, "write_zeroes_max_bytes") > 0
        assert limit(disk, "rotational") == 0
    assert limit("FILE", "fua") == 1
    assert rig.info("FILE").direct  # the tests mean to go past the page cache
