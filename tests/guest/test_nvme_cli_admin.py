"""nvme-cli in the guest: features that last, self-tests, sanitizing, firmware, and their logs."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from tests_guest import GuestRig

from vhostnvme.emulation.firmware import firmware_image

POLLS = 120


def ask(rig: GuestRig, command: str) -> Any:
    """What an nvme command with the controller in its place {c} says as JSON."""
    return rig.json(f"nvme {command.format(c=rig.controller('ADMIN'))} -o json")


def poll(rig: GuestRig, command: str, done: str) -> str:
    """Repeats a command until what it says matches a pattern."""
    command = command.format(c=rig.controller("ADMIN"))
    for _ in range(POLLS):
        said = rig.output(command)
        if re.search(done, said):
            return said
        time.sleep(0.25)
    raise AssertionError(f"{command}: nothing like {done!r} in {said}")


def reset(rig: GuestRig) -> None:
    with rig.quiet_kernel("resetting controller"):
        rig.run(f"nvme reset {rig.controller('ADMIN')}")
        rig.node("ADMIN")


def fill(rig: GuestRig) -> None:
    rig.run(f"yes full | dd of={rig.node('ADMIN')} bs=64k count=16 iflag=fullblock oflag=direct")


def not_zero(rig: GuestRig) -> int:
    """Bytes of the first MiB that are not zero."""
    command = f"dd if={rig.node('ADMIN')} bs=64k count=16 iflag=direct 2>/dev/null"
    return int(rig.output(f"{command} | tr -d '\\0' | wc -c"))


# --- Features ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feature", "value"), [(4, 0x150), (5, 0x10), (8, 0x0203), (0xB, 0x1), (2, 0)]
)
def test_a_saved_feature_outlives_a_reset(cli: GuestRig, feature: int, value: int) -> None:
    """Set without --save it is the default's again after a reset, with it it stays."""
    get = f"nvme get-feature {cli.controller('ADMIN')} -f {feature}"
    put = f"nvme set-feature {cli.controller('ADMIN')} -f {feature}"
    before = int(cli.output(f"{get} -s 2").split(":")[-1], 16)
    cli.run(f"{put} -V {value:#x} --save")
    reset(cli)
    assert int(cli.output(f"{get} -s 2").split(":")[-1], 16) == value
    # Linux sets the events that it wants, and lets the drive go to sleep by itself.
    if feature not in (0xB, 2):
        assert int(cli.output(get).split(":")[-1], 16) == value
    cli.run(f"{put} -V {before:#x} --save")


def test_timestamp(cli: GuestRig) -> None:
    controller = cli.controller("ADMIN")
    cli.run(
        f"printf '\\x00\\x10\\x5e\\x5f\\x8c\\x01\\x00\\x00' >/tmp/stamp;"
        f" nvme set-feature {controller} -f 0xe -l 8 -d /tmp/stamp"
    )
    said = cli.output(f"nvme get-feature {controller} -f 0xe -H")
    assert "initialized with a Timestamp value using a Set Features" in said


def test_host_behavior(cli: GuestRig) -> None:
    cli.run(f"nvme get-feature {cli.controller('ADMIN')} -f 0x16 -l 512 -H")


def test_write_protection(cli: GuestRig) -> None:
    node = cli.node("ADMIN")
    fill(cli)
    cli.run(f"nvme set-feature {node} -n 1 -f 0x84 -V 1")
    refused = cli.run(f"nvme write-zeroes {node} -s 0 -c 7", check=False)
    assert "Write Protected" in refused.stdout + refused.stderr
    assert "Write Protect" in cli.output(f"nvme get-feature {node} -n 1 -f 0x84 -H")
    cli.run(f"nvme set-feature {node} -n 1 -f 0x84 -V 0")
    cli.run(f"nvme write-zeroes {node} -s 0 -c 7")


def test_sanitize_configuration(cli: GuestRig) -> None:
    controller = cli.controller("ADMIN")
    assert "No-Deallocate Response Mode" in cli.output(f"nvme get-feature {controller} -f 0x17 -H")
    cli.run(
        f"nvme set-feature {controller} -f 0x17 -V 0 && nvme set-feature {controller} -f 0x17 -V 1"
    )


def test_endurance_events(cli: GuestRig) -> None:
    controller = cli.controller("ADMIN")
    cli.run(f"nvme set-feature {controller} -f 0x18 -V 0x80001")
    said = cli.output(f"nvme get-feature {controller} -f 0x18 -c 1")
    assert int(said.split(":")[-1], 16) == 0x80001
    cli.run(f"nvme set-feature {controller} -f 0x18 -V 1")
    assert "Number of Entries Available: 0" in cli.output(
        f"nvme endurance-event-agg-log {controller} -e 1"
    )


def test_linux_lets_it_sleep(cli: GuestRig) -> None:
    """Linux configures the transitions by itself; I/O wakes the drive, and the kernel is quiet."""
    controller, node = cli.controller("ADMIN"), cli.node("ADMIN")
    with cli.quiet_kernel():
        said = cli.output(f"nvme get-feature {controller} -f 0xc -H")
        assert "Autonomous Power State Transition Enable (APSTE): Enabled" in said
        assert ask(cli, "id-ctrl {c}")["npss"] == 4
        poll(cli, "nvme get-feature {c} -f 2", r"value:0x0*[34]\b")
        cli.run(f"dd if={node} of=/dev/null bs=4k count=256 iflag=direct")
        cli.run(f"nvme set-feature {controller} -f 2 -V 4")
        poll(cli, "nvme get-feature {c} -f 2", r"value:0x0*4\b")
        cli.run(f"dd if=/dev/zero of={node} bs=4k count=256 oflag=direct")


def test_thermal_management(cli: GuestRig) -> None:
    controller = cli.controller("ADMIN")
    cli.run(f"nvme set-feature {controller} -f 0x10 -V {330 << 16 | 340:#x}")
    said = cli.output(f"nvme get-feature {controller} -f 0x10 -H")
    assert "330" in said and "340" in said
    cli.run(f"nvme set-feature {controller} -f 0x10 -V 0")


def test_permissive_mode(cli: GuestRig) -> None:
    controller = cli.controller("ADMIN")
    cli.run(f"nvme set-feature {controller} -f 0x11 -V 1")
    assert "True" in cli.output(f"nvme get-feature {controller} -f 0x11 -H")
    cli.run(f"nvme set-feature {controller} -f 0x11 -V 0")


def test_fid_support_effects_log(cli: GuestRig) -> None:
    listed = ask(cli, "fid-support-effects-log {c}")["fid_support"]
    known = {name for one in listed for name in one}
    assert known >= {"fid_1", "fid_4", "fid_7", "fid_11"}


# --- Self-tests -------------------------------------------------------------------------------


def results(rig: GuestRig) -> list[dict[str, int]]:
    found: list[dict[str, int]] = ask(rig, "self-test-log {c}")["List of Valid Reports"]
    return found


@pytest.mark.parametrize(("code", "nsid"), [(1, 1), (2, 1), (1, 0), (1, 0xFFFFFFFF)])
def test_device_self_test(cli: GuestRig, code: int, nsid: int) -> None:
    cli.run(f"nvme device-self-test {cli.controller('ADMIN')} -n {nsid} -s {code}")
    poll(cli, "nvme self-test-log {c} -o json", r'"Current Device Self-Test Operation":0,')
    newest = results(cli)[0]
    assert (newest["Self test result"], newest["Self test code"]) == (0, code)


def test_a_self_test_is_aborted(cli: GuestRig) -> None:
    controller = cli.controller("ADMIN")
    cli.run(f"nvme device-self-test {controller} -n 1 -s 2")
    again = cli.run(f"nvme device-self-test {controller} -n 1 -s 1", check=False)
    stopped = cli.run(f"nvme device-self-test {controller} -n 1 -s 0xf", check=False)
    if again.exit_code:
        assert "Self-test In Progress" in again.stdout + again.stderr
    assert stopped.exit_code == 0
    assert results(cli)[0]["Self test result"] in (0, 1)  # it may have ended before


# --- Sanitizing -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action", ["-a 2", "-a 3 --owpass=1 --ovrpat=0", "-a 4"], ids=["block", "overwrite", "crypto"]
)
def test_sanitize(cli: GuestRig, action: str) -> None:
    """Nothing of what was there is left, and the log tells that it is done."""
    fill(cli)
    cli.run(f"nvme sanitize {cli.controller('ADMIN')} {action}")
    poll(cli, "nvme sanitize-log {c} -o json", r'"sprog":65535')
    log = ask(cli, "sanitize-log {c}")[cli.controller("ADMIN")[5:]]
    assert log["sstat"]["status"].startswith(("(1)", "(4)")), log
    assert not_zero(cli) == 0
    fill(cli)


def test_leaving_a_failed_sanitize_is_harmless(cli: GuestRig) -> None:
    cli.run(f"nvme sanitize {cli.controller('ADMIN')} -a 1")


# --- Firmware ---------------------------------------------------------------------------------


def test_firmware(cli: GuestRig, tmp_path: Path) -> None:
    """An image goes into slot 2 and is what runs after a reset; then slot 1 again."""
    controller = cli.controller("ADMIN")
    image = firmware_image("GUEST-2")
    before = ask(cli, "id-ctrl {c}")["fr"].strip()
    text = "".join(f"\\x{byte:02x}" for byte in image.rstrip(b"\0"))
    cli.run(f"printf '{text}' >/tmp/image; truncate -s {len(image)} /tmp/image")
    cli.run(f"nvme fw-download {controller} -f /tmp/image -x 4096")
    cli.run(f"nvme fw-commit {controller} -s 2 -a 1")
    assert "GUEST-2" in cli.output(f"nvme fw-log {controller}")
    assert ask(cli, "id-ctrl {c}")["fr"].strip() == before
    reset(cli)
    assert ask(cli, "id-ctrl {c}")["fr"].strip() == "GUEST-2"
    cli.run(f"nvme fw-commit {controller} -s 1 -a 2")
    reset(cli)
    assert ask(cli, "id-ctrl {c}")["fr"].strip() == before


def test_what_is_no_image_is_refused(cli: GuestRig) -> None:
    controller = cli.controller("ADMIN")
    cli.run(f"yes | head -c 8192 >/tmp/image; nvme fw-download {controller} -f /tmp/image -x 4096")
    refused = cli.run(f"nvme fw-commit {controller} -s 2 -a 1", check=False)
    assert "Invalid Firmware Image" in refused.stdout + refused.stderr


# --- Logs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["", "--controller-init --rae"], ids=["host", "controller"])
def test_telemetry_log(cli: GuestRig, kind: str) -> None:
    cli.run(f"nvme telemetry-log {cli.controller('ADMIN')} -O /tmp/telemetry {kind}")
    head = cli.output("od -An -v -tx1 -N 512 /tmp/telemetry").split()
    assert head[0] == ("08" if kind else "07")
    assert int(cli.output("wc -c </tmp/telemetry")) % 512 == 0


def test_persistent_event_log(cli: GuestRig) -> None:
    """Power on, the sanitizing and the firmware that these tests have done."""
    controller = cli.controller("ADMIN")
    cli.run(f"nvme persistent-event-log {controller} -a 2", check=False)
    cli.run(f"nvme persistent-event-log {controller} -a 1")
    said = cli.output(f"nvme persistent-event-log {controller} -a 0")
    assert "Power-on" in said
    cli.run(f"nvme persistent-event-log {controller} -a 2")


def test_endurance_log(cli: GuestRig) -> None:
    groups = cli.output(f"nvme list-endgrp {cli.controller('ADMIN')}")
    assert re.search(r"\b0x1\b|:1\b", groups), groups
    log = ask(cli, "endurance-log {c} -g 1")
    assert int(log["data_units_written"]) >= 1


# --- Directives and security protocols --------------------------------------------------------


def test_dir_receive(cli: GuestRig) -> None:
    said = cli.output(f"nvme dir-receive {cli.node('ADMIN')} -D 0 -O 1 -l 4096 -H")
    assert re.search(r"Identify Directive +: supported", said), said


def test_dir_send(cli: GuestRig) -> None:
    """There is no directive that could be switched on."""
    refused = cli.run(f"nvme dir-send {cli.node('ADMIN')} -D 0 -O 1 -T 1 -e 1", check=False)
    assert refused.exit_code != 0


def test_security_recv(cli: GuestRig) -> None:
    """Protocol 00h lists the protocols: itself alone."""
    said = cli.output(f"nvme security-recv {cli.controller('ADMIN')} -p 0 -s 0 -x 512 -t 512")
    assert "0000:" in said
    refused = cli.run(f"nvme security-recv {cli.controller('ADMIN')} -p 1 -x 512", check=False)
    assert refused.exit_code != 0
