"""nvme-cli in the guest: Format NVM to every format, metadata and protection information."""

from __future__ import annotations

from typing import Any

import pytest
from tests_guest import GuestRig

LBAFS = 6
DATA, METADATA = "/tmp/d", "/tmp/m"


def form(rig: GuestRig, options: str) -> dict[str, Any]:
    """Formats the namespace; returns what Identify says then."""
    with rig.quiet_kernel():
        rig.run(f"nvme format {rig.node('FORMAT')} --force {options}")
    page: dict[str, Any] = rig.json(f"nvme id-ns {rig.node('FORMAT')} -o json")
    return page


def sizes(page: dict[str, Any]) -> tuple[int, int]:
    """Bytes of a block's data and metadata."""
    lbaf = page["lbafs"][page["flbas"] & 0xF]
    return 1 << lbaf["ds"], lbaf["ms"]


def move(rig: GuestRig, what: str, block: int, data: int, metadata: int = 0, more: str = "") -> str:
    """The command that reads or writes one block, with DATA and METADATA, or their copies."""
    end = "r" if what == "read" else ""
    forget = f"rm -f {DATA}r {METADATA}r; " if end else ""  # nvme-cli does not shorten a file
    words = f"nvme {what} {rig.node('FORMAT')} -s {block} -c 0 -z {data} -d {DATA}{end} {more}"
    return f"{forget}{words} -y {metadata} -M {METADATA}{end}" if metadata else f"{forget}{words}"


def test_the_formats_are_listed(cli: GuestRig) -> None:
    page = cli.json(f"nvme id-ns {cli.node('FORMAT')} -o json")
    assert page["nlbaf"] == LBAFS - 1
    found = {(1 << lbaf["ds"], lbaf["ms"]) for lbaf in page["lbafs"]}
    assert found == {(block, ms) for block in (512, 4096) for ms in (0, 8, 64)}


@pytest.mark.parametrize("extended", [0, 1])
@pytest.mark.parametrize("lbaf", range(LBAFS))
def test_format(cli: GuestRig, lbaf: int, extended: int) -> None:
    """What is written to a block, data and metadata, is read from it; all else is zeros."""
    page = form(cli, f"-l {lbaf} -m {extended}")
    block, metadata = sizes(page)
    assert page["flbas"] & 0xF == lbaf
    assert page["dps"] == 0
    assert page["nsze"] * (block + metadata) <= 64 << 20
    together = metadata if extended else 0
    apart = 0 if extended else metadata
    cli.run(f"head -c {block + together} /dev/urandom >{DATA}; head -c 64 /dev/urandom >{METADATA}")
    cli.run(move(cli, "write", 7, block + together, apart))
    cli.run(move(cli, "read", 7, block + together, apart))
    cli.run(f"cmp {DATA} {DATA}r")
    if apart:
        cli.run(f"cmp -n {apart} {METADATA} {METADATA}r")
    cli.run(move(cli, "read", 8, block + together, apart))
    assert cli.output(f"tr -d '\\0' <{DATA}r | wc -c") == "0"


@pytest.mark.parametrize("kind", [1, 2, 3])
@pytest.mark.parametrize("lbaf", [1, 4])
def test_protection_information(cli: GuestRig, lbaf: int, kind: int) -> None:
    """The device makes it and checks it (PRACT); a wrong reference tag is found."""
    page = form(cli, f"-l {lbaf} -i {kind} -p 1")
    block, metadata = sizes(page)
    assert (page["dps"] & 7, metadata) == (kind, 8)
    cli.run(f"head -c {block} /dev/urandom >{DATA}")
    tag, checks = ("", 4) if kind == 3 else ("-r 9", 5)  # guard; guard and reference tag
    cli.run(move(cli, "write", 9, block, more=f"-p 8 {tag}"))
    cli.run(move(cli, "read", 9, block, metadata, more=f"-p {checks} {tag}"))
    cli.run(f"cmp {DATA} {DATA}r")
    # The block's own number is in its last four bytes, as type 1 wants it.
    if kind == 1:
        assert cli.output(f"od -An -tx1 {METADATA}r").split()[4:] == ["00", "00", "00", "09"]
    cli.run(f"printf 12345678 >{METADATA}")
    refused = cli.run(move(cli, "write", 9, block, metadata, more=f"-p 4 {tag}"), check=False)
    assert refused.exit_code != 0
    assert "Guard Check" in refused.stdout + refused.stderr


@pytest.mark.parametrize("erase", [0, 1, 2])
def test_secure_erase(cli: GuestRig, erase: int) -> None:
    page = form(cli, "-l 0")
    block, _ = sizes(page)
    cli.run(f"yes | head -c {block} >{DATA}")
    cli.run(move(cli, "write", 3, block))
    form(cli, f"-l 0 -s {erase}")
    cli.run(move(cli, "read", 3, block))
    assert cli.output(f"tr -d '\\0' <{DATA}r | wc -c") == "0"


def test_a_format_that_is_not_there_is_refused(cli: GuestRig) -> None:
    refused = cli.run(f"nvme format {cli.node('FORMAT')} --force -l 15", check=False)
    assert refused.exit_code != 0


def test_the_plain_format_is_a_disk_again(cli: GuestRig) -> None:
    form(cli, "-l 0")
    with cli.quiet_kernel():
        cli.run(f"dd if=/dev/zero of={cli.node('FORMAT')} bs=64k count=4 oflag=direct")
