"""Instructions per I/O: counts them with callgrind, keeps their history, compares.

The figures do not depend on how busy or how fast a machine is, only on the code and its compiler.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests_build import Build

GROWTH_MAX = 1.10  # the one bound: a figure may be so much more than the last one recorded
TIME_LIMIT_S = 300
NR_IDLE_TURNS = 1024  # in instructions.c
# Of these the history has each function's share, so that a regression has a name.
EXPLAINED = ("null/read-4k/1", "null/read-4k/32", "guest/read-4k/1", "file/read-4k/32")
# Copying by plain SSE2: callgrind counts each step of a string instruction, and which way of
# copying glibc takes depends on the processor.
TUNABLES = "glibc.cpu.hwcaps=" + ",".join(
    f"-{name}"
    for name in "AVX2 AVX2_Usable AVX512F AVX512VL AVX_Fast_Unaligned_Load ERMS FSRM".split()
)


@dataclass(frozen=True)
class Figure:
    """What a shape costs in user space, in instructions per I/O, and each function's own part."""

    total: float
    functions: dict[str, float]


@dataclass(frozen=True)
class Measurement:
    compiler: str
    figures: dict[str, Figure]


def build(top: Path) -> Build:
    """With the options of the shipped library, of which the very same archive is made."""
    project = tomllib.loads((top / "pyproject.toml").read_text())
    return Build(top, "performance", project["tool"]["meson-python"]["args"]["setup"])


def measure(top: Path, folder: Path) -> Measurement:
    """Builds, and runs every shape; the profiles go to the folder."""
    here = build(top)
    program = here.target("tests/performance/instructions")
    return Measurement(here.compiler(), count(program, folder))


def count(program: Path, folder: Path) -> dict[str, Figure]:
    valgrind = shutil.which("valgrind")
    assert valgrind is not None, "valgrind is not installed"
    profile = folder / "profile"
    command = [valgrind, "--tool=callgrind", "--fair-sched=try", "--collect-atstart=no"]
    command += ["--toggle-collect=counted_turn", "--dump-after=shape_done"]
    command += ["--compress-strings=no", "--compress-pos=no", f"--callgrind-out-file={profile}"]
    done = subprocess.run(
        [*command, str(program)],
        env={**os.environ, "GLIBC_TUNABLES": TUNABLES},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"[-8000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    costs = {}
    for number, (name, *_) in enumerate(lines, 1):
        costs[name] = own_costs((folder / f"profile.{number}").read_text())
    return {
        name: _figure(costs, name, int(nr_ios), int(nr_idle)) for name, nr_ios, _, nr_idle in lines
    }


def _figure(costs: dict[str, Counter[str]], name: str, nr_ios: int, nr_idle: int) -> Figure:
    """Turns that only waited for the kernel are taken out: how many there are is chance."""
    cost = Counter(costs[name])
    if not name.endswith("/idle-turn"):
        for function, idle in costs[f"{name.split('/')[0]}/idle-turn"].items():
            cost[function] -= round(idle / NR_IDLE_TURNS * nr_idle)
    functions = {function: round(own / nr_ios, 1) for function, own in cost.most_common() if own}
    return Figure(round(sum(cost.values()) / nr_ios, 1), functions)


def own_costs(profile: str) -> Counter[str]:
    """A callgrind profile's instructions by function, without what it calls.

    Format: valgrind's manual, "Callgrind Format Specification", here without compression.
    """
    costs: Counter[str] = Counter()
    function = ""
    is_call = False
    for line in profile.splitlines():
        if line.startswith("fn="):
            function = re.sub(r"('\d+|@@.*)$", "", line[3:])  # recursion, symbol version
        elif line.startswith("calls="):
            is_call = True
        elif match := re.match(r"(?:0x[0-9a-f]+|\d+) (\d+)$", line):
            if not is_call:
                costs[function] += int(match[1])
            is_call = False
    return costs


class History:
    """The file of recorded entries, the oldest first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []

    def last(self, compiler: str) -> dict[str, Any] | None:
        """The newest entry made with the same compiler of the same major version."""
        same = [entry for entry in self.entries if major(entry["compiler"]) == major(compiler)]
        return same[-1] if same else None

    def append(self, measured: Measurement, date: str, label: str) -> None:
        entry = {
            "date": date,
            "label": label,
            "compiler": measured.compiler,
            "instructions": {name: figure.total for name, figure in measured.figures.items()},
            "functions": {name: measured.figures[name].functions for name in EXPLAINED},
        }
        self.entries.append(entry)
        text = json.dumps(self.entries, indent=1)
        # A line for each figure, and for the functions of each shape.
        text = re.sub(
            r'(\n   "[^"]+": \{)([^{}]*)\}', lambda m: m[1] + " ".join(m[2].split()) + "}", text
        )
        self._path.write_text(text + "\n")


def major(compiler: str) -> str:
    """'gcc 12.2.0' to 'gcc 12'."""
    return compiler.split(".")[0]


def table(measured: Measurement, before: dict[str, Any] | None) -> Iterator[str]:
    """What each shape costs, beside what it did."""
    old = before["instructions"] if before else {}
    yield f"{'instructions per I/O':30} {'now':>10} {'recorded':>10}"
    for name, figure in measured.figures.items():
        was = old.get(name)
        ratio = f"{was:10.1f} {figure.total / was - 1:+7.1%}" if was else ""
        yield f"{name:30} {figure.total:10.1f} {ratio}".rstrip()


def regressions(measured: Measurement, before: dict[str, Any]) -> list[str]:
    """What has become too much more, or is gone, a sentence each."""
    found = []
    for name, was in before["instructions"].items():
        figure = measured.figures.get(name)
        if figure is None:
            found.append(f"{name} is not measured any more: record a new entry")
        elif figure.total > was * GROWTH_MAX:
            found.append(f"{name} takes {figure.total} instructions per I/O, and took {was}")
    return found


def growth(figure: Figure, was: dict[str, float], nr_max: int = 12) -> Iterator[str]:
    """The functions whose own instructions have grown, the worst first."""
    grown = {name: own - was.get(name, 0) for name, own in figure.functions.items()}
    for name in sorted(grown, key=lambda name: -grown[name])[:nr_max]:
        if grown[name] > 0:
            yield f"  {name:32} {was.get(name, 0):8.1f} -> {figure.functions[name]:8.1f}"
