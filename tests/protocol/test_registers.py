"""Controller properties (Base 3.1.3): what they hold, their widths, what enabling refuses."""

from __future__ import annotations

import pytest
from tests_protocol import MAPPED, Serve, Served

from vhostnvme.errors import NativeError
from vhostnvme.testing import NvmeHost
from vhostnvme.testing.nvme import Reg, Sqe, identify

CC_GOOD = 6 << 16 | 4 << 20
CC_EN = 1
RDY, CFS = 1, 2
CRTO = 0x68


@pytest.fixture
def idle(served: Served) -> NvmeHost:
    """A host that has not enabled the controller."""
    return served.connect(enable=False)


def prepare_admin_queue(host: NvmeHost, entries: int = 32) -> None:
    queues = host.alloc(16384)
    host.write32(Reg.AQA, (entries - 1) << 16 | (entries - 1))
    host.write64(Reg.ASQ, queues.iova)
    host.write64(Reg.ACQ, queues.iova + 8192)


def test_capabilities(idle: NvmeHost) -> None:
    cap = idle.read64(Reg.CAP)
    assert cap & 0xFFFF == 1023  # MQES, zero-based
    assert cap >> 16 & 1 == 1  # CQR
    assert cap >> 17 & 3 == 1  # AMS: weighted round robin beside the plain one
    assert cap >> 24 & 0xFF >= 1  # TO
    assert cap >> 32 & 0xF == 0  # DSTRD
    assert cap >> 37 & 1 == 1  # CSS: NVM
    assert cap >> 48 & 0xFF == 0  # MPSMIN, MPSMAX: 4 KiB
    assert idle.read32(Reg.VS) == 0x20000
    assert idle.csts == 0 and idle.read32(Reg.CC) == 0


def test_a_queue_limit_shows_in_mqes(serve: Serve) -> None:
    host = serve("mem:1M", max_entries=64).connect(enable=False)
    assert host.read64(Reg.CAP) & 0xFFFF == 63


def test_ready_times_agree(idle: NvmeHost) -> None:
    to = idle.read64(Reg.CAP) >> 24 & 0xFF
    assert idle.read32(CRTO) == to | to << 16


@pytest.mark.parametrize("offset", [Reg.CAP, Reg.ASQ, Reg.ACQ])
def test_64_bit_registers_in_two_halves(idle: NvmeHost, offset: int) -> None:
    idle.write32(Reg.ASQ, 0x12345000)
    idle.write32(Reg.ASQ + 4, 0x9)
    idle.write32(Reg.ACQ, 0xABCDE000)
    idle.write32(Reg.ACQ + 4, 0x7)
    whole = idle.read64(offset)
    assert whole == idle.read32(offset) | idle.read32(offset + 4) << 32
    if offset == Reg.ASQ:
        assert whole == 0x912345000
    if offset == Reg.ACQ:
        assert whole == 0x7ABCDE000


def test_two_32_bit_registers_in_one_64_bit_access(idle: NvmeHost) -> None:
    prepare_admin_queue(idle)
    assert idle.read64(0x08) == 0x20000  # VS, INTMS
    assert idle.read64(0x20) == 0x001F001F << 32  # NSSR, AQA
    idle.write64(0x10, (CC_GOOD | CC_EN) << 32)  # INTMC, CC
    assert idle.handle.wait_csts(RDY, RDY) & RDY
    assert idle.read64(0x10) == (CC_GOOD | CC_EN) << 32
    assert idle.read64(0x18) == RDY << 32


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("offset", [0, 1, 2, 0x14, 0x1C, 0x1001])
def test_narrow_accesses_read_zeros_and_write_nothing(
    idle: NvmeHost, offset: int, width: int
) -> None:
    assert idle.handle.reg_read(offset, width) == 0
    idle.handle.reg_write(offset, width, (1 << 8 * width) - 1)
    assert idle.read32(Reg.CC) == 0 and idle.csts == 0


@pytest.mark.parametrize(("offset", "width"), [(2, 4), (0x15, 4), (0x12, 8), (4, 8), (0x2C, 8)])
def test_unaligned_accesses_read_zeros_and_write_nothing(
    idle: NvmeHost, offset: int, width: int
) -> None:
    assert idle.handle.reg_read(offset, width) == 0
    idle.handle.reg_write(offset, width, (1 << 8 * width) - 1)
    assert idle.read32(Reg.CC) == 0
    assert idle.read64(Reg.ASQ) == idle.read64(Reg.ACQ) == 0


def test_odd_lengths_have_a_defined_result(idle: NvmeHost) -> None:
    for length in (3, 5, 6, 7, 12, 16, 64, 4096):
        assert idle.handle.region_read(0, 0, length) == bytes(length)
        idle.handle.region_write(0, 0, b"\xff" * length)
    assert idle.read32(Reg.CC) == 0
    for offset in (0x3FFF, 0x4000, 0x10000, 1 << 40):  # crosses the region's end, or is beyond
        with pytest.raises(NativeError):
            idle.handle.region_read(0, offset, 4)
    assert idle.read32(Reg.VS) == 0x20000


def test_read_only_and_reserved_registers_keep_their_values(idle: NvmeHost) -> None:
    cap, version = idle.read64(Reg.CAP), idle.read32(Reg.VS)
    for offset in (Reg.CAP, Reg.VS, Reg.CSTS, Reg.NSSR, 0x38, 0x3C, 0x40, 0x44, 0x68, 0x100, 0xFFC):
        idle.write32(offset, 0xFFFFFFFF)
    assert (idle.read64(Reg.CAP), idle.read32(Reg.VS)) == (cap, version)
    assert idle.csts == 0
    assert idle.read32(0x3C) == 0  # CMBSZ: no controller memory buffer


def test_interrupt_masks_set_and_clear(idle: NvmeHost) -> None:
    idle.write32(Reg.INTMS, 0x5)
    idle.write32(Reg.INTMS, 0x10)
    assert idle.read32(Reg.INTMS) == idle.read32(Reg.INTMC) == 0x15
    idle.write32(Reg.INTMC, 0x4)
    assert idle.read32(Reg.INTMS) == idle.read32(Reg.INTMC) == 0x11


def test_admin_queue_registers_are_readable_while_enabled_and_do_not_change(
    host: NvmeHost,
) -> None:
    held = [host.read32(Reg.AQA), host.read64(Reg.ASQ), host.read64(Reg.ACQ)]
    assert held[0] == 0x001F001F and held[1] and held[2]
    host.write32(Reg.AQA, 0x00030003)
    host.write64(Reg.ASQ, 0x1000)
    host.write64(Reg.ACQ, 0x2000)
    assert [host.read32(Reg.AQA), host.read64(Reg.ASQ), host.read64(Reg.ACQ)] == held
    assert len(host.identify_controller()) == 4096


def test_admin_queue_registers_survive_a_disable(host: NvmeHost) -> None:
    held = [host.read32(Reg.AQA), host.read64(Reg.ASQ), host.read64(Reg.ACQ)]
    host.write32(Reg.CC, CC_GOOD)
    host.handle.wait_csts(RDY, 0)
    assert [host.read32(Reg.AQA), host.read64(Reg.ASQ), host.read64(Reg.ACQ)] == held


@pytest.mark.parametrize(
    "cc",
    [
        CC_GOOD | 1 << 7,  # MPS 8 KiB
        CC_GOOD | 15 << 7,
        5 << 16 | 4 << 20,  # IOSQES
        15 << 16 | 4 << 20,
        6 << 16 | 5 << 20,  # IOCQES
        CC_GOOD | 1 << 4,  # CSS, reserved
        CC_GOOD | 5 << 4,
        CC_GOOD | 2 << 11,  # AMS reserved
        CC_GOOD | 7 << 11,  # AMS vendor specific
    ],
)
def test_bad_configuration_is_fatal_until_a_reset(idle: NvmeHost, cc: int) -> None:
    prepare_admin_queue(idle)
    idle.write32(Reg.CC, cc | CC_EN)
    assert idle.handle.wait_csts(CFS, CFS) & (RDY | CFS) == CFS
    idle.write32(Reg.CC, 0)
    idle.handle.wait_csts(RDY | CFS, 0)
    idle.enable()
    assert idle.admin(identify(1), idle.alloc(4096)).ok


@pytest.mark.parametrize("css", [0, 6, 7])
def test_every_offered_command_set_selection_enables(idle: NvmeHost, css: int) -> None:
    idle.enable(cc=CC_GOOD | css << 4)
    assert idle.create_queue_pair().read(0, 1) == bytes(512)


@pytest.mark.parametrize("aqa", [0, 0x1F, 0x1F0000, 0xF000F000])
def test_admin_queues_of_one_entry_are_fatal(idle: NvmeHost, aqa: int) -> None:
    prepare_admin_queue(idle)
    idle.write32(Reg.AQA, aqa)
    idle.write32(Reg.CC, CC_GOOD | CC_EN)
    idle.handle.wait_csts(CFS, CFS)
    idle.enable()


@pytest.mark.parametrize("entries", [2, 3, 4096])
def test_admin_queues_of_2_to_4096_entries(idle: NvmeHost, entries: int) -> None:
    idle.enable(asq_entries=entries, acq_entries=entries)
    for _ in range(10):
        assert idle.admin(Sqe(0x0A, cdw10=6)).ok  # Get Features


def test_admin_queues_of_different_sizes(idle: NvmeHost) -> None:
    for asq, acq in ((2, 64), (64, 2), (7, 5)):
        idle.enable(asq_entries=asq, acq_entries=acq)
        for _ in range(150):
            assert idle.admin(Sqe(0x0A, cdw10=6)).ok


@pytest.mark.parametrize("register", [Reg.ASQ, Reg.ACQ])
@pytest.mark.parametrize("address", [0x100000800, 0x100000001, 0, 1 << 50, 2**64 - 4096])
def test_bad_admin_queue_addresses_are_fatal(idle: NvmeHost, register: int, address: int) -> None:
    prepare_admin_queue(idle)
    idle.write64(register, address)
    idle.write32(Reg.CC, CC_GOOD | CC_EN)
    idle.handle.wait_csts(CFS, CFS)
    idle.enable()
    assert idle.identify_controller()


def test_an_admin_queue_that_ends_outside_memory_is_fatal(idle: NvmeHost) -> None:
    prepare_admin_queue(idle)
    end = idle.info.iova_base + idle.info.memory_bytes
    idle.write64(Reg.ASQ, end - 4096)
    idle.write32(Reg.AQA, 0x001F0040)  # 65 entries of 64 bytes
    idle.write32(Reg.CC, CC_GOOD | CC_EN)
    idle.handle.wait_csts(CFS, CFS)
    idle.write32(Reg.CC, 0)
    idle.handle.wait_csts(CFS, 0)
    idle.write32(Reg.AQA, 0x001F003F)  # 64 fit
    idle.write32(Reg.CC, CC_GOOD | CC_EN)
    assert idle.handle.wait_csts(RDY, RDY) & CFS == 0


@pytest.mark.parametrize("kind", [{}, MAPPED])
def test_doorbells_before_ready_are_harmless(serve: Serve, kind: dict[str, object]) -> None:
    host = serve("mem:1M", **kind).connect(enable=False)
    for qid in (0, 1, 5, 64):
        host.ring(qid, 3)
        host.ring(qid, 3, completion=True)
    assert host.csts == 0
    host.enable()
    assert host.identify_controller()
    assert host.create_queue_pair().read(0, 1) == bytes(512)
