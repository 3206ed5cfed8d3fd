"""nvme-cli in the guest: Identify, log pages and features, each by the command that people use.

What a page says in full is for the protocol tests; here nvme-cli must understand it, and it must be
true of what the guest has just done.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from tests_guest import GuestRig

MIB = 1 << 20
CHANGEABLE, SAVEABLE, PER_NAMESPACE = "changeable", "saveable", "per-namespace"


def ask(rig: GuestRig, command: str, *, node: bool = False) -> Any:
    """What `nvme COMMAND` says of the controller, or of namespace 1, as JSON."""
    name, _, rest = command.partition(" ")
    where = rig.node("FULL") if node else rig.controller("FULL")
    answer = rig.json(f"nvme {name} {where} {rest} -o json")
    assert "error" not in answer, answer
    return answer


def binary(rig: GuestRig, command: str) -> bytes:
    """What an nvme command writes with --raw-binary."""
    text = rig.output(f"{command} --raw-binary | od -An -v -tx1")
    return bytes.fromhex(text.replace("\n", "").replace(" ", ""))


def counts(rig: GuestRig) -> dict[str, int]:
    smart = ask(rig, "smart-log")
    return {name: int(value) for name, value in smart.items()}


# --- Identify ---------------------------------------------------------------------------------


def test_id_ctrl(cli: GuestRig) -> None:
    page = ask(cli, "id-ctrl")
    assert page["sn"].strip() == "FULL"
    assert page["cntrltype"] == 1
    assert page["mdts"] == 8
    assert page["elpe"] == 63
    assert "vhostnvme" in cli.output(f"nvme id-ctrl {cli.controller('FULL')} -H")
    assert len(binary(cli, f"nvme id-ctrl {cli.controller('FULL')}")) == 4096


def test_id_ns(cli: GuestRig) -> None:
    page = ask(cli, "id-ns", node=True)
    form = page["lbafs"][page["flbas"] & 0xF]
    assert page["nsze"] << form["ds"] == 64 * MIB
    assert "in use" in cli.output(f"nvme id-ns {cli.node('FULL')} -H")


def test_cmdset_ind_id_ns(cli: GuestRig) -> None:
    assert ask(cli, "cmdset-ind-id-ns", node=True)["nstat"] == 1


def test_nvm_id_ctrl(cli: GuestRig) -> None:
    assert "wzsl" in ask(cli, "nvm-id-ctrl")


def test_nvm_id_ns(cli: GuestRig) -> None:
    assert len(ask(cli, "nvm-id-ns", node=True)["elbafs"]) >= 1


def test_ns_descs(cli: GuestRig) -> None:
    kinds = {one["Type"] for one in ask(cli, "ns-descs", node=True)["ns-descs"]}
    assert kinds >= {"uuid", "nguid", "csi"}


def test_list_ns(cli: GuestRig) -> None:
    for options in ("", " --all", " --csi=0", " --csi=0 --all"):
        listed = ask(cli, f"list-ns{options}")["nsid_list"]
        assert {"nsid": 1} in listed, options


def test_list_ctrl(cli: GuestRig) -> None:
    everything = ask(cli, "list-ctrl")
    assert {"ctrl_id": ask(cli, "id-ctrl")["cntlid"]} in everything["ctrl_list"]
    of_namespace = ask(cli, "list-ctrl -n 1")
    assert of_namespace["num_ctrl"] >= 1


def test_id_iocs(cli: GuestRig) -> None:
    said = cli.output(f"nvme id-iocs {cli.controller('FULL')} -o json")
    assert '"NVM Command Set":"Selected"' in said


def test_id_uuid(cli: GuestRig) -> None:
    said = cli.output(f"nvme id-uuid {cli.controller('FULL')}")
    assert "5b0b2a8e-6d1f-4c39-9a4e-3f1c7d2e8a61" in said
    get = f"nvme get-log {cli.controller('FULL')} -i 7 -l 512"
    cli.run(f"{get} --uuid-index=1")
    refused = cli.run(f"{get} --uuid-index=2", check=False)
    assert "Invalid Field" in refused.stdout + refused.stderr


def test_id_ns_granularity(cli: GuestRig) -> None:
    listed = ask(cli, "id-ns-granularity")
    assert "262144" in str(listed) or "0x40000" in str(listed)  # 512 bytes and 8 of metadata


# --- Log pages --------------------------------------------------------------------------------


def test_supported_log_pages(cli: GuestRig) -> None:
    listed = ask(cli, "supported-log-pages")["supported_logs"]
    numbers = {int(name.strip()[6:], 16) for one in listed for name in one}
    assert numbers >= {0, 1, 2, 3, 4, 5}


def test_error_log(cli: GuestRig) -> None:
    controller = cli.controller("FULL")
    refused = cli.run(f"nvme get-log {controller} -i 0x3f -l 512", check=False)
    assert refused.exit_code != 0
    entries = ask(cli, "error-log")["errors"]
    assert len(entries) == 64
    before = max(entry["error_count"] for entry in entries)
    cli.run(f"nvme read {cli.node('FULL')} -s 0xffffffffff -c 0 -z 512", check=False)
    newest = ask(cli, "error-log")["errors"][0]
    assert newest["error_count"] > before
    assert newest["nsid"] == 1
    assert newest["lba"] == 0xFFFFFFFFFF
    assert newest["status_field"] & 0x7FF == 0x80
    assert "LBA Out of Range" in cli.output(f"nvme error-log {controller} -e 1")


def test_smart_log(cli: GuestRig) -> None:
    node = cli.node("FULL")
    before = counts(cli)
    cli.run(f"dd if=/dev/zero of={node} bs=64k count=16 oflag=direct")
    cli.run(f"dd if={node} of=/dev/null bs=64k count=16 iflag=direct")
    after = counts(cli)
    assert after["host_read_commands"] >= before["host_read_commands"] + 16
    assert after["host_write_commands"] >= before["host_write_commands"] + 16
    assert after["data_units_written"] >= before["data_units_written"] + 1
    assert after["power_cycles"] >= 1
    assert 273 < after["temperature"] < 373
    assert "temperature" in cli.output(f"nvme smart-log {cli.controller('FULL')} -H")


def test_fw_log(cli: GuestRig) -> None:
    text = cli.output(f"nvme fw-log {cli.controller('FULL')}")
    revision = ask(cli, "id-ctrl")["fr"].strip()
    assert f"({revision}" in text


def test_changed_ns_list_log(cli: GuestRig) -> None:
    cli.run(f"nvme changed-ns-list-log {cli.controller('FULL')}")
    assert ask(cli, "changed-ns-list-log")["Changed Attached Namespace List Log"]


def test_effects_log(cli: GuestRig) -> None:
    page = cli.json(f"nvme effects-log {cli.controller('FULL')} --csi 0 -o json")[0]
    assert page["admin_cmd_set"]["ACS_6 (Identify)"] & 1
    assert page["io_cmd_set"]["IOCS_1 (Write)"] & 3 == 3  # it changes the contents of blocks
    assert "Identify" in cli.output(f"nvme effects-log {cli.controller('FULL')} --csi 0 -H")


# --- Features ---------------------------------------------------------------------------------


@pytest.mark.parametrize("feature", [1, 2, 4, 5, 6, 7, 8, 9, 0xA, 0xB])
def test_get_feature(cli: GuestRig, feature: int) -> None:
    """The current, default and saved values, and what can be done with them."""
    controller = cli.controller("FULL")
    for select in range(4):
        said = cli.output(f"nvme get-feature {controller} -f {feature} -s {select} -n 0")
        assert f"get-feature:{feature:#04x}" in said, said
    assert cli.output(f"nvme get-feature {controller} -f {feature} -n 0 -H").count("\n") >= 1


def test_set_feature(cli: GuestRig) -> None:
    controller = cli.controller("FULL")
    before = int(cli.output(f"nvme get-feature {controller} -f 4").split(":")[-1], 16)
    cli.run(f"nvme set-feature {controller} -f 4 -V {before - 1:#x}")
    assert cli.output(f"nvme get-feature {controller} -f 4").endswith(f"{before - 1:#010x}")
    cli.run(f"nvme set-feature {controller} -f 4 -V {before:#x}")


# --- Registers, resets, raw commands ----------------------------------------------------------


def test_reset(cli: GuestRig) -> None:
    with cli.quiet_kernel("resetting controller"):
        cli.run(f"nvme reset {cli.controller('FULL')}")
        cli.run(f"dd if={cli.node('FULL')} of=/dev/null bs=4k count=1 iflag=direct")


def test_admin_passthru(cli: GuestRig) -> None:
    """A command as its dwords; and one that nobody has is refused as that."""
    controller = cli.controller("FULL")
    page = binary(cli, f"nvme admin-passthru {controller} -O 6 --cdw10=1 -r -l 4096")
    assert struct.unpack_from("<I", page, 80)[0] == 0x20000
    refused = cli.run(f"nvme admin-passthru {controller} -O 0xc1", check=False)
    assert refused.exit_code != 0
    assert "Invalid Command Opcode" in refused.stdout + refused.stderr
