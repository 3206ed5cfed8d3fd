"""Many devices in one process, for tests and measurements.

`python -m vhostnvme.testing.many --devices 64 --reactors 2 --disk mem:64M --directory D`

Makes the sockets D/0/cntrl, D/1/cntrl, ... (D too, if it is missing), and prints JSON objects, one
a line: first `{"sockets": [...]}`, when all of them take connections; then, for each line on its
standard input, the statistics of that moment. The end of its standard input, SIGINT or SIGTERM
ends it in order. A `{}` in the SPEC becomes the device's number: `file:/tmp/{}.img?size=64M`.

Statistics: `seconds` of a monotonic clock; `cpu_seconds`, `rss_bytes`, `descriptors` and `threads`
of the process; `reactors`, a list of `rounds`, `sleeps`, `enters`, `cpu_ns` and `ops` since the
start; `devices`, a list of `reactor`, `attached`, `commands` and `queues`.

`ManyDevices` starts, asks and ends such a process.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vhostnvme.closable import Closable
from vhostnvme.emulation import Device, DeviceOptions, serving
from vhostnvme.errors import PeerError, VhostNvmeError
from vhostnvme.native import Doorbells, Runtime, RuntimeOptions
from vhostnvme.storage.spec import parse_spec

__all__ = ["ManyDevices"]

START_TIMEOUT_S = 60.0
_DOORBELLS = [mode.name.lower() for mode in Doorbells]


def statistics(runtime: Runtime, devices: Sequence[Device]) -> dict[str, Any]:
    """The statistics that the module describes."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/statm").read_text(encoding="ascii").split()
    reactors = [runtime.reactor_stats(index) for index in range(runtime.reactors)]
    infos = [(device.reactor, device.info()) for device in devices]  # wakes the reactors
    return {
        "seconds": time.monotonic(),
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "rss_bytes": int(status[1]) * resource.getpagesize(),
        "descriptors": _entries("/proc/self/fd"),
        "threads": _entries("/proc/self/task"),
        "reactors": [dataclasses.asdict(reactor) for reactor in reactors],
        "devices": [
            {
                "reactor": reactor,
                "attached": info.attached,
                "commands": info.commands,
                "queues": info.submission_queues,
            }
            for reactor, info in infos
        ],
    }


def _entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


async def _serve(options: argparse.Namespace) -> None:
    devices = [
        DeviceOptions(
            socket=options.directory / str(number) / "cntrl",
            namespaces=(parse_spec(options.disk.replace("{}", str(number))),),
            doorbells=Doorbells[options.doorbells.upper()],
            queues=options.queues,
        )
        for number in range(options.devices)
    ]
    options.directory.mkdir(mode=0o700, exist_ok=True)
    runtime_options = RuntimeOptions(reactors=options.reactors, poll_us=options.poll_us)
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lines.feed_eof)
    async with serving(devices, runtime_options) as running:
        _print({"sockets": [str(device.socket) for device in running]})
        while await lines.readline():
            _print(statistics(running[0].runtime, running))


def _print(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


class ManyDevices(Closable):
    """This program in a process of its own; a context manager that ends it.

    Args:
        devices: how many.
        directory: for the sockets; its path must be short.
        options: more arguments of the program, such as `--disk null:1G`.

    Raises:
        PeerError: it did not start; what it says is on our stderr.
    """

    def __init__(self, devices: int, directory: Path, options: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "vhostnvme.testing.many"),
                *("--devices", str(devices), "--directory", str(directory), *options),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.sockets = [Path(path) for path in self._answer()["sockets"]]

    def statistics(self) -> dict[str, Any]:
        """Those of this moment; the module says what is in them."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> int:
        """Ends it in order; returns its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            return self.process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.kill()
            raise PeerError(f"the server of many devices has ended: {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until the end of the standard input; 1: it could not."""
    parser = argparse.ArgumentParser(prog="many", description=main.__doc__)
    parser.add_argument("--devices", type=int, default=64)
    parser.add_argument("--reactors", type=int, default=1)
    parser.add_argument("--disk", default="mem:64M", help="SPEC of each one's namespace")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--doorbells", choices=_DOORBELLS, default="auto")
    parser.add_argument("--queues", type=int, default=0)
    parser.add_argument("--poll-us", type=int, default=100)
    try:
        asyncio.run(_serve(parser.parse_args(argv)))
    except VhostNvmeError as error:
        sys.stderr.write(f"many: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
