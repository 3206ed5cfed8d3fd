"""The managers of whole clusters in seeded histories; bugs on purpose check the rules."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests_simulated import (
    BUG_HISTORIES_MAX,
    CHUNK,
    Ahead,
    broken_rule,
    notices_bug,
    running_ahead,
)

from vhostnvme.cli.main import run
from vhostnvme.testing.simulator.big import run_big
from vhostnvme.testing.simulator.bugs import BUGS
from vhostnvme.testing.simulator.history import run_plan
from vhostnvme.testing.simulator.plan import make_plan
from vhostnvme.testing.simulator.story import interesting, tell

HISTORIES = 1000


@pytest.fixture(scope="module")
def ahead(request: pytest.FixtureRequest) -> Iterator[Ahead]:
    with running_ahead(request) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("argument", range(0, HISTORIES, CHUNK))
def test_no_history_breaks_a_rule(ahead: Ahead, argument: int) -> None:
    assert ahead.result(broken_rule, argument) == ""


def test_there_are_at_least_forty_bugs() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 40


@pytest.mark.parametrize("argument", [bug.name for bug in BUGS])
def test_a_bug_is_noticed(ahead: Ahead, argument: str) -> None:
    assert ahead.result(notices_bug, argument), f"{BUG_HISTORIES_MAX} histories have not shown it"


def test_a_bug_is_gone_after_its_history() -> None:
    for bug in BUGS:
        before = [owner.__dict__[name] for owner, name, _ in bug.replaced]
        with bug.patch():
            pass
        assert [owner.__dict__[name] for owner, name, _ in bug.replaced] == before


def test_the_same_seed_gives_the_same_history_in_every_process() -> None:
    digests = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "vhostnvme", "simulate"),
                *("--seed", "11", "--only", "0-400", "--json"),
            ],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        digests.add(json.loads(done.stdout)["digest"])
    assert len(digests) == 1
    assert run_plan(make_plan(11), digest=True).digest in digests
    assert run_plan(make_plan(12), digest=True).digest not in digests


@pytest.mark.slow
@pytest.mark.parametrize("favour", ["lost_copy", "lost_mirror", "late_record", "move"])
def test_copies_get_lost_all_the_time(favour: str) -> None:
    for seed in range(1000, 1010):
        outcome = run_plan(make_plan(seed, favour=(favour,)))
        story = "\n".join(tell(interesting(outcome.notes)[-40:]))
        assert not outcome.broken, f"seed {seed}: {outcome.broken}\n{story}"


@pytest.mark.slow
def test_a_large_cluster() -> None:
    """50 cards; the whole 5,000 namespaces are for `vhostnvme simulate --big`."""
    outcome = run_big(50, 1000, seed=1)
    assert not outcome.broken, outcome.broken
    assert outcome.namespaces == 1000
    assert outcome.remote >= 500
    assert outcome.create_s_p50 < 0.1
    # What a card asks of the store must not grow with the number of cards.
    assert outcome.creating.calls < 15
    assert outcome.idle.calls < 1
    assert outcome.idle.changes < 1


# --- The command ---


def test_histories_that_go_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--histories", "2", "--seed", "3"]) == 0
    assert "2 histories, seeds 3 to 4: no rule was broken" in capsys.readouterr().out
    assert run(["simulate", "--histories", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["histories"], found["seed"], found["broken"]) == (2, 0, "")


def test_a_failure_is_made_small_and_can_be_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--bug", "no-revision", "--shrink", "5", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["broken"]
    again = shlex.split(found["replay"])
    assert again[:2] == ["./run", "simulate"]
    assert run(again[1:]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == found["broken"]


def test_a_failure_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--bug", "destroy-in-use", "--shrink", "3"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("does: Destroy" in line for line in lines)
    assert any(line.startswith("seed ") and "is let in" in line for line in lines)
    assert lines[-1].startswith("once more: ./run simulate --seed")


def test_a_small_large_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--big", "--cards", "3", "--namespaces", "12", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["cards"], found["namespaces"], found["remote"]) == (3, 12, 6)
    assert run(["simulate", "--big", "--cards", "2", "--namespaces", "2"]) == 0
    assert "no rule was broken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--bug", "x"], "there is no bug"), (["--only", "1-x"], "ranges")]
)
def test_mistakes_are_told(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_bugs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--bug", "list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(BUGS)
