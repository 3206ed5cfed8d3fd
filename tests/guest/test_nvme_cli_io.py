"""nvme-cli in the guest: every I/O command, each checked by what is then on the disk."""

from __future__ import annotations

import json
import re

from tests_guest import GuestRig

BLOCK = 512
SPARE = 4096  # where the tests write, in blocks: each its own range of 64
RANGE_BYTES = 64 * BLOCK


def put(rig: GuestRig, start: int, text: str, blocks: int = 1) -> None:
    """Fills blocks with a text of up to 7 characters, by nvme-cli's own write."""
    size = blocks * BLOCK
    rig.run(f"yes '{text:7}' | head -c {size} >/tmp/data; nvme write {rig.node('FULL')} -s {start}"
            f" -c {blocks - 1} -z {size} -d /tmp/data")  # fmt: skip


def word(rig: GuestRig, start: int) -> str:
    """The first word of a block; empty for zeros."""
    command = f"nvme read {rig.node('FULL')} -s {start} -c 0 -z {BLOCK} 2>/tmp/err"
    return rig.output(f"{command} | tr -d '\\0' | head -n 1").strip()


def test_write_and_read(cli: GuestRig) -> None:
    put(cli, SPARE, "hello", 8)
    assert [word(cli, SPARE + index) for index in (0, 7)] == ["hello"] * 2
    cli.run(f"nvme write {cli.node('FULL')} -s {SPARE} -c 0 -z 512 -d /tmp/data -f")  # FUA
    cli.run(f"nvme read {cli.node('FULL')} -s {SPARE} -c 0 -z 512 -l -f | cmp -n 512 - /tmp/data")


def test_compare(cli: GuestRig) -> None:
    start = SPARE + 64
    put(cli, start, "same")
    cli.run(f"nvme compare {cli.node('FULL')} -s {start} -c 0 -z 512 -d /tmp/data")
    cli.run("yes other | head -c 512 >/tmp/other")
    differs = cli.run(
        f"nvme compare {cli.node('FULL')} -s {start} -c 0 -z 512 -d /tmp/other", check=False
    )
    assert differs.exit_code != 0
    assert "Compare Failure" in differs.stdout + differs.stderr


def test_write_zeroes(cli: GuestRig) -> None:
    start = SPARE + 128
    put(cli, start, "full", 16)
    cli.run(f"nvme write-zeroes {cli.node('FULL')} -s {start} -c 3")
    cli.run(f"nvme write-zeroes {cli.node('FULL')} -s {start + 8} -c 3 -d")  # and deallocate
    assert [word(cli, start + index) for index in (0, 3, 4, 8, 11, 12)] == [
        "", "", "full", "", "", "full",
    ]  # fmt: skip


def test_dsm(cli: GuestRig) -> None:
    start = SPARE + 192
    put(cli, start, "full", 16)
    cli.run(f"nvme dsm {cli.node('FULL')} -d -s {start},{start + 8} -b 2,2")
    assert [word(cli, start + index) for index in (0, 1, 2, 8, 10)] == ["", "", "full", "", "full"]


def test_flush(cli: GuestRig) -> None:
    cli.run(f"nvme flush {cli.node('FULL')} -n 1")


def test_verify(cli: GuestRig) -> None:
    cli.run(f"nvme verify {cli.node('FULL')} -s 0 -c 255")
    beyond = cli.run(f"nvme verify {cli.node('FULL')} -s 0xffffffff -c 0", check=False)
    assert "LBA Out of Range" in beyond.stdout + beyond.stderr


def test_copy(cli: GuestRig) -> None:
    start, target = SPARE + 256, SPARE + 320
    put(cli, start, "one", 4)
    put(cli, start + 8, "two", 4)
    cli.run(f"nvme copy {cli.node('FULL')} -d {target} -s {start},{start + 8} -b 3,1")
    assert [word(cli, target + index) for index in (0, 3, 4, 5)] == ["one", "one", "two", "two"]
    cli.run(f"nvme copy {cli.node('FULL')} -d {target + 8} -s {start} -b 0 -F 1")
    assert word(cli, target + 8) == "one"
    page = json.loads(cli.output(f"nvme id-ns {cli.node('FULL')} -o json"))
    assert page["mssrl"] and page["mcl"]


def test_io_passthru(cli: GuestRig) -> None:
    start = SPARE + 384
    put(cli, start, "raw")
    said = cli.output(
        f"nvme io-passthru {cli.node('FULL')} -O 2 -n 1 --cdw10={start} -r -l 512 -b | head -n 1"
    )
    assert said.strip() == "raw"
    refused = cli.run(f"nvme io-passthru {cli.node('FULL')} -O 0x7f -n 1", check=False)
    assert "Invalid Command Opcode" in refused.stdout + refused.stderr


def test_write_uncor(cli: GuestRig) -> None:
    """A marked block cannot be read, Verify finds it, and a write heals it."""
    start = SPARE + 448
    node = cli.node("FULL")
    put(cli, start, "good", 8)
    cli.run(f"nvme write-uncor {node} -s {start + 2} -c 1")
    refused = cli.run(f"nvme read {node} -s {start + 3} -c 0 -z 512", check=False)
    assert "Unrecovered Read Error" in refused.stdout + refused.stderr
    found = cli.run(f"nvme verify {node} -s {start} -c 7", check=False)
    assert "Unrecovered Read Error" in found.stdout + found.stderr
    assert word(cli, start + 1) == "good"
    put(cli, start + 2, "healed", 2)
    assert word(cli, start + 3) == "healed"
    cli.run(f"nvme verify {node} -s {start} -c 7")


def test_get_lba_status(cli: GuestRig) -> None:
    """The marked blocks are the ones that it tells of. (With entries, nvme-cli has no JSON.)"""
    start = SPARE + 512
    node = cli.node("FULL")
    command = f"nvme get-lba-status {node} -n 1 -s {start} -m 63 -a 0x11 -l 64"
    assert "(NLSD): 0" in cli.output(command)
    cli.run(f"nvme write-uncor {node} -s {start + 5} -c 2")
    told = cli.output(command)
    assert "(NLSD): 1" in told
    found = re.search(r"DSLBA: 0x0*([0-9a-f]+), NLB: 0x0*([0-9a-f]+)", told)
    assert found and (int(found[1], 16), int(found[2], 16)) == (start + 5, 2), told
    put(cli, start + 5, "healed", 3)
    assert "(NLSD): 0" in cli.output(command)
