"""A controller changes its reactor: with nobody there, with an idle host, and under load."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests_protocol import BLOCK, MAPPED, TRAPPED, Serve, Served, pattern, until

from vhostnvme.errors import NativeError
from vhostnvme.limits import NO_LIMITS, Limits
from vhostnvme.native import Runtime, RuntimeOptions
from vhostnvme.native.perf import perf_run
from vhostnvme.testing import nvme

NR_REACTORS = 3
IDLE_S = 0.003  # far longer than a reactor spins


@pytest.fixture(scope="module")
def reactors() -> Iterator[Runtime]:
    with Runtime(RuntimeOptions(reactors=NR_REACTORS)) as running:
        yield running


@pytest.fixture
def serve(reactors: Runtime, sockets: Path) -> Iterator[Serve]:
    """In place of the one with a single reactor."""
    factory = Serve(reactors, sockets)
    yield factory
    factory.close()


def home(served: Served) -> int:
    return served.controller.info().reactor


def test_before_and_between_hosts(serve: Serve) -> None:
    served = serve("mem:1M", reactor=1)
    assert home(served) == 1
    served.controller.move(2)
    with served.connect() as host:
        host.create_queue_pair(1, depth=4).write(0, pattern(1, BLOCK))
    until(lambda: not served.controller.info().attached, "the host leaves")
    served.controller.move(0)
    assert home(served) == 0
    with served.connect() as host:
        assert host.create_queue_pair(1, depth=4).read(0, 1) == pattern(1, BLOCK)


@pytest.mark.parametrize("doorbells", [MAPPED, TRAPPED], ids=["mapped", "trapped"])
def test_an_idle_host_is_heard_where_it_went(serve: Serve, doorbells: dict[str, Any]) -> None:
    served = serve("mem:1M", **doorbells)
    host = served.connect()
    if doorbells is TRAPPED:
        assert host.enable_shadow_doorbells()
    queue = host.create_queue_pair(1, depth=16)
    event = host.submit_async_event()
    for number in range(2 * NR_REACTORS):
        served.controller.move(number % NR_REACTORS)
        time.sleep(IDLE_S)
        queue.write(number, pattern(number, BLOCK))  # a doorbell wakes it
        time.sleep(IDLE_S)
        assert host.csts == 1  # and so does the socket
        assert queue.read(number, 1) == pattern(number, BLOCK)
    host.set_feature(4, 1)  # over a temperature of 1 K: the request that went along is answered
    assert host.wait_async_event(event).ok


@pytest.mark.parametrize("disk", ["mem:8M", "file", "mem:8M?delay=200us", "mem:8M?iops=20000"])
def test_under_load_nothing_is_lost(serve: Serve, tmp_path: Path, disk: str) -> None:
    if disk == "file":
        disk = f"file:{tmp_path}/disk?size=8M"
    served = serve(disk, "mem:1M")
    outcome: list[dict[str, Any]] = []
    options = {"block_bytes": 4096, "depth": 16, "nr_queues": 2, "nsid": 1, "read_percent": 50}
    options |= {"seed": 1, "nr_ios": 6000, "verify": 1}
    load = threading.Thread(
        target=lambda: outcome.append(perf_run([served.path], "randrw", options))
    )
    load.start()
    until(lambda: served.controller.info().commands > 0, "the load begins")
    moves = 0
    while load.is_alive():
        moves += 1
        served.controller.move(moves % NR_REACTORS)
        assert home(served) == moves % NR_REACTORS
    load.join()
    (result,) = outcome
    assert moves > 2
    assert result["nr_reads"] + result["nr_writes"] == 6000
    assert result["nr_errors"] == 0 and result["nr_verify_errors"] == 0
    assert served.controller.info().commands == 6000
    info = served.namespaces[0].info()
    assert info.reads + info.writes == 6000


def test_with_commands_that_do_not_end_it_stays(serve: Serve) -> None:
    served = serve("mem:1M?delay=1500ms", "mem:1M")
    host = served.connect()
    queue = host.create_queue_pair(1, depth=16)
    cid = queue.submit(nvme.flush(1))
    until(lambda: served.controller.info().inflight == 1, "the flush arrives")
    with pytest.raises(NativeError, match="stays on reactor 0") as caught:
        served.controller.move(1)
    assert caught.value.errno == errno.EBUSY and home(served) == 0
    assert queue.wait(cid).ok
    assert host.command(1, nvme.flush(2)).ok  # it fetches again
    served.controller.move(1)
    assert home(served) == 1
    assert host.command(1, nvme.flush(2)).ok


def test_where_it_is_and_where_nothing_is(serve: Serve) -> None:
    served = serve("mem:1M")
    served.controller.move(0)
    with pytest.raises(NativeError, match="there is no reactor 3"):
        served.controller.move(NR_REACTORS)
    assert home(served) == 0


def test_what_waits_for_tokens_does_not_keep_it_here(serve: Serve) -> None:
    served = serve("mem:1M", reactor=1, limits=Limits(bandwidth=1))
    queue = served.connect().create_queue_pair(1, depth=64)
    with queue.host.alloc(BLOCK) as buffer:
        cids = [queue.submit(nvme.read(1, i, 1), buffer) for i in range(20)]
        until(lambda: served.controller.info().limited.waiting == 19, "they wait")
        served.controller.move(2)
        assert home(served) == 2
        assert all(queue.wait(cid).ok for cid in cids)
        cid = queue.submit(nvme.read(1, 0, 1), buffer)
        until(lambda: served.controller.info().limited.waiting == 1, "it waits there")
        served.controller.set_limits(NO_LIMITS)
        assert queue.wait(cid).ok
