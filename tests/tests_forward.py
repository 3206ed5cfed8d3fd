"""What tests of the forwarder share: a scripted target, and a guest's controller before it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests_protocol import Serve, pattern

from vhostnvme.native import Event, EventType
from vhostnvme.testing import Buffer, NvmeHost, QueuePair, nvme
from vhostnvme.testing.nvme import Completion, Sqe
from vhostnvme.testing.nvmetcp_device import SUBNQN
from vhostnvme.testing.nvmetcp_target import ScriptedTarget

PATIENCE_S = 10.0  # for what takes a reconnect


@contextmanager
def behaving_target(ports: int = 1) -> Iterator[ScriptedTarget]:
    """A target that nobody may break the protocol with."""
    with ScriptedTarget(ports=ports) as running:
        yield running
        running.rules.clear()
        assert running.complaints == []


def forward_spec(target: ScriptedTarget, *ports: int, nsid: int = 1, **options: object) -> str:
    """The SPEC of the target's namespace, by these ports or the first."""
    addresses = ["{}:{}".format(*target.address(port)) for port in ports or (0,)]
    settings = {"kato": "500ms", "reconnect": "10s", "timeout": "1s"} | options
    query = [f"{name}={value}" for name, value in settings.items()]
    query += [f"path={address}" for address in addresses[1:]]
    return f"nvme+tcp://{addresses[0]}/{SUBNQN}/{nsid}?{'&'.join(query)}"


class Forwarded:
    """A guest's controller whose namespace is that of a scripted target, with a host on it.

    `attached`: how many of the paths are waited for; all by default.
    """

    def __init__(
        self,
        serve: Serve,
        target: ScriptedTarget,
        *ports: int,
        attached: int | None = None,
        **options: object,
    ) -> None:
        self.target = target
        self.runtime = serve.runtime
        self.runtime.poll_events()
        self._events: list[Event] = []
        self.served = serve(forward_spec(target, *ports, **options))
        self.host: NvmeHost = self.served.connect()
        self.queue: QueuePair = self.host.create_queue_pair(1, depth=256)
        self.attached = [
            self.wait_event(EventType.REMOTE_ATTACHED)
            for _ in range(max(len(ports), 1) if attached is None else attached)
        ]

    # --- Commands that are under way ---

    def submit_write(self, lba: int, data: bytes) -> tuple[int, Buffer]:
        buffer = self.host.alloc(len(data))
        buffer.put(data)
        sqe = nvme.write(1, lba, len(data) // self.queue.block_bytes)
        return self.queue.submit(sqe, buffer), buffer

    def submit_read(self, lba: int, length: int = 4096) -> tuple[int, Buffer]:
        buffer = self.host.alloc(length)
        return self.queue.submit(
            nvme.read(1, lba, length // self.queue.block_bytes), buffer
        ), buffer

    def wait(self, cid: int) -> Completion:
        return self.queue.wait(cid, PATIENCE_S)

    def command(self, sqe: Sqe, data: bytes = b"") -> Completion:
        buffer = self.host.alloc(max(len(data), 4096))
        buffer.put(data)
        return self.wait(self.queue.submit(sqe, buffer))

    def round_trip(self, seed: int = 7, length: int = 16384, lba: int = 0) -> None:
        """A write and a read that must go well, whatever has been."""
        data = pattern(seed, length)
        cid, buffer = self.submit_write(lba, data)
        assert self.wait(cid).ok
        buffer.free()
        cid, buffer = self.submit_read(lba, length)
        assert self.wait(cid).ok and buffer.get(length) == data
        buffer.free()

    # --- Events ---

    def wait_event(self, kind: EventType, timeout: float = PATIENCE_S) -> Event:
        """The next event of this type; others before it are dropped."""
        deadline = time.monotonic() + timeout
        while True:
            while self._events:
                event = self._events.pop(0)
                if event.type is kind:
                    return event
            assert time.monotonic() < deadline, f"no {kind.name} came within {timeout} s"
            self._events += self.runtime.poll_events()
            time.sleep(0.005)


def cut_and_wait(guest: Forwarded) -> None:
    """The connections to the target end, and the forwarder has seen it."""
    guest.target.cut()
    guest.wait_event(EventType.REMOTE_LOST)
