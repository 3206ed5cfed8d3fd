"""Where the time of a guest's read goes, stage by stage.

Boots one guest with our disk and QEMU's own NVMe on a disk file each, reads 4 KiB at depth 1 on one
and then the other, traces both processes meanwhile, and puts the medians into budget.json.

Needs root, tracefs, and a machine that does nothing else: trace_guest.py [--folder DIR] [--ms 100]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import budget  # noqa: E402

from vhostnvme.bench.contestants import make_disks  # noqa: E402
from vhostnvme.bench.fio import fio_words  # noqa: E402
from vhostnvme.bench.guest import find_disk  # noqa: E402
from vhostnvme.bench.samples import Load  # noqa: E402
from vhostnvme.emulation.device import DeviceOptions  # noqa: E402
from vhostnvme.emulation.server import serving  # noqa: E402
from vhostnvme.guest.vm import Guest  # noqa: E402
from vhostnvme.native import RuntimeOptions  # noqa: E402
from vhostnvme.storage.spec import parse_spec  # noqa: E402

TRACEFS = Path("/sys/kernel/tracing")
EVENTS = ("sched/sched_waking", "raw_syscalls/sys_enter", "raw_syscalls/sys_exit")
LINE = re.compile(r"\s*(.+)-(\d+)\s+\[\d+\]\s+\S+\s+([\d.]+): (\w+): (.*)")
PARTS = {"vn-reactor-": "reactor", "CPU ": "vcpu"}
# System calls of x86-64.
WRITE, SENDMSG, FUTEX, PPOLL, IO_URING_ENTER = 1, 46, 202, 271, 426
CYCLE_US_MAX = 2000  # longer ones were disturbed
NR_ALIKE_MIN = 20


@dataclass(frozen=True)
class Event:
    us: float
    thread: str  # "reactor", "main" (QEMU's), "vcpu", or "" for others
    name: str
    number: int  # of the system call
    rest: str

    def enters(self, thread: str, number: int) -> bool:
        return self.name == "sys_enter" and self.thread == thread and self.number == number

    def leaves(self, thread: str, number: int) -> bool:
        return self.name == "sys_exit" and self.thread == thread and self.number == number

    def ends_poll(self) -> bool:
        """QEMU's main loop has something to do; -514 is a call that begins again."""
        return self.leaves("main", PPOLL) and self.rest.strip() != "= -514"

    def submits(self, thread: str) -> bool:
        """io_uring_enter with entries to submit."""
        return self.enters(thread, IO_URING_ENTER) and not re.match(r"\(\w+, 0,", self.rest)


def parse(text: str, threads: dict[int, str]) -> list[Event]:
    """The events of a trace; `threads` are the parts that the thread ids play."""
    events = []
    for line in text.splitlines():
        if match := LINE.match(line):
            us, thread = float(match[3]) * 1e6, threads.get(int(match[2]), "")
            name, rest, number = match[4], match[5], -1
            if name == "sched_waking":  # told by whoever wakes: of interest is who is woken
                woken = re.search(r"\bpid=(\d+)", rest)
                thread = threads.get(int(woken[1]), "") if woken else ""
            elif call := re.match(r"NR (\d+) (.*)", rest):
                number, rest = int(call[1]), call[2]
            events.append(Event(us, thread, name, number, rest))
    return events


def last(events: Sequence[Event], test: Callable[[Event], bool]) -> float | None:
    return next((event.us for event in reversed(events) if test(event)), None)


def first(events: Sequence[Event], test: Callable[[Event], bool]) -> float | None:
    return next((event.us for event in events if test(event)), None)


def cycles(events: Sequence[Event], server: str) -> list[dict[str, float]]:
    """Each I/O's stages, in us, from one submission to the next; `server` is who submits."""
    marks = [index for index, event in enumerate(events) if event.submits(server)]
    found = []
    for begin, end in itertools.pairwise(marks):
        if events[end].us - events[begin].us < CYCLE_US_MAX:
            stages = _stages(events[begin : end + 1], server)
            if stages and min(stages.values()) >= 0:
                found.append(stages)
    return found


def _stages(events: Sequence[Event], server: str) -> dict[str, float] | None:
    """None: the events are not those of one undisturbed I/O."""
    ours = server == "reactor"
    start, end = events[0].us, events[-1].us
    submitted = first(events, lambda e: e.leaves(server, IO_URING_ENTER))
    if submitted is None:
        return None
    after = [event for event in events if event.us > submitted]
    if ours:  # the completion entry is written just before the eventfd
        told = first(after, lambda e: e.enters(server, WRITE))
    else:  # the main loop wakes up, takes the completion, and raises the interrupt by itself
        told = first(after, Event.ends_poll)
    if told is None:
        return None
    after = [event for event in events if event.us >= told]
    looked = first(after, Event.ends_poll) if ours else told
    if looked is None:
        return None
    # The interrupt is raised when the main loop has waked the guest's processor, or waits again.
    raised = first(
        [event for event in after if event.us > looked],
        lambda e: (e.name == "sched_waking" and e.thread == "vcpu") or e.enters("main", PPOLL),
    )
    if raised is None:
        return None
    rang = last(
        [event for event in after if event.us > raised],
        lambda e: e.enters("vcpu", SENDMSG if ours else WRITE),
    )
    trapped = rang is not None
    rang = end if rang is None else rang
    runs = first(
        [event for event in after if raised < event.us < rang], lambda e: e.leaves("vcpu", FUTEX)
    )
    runs = raised if runs is None else min(runs, rang)
    return {
        "doorbell to submission": end - rang if trapped else 0.0,
        "submission, in the kernel": submitted - start,
        "disk, server wakes up, completion": told - submitted,
        "eventfd to QEMU's main loop": looked - told,
        "QEMU raises the interrupt": raised - looked,
        "guest's processor wakes up": runs - raised,
        "guest's code, until it rings": rang - runs,
    }


def medians(found: Sequence[dict[str, float]]) -> dict[str, Any]:
    stages = {name: round(statistics.median(each[name] for each in found), 1) for name in found[0]}
    whole = statistics.median(sum(each.values()) for each in found)
    return {"nr_cycles": len(found), "whole_us": round(whole, 1), "stages": stages}


def thread_parts(guest_pid: int) -> dict[int, str]:
    """Thread ids of QEMU's and of this process: what part each plays."""
    parts = {guest_pid: "main"}
    for pid in (guest_pid, os.getpid()):
        for task in Path(f"/proc/{pid}/task").iterdir():
            name = (task / "comm").read_text().strip()
            parts.setdefault(int(task.name), PARTS.get(name.rstrip("0123456789/TCG"), ""))
    return parts


async def capture(threads: dict[int, str], ms: int) -> str:
    def put(name: str, value: str) -> None:
        (TRACEFS / name).write_text(value)

    put("tracing_on", "0")
    put("trace", "")
    put("trace_clock", "mono")
    put("buffer_size_kb", "8192")
    put("set_event_pid", " ".join(map(str, threads)))
    try:
        for event in EVENTS:
            put(f"events/{event}/enable", "1")
        put("tracing_on", "1")
        await asyncio.sleep(ms / 1000)
    finally:
        put("tracing_on", "0")
        for event in EVENTS:
            put(f"events/{event}/enable", "0")
        put("set_event_pid", "")
    return (TRACEFS / "trace").read_text()


async def trace(folder: Path, ms: int) -> dict[str, Any]:
    disks = make_disks({"disk": folder}, ["vhostnvme", "qemu nvme"])
    mine = [
        DeviceOptions(socket=d.socket, namespaces=(parse_spec(f"file:{d.path}"),), serial=d.serial)
        for d in disks
        if d.contestant.is_ours
    ]
    async with AsyncExitStack() as stack:
        devices = await stack.enter_async_context(serving(mine, RuntimeOptions(), log_level=30))
        words = [word for disk in disks for word in disk.qemu_arguments()]
        sockets = [device.socket for device in devices]
        guest = await stack.enter_async_context(Guest(disks=sockets, cpus=2, extra_args=words))
        bars = {}
        for disk in disks:
            path = await find_disk(guest, disk)
            fio = fio_words(path, Load("randread", 4096, 1), seconds=2.0, ramp_s=0.5)
            load = asyncio.create_task(guest.run(" ".join(fio), timeout=60))
            await asyncio.sleep(1.5)
            threads = thread_parts(guest.pid)
            text = await capture(threads, ms)
            (await load).check()
            found = cycles(parse(text, threads), "reactor" if disk.contestant.is_ours else "main")
            for how, rung in (("seen in memory", False), ("rung", True)):
                alike = [each for each in found if (each["doorbell to submission"] > 0) == rung]
                if len(alike) >= NR_ALIKE_MIN:
                    bars[f"{disk.contestant.name}, doorbell {how}"] = medians(alike)
    return {"ms": ms, "bars": bars}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--folder", default="/var/tmp", help="where the disk files lie")
    parser.add_argument("--ms", type=int, default=100, help="to trace, of each disk")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        budget.keep("guest", asyncio.run(trace(Path(folder), asked.ms)))


if __name__ == "__main__":
    main()
