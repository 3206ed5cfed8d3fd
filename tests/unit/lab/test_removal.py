"""Nothing is left of a lab whose maker was killed at any point. Needs root.

The maker kills itself when it is about to call a function of some name for the N-th time.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_lab import standin_plan, traces

from vhostnvme.errors import LabError
from vhostnvme.lab import Lab
from vhostnvme.lab.plan import layout_of
from vhostnvme.lab.state import LOCK_S

MAKER = """
import os, signal, sys, threading
from pathlib import Path
from tests_lab import standin_plan
from vhostnvme.lab import Lab

wanted, left, maker = sys.argv[2], int(sys.argv[3]), os.getpid()

def on_call(frame, event, function):
    global left
    name = {"call": frame.f_code.co_name}.get(event) or getattr(function, "__name__", "")
    if event in ("call", "c_call") and name == wanted and os.getpid() == maker:
        left -= 1
        if left == 0:
            os.kill(maker, signal.SIGKILL)

threading.setprofile(on_call)
sys.setprofile(on_call)
Lab.up(Path(sys.argv[1]), standin_plan(2))
os.write(1, b"up\\n")
"""
POINTS = [
    ("make_directory", 1),
    ("rename", 1),  # the state is in a folder of another name
    ("make", 1),
    ("fork", 1),  # for a namespace
    ("fork", 2),
    ("fork", 3),
    ("_make_bridge", 1),
    ("_make_cables", 1),
    ("_tell_neighbours", 1),
    ("neigh", 2),
    ("make_card", 1),
    ("write_text", 1),
    ("make_card", 2),
    ("posix_spawnp", 1),
    ("process_of", 1),  # the first card runs, and nobody knows its number
    ("posix_spawnp", 2),
    ("process_of", 2),
    ("card_answers", 1),
    ("card_sees", 1),
    ("save", 3),  # all is up, but this is not written down
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "lab"
    Lab.remove(tmp_path / "lab")


def make_and_kill(directory: Path, function: str, count: int, top: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", MAKER, str(directory), function, str(count)],
        env={**os.environ, "PYTHONPATH": str(top / "tests")},
        stdout=subprocess.PIPE,
    )


@pytest.mark.parametrize(("function", "count"), POINTS)
def test_its_maker_was_killed(function: str, count: int, folder: Path, top: Path) -> None:
    maker = make_and_kill(folder, function, count, top)
    said, _ = maker.communicate(timeout=60)
    assert (maker.returncode, said) == (-signal.SIGKILL, b"")
    Lab.remove(folder)
    assert traces(folder) == []
    assert [*folder.parent.iterdir()] == []


def test_a_new_lab_takes_the_place_of_a_half_made_one(folder: Path, top: Path) -> None:
    maker = make_and_kill(folder, "posix_spawnp", 2, top)
    maker.communicate(timeout=60)
    with pytest.raises(LabError, match="is the rest of a lab: `vhostnvme lab down` first"):
        Lab.open(folder)
    with Lab.up(folder, standin_plan(1)) as lab:
        assert [host.name for host in lab.status()] == ["a"]
        assert not (folder / "b").exists()
    assert traces(folder) == []


def test_down_waits_for_who_is_at_work(folder: Path, top: Path) -> None:
    """Whatever comes first, nothing is left."""
    maker = make_and_kill(folder, "never", 1, top)
    while not layout_of(folder).state.exists():
        assert maker.poll() is None
    assert Lab.remove(folder)
    assert maker.wait(LOCK_S) == 0
    assert maker.communicate()[0] == b"up\n"
    assert traces(folder) == []


def test_after_another_start_of_the_machine_nothing_runs(folder: Path) -> None:
    """Its processes' numbers are others' by then."""
    lab = Lab.up(folder, standin_plan(1))
    state = lab.layout.state
    text = state.read_text()
    pid = lab.status()[0].pid
    assert pid is not None
    lab.close()
    bystander = subprocess.Popen(["sleep", "600"])
    try:
        state.parent.mkdir()
        text = text.replace(lab._state.boot, "another").replace(str(pid), str(bystander.pid))
        state.write_text(text)
        with pytest.raises(LabError, match="the rest of a lab"):
            Lab.open(folder)
        assert Lab.remove(folder)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert traces(folder) == []


def test_files_of_the_user_stay(folder: Path) -> None:
    with Lab.up(folder, standin_plan(1)) as lab:
        (lab.layout.directory / "notes").write_text("mine")
    assert [path.name for path in folder.rglob("*")] == ["notes"]


def test_a_state_that_cannot_be_read(folder: Path) -> None:
    lab = Lab.up(folder, standin_plan(1))
    lab.layout.state.write_text("{")
    with pytest.raises(LabError, match=r"lab\.json cannot be read: .* remove .*/lab by hand"):
        Lab.remove(folder)
    with pytest.raises(LabError, match="by hand"):
        Lab.up(folder, standin_plan(1))
    shutil.rmtree(folder)
    assert traces(folder) == []
