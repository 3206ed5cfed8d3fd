"""Proof that an empty cache works: everything is fetched anew, and what it makes boots."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vhostnvme.guest.provision import provision
from vhostnvme.guest.vm import Guest

TOP = Path(__file__).resolve().parents[2]


@pytest.mark.guest
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_from_an_empty_cache_to_a_booted_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("VHOSTNVME_CACHE", str(cache))
    copy = tmp_path / "checkout"
    for name in ("tools", "vhostnvme", "subprojects/packagefiles"):
        shutil.copytree(TOP / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, copy / "tools" / "fetch-libvfio-user"],
        env={**os.environ, "VHOSTNVME_LIBVFIO_USER": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    header = copy / "subprojects/libvfio-user/include/libvfio-user.h"
    assert "vfu_get_client_max_fds" in header.read_text()

    artifacts = provision()
    assert artifacts.initramfs.is_relative_to(cache)
    assert not list(cache.glob("work-*"))
    async with Guest(artifacts=artifacts) as guest:
        assert (await guest.run("fio --version")).check().stdout.startswith("fio-")
    shutil.rmtree(cache)
