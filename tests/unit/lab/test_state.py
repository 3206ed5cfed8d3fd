"""What is written down of a lab, and its lock."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests_lab import standin_plan

from vhostnvme.errors import ConfigError, LabError
from vhostnvme.lab import state
from vhostnvme.lab.making import planned_state
from vhostnvme.lab.plan import Layout, layout_of
from vhostnvme.lab.processes import Process
from vhostnvme.lab.state import LabState, Lock


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return layout_of(tmp_path / "lab")


@pytest.fixture
def planned(layout: Layout) -> LabState:
    return planned_state(layout, standin_plan())


def test_what_is_written_is_read(layout: Layout, planned: LabState) -> None:
    state.make_directory(layout, planned)
    assert state.load(layout) == planned
    planned.processes["a"] = Process(1, 2)
    state.save(layout, planned)
    assert state.load(layout) == planned
    assert [path.name for path in layout.directory.iterdir()] == ["lab.json"]
    state.remove_directory(layout, made=True)
    assert [*layout.directory.parent.iterdir()] == []


def test_a_folder_of_the_user_stays(layout: Layout) -> None:
    layout.directory.mkdir()
    planned = planned_state(layout, standin_plan())
    assert not planned.made_directory
    state.make_directory(layout, planned)
    state.remove_directory(layout, made=planned.made_directory)
    assert [*layout.directory.iterdir()] == []


def test_a_folder_with_other_things_is_refused(layout: Layout, planned: LabState) -> None:
    layout.directory.mkdir()
    (layout.directory / "thesis").touch()
    with pytest.raises(ConfigError, match="is not empty, and no lab"):
        state.make_directory(layout, planned)
    assert [path.name for path in layout.directory.iterdir()] == ["thesis"]


def test_what_is_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    layout = layout_of(tmp_path / "file" / "lab")
    with pytest.raises(ConfigError, match="cannot make the folder"):
        state.make_directory(layout, planned_state(layout, standin_plan()))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1}', b"\xff" * 100])
def test_what_cannot_be_read_is_none(layout: Layout, content: bytes) -> None:
    layout.directory.mkdir()
    layout.state.write_bytes(content)
    assert state.load(layout) is None


def test_one_has_the_lock_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with Lock(path):
        assert path.exists()
        with pytest.raises(LabError, match="at work on this lab"):
            Lock(path, timeout_s=0.1)
    assert not path.exists()
    with Lock(path, timeout_s=0):
        pass


def test_all_who_wait_for_the_lock_get_it_one_by_one(tmp_path: Path) -> None:
    inside: list[int] = []
    most = []

    def work() -> None:
        for _ in range(20):
            with Lock(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80


def test_a_lock_that_a_killed_process_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    with Lock(tmp_path / "lock", timeout_s=0):
        pass
