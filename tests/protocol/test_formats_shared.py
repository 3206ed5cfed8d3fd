"""Format NVM of a namespace that two controllers of one drive have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_protocol import refused, until

from vhostnvme.native import Controller, ControllerOptions, Drive, DriveOptions, Namespace, Runtime
from vhostnvme.storage.disk import native_options
from vhostnvme.storage.spec import parse_spec
from vhostnvme.testing import NvmeHost, nvme
from vhostnvme.testing.nvme import Status
from vhostnvme.testing.protection import Format, Protected, format_namespace

NOTICE_NS_ATTR = 0x04_00_02
FPI, PERCENT = 32, 0x7F
FORM = Format(1, pi_type=1)


class Pair:
    """Two controllers that have namespace 1, which takes a while to be formatted."""

    def __init__(self, runtime: Runtime, folder: Path, stack: contextlib.ExitStack) -> None:
        options = native_options(parse_spec("mem:128M?delay=20ms"))
        self.namespace = stack.enter_context(Namespace(runtime, options))
        self.drive = stack.enter_context(Drive(runtime, DriveOptions(shared=True)))
        self.controllers = [
            stack.enter_context(
                Controller(runtime, ControllerOptions(serial="TWO", cntlid=id_, drive=self.drive))
            )
            for id_ in (1, 2)
        ]
        self.drive.add_space(self.namespace, 1, shared=True, group=1)
        self.hosts = []
        for number, controller in enumerate(self.controllers):
            controller.attach(self.namespace, 1)
            controller.listen(folder / f"two{number}")
            host = NvmeHost.connect(folder / f"two{number}", memory_bytes=8 << 20)
            self.hosts.append(stack.enter_context(host))
            host.enable()
            host.set_feature(0x0B, 1 << 8)


@pytest.fixture
def pair(runtime: Runtime, tmp_path: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        yield Pair(runtime, tmp_path, stack)


def begin(host: NvmeHost) -> int:
    cid = host.submit(0, nvme.format_nvm(1, FORM.index, settings=FORM.settings))
    until(lambda: 0 < host.identify(0, 1)[FPI] & PERCENT < 100, "the format has begun")
    return cid


def test_the_other_one_waits_and_is_told(pair: Pair) -> None:
    first, second = pair.hosts
    aers = [host.submit_async_event() for host in pair.hosts]
    queue = second.create_queue_pair()
    queue.write(0, bytes(4096))
    cid = begin(first)
    refused(queue.command(nvme.flush(1)), Status.FORMAT_IN_PROGRESS, dnr=False)
    assert second.identify(0, 1)[FPI] & PERCENT > 0
    assert first.wait(0, cid).ok
    assert second.wait_async_event(aers[1]).result == NOTICE_NS_ATTR
    assert int.from_bytes(second.log_page(4, 4096)[:4], "little") == 1
    assert not [done for done in first.poll(0) if done.cid == aers[0]]  # it asked for it
    second.identify_namespace(1)
    assert second.identify(0, 1)[26] == FORM.index
    made = FORM.protect(bytes(512), bytes(8), 5, 9)
    assert Protected(queue, FORM).write(5, bytes(512), made, 7, (5, 9, 0xFFFF)).ok
    other = Protected(first.create_queue_pair(), FORM)
    assert other.read(5, 1, 7, (5, 9, 0xFFFF))[2] == made


def test_it_goes_on_over_the_other_one(pair: Pair) -> None:
    """The controller that began it loses the namespace: its command ends, the format does not."""
    first, second = pair.hosts
    cid = begin(first)
    pair.controllers[0].detach(1)
    until(lambda: second.identify(0, 1)[FPI] & PERCENT == 0, "the format has ended", 10.0)
    assert first.wait(0, cid).ok
    assert second.identify(0, 1)[26] == FORM.index
    assert Protected(second.create_queue_pair(), FORM).read(0, 8)[0].ok


def test_only_one_at_a_time(pair: Pair) -> None:
    first, second = pair.hosts
    cid = begin(first)
    refused(second.admin(nvme.format_nvm(1, 0)), Status.FORMAT_IN_PROGRESS, dnr=False)
    assert first.wait(0, cid).ok
    assert format_namespace(second, Format(0)).ok
