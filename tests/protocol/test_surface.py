"""docs/nvme.md against a running controller: it answers to what the tables say, to nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests_nvme_table import offered, table
from tests_protocol import TRAPPED, Serve

from vhostnvme.native import Drive, DriveOptions, Runtime
from vhostnvme.testing import NvmeHost, nvme
from vhostnvme.testing.nvme import Status

EFFECTS_LOG, SUPPORTED_LOG = 5, 0
SUPPORTED = 1  # CSUPP, LSUPP
CAPABILITIES = 3


@pytest.fixture
def host(serve: Serve) -> NvmeHost:
    return serve("mem:16M", **TRAPPED).connect()


@pytest.fixture
def drive(runtime: Runtime) -> Iterator[Drive]:
    """One that is managed, and shared by controllers that report ANA."""
    with Drive(runtime, DriveOptions(managed=True, shared=True, ana=True)) as opened:
        yield opened


def named(log: bytes, first: int) -> set[int]:
    """Which of 256 dwords have their lowest bit set."""
    return {index for index in range(256) if log[first + 4 * index] & SUPPORTED}


def test_admin_commands_are_those_of_the_table(host: NvmeHost) -> None:
    assert named(host.log_page(EFFECTS_LOG, 4096), 0) == offered("Admin commands")


def test_io_commands_are_those_of_the_table(host: NvmeHost) -> None:
    assert named(host.log_page(EFFECTS_LOG, 4096), 1024) == offered("I/O commands")


def test_commands_that_the_table_does_not_offer_are_refused(host: NvmeHost) -> None:
    queue = host.create_queue_pair(1, depth=64)
    for opcode in set(range(256)) - offered("Admin commands"):
        assert host.admin(nvme.Sqe(opcode, nsid=1)).code == Status.INVALID_OPCODE, f"{opcode:02X}h"
    for opcode in set(range(256)) - offered("I/O commands"):
        assert queue.command(nvme.Sqe(opcode, nsid=1)).code == Status.INVALID_OPCODE, (
            f"{opcode:02X}h"
        )


def test_identify_structures_are_those_of_the_table(host: NvmeHost) -> None:
    with host.alloc(4096) as page:
        answered = {
            cns
            for cns in range(256)
            if host.admin(nvme.identify(cns, nsid=1), page).code != Status.INVALID_FIELD
        }
    assert answered == offered("Identify")


def test_log_pages_are_those_of_the_table(host: NvmeHost) -> None:
    assert named(host.log_page(SUPPORTED_LOG, 1024), 0) == offered("Log pages")


def test_features_are_those_of_the_table(host: NvmeHost) -> None:
    """With what the table says of saving them, and of namespaces that have their own."""
    rows = table("Features")
    for fid in range(256):
        done = host.admin(nvme.get_features(fid, CAPABILITIES))
        if fid not in offered("Features"):
            assert not done.ok, f"{fid:02X}h is offered"
            continue
        assert done.ok, f"{fid:02X}h: {done}"
        said = tuple("yes" if done.result & bit else "no" for bit in (1, 2))
        assert said == rows[fid].more, f"{fid:02X}h: saved and own"


def test_a_managed_drive_has_what_only_drives_have(drive: Drive, serve: Serve) -> None:
    """Its controllers offer what the tables have for drives, too, by their logs and OACS."""
    host = serve("mem:16M", drive=drive, **TRAPPED).connect()
    effects = host.log_page(EFFECTS_LOG, 4096)
    assert named(effects, 0) == offered("Admin commands", "yes", "drive")
    assert named(effects, 1024) == offered("I/O commands", "yes", "drive")
    assert named(host.log_page(SUPPORTED_LOG, 1024), 0) == offered("Log pages", "yes", "drive")
    assert host.identify_controller()[256] & 8
