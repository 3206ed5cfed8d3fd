"""Handles: explicit close, no order that leaks, and the library's own sentence on failure."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhostnvme.errors import NativeError
from vhostnvme.native import (
    Controller,
    ControllerOptions,
    EventType,
    Medium,
    MediumInfo,
    Namespace,
    NamespaceOptions,
    Runtime,
    RuntimeOptions,
    library_version,
)

MEMORY = NamespaceOptions(backend="mem", size=1 << 20)


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime


def test_the_library_has_the_version_of_the_package() -> None:
    import vhostnvme

    assert library_version() == vhostnvme.__version__


def test_a_second_close_does_nothing() -> None:
    runtime = Runtime(RuntimeOptions(reactors=2))
    namespace = Namespace(runtime, MEMORY)
    controller = Controller(runtime, ControllerOptions(serial="S1"))
    for _ in range(2):
        controller.close()
        namespace.close()
        runtime.close()
    assert controller.gone
    assert namespace.closed
    assert runtime.closed


def test_a_closed_handle_says_so(runtime: Runtime) -> None:
    namespace = Namespace(runtime, MEMORY)
    namespace.close()
    with pytest.raises(NativeError, match="closed") as caught:
        namespace.info()
    assert caught.value.errno == errno.EBADF


def test_a_runtime_closes_what_is_left(tmp_path: Path) -> None:
    with Runtime() as runtime:
        controller = Controller(runtime, ControllerOptions(serial="S1"))
        namespace = Namespace(runtime, MEMORY)
        controller.attach(namespace, 1)
        controller.listen(tmp_path / "cntrl")
    assert controller.gone
    assert namespace.closed
    assert not (tmp_path / "cntrl").exists()


def test_an_attached_namespace_cannot_be_closed(runtime: Runtime) -> None:
    controller = Controller(runtime, ControllerOptions(serial="S1"))
    namespace = Namespace(runtime, MEMORY)
    controller.attach(namespace, 1)
    with pytest.raises(NativeError) as caught:
        namespace.close()
    assert caught.value.errno == errno.EBUSY
    controller.detach(1)
    namespace.close()


def test_a_namespace_tells_its_geometry(runtime: Runtime) -> None:
    wanted = uuid.uuid4()
    options = NamespaceOptions(backend="mem", size=1 << 20, block_size=4096, uuid=wanted)
    info = Namespace(runtime, options).info()
    assert (info.size, info.block_size, info.uuid) == (1 << 20, 4096, wanted)
    assert (info.reads, info.writes, info.errors) == (0, 0, 0)


def test_namespaces_without_a_uuid_get_one(runtime: Runtime) -> None:
    first, second = Namespace(runtime, MEMORY).info(), Namespace(runtime, MEMORY).info()
    assert first.uuid.int != 0
    assert first.uuid != second.uuid


def test_a_refusal_is_one_sentence(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(NativeError) as caught:
        Namespace(runtime, NamespaceOptions(backend="file", path=str(tmp_path / "missing")))
    assert caught.value.errno == errno.ENOENT
    assert "missing" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failed_open_leaves_nothing_to_close(runtime: Runtime) -> None:
    with pytest.raises(NativeError):
        Namespace(runtime, NamespaceOptions(backend="file", path="/nowhere/at/all"))
    assert runtime.namespaces == []


async def test_the_end_of_a_controller_is_awaited(runtime: Runtime, tmp_path: Path) -> None:
    controller = Controller(runtime, ControllerOptions(serial="S1"))
    controller.listen(tmp_path / "cntrl")
    await controller.aclose()
    await controller.aclose()
    assert controller.gone


async def test_events_come_to_every_listener(runtime: Runtime) -> None:
    seen: list[list[EventType]] = [[], []]

    async def listen(index: int) -> None:
        async for event in runtime.events():
            seen[index].append(event.type)

    tasks = [asyncio.create_task(listen(index)) for index in range(2)]
    await asyncio.sleep(0)
    controller = Controller(runtime, ControllerOptions(serial="S1"))
    await controller.aclose()
    await asyncio.sleep(0.05)
    runtime.close()
    await asyncio.gather(*tasks)
    assert all(EventType.CONTROLLER_DESTROYED in types for types in seen)


def test_events_are_kept_until_somebody_looks(runtime: Runtime) -> None:
    controller = Controller(runtime, ControllerOptions(serial="S1"))
    controller.close()
    kinds = [event.type for event in runtime.poll_events() if event.controller == controller.id]
    assert EventType.CONTROLLER_DESTROYED in kinds
    assert runtime.poll_events() == []


def test_an_interpreter_that_ends_with_open_handles_ends_well(tmp_path: Path) -> None:
    script = f"""
from vhostnvme.native import *
runtime = Runtime()
controller = Controller(runtime, ControllerOptions(serial="S1"))
namespace = Namespace(runtime, NamespaceOptions(backend="mem", size=1 << 20))
controller.attach(namespace, 1)
controller.listen({str(tmp_path / "cntrl")!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "cntrl").exists()


def test_reactors_count_what_they_do(runtime: Runtime) -> None:
    assert runtime.reactor_stats(0).rounds >= 0
    with pytest.raises(NativeError):
        runtime.reactor_stats(99)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without privileges")
def test_a_plain_user_with_little_locked_memory_is_told_so() -> None:
    """Root's own rings do not count; the usual limit of 8 MiB is enough for all reactors."""
    program = (
        "import os, resource\n"
        "from vhostnvme.native import Runtime, RuntimeOptions\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "Runtime(RuntimeOptions(reactors=16)).close()\n"
        "print('all')\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))\n"
        "Runtime()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "all\n"
    assert "512 KiB of the locked memory that 'ulimit -l' allows" in done.stderr


def test_a_medium_outlives_whoever_made_it(runtime: Runtime, tmp_path: Path) -> None:
    medium = Medium()
    file = NamespaceOptions(
        backend="file", path=str(tmp_path / "disk"), size=1 << 20, create=True, medium=medium
    )
    namespace = Namespace(runtime, file)
    assert medium.info() == MediumInfo(
        commands=0, errors=0, slow=0, slow_ns=0, inflight=0, oldest_ns=0
    )
    del medium, file
    gc.collect()
    namespace.close()
