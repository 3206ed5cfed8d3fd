"""The budget of one I/O, measured: budget.py [--count] [--time] [--draw].

--count takes instructions by stage (callgrind), --time what `vhostnvme perf` sees of a server;
trace_guest.py adds where the time of a guest's I/O goes. All figures are kept in budget.json;
--draw makes docs/images/ from it and prints the tables of docs/performance.md.
Without an option: --count, --time and --draw.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import re
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
sys.path[:0] = [str(HERE.parent), str(TOP)]

import tests_performance as performance  # noqa: E402

from vhostnvme.bench import load as host_load  # noqa: E402
from vhostnvme.bench.machine import Disturbance, describe, watch  # noqa: E402
from vhostnvme.bench.samples import Load  # noqa: E402

FIGURES = HERE / "budget.json"
OTHER = "other"
OTHER_SHARE_MAX = 0.01
# Which stage of an I/O a function's own instructions belong to. A suffix that the compiler or the
# linker adds (.constprop.0, @GLIBC_2.2.5) does not count; 0x is what has no name in liburing.
STAGES = {
    "doorbell, fetch": """vn_doorbell_poll fetch fetch_each take_head vn_queue_track vn_ctrl_get_req
        vn_doorbell_take_posted vn_doorbell_write recv""",
    "validate, map": """vn_ctrl_execute vn_io_execute vn_doorbell_map vn_prp_map vn_sgl_map
        vn_guest_mem_piece vn_iov_append""",
    "namespace, backend": """vn_ns_submit vn_chan_submit on_done null_submit mem_submit file_submit
        issue on_data data_done transferred file_poll vn_reactor_sqe vn_reactor_io_begin
        vn_reactor_io_end io_uring_submit io_uring_submit_and_get_events io_uring_get_events 0x""",
    "copy the data": "memcpy",
    "completion entry": """on_command_done vn_req_complete vn_doorbell_post vn_queue_untrack
        vn_reactor_now_ns""",
    "interrupt": """vn_irq_flush vn_doorbell_take_head vfu_irq_trigger eventfd_write
        write __pthread_enable_asynccancel __pthread_disable_asynccancel""",
    "turn of the reactor": """vn_reactor_turn vn_pollers_run dev_poll reap io_uring_peek_batch_cqe
        vn_mailbox_take clock_gettime counted_turn vn_ctrl_retry_busy vn_wait_observe vn_wait_window
        vn_reactor_poll_ns vn_poller_wake vn_pollers_wake on_poll tran_sock_get_poll_fd
        vfu_get_poll_fd dev_can_rest vn_vfu_dev_is_still""",
}
STAGE_OF = {name: stage for stage, names in STAGES.items() for name in names.split()}
BACKENDS = ("null", "mem", "file", "guest")
COUNTED = tuple(f"{backend}/read-4k/{depth}" for depth in (1, 32) for backend in BACKENDS)
TIMED_DEPTHS = (1, 32, 128)
TIMED_BYTES = 256 << 20


def by_stage(functions: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Instructions per I/O by stage, and functions without one that cost too much for that."""
    stages = dict.fromkeys([*STAGES, OTHER], 0.0)
    strange = {}
    for function, own in functions.items():
        name = "0x" if function.startswith("0x") else re.split(r"[.@]", function)[0]
        stages[STAGE_OF.get(name, OTHER)] += own
        if name not in STAGE_OF and own > OTHER_SHARE_MAX * sum(functions.values()):
            strange[function] = own
    return {stage: round(own, 1) for stage, own in stages.items()}, strange


def count() -> dict[str, Any]:
    """What each shape of COUNTED takes, by stage; complains of functions without one."""
    with tempfile.TemporaryDirectory() as folder:
        measured = performance.measure(TOP, Path(folder))
    shapes = {}
    for shape in COUNTED:
        shapes[shape], strange = by_stage(measured.figures[shape].functions)
        for function, own in strange.items():
            sys.stderr.write(f"{shape}: {function} ({own:.0f}) has no stage: add it to STAGES\n")
    return {"compiler": measured.compiler, "shapes": shapes}


async def measure_times(folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    """Medians of short runs, in turns: 4 KiB random reads of filled namespaces, one queue pair."""
    got: dict[str, list[dict[str, Any]]] = defaultdict(list)
    (folder / "disk").write_bytes(b"")
    size = f"{TIMED_BYTES >> 20}M"
    for name, spec in (
        ("null", f"null:{size}"),
        ("mem", f"mem:{size}"),
        ("file", f"file:{folder}/disk?size={size}"),
    ):
        async with host_load.server(folder, name, spec) as socket:
            if name != "null":
                await host_load.fill(socket)
            for depth in TIMED_DEPTHS * rounds:
                load = Load("randread", 4096, depth)
                sample = await host_load.perf([socket], load, seconds=seconds)
                got[f"{name}/{depth}"].append(
                    {
                        "iops": sample.iops,
                        "p50_us": sample.latency_us[50.0],
                        "p99_us": sample.latency_us[99.0],
                        "server_us": (sample.server_cpu_s_per_10k or 0) * 100,
                    }
                )
    return {
        case: {key: statistics.median(each[key] for each in runs) for key in runs[0]}
        for case, runs in got.items()
    }


def measure_all(rounds: int, seconds: float) -> dict[str, Any]:
    notes: dict[str, Disturbance] = {}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o700)
        with watch(notes, "perf"):
            cases = asyncio.run(measure_times(folder, rounds, seconds))
        machine = describe({"file": folder})
    others = round(notes["perf"].others_cores + notes["perf"].stolen_cores, 2)
    return {"machine": machine, "rounds": rounds, "others_cores": others, "cases": cases}


def keep(section: str, figures: dict[str, Any]) -> None:
    """Puts a section into budget.json, with today's date."""
    kept = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    kept[section] = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), **figures}
    FIGURES.write_text(json.dumps(kept, indent=1) + "\n")


def tables(kept: Mapping[str, Any]) -> Iterator[str]:
    """The tables of docs/performance.md, in Markdown."""
    if "instructions" in kept:
        shapes = kept["instructions"]["shapes"]
        yield from _header(["Stage", *(shape.replace("/read-4k/", ", ") for shape in shapes)])
        for stage in [*STAGES, OTHER]:
            cells = [shapes[shape][stage] for shape in shapes]
            if stage != OTHER or any(round(cell) for cell in cells):
                yield _row(stage, [f"{cell:,.0f}" for cell in cells])
        yield _row("**all**", [f"{sum(shapes[shape].values()):,.0f}" for shape in shapes])
        yield ""
    if "times" in kept:
        yield from _header(["", "IOPS", "p50, us", "p99, us", "server CPU an I/O, us"])
        for case, got in kept["times"]["cases"].items():
            cells = [f"{got['iops']:,.0f}", *(f"{got[key]:,.1f}" for key in ("p50_us", "p99_us"))]
            yield _row(case.replace("/", ", "), [*cells, f"{got['server_us']:.2f}"])
        yield ""
    if "guest" in kept:
        bars = kept["guest"]["bars"]
        yield from _header(["Stage", *(f"{name}, us" for name in bars)])
        for stage in dict.fromkeys(stage for bar in bars.values() for stage in bar["stages"]):
            yield _row(stage, [f"{bar['stages'].get(stage, 0):,.1f}" for bar in bars.values()])
        yield _row("**all**", [f"{sum(bar['stages'].values()):,.0f}" for bar in bars.values()])


def _header(cells: list[str]) -> Iterator[str]:
    yield _row(cells[0], cells[1:])
    yield "|---" + "|--:" * (len(cells) - 1) + "|"


def _row(first: str, cells: list[str]) -> str:
    return f"| {first} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for option, words in (
        ("--count", "instructions by stage"),
        ("--time", "IOPS and latency of a server"),
        ("--draw", "pictures and tables"),
    ):
        parser.add_argument(option, action="store_true", help=words)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run (1)")
    asked = parser.parse_args()
    everything = not (asked.count or asked.time or asked.draw)
    if asked.count or everything:
        keep("instructions", count())
    if asked.time or everything:
        keep("times", measure_all(asked.rounds, asked.seconds))
    if asked.draw or everything:
        from budget_plots import draw

        kept = json.loads(FIGURES.read_text())
        lines = [*tables(kept), *map(str, draw(kept, TOP / "docs/images", list(STAGES)))]
        sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
