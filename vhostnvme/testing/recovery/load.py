"""What the guest does all the time: writes that are read back and checked, and a prober beside.

The load runs in bursts of some seconds, one after the other, each of which ends with a look at all
that it has not checked yet. The prober writes one block after the other and sees each pause, also
when the load has every queue full.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from vhostnvme.errors import PeerError
from vhostnvme.guest.vm import Guest

__all__ = ["GuestLoad", "LoadResult", "kernel_complaints", "mark_kernel_log"]

PROBER_BYTES = 4 << 20  # at the namespace's end
BURST_S = 4
END_S = 90.0
# What the guest's kernel says when a disk has let it down.
COMPLAINTS = ("timeout", "timed out", "error", "abort", "reset", "is down", "failed")
_FOLDER = "/tmp/load"


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Of one stretch of load. `checked_bytes` were read and were what had been written last.

    `pause_s`: the longest time from a command's submission to its completion, of load and prober.
    """

    checked_bytes: int
    written_bytes: int
    load_pause_s: float
    probe_pause_s: float

    @property
    def pause_s(self) -> float:
        return max(self.load_pause_s, self.probe_pause_s)


class GuestLoad:
    """On the guest's block device `node`, of `size` bytes: it may write to all of it."""

    def __init__(self, guest: Guest, node: str, size: int) -> None:
        self._guest = guest
        common = f"--filename={node} --direct=1 --time_based --output-format=json"
        self._load = (
            f"fio --name=load {common} --rw=randwrite --size={size - PROBER_BYTES}"
            " --bssplit=4k/60:16k/30:128k/10 --iodepth=16 --ioengine=libaio --randrepeat=0"
            f" --verify=crc32c --verify_fatal=1 --verify_backlog=64 --runtime={BURST_S}"
        )
        self._probe = (
            f"fio --name=probe {common} --rw=write --bs=4k --offset={size - PROBER_BYTES}"
            f" --size={PROBER_BYTES} --ioengine=psync --thinktime=10ms --runtime=3600"
        )

    async def begin(self) -> None:
        """Starts both; they run until `end`."""
        script = (
            f"rm -rf {_FOLDER}; mkdir {_FOLDER}; cd {_FOLDER};"
            f" ({self._probe} --output=probe.json >probe.said 2>&1 & echo $! >probe.pid; wait;"
            " echo over >probe.over) >/dev/null 2>&1 &"
            f" (n=1000; code=0; while [ ! -e stop ] && [ $code = 0 ]; do"
            f" n=$((n+1)); {self._load} --output=load.$n.json; code=$?; done; echo $code >load.code"
            ") >load.said 2>&1 &"
        )
        (await self._guest.run(script)).check()

    async def end(self) -> LoadResult:
        """Ends both and says what they have seen.

        Raises:
            PeerError: a command failed, something else was read than was written, or they do not
                end within END_S.
        """
        wait = (
            f"cd {_FOLDER}; touch stop; kill -INT $(cat probe.pid);"
            f" for i in $(seq {round(END_S)}); do [ -s load.code ] && [ -s probe.over ] && exit;"
            " sleep 1; done; exit 1"
        )
        ended = await self._guest.run(wait, timeout=END_S + 30)
        said = (await self._guest.run(f"cd {_FOLDER}; cat load.said probe.said")).stdout
        if ended.exit_code != 0:
            raise PeerError(f"the guest's load does not end: {said[-2000:]}")
        code = (await self._guest.run(f"cat {_FOLDER}/load.code")).stdout.strip()
        loads = await self._reports("load.*.json")
        probes = await self._reports("probe.json")
        errors = [job["error"] for job in (*loads, *probes) if job["error"]]
        if code != "0" or errors or not probes:
            raise PeerError(
                f"the guest saw an error: fio ended with {code}, {errors}: {said[-2000:]}"
            )
        return LoadResult(
            checked_bytes=sum(job["read"]["io_bytes"] for job in loads),
            written_bytes=sum(job["write"]["io_bytes"] for job in loads),
            load_pause_s=_longest_s(loads),
            probe_pause_s=_longest_s(probes),
        )

    async def _reports(self, names: str) -> list[dict[str, Any]]:
        """The jobs in these files of fio's."""
        text = (await self._guest.run(f"cd {_FOLDER}; cat {names}")).check().stdout
        decoder, jobs = json.JSONDecoder(), []
        while (at := text.find("{")) >= 0:
            report, end = decoder.raw_decode(text[at:])
            jobs += report["jobs"]
            text = text[at + end :]
        return jobs


def _longest_s(jobs: list[dict[str, Any]]) -> float:
    sides = [job[side] for job in jobs for side in ("read", "write")]
    return max((side["lat_ns"]["max"] for side in sides if side["total_ios"]), default=0) / 1e9


async def mark_kernel_log(guest: Guest, mark: str) -> None:
    """`kernel_complaints` looks at what comes after it."""
    (await guest.run(f"echo '{mark}' >/dev/kmsg")).check()


async def kernel_complaints(guest: Guest, mark: str) -> list[str]:
    """What the guest's kernel has said of trouble with its disks since the mark."""
    lines = (await guest.run("dmesg")).check().stdout.splitlines()
    marks = [number for number, line in enumerate(lines) if mark in line]
    since = lines[marks[-1] if marks else 0 :]
    return [
        line
        for line in since
        if "nvme" in line and any(word in line.lower() for word in COMPLAINTS)
    ]
