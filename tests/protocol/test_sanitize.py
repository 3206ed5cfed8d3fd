"""Sanitize (Base 5.24, 8.21): everything is gone, nothing is seen meanwhile, also after kill -9."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tests_drive import drive_server
from tests_protocol import BLOCK, Serve, pattern, refused, until

from vhostnvme.testing import NvmeHost, nvme, nvme_io
from vhostnvme.testing.nvme import Admin, Sqe, Status

EXIT, BLOCK_ERASE, OVERWRITE, CRYPTO = 1, 2, 3, 4
AUSE, OIPBP, NODAS = 1 << 3, 1 << 8, 1 << 9
LOG = 0x81
NEVER, DONE, RUNS, FAILED = range(4)
DEALLOCATED = 4  # done, though that was not wanted
CONFIGURATION = 0x17
IN_PROGRESS, HAS_FAILED = 0x1D, 0x1C
MIB = 1 << 20


def sanitize(host: NvmeHost, action: int, pattern_dword: int = 0) -> None:
    assert host.admin(Sqe(Admin.SANITIZE, cdw10=action, cdw11=pattern_dword)).ok


def log(host: NvmeHost) -> tuple[int, int, int, int]:
    """(progress, status, completed passes, CDW10)"""
    progress, status, cdw10 = struct.unpack_from("<HHI", host.log_page(LOG, 512))
    return progress, status & 7, status >> 3 & 0x1F, cdw10


def wait_end(host: NvmeHost, timeout: float = 30) -> int:
    until(lambda: log(host)[1] != RUNS, "the end of the sanitize operation", timeout)
    return log(host)[1]


@pytest.mark.parametrize("action", [BLOCK_ERASE, CRYPTO, OVERWRITE | 1 << 4, OVERWRITE | 3 << 4])
@pytest.mark.parametrize("nodas", [0, NODAS])
def test_every_byte_of_every_namespace_is_erased(
    tmp_path: Path, serve: Serve, action: int, nodas: int
) -> None:
    paths = [tmp_path / name for name in "ab"]
    for number, path in enumerate(paths):
        path.write_bytes(pattern(number, 5 * MIB + 512 * number))
    host = serve(*(f"file:{path}" for path in paths)).connect()
    assert log(host)[:2] == (0xFFFF, NEVER)
    sanitize(host, action | nodas, 0xA1B2C3D4)
    assert wait_end(host) == DONE
    overwritten = action & 7 == OVERWRITE
    kept = overwritten and nodas
    unit = struct.pack("<I", 0xA1B2C3D4) if kept else bytes(4)
    for number, path in enumerate(paths):
        assert path.read_bytes() == unit * ((5 * MIB + 512 * number) // 4)
    progress, _, passes, cdw10 = log(host)
    assert progress == 0xFFFF and cdw10 == action | nodas
    assert passes == (action >> 4 & 0xF if overwritten else 0)
    queue = host.create_queue_pair()
    queue.write(0, pattern(9, BLOCK))
    assert queue.read(0, 1) == pattern(9, BLOCK)


def test_the_pattern_is_inverted_between_passes(tmp_path: Path, serve: Serve) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(MIB))
    record = tmp_path / "record"
    host = serve(f"file:{path}?record={record}").connect()
    sanitize(host, OVERWRITE | 2 << 4 | OIPBP | NODAS, 0x0F0F0F0F)
    assert wait_end(host) == DONE
    assert path.read_bytes() == b"\x0f" * MIB  # the last pass is the pattern as it was given
    assert b"\xf0" * 4096 in record.read_bytes()  # the one before it was not


def test_zones_are_deallocated_with_a_warning_or_not_at_all(serve: Serve) -> None:
    """Feature 17h: No-Deallocate After Sanitize is inhibited on a drive with zoned namespaces."""
    plain = serve("mem:1M").connect()
    assert struct.unpack_from("<I", plain.identify_controller(), 328)[0] >> 29 == 0b010
    host = serve("mem:1M?zoned=on&zone-size=64K", "mem:1M").connect()
    assert struct.unpack_from("<I", host.identify_controller(), 328)[0] >> 29 == 0b011
    assert [host.get_feature(CONFIGURATION, select) for select in (0, 1)] == [1, 1]
    sanitize(host, BLOCK_ERASE | NODAS)
    assert wait_end(host) == DEALLOCATED
    sanitize(host, BLOCK_ERASE)
    assert wait_end(host) == DONE
    host.set_feature(CONFIGURATION, 0)
    refused(host.admin(Sqe(Admin.SANITIZE, cdw10=BLOCK_ERASE | NODAS)), Status.INVALID_FIELD)
    host.disable()  # of the subsystem: a reset of the controller leaves it alone
    host.enable()
    assert host.get_feature(CONFIGURATION) == 0
    sanitize(host, BLOCK_ERASE)
    assert wait_end(host) == DONE
    assert plain.admin(nvme.set_features(CONFIGURATION, 0)).ok
    sanitize(plain, BLOCK_ERASE | NODAS)  # there it is possible
    assert wait_end(plain) == DONE


def test_nothing_is_seen_meanwhile(serve: Serve) -> None:
    host = serve("mem:1G").connect()
    queue = host.create_queue_pair()
    queue.write(0, pattern(1, BLOCK))
    sanitize(host, OVERWRITE | 4 << 4)
    with host.alloc(4096) as data:
        for sqe in (
            nvme.read(1, 0, 1),
            nvme.write(1, 0, 1),
            nvme.flush(1),
            nvme.flush(0xFFFFFFFF),
            nvme.write_zeroes(1, 0, 1),
            nvme_io.write_uncorrectable(1, 0, 1),
        ):
            refused(queue.command(data.point(sqe)), IN_PROGRESS, dnr=False)
        for opcode in (0x10, 0x11, 0x14, 0x19, 0x1A, 0x80, 0x81, 0x82, 0x84, 0x86):
            assert host.admin(data.point(Sqe(opcode, nsid=1))).code == IN_PROGRESS, f"{opcode:#x}"
        for lid in (7, 8, 9, 0xD):
            done = host.admin(nvme.get_log_page(lid, 512), data)
            assert done.code == IN_PROGRESS, f"log {lid:#x}"
    for lid in (1, 2, 4, LOG):
        assert host.log_page(lid, 512)
    host.identify_controller()
    host.set_feature(1, 3)
    progress, status, _, _ = log(host)
    assert status == RUNS and progress < 0xFFFF
    until(lambda: log(host)[0] > progress, "progress", 20)
    host.disable()  # a reset does not end it
    host.enable()
    assert log(host)[1] == RUNS


def test_its_end_is_an_event(host: NvmeHost) -> None:
    cid = host.submit_async_event()
    sanitize(host, BLOCK_ERASE)
    result = host.wait_async_event(cid).result
    assert result == 6 | 1 << 8 | LOG << 16
    assert log(host)[1] == DONE


def test_what_cannot_be_sanitized_is_refused(host: NvmeHost) -> None:
    for action in (0, 5, 7):
        refused(host.admin(Sqe(Admin.SANITIZE, cdw10=action)), Status.INVALID_FIELD)
    sanitize(host, EXIT)  # there is no failure to leave
    assert log(host)[1] == NEVER
    host.set_feature(0x84, 1, nsid=1)
    done = host.admin(Sqe(Admin.SANITIZE, cdw10=BLOCK_ERASE))
    refused(done, Status.WRITE_PROTECTED)


@pytest.mark.parametrize("unrestricted", [False, True])
def test_a_failure_closes_the_drive_until_it_is_left(serve: Serve, unrestricted: bool) -> None:
    served = serve("mem:1M", "mem:1M?error=100%&error-ops=write-zeroes")
    host = served.connect()
    queue = host.create_queue_pair()
    sanitize(host, BLOCK_ERASE | (AUSE if unrestricted else 0))
    assert wait_end(host) == FAILED
    with host.alloc(4096) as data:
        refused(queue.command(data.point(nvme.read(1, 0, 1))), HAS_FAILED)
        leave = host.admin(Sqe(Admin.SANITIZE, cdw10=EXIT))
        again = Sqe(Admin.SANITIZE, cdw10=OVERWRITE | 1 << 4 | AUSE | NODAS)
        if unrestricted:
            assert leave.ok
            assert queue.command(data.point(nvme.read(1, 0, 1))).ok
            return
        refused(leave, HAS_FAILED)
        refused(host.admin(again), HAS_FAILED)
        sanitize(host, OVERWRITE | 1 << 4 | NODAS)
        assert wait_end(host) == DONE
        assert queue.command(data.point(nvme.read(1, 0, 1))).ok


def test_kill_in_the_middle_shows_nothing_and_goes_on(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(pattern(3, MIB) * 64)
    specs = [f"file:{path}" for path in paths]
    action = OVERWRITE | 8 << 4 | NODAS
    with drive_server(tmp_path, *specs) as server, server.host() as host:
        sanitize(host, action, 0x5A5A5A5A)
        server.kill()
    for _ in range(2):
        with drive_server(tmp_path, *specs) as server, server.host() as host:
            assert log(host)[1] == RUNS
            queue = host.create_queue_pair()
            with host.alloc(4096) as data:
                for nsid in (1, 2):
                    done = queue.command(data.point(nvme.read(nsid, 0, 1)))
                    refused(done, IN_PROGRESS, dnr=False)
            server.kill()
    with drive_server(tmp_path, *specs) as server, server.host() as host:
        assert wait_end(host, 60) == DONE
        queue = host.create_queue_pair()
        for nsid in (1, 2):
            with host.alloc(4096) as data:
                assert queue.command(data.point(nvme.read(nsid, 0, 8))).ok
                assert data.get(4096) == b"\x5a" * 4096
        server.stop()
    for path in paths:
        assert path.read_bytes() == b"\x5a" * (64 * MIB)
    with drive_server(tmp_path, *specs) as server, server.host() as host:
        assert log(host)[1] == DONE  # and that is known for good


def test_marks_of_write_uncorrectable_are_gone(host: NvmeHost) -> None:
    queue = host.create_queue_pair()
    assert queue.command(nvme_io.write_uncorrectable(1, 4, 2)).ok
    sanitize(host, CRYPTO)
    assert wait_end(host) == DONE
    assert queue.read(4, 2) == bytes(2 * BLOCK)


def test_identify_says_what_there_is(host: NvmeHost) -> None:
    capabilities = struct.unpack_from("<I", host.identify_controller(), 328)[0]
    assert capabilities & 7 == 7  # crypto erase, block erase, overwrite
    assert capabilities >> 29 & 1 == 0  # NODAS is heeded
    assert capabilities >> 30 == 1  # and leaves the media as they are
