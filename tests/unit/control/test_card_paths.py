"""Which card a command means."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from vhostnvme.control.paths import CARD_VARIABLE, find_card
from vhostnvme.errors import ConfigError


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The run folder."""
    monkeypatch.delenv(CARD_VARIABLE, raising=False)
    with tempfile.TemporaryDirectory(prefix="vn-") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        path = Path(name) / "vhostnvme"
        path.mkdir()
        yield path


def listening(stack: ExitStack, folder: Path, name: str) -> Path:
    path = folder / name / "control"
    path.parent.mkdir()
    made = stack.enter_context(socket.socket(socket.AF_UNIX))
    made.bind(str(path))
    made.listen()
    return path


def test_the_only_card_is_meant(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no card runs here"):
        find_card(None)
    (folder / "x").mkdir()
    (folder / "x" / "control").touch()  # no socket
    with ExitStack() as stack:
        path = listening(stack, folder, "a")
        assert find_card(None) == path
    assert find_card(None) == path, "who cannot be reached is told by the connection"


def test_a_killed_card_beside_one_that_runs(folder: Path) -> None:
    with ExitStack() as dead:
        listening(dead, folder, "a")
    with ExitStack() as stack:
        path = listening(stack, folder, "b")
        assert find_card(None) == path
        listening(stack, folder, "c")
        with pytest.raises(ConfigError, match=r"several cards run here \(b, c\)"):
            find_card(None)
    with pytest.raises(ConfigError, match="no card runs here"):
        find_card(None)


def test_names_and_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as stack:
        path = listening(stack, folder, "a")
        for given in ("a", str(path), str(path.parent)):
            assert find_card(given) == path
            monkeypatch.setenv(CARD_VARIABLE, given)
            assert find_card(None) == path
        monkeypatch.setenv(CARD_VARIABLE, "b")
        assert find_card("a") == path
        for given in ("b", None, "..", "a\0"):
            with pytest.raises(ConfigError, match="no card"):
                find_card(given)
        assert find_card("/not/there") == Path("/not/there")
