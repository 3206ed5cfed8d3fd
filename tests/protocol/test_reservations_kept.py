"""Reservations that outlive the server, and the file that they share with other things."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests_protocol import BLOCK, PAGE, Serve, dice
from tests_reservations import take

from vhostnvme.testing import NvmeHost, nvme_io
from vhostnvme.testing.nvme_io import Kind
from vhostnvme.testing.server import ServerProcess


@pytest.mark.parametrize("persist", [False, True])
def test_kill_keeps_reservations_that_persist(tmp_path: Path, persist: bool) -> None:
    """As they were acknowledged; those that do not persist are gone after a loss of power."""
    rng = dice("test_kill_keeps_reservations_that_persist")
    path = tmp_path / "d"
    path.write_bytes(bytes(1 << 20))
    key = 0
    kind = 0
    for _ in range(4):
        with (
            ServerProcess([f"file:{path}"], directory=tmp_path) as server,
            NvmeHost.connect(server.socket, memory_bytes=4 << 20) as host,
        ):
            host.enable()
            assert host.identify_namespace(1).raw[31] & 1  # RESCAP: it can persist
            queue = host.create_queue_pair()
            with host.alloc(PAGE) as buffer:
                assert queue.command(buffer.point(nvme_io.report(1, PAGE))).ok
                found = nvme_io.Report.of(buffer.get())
            if persist:
                assert found.kind == kind
                assert [entry.key for entry in found.controllers] == ([key] if key else [])
            else:
                assert not found.controllers and not found.kind
                key = kind = 0
            if not key:
                new = rng.randrange(1, 1 << 64)
                sqe = nvme_io.register(1, 0, persist=3 if persist else 2)
                assert take(queue, sqe, nvme_io.keys(0, new)).ok
                key = new
            else:
                new = rng.randrange(1, 1 << 64)
                assert take(queue, nvme_io.register(1, 2), nvme_io.keys(key, new)).ok
                key = new
            if kind:
                assert take(queue, nvme_io.release(1, 0, kind), nvme_io.keys(key)).ok
                kind = 0
            if rng.random() < 0.8:
                kind = rng.choice(list(Kind))
                assert take(queue, nvme_io.acquire(1, 0, kind), nvme_io.keys(key)).ok
            server.kill()


def test_marks_and_reservations_share_a_file(tmp_path: Path, serve: Serve) -> None:
    path = tmp_path / "d"
    path.write_bytes(bytes(1 << 20))
    served = serve(f"file:{path}")
    queue = served.connect().create_queue_pair()
    assert take(queue, nvme_io.register(1, 0, persist=3), nvme_io.keys(0, 7)).ok
    assert queue.command(nvme_io.write_uncorrectable(1, 3, 2)).ok
    queue.write(3, bytes(BLOCK))
    served.close()
    served = serve(f"file:{path}")
    host = served.connect()
    queue = host.create_queue_pair()
    with host.alloc(PAGE) as buffer:
        assert queue.command(buffer.point(nvme_io.report(1, PAGE))).ok
        assert nvme_io.Report.of(buffer.get()).controllers[0].key == 7
        sqe = nvme_io.get_lba_status(1, 0, 64)
        assert host.admin(sqe, buffer, PAGE).ok
        assert nvme_io.lba_status(buffer.get())[1] == [(4, 1, 3)]
