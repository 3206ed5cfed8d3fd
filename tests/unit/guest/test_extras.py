"""What is added to the guest for one boot, without fetching any package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from vhostnvme.errors import ConfigError
from vhostnvme.guest.extras import GuestFolder, extended
from vhostnvme.guest.provision import Artifacts
from vhostnvme.guest.qemu import QemuBinary

BASE = b"the image's archive "


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    (tmp_path / "base.cpio").write_bytes(BASE)
    return Artifacts(QemuBinary(("qemu",)), tmp_path / "vmlinux", tmp_path / "base.cpio")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    suite = tmp_path / "suite"
    (suite / "data").mkdir(parents=True)
    (suite / "run").write_text("#!/bin/sh\n")
    (suite / "run").chmod(0o755)
    (suite / "data" / "link").symlink_to("../run")
    return suite


def test_a_folder_lies_in_the_guest_under_its_own_name_or_where_it_is_told(folder: Path) -> None:
    assert GuestFolder.parse(str(folder)).inside == PurePosixPath("/root/suite")
    assert GuestFolder.parse(f"{folder}/").inside == PurePosixPath("/root/suite")
    assert GuestFolder.parse(f"{folder}:/opt/it") == GuestFolder(folder, PurePosixPath("/opt/it"))
    assert GuestFolder.parse(f"{folder}:/").inside == PurePosixPath("/")


@pytest.mark.parametrize("text", ["/nowhere/at/all", "/nowhere:/opt", ""])
def test_what_is_no_folder_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a folder"):
        GuestFolder.parse(text or str(Path(__file__)))


def test_a_place_outside_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="without"):
        GuestFolder.parse(f"{folder}:/opt/../..")


def test_the_image_stays_and_the_folder_follows_it(
    artifacts: Artifacts, folder: Path, tmp_path: Path
) -> None:
    into = tmp_path / "into"
    into.mkdir()
    places = [GuestFolder.parse(str(folder)), GuestFolder.parse(f"{folder}:/")]
    more = extended(artifacts, into, folders=places)
    data = more.initramfs.read_bytes()
    assert more == replace(artifacts, initramfs=into / "initramfs.cpio")
    assert data.startswith(BASE + b"070701")
    for name in (b"root/suite/run\0", b"root/suite/data/link\0", b"0run\0", b"TRAILER!!!"):
        assert name in data
    assert artifacts.initramfs.read_bytes() == BASE


def test_nothing_added_is_the_same_guest(artifacts: Artifacts, tmp_path: Path) -> None:
    assert extended(artifacts, tmp_path) is artifacts
