"""The benchmark's sections that need no VM, at their shortest, on real servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhostnvme.bench import host, scaling
from vhostnvme.bench.samples import Load, Results

# On a busy machine a shorter run may see no completion at all.
SECONDS = 0.4


@pytest.fixture
def children() -> Iterator[None]:
    """No child of this process is left that was not there before."""
    before = children_of_this_process()
    yield
    assert children_of_this_process() <= before


def children_of_this_process() -> set[str]:
    found: set[str] = set()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            found.update((task / "children").read_text().split())
    return found


@pytest.mark.usefixtures("children")
def test_engines_are_compared_in_turns(tmp_path: Path) -> None:
    results = Results()
    asyncio.run(
        host.compare_engines(
            tmp_path,
            [Load("randwrite", 4096, 4)],
            rounds=1,
            seconds=SECONDS,
            results=results,
            report=lambda line: None,
            memory_bytes=4 << 20,
        )
    )
    assert {case.contestant for case in results.samples} == {"vhostnvme mem", "vhostnvme null"}
    for (sample,) in results.samples.values():
        assert sample.iops > 0
        assert sample.server_cpu_s_per_10k is not None


@pytest.mark.usefixtures("children")
def test_scaling_counts_every_device(tmp_path: Path) -> None:
    results = Results()
    asyncio.run(
        scaling.scale(
            tmp_path,
            rounds=1,
            seconds=SECONDS,
            results=results,
            report=lambda line: None,
            devices=(1, 3),
        )
    )
    found = {(case.load.devices, case.contestant) for case in results.samples}
    names = ("vhostnvme, 1 reactor", "vhostnvme, 2 reactors")
    assert found == {(count, name) for count in (1, 3) for name in names}
    assert all(sample.iops > 0 for (sample,) in results.samples.values())


@pytest.mark.usefixtures("children")
def test_a_cancelled_benchmark_leaves_no_process(tmp_path: Path) -> None:
    async def run() -> None:
        task = asyncio.create_task(
            scaling.scale(
                tmp_path,
                rounds=1,
                seconds=60,
                results=Results(),
                report=lambda line: None,
                devices=(2,),
            )
        )
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
