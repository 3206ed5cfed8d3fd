"""Network namespaces with names. Needs root."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhostnvme.errors import LabError
from vhostnvme.lab import namespaces

OWN = Path("/proc/thread-self/ns/net")
NAME = "vhostnvme-testspace-a"


@pytest.fixture
def made() -> Iterator[str]:
    namespaces.remove(NAME)
    namespaces.create(NAME)
    yield NAME
    namespaces.remove(NAME)
    assert namespaces.find("vhostnvme-testspace-") == []


def test_it_is_found_and_there_is_only_one(made: str) -> None:
    assert namespaces.find("vhostnvme-testspace-") == [made]
    assert namespaces.inode(made) is not None
    with pytest.raises(LabError, match="already"):
        namespaces.create(made)


def test_only_the_function_is_inside(made: str) -> None:
    before = OWN.stat().st_ino
    inside = namespaces.inside(made, OWN.stat)
    assert (inside.st_dev, inside.st_ino) == namespaces.inode(made)
    assert OWN.stat().st_ino == before


def test_what_the_function_raises_is_raised(made: str) -> None:
    with pytest.raises(ZeroDivisionError):
        namespaces.inside(made, lambda: 1 // 0)


def test_nothing_outside_is_reached(made: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as outside, pytest.raises(OSError):
        namespaces.connect(made, "127.0.0.1", outside.getsockname()[1], 1.0)


def test_a_half_made_one_is_found_and_removed() -> None:
    """As when its maker was killed between making the file and mounting on it."""
    half = namespaces.FOLDER / NAME
    half.touch()
    assert namespaces.find("vhostnvme-testspace-") == [NAME]
    assert namespaces.inode(NAME) is None
    namespaces.remove(NAME)
    assert not half.exists()


def test_none_of_this_name() -> None:
    namespaces.remove(NAME)
    assert namespaces.inode(NAME) is None
    with pytest.raises(LabError, match="No such file"):
        namespaces.inside(NAME, Path.cwd)
