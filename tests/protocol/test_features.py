"""Features and log pages (Base 5.14, 5.16, 5.27), and admin commands that are refused."""

from __future__ import annotations

import struct
import time

import pytest
from tests_protocol import BLOCK, PAGE, Serve, pattern, refused

from vhostnvme.testing import NvmeHost, QueuePair, nvme
from vhostnvme.testing.nvme import Admin, Sqe, Status

MANDATORY = (0x01, 0x02, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0A, 0x0B)
CURRENT, DEFAULT, SAVED, CAPABILITIES = range(4)
ERROR_LOG, SMART_LOG, FIRMWARE_LOG, CHANGED_LOG, EFFECTS_LOG = 1, 2, 3, 4, 5
EVERYWHERE = 0xFFFFFFFF


def error_entries(host: NvmeHost, most: int = 64) -> list[tuple[int, ...]]:
    """(count, sqid, cid, status, location, lba, nsid), the newest first."""
    page = host.log_page(ERROR_LOG, 64 * most)
    entries = [struct.unpack_from("<QHHHHQI", page, 64 * i) for i in range(most)]
    return [entry for entry in entries if entry[0]]


# --- features ---


@pytest.mark.parametrize("select", [CURRENT, DEFAULT, SAVED])
@pytest.mark.parametrize("fid", MANDATORY)
def test_mandatory_features_have_values(host: NvmeHost, fid: int, select: int) -> None:
    assert host.admin(nvme.get_features(fid, select)).ok


@pytest.mark.parametrize("fid", MANDATORY)
def test_features_tell_their_capabilities(host: NvmeHost, fid: int) -> None:
    capabilities = host.get_feature(fid, CAPABILITIES)
    assert capabilities & 1 == (fid != 0x07)  # saveable: all but the number of queues
    assert capabilities & 2 == (2 if fid == 0x05 else 0)  # of a namespace
    assert capabilities & 4  # changeable


@pytest.mark.parametrize("select", [4, 5, 6, 7])
def test_a_reserved_selection_is_refused(host: NvmeHost, select: int) -> None:
    refused(host.admin(nvme.get_features(1, select)), Status.INVALID_FIELD)


def test_the_number_of_queues_cannot_be_saved(host: NvmeHost) -> None:
    value = host.get_feature(0x07)
    refused(host.admin(nvme.set_features(0x07, value, save=True)), Status.FEATURE_NOT_SAVEABLE)


@pytest.mark.parametrize("fid", [0x00, 0x03, 0x0D, 0x12, 0x7F, 0xC0, 0xFF])
def test_unknown_features_are_refused(host: NvmeHost, fid: int) -> None:
    refused(host.admin(nvme.get_features(fid)), Status.INVALID_FIELD)
    refused(host.admin(nvme.set_features(fid, 0)), Status.INVALID_FIELD)


@pytest.mark.parametrize(
    ("fid", "value"), [(1, 0x01020304), (5, 0x00FF), (6, 0), (8, 0x0A05), (0xA, 1), (0xB, 0x1)]
)
def test_a_feature_keeps_what_it_was_set_to(host: NvmeHost, fid: int, value: int) -> None:
    default = host.get_feature(fid, DEFAULT)
    host.set_feature(fid, value)
    assert host.get_feature(fid) == value
    assert host.get_feature(fid, DEFAULT) == host.get_feature(fid, SAVED) == default


def test_features_of_the_controller_are_not_namespace_specific(host: NvmeHost) -> None:
    for fid in MANDATORY:
        if fid in (0x05, 0x07):  # error recovery is namespace specific; the other one below
            continue
        value = host.get_feature(fid)
        sqe = nvme.set_features(fid, value, nsid=1)
        refused(host.admin(sqe), Status.FEATURE_NOT_NS_SPECIFIC)
        assert host.admin(sqe.with_fields(nsid=EVERYWHERE)).ok, f"feature {fid:#x}"


@pytest.mark.parametrize("value", [5, 31])
def test_a_power_state_that_is_not_there_is_refused(host: NvmeHost, value: int) -> None:
    refused(host.admin(nvme.set_features(2, value)), Status.INVALID_FIELD)


def test_temperature_thresholds(host: NvmeHost) -> None:
    host.set_feature(4, 350)
    host.set_feature(4, 1 << 20 | 280)
    assert host.admin(nvme.get_features(4)).result & 0xFFFF == 350
    assert host.admin(nvme.get_features(4, cdw11=1 << 20)).result & 0xFFFF == 280
    for bad in (2 << 20, 5 << 16):
        refused(host.admin(nvme.set_features(4, bad | 300)), Status.INVALID_FIELD)
        refused(host.admin(nvme.get_features(4, cdw11=bad)), Status.INVALID_FIELD)


def test_error_on_deallocated_blocks_is_not_offered(host: NvmeHost) -> None:
    refused(host.admin(nvme.set_features(5, 1 << 16)), Status.INVALID_FIELD)


def test_interrupt_vectors_are_configured_one_by_one(host: NvmeHost) -> None:
    host.set_feature(9, 1 << 16 | 3)
    assert host.admin(nvme.get_features(9, cdw11=3)).result == 1 << 16 | 3
    assert host.admin(nvme.get_features(9, cdw11=4)).result == 4
    refused(host.admin(nvme.set_features(9, 65)), Status.INVALID_FIELD)
    refused(host.admin(nvme.get_features(9, cdw11=65)), Status.INVALID_FIELD)


# --- log pages ---


@pytest.mark.parametrize("lid", [0x0A, 0x0B, 0x70, 0xC0, 0xFF])
def test_an_unknown_log_is_refused(host: NvmeHost, lid: int) -> None:
    refused(host.admin(nvme.get_log_page(lid, 512), host.alloc(512)), Status.INVALID_LOG_PAGE)


def test_the_supported_logs_are_those_that_answer(host: NvmeHost) -> None:
    page = host.log_page(0, 1024)
    listed = [lid for lid in range(256) if struct.unpack_from("<I", page, 4 * lid)[0] & 1]
    assert set(listed) >= {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x0D, 0x12, 0x81}
    for lid in range(256):
        completion = host.admin(nvme.get_log_page(lid, 512), host.alloc(512))
        assert (completion.code == Status.INVALID_LOG_PAGE) == (lid not in listed), f"log {lid:#x}"


@pytest.mark.parametrize("lid", [ERROR_LOG, SMART_LOG, FIRMWARE_LOG, EFFECTS_LOG])
def test_a_log_in_pieces_is_the_log(host: NvmeHost, lid: int) -> None:
    refused(host.admin(nvme.identify(0xFF), host.alloc(PAGE)), Status.INVALID_FIELD)
    whole = host.log_page(lid, 512, rae=True)
    for at in (0, 4, 36, 256, 508):
        length = min(64, 512 - at)
        assert host.log_page(lid, length, offset=at, rae=True) == whole[at : at + length]


@pytest.mark.parametrize("offset", [1, 2, 3, 513, 4098, 516, 1 << 20, 1 << 40, 2**64 - 4])
def test_an_offset_that_is_odd_or_beyond_the_log_is_refused(host: NvmeHost, offset: int) -> None:
    sqe = nvme.get_log_page(SMART_LOG, 64, offset=offset)
    refused(host.admin(sqe, host.alloc(64)), Status.INVALID_FIELD)


def test_a_log_longer_than_a_transfer_is_refused(host: NvmeHost) -> None:
    with host.alloc(2 << 20) as buffer:
        sqe = nvme.get_log_page(EFFECTS_LOG, (1 << 20) + 4)
        refused(host.admin(sqe, buffer), Status.INVALID_FIELD)
        sqe = nvme.get_log_page(EFFECTS_LOG, 1 << 34)
        refused(host.admin(sqe, buffer), Status.INVALID_FIELD)
        assert host.admin(nvme.get_log_page(EFFECTS_LOG, 1 << 20), buffer, 1 << 20).ok


def test_the_smart_log_is_the_controllers(host: NvmeHost) -> None:
    assert len(host.log_page(SMART_LOG, 512, nsid=0)) == 512
    sqe = nvme.get_log_page(SMART_LOG, 512, nsid=1)  # LPA bit 0 is clear
    refused(host.admin(sqe, host.alloc(512)), Status.INVALID_FIELD)


def smart(host: NvmeHost) -> dict[str, int]:
    page = host.log_page(SMART_LOG, 512)
    names = "read_units written_units reads writes busy cycles hours unsafe media errors".split()
    values = struct.unpack_from("<20Q", page, 32)
    assert not any(values[1::2])
    return dict(zip(names, values[::2], strict=True))


def test_smart_counts_are_real(queue: QueuePair) -> None:
    before = smart(queue.host)
    for i in range(7):
        queue.write(i, pattern(i, 4 * BLOCK))
    for _ in range(5):
        queue.read(0, 2)
    refused(queue.command(nvme.read(1, 1 << 40, 1)), Status.LBA_RANGE)
    after = smart(queue.host)
    assert after["reads"] == before["reads"] + 5
    assert after["writes"] == before["writes"] + 7
    assert after["errors"] == before["errors"] + 1
    assert after["read_units"] == after["written_units"] == 1  # of 512,000 bytes, rounded up
    assert after["media"] == 0 and after["cycles"] >= 1
    temperature = struct.unpack_from("<H", queue.host.log_page(SMART_LOG, 512), 1)[0]
    assert 273 < temperature < 350
    assert queue.host.log_page(SMART_LOG, 512)[0] == 0


def test_smart_units_count_thousands_of_512_bytes(queue: QueuePair) -> None:
    with queue.host.alloc(1 << 20) as buffer:
        for _ in range(4):
            assert queue.command(nvme.read(1, 0, 2048), buffer).ok
    assert smart(queue.host)["read_units"] == -(-4 * (1 << 20) // 512000)


def test_an_unsafe_shutdown_is_counted(serve: Serve) -> None:
    served = serve("mem:1M")
    first = served.connect()
    before = smart(first)["unsafe"]
    first.close()  # without a shutdown
    second = served.connect()
    assert smart(second)["unsafe"] == before + 1
    second.shutdown()
    second.close()
    assert smart(served.connect())["unsafe"] == before + 1


def test_the_error_log_tells_the_newest_first(queue: QueuePair) -> None:
    host = queue.host
    assert error_entries(host) == []
    for lba in (1 << 40, (1 << 40) + 5):
        completion = queue.command(nvme.read(1, lba, 1))
        refused(completion, Status.LBA_RANGE)
        assert completion.more
    newest, oldest = error_entries(host)
    assert newest[0] == 2 and oldest[0] == 1
    assert newest[1] == 1 and newest[2] == completion.cid
    assert newest[3] >> 1 & 0x7FF == Status.LBA_RANGE
    assert newest[5] == (1 << 40) + 5 and newest[6] == 1


def test_the_error_log_keeps_the_last_64(queue: QueuePair) -> None:
    for i in range(70):
        refused(queue.command(nvme.read(1, (1 << 40) + i, 1)), Status.LBA_RANGE)
    entries = error_entries(queue.host)
    assert [entry[0] for entry in entries] == list(range(70, 6, -1))
    assert [entry[5] - (1 << 40) for entry in entries] == list(range(69, 5, -1))
    assert queue.host.identify_controller()[262] == 63  # ELPE, zero-based


def test_the_effects_log_agrees_with_what_is_offered(host: NvmeHost) -> None:
    page = host.log_page(EFFECTS_LOG, PAGE)
    admin = [op for op in range(256) if struct.unpack_from("<I", page, 4 * op)[0] & 1]
    io = [op for op in range(256) if struct.unpack_from("<I", page, 1024 + 4 * op)[0] & 1]
    assert set(admin) >= {0, 1, 2, 4, 5, 6, 8, 9, 0xA, 0xC}
    assert io == [0, 1, 2, 4, 5, 8, 9, 0xC, 0xD, 0xE, 0x11, 0x15, 0x19]
    queue = host.create_queue_pair()
    for opcode in range(256):
        if opcode not in io:
            refused(queue.command(Sqe(opcode, nsid=1)), Status.INVALID_OPCODE)
        if opcode not in admin:
            refused(host.admin(Sqe(opcode)), Status.INVALID_OPCODE)


def test_the_firmware_log_names_the_running_revision(host: NvmeHost) -> None:
    page = host.log_page(FIRMWARE_LOG, 512)
    assert page[0] & 7 == 1
    assert page[8:16] == host.identify_controller()[64:72]


# --- commands that are refused ---


@pytest.mark.parametrize("flags", [1, 2, 3, 1 << 6, 2 << 6, 3 << 6])
def test_admin_commands_take_neither_fuse_nor_sgls(host: NvmeHost, flags: int) -> None:
    with host.alloc(PAGE) as buffer:
        sqe = buffer.point(nvme.identify(1)).with_fields(flags=flags)
        refused(host.admin(sqe), Status.INVALID_FIELD)


@pytest.mark.parametrize("prp1", [0, 1 << 40, 2**64 - 4096])
def test_admin_data_outside_memory_is_refused(host: NvmeHost, prp1: int) -> None:
    refused(host.admin(nvme.identify(1).with_fields(prp1=prp1)), Status.DATA_TRANSFER_ERROR)


def test_admin_data_at_a_bad_offset_is_refused(host: NvmeHost) -> None:
    with host.alloc(2 * PAGE) as buffer:
        for offset in (1, 2, 3, 7):
            sqe = nvme.identify(1).with_fields(prp1=buffer.iova + offset, prp2=buffer.iova + PAGE)
            refused(host.admin(sqe), Status.INVALID_PRP_OFFSET)
        sqe = nvme.identify(1).with_fields(prp1=buffer.iova + 8, prp2=buffer.iova + PAGE + 8)
        refused(host.admin(sqe), Status.INVALID_PRP_OFFSET)


@pytest.mark.parametrize(
    "opcode",
    [Admin.NS_MANAGEMENT, Admin.NS_ATTACHMENT, 0x7F, 0x38],
)
def test_commands_that_are_not_offered_are_refused(host: NvmeHost, opcode: int) -> None:
    refused(host.admin(Sqe(opcode, nsid=1)), Status.INVALID_OPCODE)


def test_keep_alive_is_for_fabrics(host: NvmeHost) -> None:
    assert struct.unpack_from("<H", host.identify_controller(), 320)[0] == 0  # KAS: it has no timer
    refused(host.admin(Sqe(Admin.KEEP_ALIVE)), Status.INVALID_OPCODE)
    refused(host.admin(Sqe(Admin.GET_FEATURES, cdw10=0x0F)), Status.INVALID_FIELD)


def test_doorbell_buffers_must_be_pages_of_memory(serve: Serve) -> None:
    host = serve("mem:1M", doorbells=2).connect()
    good = host.alloc(2 * PAGE).iova
    for prp1, prp2 in ((good + 4, good + PAGE), (good, good + 8), (0, good), (good, 1 << 40)):
        sqe = Sqe(Admin.DOORBELL_CONFIG, prp1=prp1, prp2=prp2)
        assert not host.admin(sqe).ok
    assert host.admin(Sqe(Admin.DOORBELL_CONFIG, prp1=good, prp2=good + PAGE)).ok
    time.sleep(0.001)
    host.disable()
    host.enable()
    assert host.create_queue_pair().read(0, 1) == bytes(BLOCK)
