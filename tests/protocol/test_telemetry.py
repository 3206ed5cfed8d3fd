"""Telemetry, host- and controller-initiated (Base 5.16.1.8, 5.16.1.9, 8.24)."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tests_drive import drive_server
from tests_protocol import Serve, pattern, refused

from vhostnvme.testing import NvmeHost, nvme
from vhostnvme.testing.nvme import Status

HOST, CTRL = 7, 8
CREATE = 1 << 8
BLOCK = 512
FAULTY = "mem:1M?error=100%&error-ops=flush"


def read(
    host: NvmeHost, lid: int, *, create: bool = False, offset: int = 0, blocks: int = 1,
    rae: bool = True,
) -> bytes:  # fmt: skip
    length = BLOCK * blocks
    sqe = nvme.get_log_page(lid, length, offset=offset, rae=rae)
    sqe = sqe.with_fields(cdw10=sqe.cdw10 | (CREATE if create else 0))
    return host.admin_data("telemetry", sqe, length)


def areas(header: bytes) -> tuple[int, int, int]:
    one, two, three = struct.unpack_from("<3H", header, 8)
    return one, two, three


def text_of(host: NvmeHost, lid: int, area: int) -> str:
    last = areas(read(host, lid))[area - 1]
    pages = (read(host, lid, offset=BLOCK * (1 + at)) for at in range(last))
    return b"".join(pages).replace(b"\0", b"").decode()


def test_a_host_captures_the_state(host: NvmeHost) -> None:
    assert areas(read(host, HOST)) == (0, 0, 0)  # nothing was captured yet
    queue = host.create_queue_pair()
    queue.write(0, pattern(1, BLOCK))
    refused(queue.command(nvme.read(1, 77777777, 1)), Status.LBA_RANGE)
    header = read(host, HOST, create=True)
    one, two, three = areas(header)
    assert header[0] == HOST and 0 < one < two == three
    generation = header[381]
    lines = text_of(host, HOST, 1).splitlines()
    assert "writes 1" in lines and f"write_bytes {BLOCK}" in lines
    commands = text_of(host, HOST, 2)
    assert "opcode 02 nsid 1 slba 77777777 status 0/80" in commands
    assert "opcode 06" in commands  # admin commands are told
    assert "opcode 01 nsid 1 slba 0 " not in commands  # I/O that went well is not
    queue.write(1, pattern(2, BLOCK))
    assert "writes 1" in text_of(host, HOST, 1).splitlines()  # as it was captured
    again = read(host, HOST, create=True)
    assert again[381] == (generation + 1) & 0xFF
    assert "writes 2" in text_of(host, HOST, 1).splitlines()


def test_whole_blocks_are_read(host: NvmeHost) -> None:
    for length, offset in ((508, 0), (512, 4), (516, 0)):
        sqe = nvme.get_log_page(HOST, length, offset=offset)
        refused(host.admin(sqe, host.alloc(4096)), Status.INVALID_FIELD)
    with host.alloc(4096) as page:
        sqe = nvme.get_log_page(HOST, BLOCK, offset=BLOCK * 1000)
        refused(host.admin(sqe, page), Status.INVALID_FIELD)


def test_a_failed_flush_is_captured_and_told(serve: Serve) -> None:
    host = serve(FAULTY).connect()
    queue = host.create_queue_pair()
    first = host.submit_async_event()
    second = host.submit_async_event()
    queue.write(0, pattern(1, BLOCK))
    assert not queue.command(nvme.flush(1)).ok
    events = {host.wait_async_event(cid).result for cid in (first, second)}
    assert 2 | 2 << 8 | CTRL << 16 in events
    header = read(host, CTRL)
    assert header[382] == 1 and header[383] == 1  # data are available, of the first generation
    assert header[384:512].startswith(b"a flush has failed")
    assert "opcode 00 nsid 1" in text_of(host, CTRL, 2)
    assert read(host, CTRL)[382] == 1  # kept until it is read without RAE
    read(host, CTRL, rae=False)
    assert read(host, CTRL)[382] == 0


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_what_the_controller_captured_outlives_the_server(tmp_path: Path, how: str) -> None:
    with drive_server(tmp_path, FAULTY) as server:
        with server.host() as host:
            queue = host.create_queue_pair()
            queue.write(0, pattern(1, BLOCK))
            assert not queue.command(nvme.flush(1)).ok
            before = text_of(host, CTRL, 2)
            host.shutdown()
            if how == "kill":
                server.kill()
        if how == "stop":
            server.stop()
    with drive_server(tmp_path, "mem:1M") as server, server.host() as host:
        assert read(host, CTRL)[382] == 1
        assert text_of(host, CTRL, 2) == before
