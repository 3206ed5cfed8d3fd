"""The sockets by which clients wake each other."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from vhostnvme.cluster.store.sqlite_bell import Bell


def test_all_others_hear_which_keys_have_changed(tmp_path: Path) -> None:
    bells = [Bell(tmp_path / "bells") for _ in range(3)]
    for bell in bells:
        assert bell.open() == bell.open()
        assert bell.heard() == set()
    bells[0].ring(["a/1", "é"])
    bells[0].ring(["b"])
    assert bells[1].heard() == bells[2].heard() == {"a/1", "é", "b"}
    assert bells[0].heard() == bells[1].heard() == set()
    bells[0].ring(f"{number:0100}" for number in range(100))
    assert bells[1].heard() is None
    for bell in bells:
        bell.close()
        bell.close()
        bell.ring(["a"])
        assert bell.heard() == set()
    assert list((tmp_path / "bells").iterdir()) == []


def test_the_dead_are_removed_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "bells"
    folder.mkdir()
    (folder / "notes").write_text("mine")
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(str(folder / "1-dead"))
    dead.close()
    bell = Bell(folder)
    bell.open()
    bell.ring(["a"])
    assert {path.name for path in folder.iterdir()} == {bell._name, "notes"}
    assert (folder / "notes").read_text() == "mine"
    bell.close()


def test_one_who_does_not_listen_keeps_nobody(tmp_path: Path) -> None:
    deaf, bell = Bell(tmp_path / "bells"), Bell(tmp_path / "bells")
    deaf.open()
    bell.open()
    for number in range(5000):
        bell.ring([f"{number}"])
    heard = deaf.heard()
    assert heard
    assert "0" in heard
    deaf.close()
    bell.close()


def test_no_place_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory"):
        Bell(tmp_path / "file" / "bells").open()
