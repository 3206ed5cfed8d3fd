"""Namespaces are opened without holding up the event loop, also those that nobody answers for."""

from __future__ import annotations

import asyncio
import errno
import socket
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vhostnvme.errors import NativeError
from vhostnvme.native import Namespace, NamespaceOptions, RemoteOptions, Runtime, Subsystem, Target
from vhostnvme.storage.disk import open_disk_async
from vhostnvme.storage.spec import parse_spec

NQN = "nqn.2026-11.test:making"
MEMORY = NamespaceOptions(backend="mem", size=1 << 20)
COUNT = 40


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime() as running:
        yield running


@pytest.fixture
def port(runtime: Runtime) -> int:
    """Of a target that has a namespace."""
    target = Target(runtime)
    Subsystem(target, NQN, "M", any_host=True).attach(Namespace(runtime, MEMORY), 1)
    return target.listen("127.0.0.1", 0)[1]


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def remote(port: int, **more: int) -> NamespaceOptions:
    options = RemoteOptions(
        paths=(("127.0.0.1", port),),
        subnqn=NQN,
        nsid=1,
        hostnqn="nqn.2026-11.test:host",
        hostid=uuid.uuid4(),
        **more,  # type: ignore[arg-type]
    )
    return NamespaceOptions(backend="forward", remote=options, block_size=0)


async def test_many_open_at_once_while_others_come_and_go(runtime: Runtime, port: int) -> None:
    opening = [asyncio.create_task(Namespace.aopen(runtime, remote(port))) for _ in range(COUNT)]
    while not all(task.done() for task in opening):
        with Namespace(runtime, MEMORY) as other:
            assert other.info().size == 1 << 20
        await asyncio.sleep(0)
    namespaces = [task.result() for task in opening]
    assert {namespace.info().size for namespace in namespaces} == {1 << 20}
    assert set(namespaces) <= set(runtime.namespaces)


async def test_a_target_that_says_nothing_holds_nobody_up(runtime: Runtime, silent: int) -> None:
    opening = asyncio.create_task(Namespace.aopen(runtime, remote(silent, connect_ms=500)))
    turns = 0
    while not opening.done():
        turns += 1
        await asyncio.sleep(0.001)
    with pytest.raises(NativeError, match=r"127\.0\.0\.1"):
        opening.result()
    assert turns > 1
    assert runtime.namespaces == []


async def test_an_opening_that_is_cancelled_leaves_nothing(runtime: Runtime, port: int) -> None:
    for pause in range(20):
        opening = asyncio.create_task(Namespace.aopen(runtime, remote(port)))
        await asyncio.sleep(pause / 2000)
        opening.cancel()
        try:
            (await opening).close()
        except asyncio.CancelledError:
            pass
    assert [namespace.options for namespace in runtime.namespaces] == [MEMORY]


async def test_a_runtime_may_end_meanwhile(silent: int) -> None:
    with Runtime() as runtime:
        opening = asyncio.create_task(Namespace.aopen(runtime, MEMORY))
        await asyncio.sleep(0)
    with pytest.raises(NativeError) as caught:
        await opening
    assert caught.value.errno == errno.EBADF
    late = asyncio.create_task(Namespace.aopen(runtime, remote(silent, connect_ms=100)))
    with pytest.raises(NativeError):
        await late


async def test_files_and_parts_of_them_open_as_well(runtime: Runtime, tmp_path: Path) -> None:
    whole = await open_disk_async(runtime, parse_spec(f"file:{tmp_path}/d?size=2M"))
    assert whole.info().size == 2 << 20
    whole.close()
    options = NamespaceOptions(backend="file", path=f"{tmp_path}/d", size=1 << 20, offset=0)
    parts = [
        await Namespace.aopen(runtime, replace(options, offset=offset)) for offset in (0, 1 << 20)
    ]
    assert [part.info().size for part in parts] == [1 << 20, 1 << 20]
    with pytest.raises(NativeError, match="missing"):
        await open_disk_async(runtime, parse_spec(f"file:{tmp_path}/missing"))
