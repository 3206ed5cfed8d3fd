"""Processes of a benchmark: started, awaited, measured, and gone when their context ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from vhostnvme.errors import PeerError
from vhostnvme.guest.accel import die_with_parent

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0


def process_cpu_s(pid: int) -> float:
    """User and system time of a process with all its threads, in seconds; 0 when it has gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def daemon(
    words: Sequence[str], *, what: str, log: Path, ready: Path | None = None
) -> AsyncIterator[int]:
    """A process for as long as the context lasts; gives its id once it is ready.

    Args:
        ready: this file appears when it is; None: `{ready_fd}` in `words` is replaced by the
            number of a file descriptor on which it writes something.

    Raises:
        PeerError: it could not be started, or ended before it was ready; with what it wrote last.
    """
    told, tell = os.pipe()
    try:
        with log.open("wb") as output:
            try:
                process = await asyncio.create_subprocess_exec(
                    *(word.replace("{ready_fd}", str(tell)) for word in words),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[tell],
                    # Away from the terminal's Ctrl-C, which is for us to handle.
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )
            except OSError as error:
                raise PeerError(f"{what} could not be started: {error}") from None
            finally:
                os.close(tell)
        try:
            await _wait_ready(process, told, ready, what, log)
            yield process.pid
        finally:
            await _end(process)
    finally:
        os.close(told)


async def _wait_ready(
    process: asyncio.subprocess.Process, told: int, ready: Path | None, what: str, log: Path
) -> None:
    os.set_blocking(told, False)
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    while process.returncode is None and asyncio.get_running_loop().time() < deadline:
        if ready is not None:
            if ready.exists():
                return
        else:
            with contextlib.suppress(BlockingIOError):
                if os.read(told, 64):
                    return
        await asyncio.sleep(0.02)
    lines = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    raise PeerError(f"{what} did not start: {lines[0]}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """In order if it will, at once if not; not even a cancellation leaves it behind."""
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except (TimeoutError, asyncio.CancelledError) as problem:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            if isinstance(problem, asyncio.CancelledError):
                raise


async def output_of(words: Sequence[str], *, what: str, timeout_s: float) -> tuple[str, float]:
    """Runs a program to its end.

    Returns:
        What it wrote on stdout, and the CPU seconds that it and its children took.

    Raises:
        PeerError: it failed, or took too long; it has been ended then.
    """
    before = os.times()
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    except OSError as error:
        raise PeerError(f"{what} could not be started: {error}") from None
    try:
        async with asyncio.timeout(timeout_s):
            out, said = await process.communicate()
    except TimeoutError:
        raise PeerError(f"{what} did not end within {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    after = os.times()
    if process.returncode:
        lines = (said or out).decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise PeerError(f"{what} failed: {lines[0]}")
    cpu = after.children_user - before.children_user
    return out.decode(errors="replace"), cpu + after.children_system - before.children_system
