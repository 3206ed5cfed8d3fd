"""A namespace with one leg, as every one is, moves and grows while its guest goes on."""

from __future__ import annotations

import contextlib
import errno
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests_protocol import BLOCK, dice, until
from tests_stamps import Load, Oracle
from tests_tcp import LOCALHOST, TcpServed

from vhostnvme.errors import NativeError
from vhostnvme.native import (
    Controller,
    ControllerOptions,
    LegState,
    Mirror,
    MirrorOptions,
    NamespaceOptions,
    Runtime,
)
from vhostnvme.storage.disk import native_options
from vhostnvme.storage.spec import parse_spec
from vhostnvme.testing import NvmeHost

BLOCKS = 8192  # 4 MiB


class Moved:
    """A mirror with one leg, which moves while `load` goes on: `yield` is a turn of that."""

    def __init__(self, mirror: Mirror, load: Load, end_s: float) -> None:
        self.mirror, self.load, self._end = mirror, load, time.monotonic() + end_s
        self.steps: Iterator[None] = iter(())

    def over(self) -> bool:
        assert time.monotonic() < self._end, f"it does not end: {self.mirror.mirror_info()}"
        return next(self.steps, self) is self

    def some(self, commands: int) -> Iterator[None]:
        until = self.load.oracle.total + commands
        while self.load.oracle.total < until:
            yield

    def patiently(self, call: Callable[[], object], *errors: int) -> Iterator[None]:
        while True:
            try:
                call()
            except NativeError as error:
                if error.errno not in errors:
                    raise
                yield
            else:
                return

    def move(self, old: int, new: int, options: NamespaceOptions) -> Iterator[None]:
        self.mirror.leg_in(new, options, full=True)
        while self.mirror.mirror_info().legs[new].state is not LegState.READY:
            yield
        self.mirror.leg_counts(new)
        yield from self.some(100)
        self.mirror.leg_fail(old)
        yield  # commands are held
        self.mirror.leg_out(old)
        yield from self.patiently(lambda: self.mirror.leg_drop(old), errno.EBUSY)
        yield from self.some(100)

    def grow(self, size: int) -> Iterator[None]:
        yield from self.patiently(lambda: self.mirror.resize(size), errno.EAGAIN)
        oracle = self.load.oracle
        oracle.acknowledged += [0] * (size // BLOCK - oracle.blocks)
        oracle.blocks = size // BLOCK
        yield from self.some(100)


@pytest.mark.timeout(120)
def test_a_namespace_moves_and_grows_under_its_guest(
    runtime: Runtime, sockets: Path, tmp_path: Path
) -> None:
    """To another server, where it becomes larger; and back to another file."""
    size = BLOCKS * BLOCK
    here = native_options(parse_spec(f"file:{tmp_path}/here?size={size}"))
    back = native_options(parse_spec(f"file:{tmp_path}/back?size={2 * size}"))
    giver = TcpServed(runtime, [f"file:{tmp_path}/there?size={size}"])
    remote = f"nvme+tcp://{LOCALHOST}:{giver.address[1]}/{giver.nqn}/1?reconnect=5s"
    leg = MirrorOptions(
        legs=(here,),
        states=(LegState.IN_SYNC,),
        bitmap_path=str(tmp_path / "bits"),
        uuid=uuid.uuid4(),
    )
    oracle = Oracle(BLOCKS)

    def steps() -> Iterator[None]:
        yield from moved.some(100)
        yield from moved.move(0, 1, native_options(parse_spec(remote)))
        with pytest.raises(NativeError, match="resize it there first") as refused:
            mirror.resize(2 * size)
        assert refused.value.errno == errno.EAGAIN
        giver.namespaces[0].resize(2 * size)
        yield from moved.grow(2 * size)
        yield from moved.move(1, 2, back)
        yield from moved.grow(3 * size)

    with (
        contextlib.closing(giver),
        Mirror(runtime, NamespaceOptions(backend="mirror", mirror=leg)) as mirror,
        Controller(runtime, ControllerOptions(serial="moves")) as controller,
    ):
        controller.attach(mirror, 1)
        controller.listen(sockets / "moves")
        with NvmeHost.connect(sockets / "moves", memory_bytes=8 << 20) as host:
            rng = dice("test_a_namespace_moves_and_grows_under_its_guest")
            moved = Moved(mirror, Load(host, oracle, rng, depth=8, reads=0.3), 90.0)
            moved.steps = steps()
            moved.load.start()
            moved.load.run(moved.over)
            until(lambda: (moved.load.poll(), not oracle.inflight)[1], "all have completed", 10.0)
        states = [one.state for one in mirror.mirror_info().legs]
        assert states == [LegState.NONE, LegState.NONE, LegState.IN_SYNC]
    assert oracle.errors == 0
    assert (tmp_path / "back").stat().st_size == 3 * size
    oracle.check((tmp_path / "back").read_bytes())
