"""The demo's cards: what they say together, and what is left of a demo that was killed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from vhostnvme.emulation.demo_cards import SSD_BYTES, cards_up, demo_folder, look
from vhostnvme.errors import ClusterError

SIZE = 4 << 20


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo makes its folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def test_cards_are_looked_at_when_they_agree(tmp_path: Path) -> None:
    with cards_up(tmp_path, loopback=True) as cards:
        before = look(cards)
        assert {name: ssd.free for name, ssd in before.ssds.items()} == dict.fromkeys(
            "abc", SSD_BYTES
        )
        assert (before.namespaces, before.files) == ({}, {"a": [], "b": [], "c": []})

        owner, best = cards[1], cards[0]
        device = owner.create_device("vm1", SIZE)
        [disk] = device.namespaces
        during = look(cards)
        assert during.ssds["b"].free == SSD_BYTES - SIZE
        assert during.namespaces[disk.uuid].vm == "vm1"
        assert during.files == {"a": [], "b": [f"{disk.uuid}.ns"], "c": []}
        assert owner.file(disk.uuid).stat().st_size == SIZE
        assert not best.file(disk.uuid).exists()

        owner.delete_vm("vm1")
        assert look(cards) == before
        with pytest.raises(ClusterError, match="nothing to delete"):
            owner.delete_vm("vm1")
        assert owner.answers()
    assert not owner.answers()


def test_the_folder_is_gone_at_the_end(parent: Path) -> None:
    with demo_folder() as folder:
        assert folder.parent == parent
        (folder / "cards").mkdir()
    assert list(parent.iterdir()) == []


def test_what_a_killed_demo_has_left_is_removed_and_what_another_has_is_not(parent: Path) -> None:
    for name in ("left", "alive", "empty"):
        (parent / f"vhostnvme-demo-{name}").mkdir()
    for name in ("left", "alive"):
        (parent / f"vhostnvme-demo-{name}" / "cards").mkdir()
    elsewhere = parent / "elsewhere"
    (elsewhere / "cards").mkdir(parents=True)
    (parent / "vhostnvme-demo-link").symlink_to(elsewhere)
    alive = os.open(parent / "vhostnvme-demo-alive", os.O_RDONLY)
    try:
        fcntl.flock(alive, fcntl.LOCK_EX)
        with demo_folder() as folder:
            there = {path.name for path in parent.iterdir()} - {folder.name}
    finally:
        os.close(alive)
    assert there == {
        "vhostnvme-demo-alive",
        "vhostnvme-demo-empty",
        "vhostnvme-demo-link",
        "elsewhere",
    }
    assert (elsewhere / "cards").exists()
