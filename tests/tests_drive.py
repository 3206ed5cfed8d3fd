"""A drive with kept state in a process of its own, for tests that end it, orderly or by kill -9."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from vhostnvme.testing import NvmeHost

SERVER = """
    import sys, uuid
    from vhostnvme.native import *
    from vhostnvme.storage.disk import native_options
    from vhostnvme.storage.spec import parse_spec
    state, socket, *specs = sys.argv[1:]
    runtime = Runtime()
    drive = Drive(runtime, DriveOptions(state_path=state, uuid=uuid.UUID(int=7)))
    controller = Controller(runtime, ControllerOptions(serial="kept", drive=drive, cntlid=1))
    namespaces = [Namespace(runtime, native_options(parse_spec(spec))) for spec in specs]
    for nsid, namespace in enumerate(namespaces, 1):
        controller.attach(namespace, nsid)
    controller.listen(socket)
    print("ready", flush=True)
    sys.stdin.read()
    controller.close()
    for namespace in namespaces:
        namespace.close()
    drive.close()
    runtime.close()
"""
END_S = 20.0


class DriveServer:
    """Runs from construction to `stop` or `kill`; the state stays in `folder`, for the next one."""

    def __init__(self, folder: Path, *specs: str) -> None:
        self.socket = folder / "cntrl"
        command = [sys.executable, "-c", textwrap.dedent(SERVER)]
        self.process = subprocess.Popen(
            [*command, str(folder / "drive.state"), str(self.socket), *specs],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"

    @contextlib.contextmanager
    def host(self) -> Iterator[NvmeHost]:
        """A host that has enabled it; it goes without a shutdown."""
        with NvmeHost.connect(self.socket, memory_bytes=16 << 20) as host:
            host.enable()
            yield host

    def stop(self) -> None:
        """Orderly."""
        self.process.communicate("", timeout=END_S)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=END_S)


@contextlib.contextmanager
def drive_server(folder: Path, *specs: str) -> Iterator[DriveServer]:
    """One that is certainly gone afterwards, by kill -9 if the test has not ended it."""
    server = DriveServer(folder, *specs)
    try:
        yield server
    finally:
        server.kill()
