"""What the protocol tests share: controllers in this process behind sockets, and hosts."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vhostnvme.native import Controller, ControllerOptions, Doorbells, Namespace, Runtime
from vhostnvme.storage.disk import native_options
from vhostnvme.storage.spec import parse_spec
from vhostnvme.testing import Completion, HostFlags, NvmeHost

NO_FLAGS = HostFlags(0)
PAGE = 4096
BLOCK = 512

_serials = itertools.count(1)


class Served:
    """A controller with its namespaces (1, 2, …), listening; closed with the test."""

    def __init__(
        self, runtime: Runtime, folder: Path, specs: Sequence[str], options: dict[str, Any]
    ) -> None:
        self.runtime = runtime
        self.namespaces: list[Namespace] = []
        number = next(_serials)
        options.setdefault("serial", f"test{number}")
        self._stack = ExitStack()
        self.path = folder / f"c{number}"
        try:
            for spec in specs:
                namespace = Namespace(runtime, native_options(parse_spec(spec)))
                self.namespaces.append(self._stack.enter_context(namespace))
            self.controller = self._stack.enter_context(
                Controller(runtime, ControllerOptions(**options))
            )
            for nsid, namespace in enumerate(self.namespaces, 1):
                self.controller.attach(namespace, nsid)
            self.controller.listen(self.path)
        except BaseException:
            self._stack.close()
            raise

    def connect(
        self, flags: HostFlags = NO_FLAGS, *, enable: bool = True, **options: Any
    ) -> NvmeHost:
        """A host of 16 MiB; it is closed before the controller is."""
        options.setdefault("memory_bytes", 16 << 20)
        host = NvmeHost.connect(self.path, flags=flags, **options)
        self._stack.callback(host.close)
        if enable:
            host.enable()
        return host

    def close(self) -> None:
        self._stack.close()


class Serve:
    """`serve("mem:1M", doorbells=…)`: makes controllers and ends them with the test."""

    def __init__(self, runtime: Runtime, folder: Path) -> None:
        self.runtime = runtime
        self.folder = folder
        self._stack = ExitStack()

    def __call__(self, *specs: str, **options: Any) -> Served:
        served = Served(self.runtime, self.folder, specs or ("mem:16M",), options)
        self._stack.callback(served.close)
        return served

    def close(self) -> None:
        self._stack.close()


MAPPED = {"doorbells": Doorbells.MAPPED}
TRAPPED = {"doorbells": Doorbells.TRAPPED}


def until(condition: Callable[[], bool], what: str, timeout: float = 5.0) -> None:
    """Waits for a condition that comes true by itself."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(0.001)


def refused(completion: Completion, code: int, *, dnr: bool | None = True) -> None:
    """The command failed with this status, for good, and the error log knows of it."""
    assert completion.code == code, f"{completion}, not {code:#x}"
    if dnr is not None:
        assert completion.dnr is dnr, f"{completion}: DNR should be {dnr}"


def pattern(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length)


def dice(test: str) -> random.Random:
    """A generator whose seed is printed, and taken from VHOSTNVME_SEED when that is set."""
    seed = int(os.environ.get("VHOSTNVME_SEED") or random.SystemRandom().getrandbits(32))
    print(f"{test}: VHOSTNVME_SEED={seed}")  # noqa: T201
    return random.Random(seed)


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def threads() -> int:
    """Our own: the kernel's workers for io_uring come and go."""
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    return sum(not name.startswith("iou-") for name in names)


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
