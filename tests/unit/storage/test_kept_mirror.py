"""Decisions about the legs of a mirror that a SPEC names, with the real library beneath."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhostnvme.errors import NativeError
from vhostnvme.native import (
    Controller,
    ControllerOptions,
    LegState,
    NamespaceOptions,
    Runtime,
)
from vhostnvme.storage.disk import open_disk
from vhostnvme.storage.kept_mirror import KeptMirror
from vhostnvme.storage.spec import parse_spec

SIZE = 4 << 20


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime() as running:
        yield running


def spec(folder: Path, *legs: str) -> str:
    each = "&".join(f"leg=file:{folder / leg}?size={SIZE}" for leg in legs)
    return f"mirror:?{each}&bitmap={folder / 'bits'}"


def opened(runtime: Runtime, folder: Path, *legs: str) -> KeptMirror:
    mirror = open_disk(runtime, parse_spec(spec(folder, *legs)))
    assert isinstance(mirror, KeptMirror)
    return mirror


def standings(folder: Path) -> list[str]:
    return [leg["standing"] for leg in json.loads((folder / "bits.legs").read_text())["legs"]]


def states(mirror: KeptMirror) -> list[LegState]:
    return [leg.state for leg in mirror.mirror_info().legs[:2]]


def test_a_leg_is_recorded_before_it_is_out_and_before_it_counts(
    runtime: Runtime, tmp_path: Path
) -> None:
    mirror = opened(runtime, tmp_path, "a", "b")
    with Controller(runtime, ControllerOptions(serial="kept")) as controller:
        controller.attach(mirror, 1)
        mirror.leg_fail(1)
        assert states(mirror) == [LegState.IN_SYNC, LegState.FAILED]
        assert standings(tmp_path) == ["in-sync", "in-sync"]
        assert mirror.decide(0.0) == []
        assert standings(tmp_path) == ["in-sync", "stale"]
        assert states(mirror) == [LegState.IN_SYNC, LegState.OUT]
        assert mirror.decide(0.5) == []  # not at once
        assert mirror.decide(1.5) == [1]
        deadline = time.monotonic() + 10
        while states(mirror)[1] is not LegState.READY:
            if states(mirror)[1] is LegState.OUT:  # it may still have had commands in flight
                asyncio.run(mirror.bring_in(1))
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert standings(tmp_path) == ["in-sync", "stale"]
        assert mirror.decide(2.0) == []
        assert standings(tmp_path) == ["in-sync", "in-sync"]
        assert states(mirror) == [LegState.IN_SYNC, LegState.IN_SYNC]


def test_a_leg_that_is_missing_is_tried_again_ever_more_seldom(
    runtime: Runtime, tmp_path: Path
) -> None:
    opened(runtime, tmp_path, "a", "b").close()
    (tmp_path / "b").unlink()
    mirror = opened(runtime, tmp_path, "a", "b")
    assert mirror.decide(0.0) == []
    assert standings(tmp_path) == ["in-sync", "stale"]
    tries = [number for number in range(120) if mirror.decide(float(number))]
    assert tries == [1, 2, 4, 8, 16, 32, 62, 92]
    asyncio.run(mirror.bring_in(1))
    assert states(mirror)[1] is LegState.OUT
    assert not (tmp_path / "b").exists()


def test_what_the_library_refuses(runtime: Runtime, tmp_path: Path) -> None:
    mirror = opened(runtime, tmp_path, "a", "b")
    with pytest.raises(NativeError, match="has not failed"):
        mirror.leg_out(0)
    with pytest.raises(NativeError, match="is there already"):
        mirror.leg_in(0)
    with pytest.raises(NativeError, match="there is no leg 3"):
        mirror.leg_out(3)
    mirror.leg_fail(1)
    with pytest.raises(NativeError, match="the last"):
        mirror.leg_fail(0)
    mirror.leg_out(1)
    mirror.leg_drop(1)
    assert states(mirror)[1] is LegState.NONE
    small = NamespaceOptions(backend="mem", size=SIZE // 2)
    with pytest.raises(NativeError, match="has 2097152 bytes"):
        mirror.leg_in(1, small, full=True)
    mirror.leg_in(1, NamespaceOptions(backend="mem", size=SIZE), full=True)
    assert states(mirror)[1] is LegState.REBUILDING
    mirror.prefer(1)
    assert mirror.mirror_info().preferred == 1
    with pytest.raises(NativeError, match="is no mirror"):
        type(mirror).leg_out(open_disk(runtime, parse_spec("mem:1M")), 0)  # type: ignore[arg-type]


def test_one_controller_has_it_at_a_time(runtime: Runtime, tmp_path: Path) -> None:
    mirror = opened(runtime, tmp_path, "a", "b")
    with (
        Controller(runtime, ControllerOptions(serial="one")) as one,
        Controller(runtime, ControllerOptions(serial="two")) as two,
    ):
        one.attach(mirror, 1)
        with pytest.raises(NativeError, match="cannot be attached"):
            two.attach(mirror, 1)
        one.detach(1)
        deadline = time.monotonic() + 10
        while True:  # the first one's channel ends by itself
            try:
                two.attach(mirror, 1)
                break
            except NativeError:
                assert time.monotonic() < deadline
                time.sleep(0.005)
