"""Fixtures of the protocol tests: one runtime for all, a controller and a host for each test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_protocol import Serve, Served

from vhostnvme.native import Runtime
from vhostnvme.testing import NvmeHost, QueuePair


@pytest.fixture(scope="session")
def runtime() -> Iterator[Runtime]:
    with Runtime() as running:
        yield running


@pytest.fixture(scope="session")
def sockets() -> Iterator[Path]:
    """A folder whose name leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="vn-") as folder:
        yield Path(folder)


@pytest.fixture
def serve(runtime: Runtime, sockets: Path) -> Iterator[Serve]:
    factory = Serve(runtime, sockets)
    yield factory
    factory.close()


@pytest.fixture
def served(serve: Serve) -> Served:
    """A controller with 16 MiB of memory as namespace 1."""
    return serve("mem:16M")


@pytest.fixture
def host(served: Served) -> NvmeHost:
    """A host that has enabled `served`."""
    return served.connect()


@pytest.fixture
def queue(host: NvmeHost) -> QueuePair:
    return host.create_queue_pair(1, depth=64)
