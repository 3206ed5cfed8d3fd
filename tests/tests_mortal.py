"""A server that is a few lines of Python in a process of its own, to be killed at any moment."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator

END_S = 10.0


@contextlib.contextmanager
def script_server(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs until it is killed, here at the latest; `script` prints "ready" when it serves."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the server did not start"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=END_S)
