"""Directives, security protocols, the endurance group, and logs of what there is."""

from __future__ import annotations

import struct

from tests_protocol import BLOCK, Serve, pattern, refused

from vhostnvme.testing import NvmeHost, nvme, nvme_io
from vhostnvme.testing.nvme import Sqe, Status

DIRECTIVE_SEND, DIRECTIVE_RECEIVE, SECURITY_SEND, SECURITY_RECEIVE = 0x19, 0x1A, 0x81, 0x82
IDENTIFY, STREAMS = 0, 1


def test_the_identify_directive_is_all_there_is(host: NvmeHost) -> None:
    sqe = Sqe(DIRECTIVE_RECEIVE, nsid=1, cdw10=1023, cdw11=1 | IDENTIFY << 8)
    page = host.admin_data("directives", sqe, 4096)
    supported, enabled, lasting = page[:32], page[32:64], page[64:96]
    assert supported == enabled == lasting == b"\x01" + bytes(31)
    with host.alloc(4096) as data:
        for operation, kind, nsid, status in (
            (2, IDENTIFY, 1, Status.INVALID_FIELD),
            (1, STREAMS, 1, Status.INVALID_FIELD),
            (1, IDENTIFY, 2, Status.INVALID_NAMESPACE),
        ):
            wrong = sqe.with_fields(nsid=nsid, cdw11=operation | kind << 8)
            refused(host.admin(data.point(wrong)), status)


def test_there_is_nothing_to_enable(host: NvmeHost) -> None:
    for kind in (IDENTIFY, STREAMS, 0xF):
        sqe = Sqe(DIRECTIVE_SEND, nsid=1, cdw11=1, cdw12=1 | kind << 8)
        refused(host.admin(sqe), Status.INVALID_FIELD)
    refused(host.admin(Sqe(DIRECTIVE_SEND, nsid=9, cdw11=1)), Status.INVALID_NAMESPACE)


def test_the_security_protocols_are_listed(host: NvmeHost) -> None:
    sqe = Sqe(SECURITY_RECEIVE, cdw10=0, cdw11=64)
    page = host.admin_data("protocols", sqe, 64)
    assert page == bytes(6) + b"\x00\x01" + bytes(56)  # one: this one
    certificate = host.admin_data("certificate", sqe.with_fields(cdw10=1 << 8), 64)
    assert certificate == bytes(64)
    with host.alloc(4096) as data:
        for protocol, specific in ((0, 2), (1, 1), (0xEA, 0), (0xEF, 0)):
            wrong = sqe.with_fields(cdw10=protocol << 24 | specific << 8)
            refused(host.admin(data.point(wrong)), Status.INVALID_FIELD)


def test_no_security_protocol_takes_anything(host: NvmeHost) -> None:
    with host.alloc(4096) as data:
        for protocol in (0, 1, 0xEA):
            sqe = Sqe(SECURITY_SEND, cdw10=protocol << 24 | 1 << 8, cdw11=512)
            refused(host.admin(data.point(sqe)), Status.INVALID_FIELD)


def test_the_endurance_group(host: NvmeHost) -> None:
    page = host.identify_controller()
    assert struct.unpack_from("<I", page, 96)[0] & 1 << 4  # CTRATT
    assert struct.unpack_from("<H", page, 340)[0] == 1  # ENDGIDMAX
    assert host.identify(0x19)[:4] == b"\x01\x00\x01\x00"
    assert struct.unpack_from("<H", host.identify(0, 1), 102)[0] == 1  # ENDGID
    queue = host.create_queue_pair()
    for lba in range(3):
        queue.write(lba, pattern(lba, BLOCK))
    queue.read(0, 1)
    sqe = nvme.get_log_page(9, 512)
    log = host.admin_data("endurance", sqe.with_fields(cdw11=1 << 16), 512)
    reads, _, writes, _ = struct.unpack_from("<4Q", log, 96)
    assert (reads, writes) == (1, 3)
    assert struct.unpack_from("<Q", log, 160)[0] == 16 << 20  # its capacity
    for group in (0, 2):
        wrong = sqe.with_fields(cdw11=group << 16)
        refused(host.admin(wrong, host.alloc(512)), Status.INVALID_FIELD)


def test_the_log_of_features_is_what_there_is(host: NvmeHost) -> None:
    log = host.log_page(0x12, 1024)
    for fid in range(256):
        entry = struct.unpack_from("<I", log, 4 * fid)[0]
        done = host.admin(nvme.get_features(fid, 3))
        assert bool(entry & 1) == done.ok, f"feature {fid:#x}"
        if done.ok:
            assert bool(entry >> 20 & 1) == bool(done.result & 2), f"feature {fid:#x}: its scope"


def test_marked_blocks_are_in_the_lba_status_log(serve: Serve) -> None:
    host = serve("mem:1M", "mem:1M").connect()
    queue = host.create_queue_pair()
    assert host.log_page(0xE, 16) == struct.pack("<IIII", 16, 0, 0, 0)
    for lba, blocks in ((100, 3), (7, 1)):
        assert queue.command(nvme_io.write_uncorrectable(2, lba, blocks)).ok
    log = host.log_page(0xE, 64)
    assert struct.unpack_from("<II", log) == (64, 1)
    assert struct.unpack_from("<IIB", log, 16) == (2, 2, 0x11)
    assert [struct.unpack_from("<QI", log, 32 + 16 * i) for i in (0, 1)] == [(7, 1), (100, 3)]


def test_every_command_has_a_scope(host: NvmeHost) -> None:
    assert host.identify_controller()[261] & 1 << 5  # LPA
    log = host.log_page(5, 4096)
    for at in range(0, 2048, 4):
        entry = struct.unpack_from("<I", log, at)[0]
        assert (entry & 1) == (entry >> 20).bit_count(), f"byte {at}"
    assert struct.unpack_from("<I", log, 4 * 0x80)[0] >> 20 == 1  # Format NVM: a namespace
    assert struct.unpack_from("<I", log, 4 * 0x84)[0] >> 25 == 1  # Sanitize: all of it
    assert host.log_page(0x13, 4096) == bytes(4096)  # NVMe-MI: nothing
