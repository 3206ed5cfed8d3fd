"""Instructions per I/O do not grow unseen; never a word about time."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import tests_performance as performance

HISTORY = Path(__file__).resolve().parent / "history.json"
PROFILE = """\
version: 1
events: Ir
ob=/x/instructions
fl=/x/doorbell.c
fn=fetch
10 5
11 7
cfi=/x/ctrl.c
cfn=vn_ctrl_execute'2
calls=3 50
12 900
fi=/x/ctrl.h
14 2
fn=vn_ctrl_execute'2
50 1
fn=vn_ctrl_execute
50 30
"""


def measurement(**totals: float) -> performance.Measurement:
    figures = {name: performance.Figure(total, {}) for name, total in totals.items()}
    return performance.Measurement("gcc 12.2.0", figures)


def test_own_costs_leave_out_calls() -> None:
    assert performance.own_costs(PROFILE) == {"fetch": 14, "vn_ctrl_execute": 31}


def test_growth_beyond_the_bound_is_found() -> None:
    before = {"instructions": {"a": 100.0, "b": 100.0, "gone": 1.0}}
    found = performance.regressions(measurement(a=110.0, b=110.1, new=9000.0), before)
    assert [sentence.split()[0] for sentence in found] == ["b", "gone"]


def test_growth_has_a_name() -> None:
    figure = performance.Figure(30.0, {"same": 10.0, "less": 1.0, "more": 12.0, "new": 7.0})
    lines = list(performance.growth(figure, {"same": 10.0, "less": 5.0, "more": 9.0}))
    assert [line.split()[0] for line in lines] == ["new", "more"]


def test_history_compares_within_a_major_version(tmp_path: Path) -> None:
    history = performance.History(tmp_path / "history.json")
    totals = dict.fromkeys(performance.EXPLAINED, 3.0)
    history.append(measurement(**totals), "2026-01-01", "first")
    history.append(measurement(**totals), "2026-01-02", "second")
    again = performance.History(tmp_path / "history.json")
    assert again.entries == history.entries
    newest = again.last("gcc 12.9.1")
    assert newest is not None
    assert newest["label"] == "second"
    assert again.last("gcc 13.1.0") is None
    assert again.last("clang 12.2.0") is None


@pytest.fixture(scope="module")
def measured(top: Path, tmp_path_factory: pytest.TempPathFactory) -> performance.Measurement:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed: ./run test installs it")
    return performance.measure(top, tmp_path_factory.mktemp("profiles"))


@pytest.mark.timeout(600)
def test_every_shape_is_counted(measured: performance.Measurement) -> None:
    """A figure that cannot be means that something else was counted."""
    assert set(performance.EXPLAINED) < set(measured.figures)
    for name, figure in measured.figures.items():
        assert 50 < figure.total < 100_000, name
        assert figure.functions["vn_reactor_turn"] > 0, name


@pytest.mark.timeout(600)
def test_instructions_per_io_do_not_grow(measured: performance.Measurement) -> None:
    before = performance.History(HISTORY).last(measured.compiler)
    lines = [f"measured with {measured.compiler}", *performance.table(measured, before)]
    found = performance.regressions(measured, before) if before else []
    if before is None:
        lines.append("nothing is recorded with this compiler: there is nothing to compare with")
    elif found:
        for name in performance.EXPLAINED:
            lines.append(f"{name}: what has grown")
            lines += performance.growth(measured.figures[name], before["functions"][name])
    sys.stdout.write("\n".join(lines) + "\n")
    assert not found, "\n".join([*found, "if it is worth it: tests/performance/README.md"])
