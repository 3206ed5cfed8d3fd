"""Whose an SSD is, and what becomes of one that goes away."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_storage import (
    CARD,
    FIRST,
    MIB,
    OTHER_CARD,
    SECOND,
    block_device,
    file_system,
    make_image,
    mounted,
    names_in,
    opened,
    run,
)

from vhostnvme.errors import ConfigError, NativeError
from vhostnvme.storage.ssd import Missing, SsdOptions, check_places, open_ssd

_XFS_IOC_GOINGDOWN = 0x8004587D


@pytest.fixture(params=["ext4", "xfs", "tmpfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with file_system(request.param, tmp_path) as folder:
        yield folder


@pytest.fixture
def xfs(tmp_path: Path) -> Iterator[Path]:
    with file_system("xfs", tmp_path) as folder:
        yield folder


def test_the_label_stays(tmp_path: Path) -> None:
    with opened(tmp_path) as ssd:
        uuid = ssd.uuid
    with opened(tmp_path) as ssd:
        assert ssd.uuid == uuid
    with pytest.raises(ConfigError, match=f"belongs to another card, {CARD}: use it there, or"):
        open_ssd(SsdOptions("ssd0", tmp_path), OTHER_CARD)


def test_one_card_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(ConfigError, match="in use by another card, or by this"):
        opened(tmp_path)
    holder = (
        "import fcntl, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR); fcntl.flock(fd, fcntl.LOCK_EX)\n"
        "print(flush=True); sys.stdin.read()"
    )
    label = tmp_path / ".vhostnvme-ssd.json"
    command = [sys.executable, "-c", holder, str(label)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        with pytest.raises(ConfigError, match="in use by another card"):
            opened(tmp_path)
        process.stdin.close()
    opened(tmp_path).close()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "a label that cannot be read"),
        ('{"version":1}', "a label that cannot be read"),
        ('{"version":2,"uuid":"u","card":"c","more":1}', "newer version of this program"),
    ],
)
def test_a_label_that_cannot_be_used(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / ".vhostnvme-ssd.json").write_text(text)
    with pytest.raises(ConfigError, match=why):
        opened(tmp_path)
    assert (tmp_path / ".vhostnvme-ssd.json").read_text() == text


@pytest.mark.parametrize("content", [b"", bytes(100)])
def test_a_label_that_the_power_failed_on_is_written_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".vhostnvme-ssd.json").write_bytes(content)
    with opened(tmp_path) as ssd:
        assert ssd.state().healthy
    assert b"uuid" in (tmp_path / ".vhostnvme-ssd.json").read_bytes()


def test_namespaces_without_a_label_are_nobodys(tmp_path: Path) -> None:
    (tmp_path / f"{FIRST}.ns").touch()
    with pytest.raises(ConfigError, match="holds namespaces but no label"):
        opened(tmp_path)
    assert names_in(tmp_path) == [f"{FIRST}.ns"]


def test_an_ssd_within_an_ssd(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with opened(tmp_path), pytest.raises(ConfigError, match="lies within another SSD"):
        opened(tmp_path / "a" / "b")


def test_a_read_only_file_system(xfs: Path) -> None:
    opened(xfs).close()
    run("mount", "-o", "remount,ro", xfs)
    with pytest.raises(ConfigError, match=r"cannot write to SSD ssd0 .*Read-only file system"):
        opened(xfs)


def test_a_file_system_that_turns_read_only(tmp_path: Path) -> None:
    image, place = make_image(tmp_path / "image", "ext4"), tmp_path / "ssd"
    with mounted(image, place, "loop,errors=remount-ro"), opened(place) as ssd:
        assert ssd.state().healthy
        device = run("findmnt", "-n", "-o", "SOURCE", place)
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("a test")
        state = ssd.state()
        assert not state.healthy and "read-only" in state.reason and state.available == 0
        with pytest.raises(NativeError, match="read-only, which may be because of errors"):
            ssd.carve(FIRST, 4096)


def test_a_file_system_that_has_given_up(xfs: Path) -> None:
    with opened(xfs) as ssd:
        ssd.carve(FIRST, MIB)
        assert ssd.state().healthy
        fd = os.open(xfs, os.O_RDONLY)
        fcntl.ioctl(fd, _XFS_IOC_GOINGDOWN, b"\x02\0\0\0")
        os.close(fd)
        state = ssd.state()
        assert not state.healthy and "Input/output error" in state.reason
        assert state.allocated == MIB and state.available == 0
        with pytest.raises(NativeError):
            ssd.carve(SECOND, MIB)


def test_an_ssd_that_is_unmounted_comes_back(tmp_path: Path) -> None:
    with file_system("xfs", tmp_path) as place:
        ssd = opened(place)
        ssd.carve(FIRST, MIB)
        capacity = ssd.state().capacity
        run("umount", "-l", place)
        with pytest.raises(Missing, match="not there any more"):
            ssd.carve(SECOND, MIB)
        state = ssd.state()
        assert not state.healthy and "mount or connect" in state.reason
        assert (state.capacity, state.allocated, state.available) == (capacity, MIB, 0)
        assert names_in(place) == []
        for call in (lambda: ssd.destroy(FIRST), ssd.found, lambda: ssd.disk(FIRST, MIB, 512)):
            with pytest.raises(Missing):
                call()
        with mounted(tmp_path / "xfs.img", place):
            assert ssd.state().healthy
            ssd.carve(SECOND, MIB)
            assert [one.uuid for one in ssd.found()[0]] == [FIRST, SECOND]
            ssd.close()


def test_an_ssd_that_is_deleted_or_replaced(tmp_path: Path) -> None:
    place, old = tmp_path / "ssd", tmp_path / "old"
    place.mkdir()
    with opened(place) as ssd:
        place.rename(old)
        assert "not there" in ssd.state().reason
        place.mkdir()
        assert "not the SSD that this card had there" in ssd.state().reason
        assert names_in(place) == []
        opened(place).close()
        assert "another of this card's SSDs" in ssd.state().reason
        shutil.rmtree(place)
        old.rename(place)
        assert ssd.state().healthy
        (place / ".vhostnvme-ssd.json").rename(place / "label")
        assert "not the SSD that this card had" in ssd.state().reason
        (place / "label").rename(place / ".vhostnvme-ssd.json")
        assert ssd.state().healthy


def test_a_known_ssd_may_be_missing_at_first(tmp_path: Path) -> None:
    place = tmp_path / "ssd"
    place.mkdir()
    with opened(place) as ssd:
        uuid = ssd.uuid
    place.rename(tmp_path / "away")
    with opened(place, known=uuid) as ssd:
        assert ssd.uuid == uuid
        assert not ssd.state().healthy
        place.mkdir()
        assert not ssd.state().healthy
        place.rmdir()
        (tmp_path / "away").rename(place)
        assert ssd.state().healthy


def test_a_closed_ssd_is_missing(tmp_path: Path) -> None:
    ssd = opened(tmp_path)
    ssd.close()
    ssd.close()
    with pytest.raises(Missing):
        ssd.carve(FIRST, 4096)


def test_two_ssds_at_one_place_are_told(tmp_path: Path) -> None:
    for name in ("a", "b", "ab", "a/c"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    names = ["a", "b", "ab", "a/c", "link", "a/../b", "none"]
    ssds = [SsdOptions(name, tmp_path / name) for name in names]
    assert check_places([ssds[0], ssds[1], ssds[2], ssds[6]]) == []
    told = "\n".join(check_places(ssds))
    assert "SSDs a and a/c lie within each other" in told
    for pair in ("b and link", "b and a/../b", "link and a/../b"):
        assert f"SSDs {pair} are at one place" in told
    assert told.count("\n") == 3


def test_two_nodes_of_one_device_are_told(tmp_path: Path) -> None:
    with block_device(tmp_path, 16 * MIB) as device:
        node = tmp_path / "node"
        os.mknod(node, stat.S_IFBLK | 0o600, device.stat().st_rdev)
        ssds = [SsdOptions("a", device), SsdOptions("b", node)]
        assert ["are at one place" in told for told in check_places(ssds)] == [True]
        with opened(device), pytest.raises(ConfigError, match="is in use"):
            opened(node)
