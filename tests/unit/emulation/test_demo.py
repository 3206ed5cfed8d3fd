"""What the demo makes of fio's answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vhostnvme.emulation.demo import (
    FIO_VERIFY_MAGIC,
    PATTERNS,
    find_written_blocks,
    read_fio,
)
from vhostnvme.errors import GuestError

WRITE, READ = PATTERNS[0], PATTERNS[1]


def answer(written: int, read: int, error: int = 0) -> str:
    percentiles = {"percentile": {"50.000000": 2000, "99.000000": 9000}}
    side = {"iops": 10.0, "bw_bytes": 5, "clat_ns": percentiles}
    job = {
        "error": error,
        "read": {**side, "io_bytes": read},
        "write": {**side, "io_bytes": written},
    }
    return "note: fio may speak first\n" + json.dumps({"jobs": [job]})


def test_numbers_are_read() -> None:
    measurement = read_fio(WRITE, answer(written=100, read=100))
    assert (measurement.iops, measurement.latency_p50_us, measurement.latency_p99_us) == (10, 2, 9)
    assert measurement.verified_bytes == 100
    assert read_fio(READ, answer(written=0, read=50)).verified_bytes == 0


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (answer(written=100, read=99), "read back 99 of 100"),
        (answer(written=100, read=100, error=84), "error 84"),
        ("", "could not be read"),
        ("{}", "could not be read"),
        ("{", "could not be read"),
    ],
)
def test_anything_less_than_all_is_a_failure(output: str, words: str) -> None:
    with pytest.raises(GuestError, match=words):
        read_fio(WRITE, output)


def test_the_host_must_find_what_the_guest_wrote(tmp_path: Path) -> None:
    disk, random = tmp_path / "disk", PATTERNS[2]
    disk.write_bytes(b"")
    with pytest.raises(GuestError, match="nothing that fio wrote"):
        find_written_blocks(disk)
    with disk.open("r+b") as file:
        file.seek(random.offset + random.block_size)
        file.write(FIO_VERIFY_MAGIC)
    assert find_written_blocks(disk) == 1


def test_writes_are_verified_and_reads_are_not() -> None:
    for pattern in PATTERNS:
        assert ("--verify=crc32c" in pattern.command()) == ("write" in pattern.rw)
