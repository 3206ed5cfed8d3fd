"""Device Self-test (Base 5.9, 8.6): progress, results, what ends it, and what it outlives."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from tests_drive import drive_server
from tests_protocol import BLOCK, Serve, pattern, refused, until

from vhostnvme.testing import NvmeHost
from vhostnvme.testing.nvme import Sqe, Status

SELF_TEST, SHORT, EXTENDED, ABORT = 0x14, 1, 2, 0xF
LOG, ALL = 6, 0xFFFFFFFF
PASSED, ABORTED, RESET, SEGMENT_FAILED, UNUSED = 0, 1, 2, 7, 0xF
IN_PROGRESS = 0x11D
LARGE = "mem:1G"  # 1,024 steps of 5 ms


def start(host: NvmeHost, code: int, nsid: int = ALL) -> None:
    assert host.admin(Sqe(SELF_TEST, nsid=nsid, cdw10=code)).ok


def state(host: NvmeHost) -> tuple[int, int]:
    """Which test is under way, and how much of it is done in percent."""
    page = host.log_page(LOG, 564)
    return page[0], page[1]


def results(host: NvmeHost) -> list[tuple[int, ...]]:
    """(outcome, code, segment, valid, nsid, lba, sct, sc), the newest first."""
    page = host.log_page(LOG, 564)
    found = []
    for i in range(20):
        status, segment, valid, _, _, nsid, lba, sct, sc = struct.unpack_from(
            "<BBBBQIQBB", page, 4 + 28 * i
        )
        if status & 0xF != UNUSED:
            found.append((status & 0xF, status >> 4, segment, valid, nsid, lba, sct, sc))
    return found


def wait_end(host: NvmeHost) -> None:
    until(lambda: state(host)[0] == 0, "the end of the self-test", 30)


@pytest.mark.parametrize("code", [SHORT, EXTENDED])
@pytest.mark.parametrize("nsid", [0, 1, ALL])
def test_a_good_drive_passes(host: NvmeHost, code: int, nsid: int) -> None:
    assert results(host) == [] and state(host) == (0, 0)
    start(host, code, nsid)
    wait_end(host)
    ((outcome, which, *_),) = results(host)
    assert (outcome, which) == (PASSED, code)


def test_one_at_a_time_with_progress(serve: Serve) -> None:
    host = serve(LARGE).connect()
    start(host, EXTENDED)
    refused(host.admin(Sqe(SELF_TEST, nsid=1, cdw10=SHORT)), IN_PROGRESS, dnr=False)
    assert state(host)[0] == EXTENDED
    until(lambda: state(host)[1] > 1, "progress", 20)
    queue = host.create_queue_pair()
    queue.write(0, pattern(1, BLOCK))  # I/O goes on meanwhile
    assert queue.read(0, 1) == pattern(1, BLOCK)
    start(host, ABORT)
    assert results(host)[0][:2] == (ABORTED, EXTENDED)
    start(host, ABORT)  # there is none: that is no error, and no result
    assert len(results(host)) == 1


def test_what_cannot_be_tested_is_refused(host: NvmeHost) -> None:
    for code in (0, 3, 0xE):
        refused(host.admin(Sqe(SELF_TEST, nsid=1, cdw10=code)), Status.INVALID_FIELD)
    refused(host.admin(Sqe(SELF_TEST, nsid=2, cdw10=SHORT)), Status.INVALID_FIELD)  # inactive
    refused(host.admin(Sqe(SELF_TEST, nsid=9999, cdw10=SHORT)), Status.INVALID_NAMESPACE)


def test_a_block_that_cannot_be_read_is_told(serve: Serve) -> None:
    host = serve("mem:1M", "mem:1M?error=100%&error-ops=read").connect()
    cid = host.submit_async_event()
    start(host, EXTENDED)
    assert host.wait_async_event(cid).result == 0 | 2 << 8 | 1 << 16  # diagnostic failure
    wait_end(host)
    outcome, code, segment, valid, nsid, lba, sct, sc = results(host)[0]
    assert (outcome, code, segment, nsid, lba) == (SEGMENT_FAILED, EXTENDED, 2, 2, 0)
    assert valid == 0xF
    assert sct << 8 | sc == Status.UNRECOVERED_READ


def test_a_reset_ends_the_short_test_only(serve: Serve) -> None:
    host = serve(LARGE).connect()
    start(host, SHORT)
    host.disable()
    host.enable()
    assert results(host)[0][:2] == (RESET, SHORT)
    start(host, EXTENDED)
    until(lambda: state(host)[1] > 0, "progress", 20)
    host.disable()
    host.enable()
    assert state(host)[0] == EXTENDED
    start(host, ABORT)


def test_the_last_20_results_are_kept(host: NvmeHost) -> None:
    for _ in range(12):
        start(host, SHORT, 0)
        start(host, ABORT)
        start(host, EXTENDED, 0)
        start(host, ABORT)
    codes = [result[1] for result in results(host)]
    assert codes == [EXTENDED, SHORT] * 10


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_the_extended_test_outlives_the_server(tmp_path: Path, how: str) -> None:
    with drive_server(tmp_path, LARGE) as server:
        with server.host() as host:
            start(host, EXTENDED)
            until(lambda: state(host)[1] > 2, "progress", 20)
            time.sleep(1.1)  # it is saved once a second
            if how == "kill":
                server.kill()
        if how == "stop":
            server.stop()
    with drive_server(tmp_path, LARGE) as server, server.host() as host:
        code, percent = state(host)
        assert code == EXTENDED and percent >= 2
        wait_end(host)
        assert results(host)[0][:2] == (PASSED, EXTENDED)


def test_identify_says_how_long_it_takes(host: NvmeHost) -> None:
    page = host.identify_controller()
    assert struct.unpack_from("<H", page, 316)[0] == 1  # EDSTT, minutes
    assert page[318] & 1  # one at a time
    assert struct.unpack_from("<H", page, 256)[0] & 1 << 4
