"""Commands that no driver sends: each gets its status, and nobody notices anything else."""

from __future__ import annotations

import re

import pytest
from tests_guest import GuestRig, fio_verify, verified_bytes

# Type and code as in the specification: type << 8 | code.
INVALID_OPCODE, INVALID_FIELD, LBA_RANGE = 0x001, 0x002, 0x080
INVALID_NAMESPACE = 0x00B
INVALID_SLOT, INVALID_FORMAT = 0x106, 0x10A
INVALID_QUEUE, QUEUE_DELETION, INVALID_LOG_PAGE, NOT_SAVEABLE = 0x101, 0x10C, 0x109, 0x10D

BEYOND = "--cdw10=0xfffffff8 --cdw11=0xffffffff"
READ_4K = "--opcode=0x02 --data-len=4096 --read"
WRITE_4K = "--opcode=0x01 --data-len=4096 --write --input-file=/tmp/page"

IO = {
    "reserved opcode": ("--opcode=0x7e", INVALID_OPCODE),
    "vendor opcode": ("--opcode=0xfd", INVALID_OPCODE),
    "verify past the end": (f"--opcode=0x0c {BEYOND} --cdw12=7", LBA_RANGE),
    "zones where there are none": ("--opcode=0x79 --cdw13=1", INVALID_OPCODE),
    "read past the end": (f"{READ_4K} --cdw10=0xffffff00 --cdw12=7", LBA_RANGE),
    "read whose end wraps": (f"{READ_4K} {BEYOND} --cdw12=7", LBA_RANGE),
    "read over the end": (f"{READ_4K} --cdw10=393215 --cdw12=7", LBA_RANGE),
    "write past the end": (f"{WRITE_4K} {BEYOND} --cdw12=7", LBA_RANGE),
    "zeroes whose end wraps": (f"--opcode=0x08 {BEYOND} --cdw12=0xffff", LBA_RANGE),
    "protection information": (f"{READ_4K} --cdw12=0x3c000007", INVALID_FIELD),
}
ADMIN = {
    "reserved opcode": ("--opcode=0x3f", INVALID_OPCODE),
    "vendor opcode": ("--opcode=0xc1", INVALID_OPCODE),
    "format with an unknown format": ("--opcode=0x80 --namespace-id=1 --cdw10=15", INVALID_FORMAT),
    "namespace management": ("--opcode=0x0d --cdw10=1 --namespace-id=1", INVALID_OPCODE),
    "firmware commit to the read-only slot": ("--opcode=0x10 --cdw10=1", INVALID_SLOT),
    "sanitize with an unknown action": ("--opcode=0x84 --cdw10=7", INVALID_FIELD),
    "identify of an unknown structure": (
        "--opcode=0x06 --cdw10=0xfe --data-len=4096 --read",
        INVALID_FIELD,
    ),
    "identify of a namespace that cannot be": (
        "--opcode=0x06 --namespace-id=0xfffffff0 --data-len=4096 --read",
        INVALID_NAMESPACE,
    ),
    "descriptors of a namespace that is not there": (
        "--opcode=0x06 --cdw10=3 --namespace-id=99 --data-len=4096 --read",
        INVALID_NAMESPACE,
    ),
    "unknown log page": ("--opcode=0x02 --cdw10=0x7f00c5 --data-len=512 --read", INVALID_LOG_PAGE),
    "log page past its end": (
        "--opcode=0x02 --cdw10=0x7f0002 --cdw12=0x10000 --data-len=512 --read",
        INVALID_FIELD,
    ),
    "unknown feature": ("--opcode=0x0a --cdw10=0xee", INVALID_FIELD),
    "set an unknown feature": ("--opcode=0x09 --cdw10=0xee --cdw11=1", INVALID_FIELD),
    "save a feature that cannot be": (
        "--opcode=0x09 --namespace-id=1 --cdw10=0x80000084",
        NOT_SAVEABLE,
    ),
    "delete the admin queue": ("--opcode=0x00 --cdw10=0", INVALID_QUEUE),
    "delete a queue that is not there": ("--opcode=0x00 --cdw10=60", INVALID_QUEUE),
    "delete a completion queue in use": ("--opcode=0x04 --cdw10=1", QUEUE_DELETION),
    "delete the admin completion queue": ("--opcode=0x04 --cdw10=0", INVALID_QUEUE),
    "create a queue twice": (
        "--opcode=0x05 --cdw10=0xf0001 --cdw11=1 --data-len=4096 --read",
        INVALID_QUEUE,
    ),
    "create a queue beyond all": (
        "--opcode=0x05 --cdw10=0xfffff --cdw11=1 --data-len=4096 --read",
        INVALID_QUEUE,
    ),
}


def status_of(rig: GuestRig, command: str) -> int:
    """The status that nvme-cli tells of, without More and Do Not Retry; 0 for success."""
    result = rig.run(command, check=False)
    said = result.stdout + result.stderr
    match = re.search(r"[sS]tatus: ?.*\(0x([0-9a-f]+)\)", said, re.DOTALL)
    if result.exit_code == 0:
        return 0
    assert match, f"{command!r} failed without a status: {said}"
    return int(match[1], 16) & 0x7FF


@pytest.fixture(autouse=True, scope="module")
def page(rig: GuestRig) -> None:
    rig.run("head -c 4096 /dev/urandom >/tmp/page")


@pytest.mark.parametrize("case", IO)
def test_an_io_command_that_cannot_be(rig: GuestRig, case: str) -> None:
    arguments, expected = IO[case]
    with rig.quiet_kernel():
        command = f"nvme io-passthru {rig.node('MEM')} --namespace-id=1 {arguments}"
        assert status_of(rig, command) == expected


@pytest.mark.parametrize("case", ADMIN)
def test_an_admin_command_that_cannot_be(rig: GuestRig, case: str) -> None:
    arguments, expected = ADMIN[case]
    with rig.quiet_kernel():
        command = f"nvme admin-passthru {rig.controller('MEM')} {arguments}"
        assert status_of(rig, command) == expected


def test_ranges_to_deallocate_that_cannot_be(rig: GuestRig) -> None:
    node = rig.node("MEM")
    rig.run(f"dd if=/tmp/page of={node} bs=4k oflag=direct")
    with rig.quiet_kernel():
        beyond = "--slbs=0,0xffffffffffffff00 --blocks=8,512"
        assert status_of(rig, f"nvme dsm {node} --ad {beyond}") == LBA_RANGE
        # Ranges are checked before the first of them is touched.
        rig.run(f"dd if={node} bs=4k count=1 iflag=direct | cmp - /tmp/page")
        many = ",".join(str(index * 8) for index in range(256))
        lengths = ",".join(["1"] * 256)
        assert status_of(rig, f"nvme dsm {node} --ad --slbs={many} --blocks={lengths}") == 0


def test_an_abort_of_nothing_aborts_nothing(rig: GuestRig) -> None:
    controller = rig.controller("MEM")
    command = f"nvme admin-passthru {controller} --opcode=0x08 --cdw10=0x12340001"
    result = rig.run(command)
    assert re.search(r"result: ?0x0*1\b", result.stdout + result.stderr), result


def test_after_all_that_the_disk_works(rig: GuestRig) -> None:
    info = rig.call(rig.device("MEM").info)
    assert info.enabled
    assert not info.fatal
    with rig.quiet_kernel():
        output = rig.output(fio_verify(rig.node("MEM"), megabytes=2, depth=64))
    assert verified_bytes(output) == 8 << 20
