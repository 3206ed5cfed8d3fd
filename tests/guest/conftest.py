"""Booted guests for tests: `guest` serves many tests; those that need another start their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from vhostnvme.guest.provision import Artifacts, provision
from vhostnvme.guest.vm import Guest

SCRATCH_BYTES = 512 << 20


def scratch_nvme(path: Path, name: str = "scratch") -> list[str]:
    """QEMU's own NVMe device on a file: the words that attach it."""
    return [
        *("-drive", f"if=none,id={name},format=raw,file={path}"),
        *("-device", f"nvme,drive={name},serial={name}"),
    ]


@pytest.fixture(scope="session")
def artifacts() -> Artifacts:
    """QEMU, kernel and initramfs."""
    return provision()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def guest(
    artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Guest]:
    """A guest with one disk of QEMU's own, for tests that leave it as they found it.

    Tests that use it run in its event loop: @pytest.mark.asyncio(loop_scope="session").
    """
    path = tmp_path_factory.mktemp("scratch") / "disk.img"
    with path.open("wb") as disk:
        disk.truncate(SCRATCH_BYTES)
    async with Guest(artifacts=artifacts, extra_args=scratch_nvme(path)) as booted:
        yield booted
