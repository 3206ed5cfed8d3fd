"""The programs behind docs/performance.md: stages of functions, and stages of a trace."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import budget
import trace_guest

# Two submissions, and between them one completion that is told to QEMU; then a trapped doorbell.
TRACE = """\
# a comment
 vn-reactor-0-30 [000] ..... 1.000000: sys_enter: NR 426 (8, 1, 0, 1, 0, 8)
 vn-reactor-0-30 [000] ..... 1.000010: sys_exit: NR 426 = 1
 swapper-0 [001] ..... 1.000030: sched_waking: comm=vn-reactor-0 pid=30 prio=120 target_cpu=000
 vn-reactor-0-30 [000] ..... 1.000035: sys_exit: NR 426 = 0
 vn-reactor-0-30 [000] ..... 1.000040: sys_enter: NR 1 (14, 7f03, 8, 0, 0, 0)
 qemu-10 [001] ..... 1.000050: sys_exit: NR 271 = -514
 qemu-10 [001] ..... 1.000055: sys_exit: NR 271 = 1
 qemu-10 [001] ..... 1.000060: sched_waking: comm=CPU 1/TCG pid=20 prio=120 target_cpu=000
 CPU 1/TCG-20 [000] ..... 1.000070: sys_exit: NR 202 = 0
 CPU 1/TCG-20 [000] ..... 1.000170: sys_enter: NR 46 (9, 7f1d, 0, 0, 0, 0)
 vn-reactor-0-30 [000] ..... 1.000190: sys_enter: NR 426 (8, 1, 0, 1, 0, 8)
"""


def test_functions_have_stages_and_strangers_are_told() -> None:
    stages, strange = budget.by_stage(
        {"fetch": 50.0, "reap.constprop.0": 30.0, "memcpy@GLIBC_2.2": 15.0, "new": 4.5, "tiny": 0.5}
    )
    assert stages["doorbell, fetch"] == 50.0
    assert stages["turn of the reactor"] == 30.0
    assert stages["copy the data"] == 15.0
    assert stages[budget.OTHER] == 5.0
    assert strange == {"new": 4.5}


def test_a_trace_becomes_stages() -> None:
    parts = {30: "reactor", 10: "main", 20: "vcpu"}
    (found,) = trace_guest.cycles(trace_guest.parse(TRACE, parts), "reactor")
    assert [round(us) for us in found.values()] == [20, 10, 30, 15, 5, 10, 100]
