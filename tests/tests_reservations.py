"""What the tests of reservations share: hosts with controllers of their own on one namespace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests_protocol import PAGE

from vhostnvme.native import (
    Controller,
    ControllerOptions,
    Drive,
    DriveOptions,
    Namespace,
    Runtime,
)
from vhostnvme.storage.disk import native_options
from vhostnvme.storage.spec import parse_spec
from vhostnvme.testing import NvmeHost, QueuePair, nvme, nvme_io
from vhostnvme.testing.nvme import Completion, Sqe

HOLDER, REGISTRANT, OUTSIDER = 0, 1, 2


class Party:
    """A host with a controller of its own."""

    def __init__(self, number: int, controller: Controller, path: Path) -> None:
        self.number = number
        self.key = 0x11 * (number + 1)
        self.controller = controller
        self.host = NvmeHost.connect(path, memory_bytes=8 << 20)
        self.start()

    def start(self) -> None:
        self.host.enable()
        self.queue: QueuePair = self.host.create_queue_pair(1, depth=64)

    def identify_as(self, identifier: bytes) -> Completion:
        extended = int(len(identifier) == 16)
        with self.host.alloc(PAGE) as buffer:
            buffer.put(identifier)
            sqe = nvme.set_features(nvme_io.HOST_IDENTIFIER, extended)
            return self.host.admin(sqe, buffer, PAGE)

    def send(self, sqe: Sqe, data: bytes = b"") -> Completion:
        with self.host.alloc(PAGE) as buffer:
            buffer.put(data)
            return self.queue.command(buffer.point(sqe, PAGE))

    def register(
        self, action: int = 0, key: int | None = None, *, persist: int = 0, flags: int = 0
    ) -> Completion:
        sqe = nvme_io.register(1, action, persist=persist, flags=flags)
        return self.send(sqe, nvme_io.keys(self.key, self.key if key is None else key))

    def acquire(self, kind: int, action: int = 0, theirs: int = 0) -> Completion:
        return self.send(nvme_io.acquire(1, action, kind), nvme_io.keys(self.key, theirs))

    def release(self, kind: int, action: int = 0) -> Completion:
        return self.send(nvme_io.release(1, action, kind), nvme_io.keys(self.key))

    def report(self, *, extended: bool = False) -> nvme_io.Report:
        with self.host.alloc(PAGE) as buffer:
            sqe = buffer.point(nvme_io.report(1, PAGE, extended=extended))
            assert self.queue.command(sqe).ok
            return nvme_io.Report.of(buffer.get(), extended=extended)

    def notice(self, *, retain: bool = False) -> tuple[int, int, int, int]:
        """Count, type, how many more, NSID."""
        page = self.host.log_page(nvme_io.RESERVATION_LOG, 64, rae=retain)
        count = int.from_bytes(page[:8], "little")
        return count, page[8], page[9], int.from_bytes(page[12:16], "little")


class Parties(list[Party]):
    """Hosts that share namespace 1."""

    drive: Drive
    namespace: Namespace


@contextlib.contextmanager
def opened(runtime: Runtime, folder: Path, spec: str, count: int) -> Iterator[Parties]:
    with contextlib.ExitStack() as stack:
        parties = Parties()
        parties.drive = stack.enter_context(Drive(runtime, DriveOptions(shared=True)))
        namespace = Namespace(runtime, native_options(parse_spec(spec)))
        parties.namespace = stack.enter_context(namespace)
        parties.drive.add_space(namespace, 1, shared=True)
        for number in range(count):
            options = ControllerOptions(serial="shared", cntlid=number + 1, drive=parties.drive)
            controller = stack.enter_context(Controller(runtime, options))
            controller.attach(namespace, 1)
            path = folder / f"r{id(parties)}-{number}"
            controller.listen(path)
            party = Party(number, controller, path)
            stack.callback(party.host.close)
            parties.append(party)
        try:
            yield parties
        finally:
            for party in parties:
                party.host.close()


def reserve(parties: Parties, kind: int) -> None:
    for party in parties[:2]:
        assert party.register().ok
    assert parties[HOLDER].acquire(kind).ok


def take(queue: QueuePair, sqe: Sqe, data: bytes) -> Completion:
    with queue.host.alloc(PAGE) as buffer:
        buffer.put(data)
        return queue.command(buffer.point(sqe, PAGE))
