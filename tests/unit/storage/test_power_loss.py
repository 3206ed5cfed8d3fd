"""The power fails at any step: what the file system has by then put on its device is enough.

After each step the image behind the file system is copied, as the medium would be found. The copy
is mounted, which recovers the file system, and looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

import pytest
from tests_crash import Steps
from tests_storage import FIRST, MIB, SECOND, THIRD, make_image, mounted, names_in, opened, run

from vhostnvme.storage.catalog import Catalog, Row
from vhostnvme.storage.ssd import Ssd

# Nothing is written back by itself within the test.
OPTIONS = {"ext4": "loop,commit=600", "xfs": "loop"}
SIZE = 2 * MIB


class Machine:
    """A file system, and copies of its medium."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        self._folder = folder
        self._image = make_image(folder / "image", kind)
        self._copies: list[Path] = []

    def copy(self) -> None:
        copy = self._folder / f"copy{len(self._copies)}"
        run("cp", "--sparse=always", self._image, copy)
        self._copies.append(copy)

    def running(self) -> AbstractContextManager[Path]:
        return mounted(self._image, self._folder / "running", OPTIONS[self.kind])

    def after_each(self) -> Iterator[Path]:
        """What is found after each loss of power, the oldest first."""
        for copy in self._copies:
            options = "loop,nouuid" if self.kind == "xfs" else "loop"
            with mounted(copy, self._folder / "found", options) as folder:
                yield folder
            copy.unlink()
        self._copies.clear()


@pytest.fixture(params=["ext4", "xfs"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    return Machine(tmp_path, request.param)


def sizes_after_repair(folder: Path) -> dict[str, int]:
    with opened(folder) as ssd:
        for found in ssd.found()[0]:
            if not found.whole:
                ssd.destroy(found.uuid)
        sizes = {found.uuid: found.size for found in ssd.found()[0]}
        assert ssd.state().allocated == sum(sizes.values())
        names = [name for name in names_in(folder) if name != "lost+found"]
        assert names == [".vhostnvme-ssd.json", *(f"{uuid}.ns" for uuid in sizes)]
    return sizes


def lose_power_in(machine: Machine, change: Callable[[Ssd], None]) -> list[dict[str, int]]:
    """What there is after each step of a change to an SSD that has FIRST and SECOND."""
    with machine.running() as folder, opened(folder) as ssd:
        for uuid in (FIRST, SECOND):
            ssd.carve(uuid, SIZE)
        with (folder / f"{FIRST}.ns").open("r+b") as file:
            file.write(b"a" * SIZE)
            os.fsync(file.fileno())
        machine.copy()
        steps = Steps(after=machine.copy)
        with steps.counted():
            change(ssd)
        assert steps.names
    found = []
    for folder in machine.after_each():
        with opened(folder) as ssd:
            whole = all(one.whole for one in ssd.found()[0])
        sizes = sizes_after_repair(folder)
        assert (folder / f"{FIRST}.ns").read_bytes() == b"a" * SIZE
        for uuid in sizes.keys() - {FIRST}:
            assert not any((folder / f"{uuid}.ns").read_bytes())
        assert sizes.pop(FIRST) == SIZE
        found.append(sizes)
    assert whole, "something was left to be done when all had been done"
    return found


def test_making(machine: Machine) -> None:
    found = lose_power_in(machine, lambda ssd: ssd.carve(THIRD, 2 * SIZE))
    before, after = {SECOND: SIZE}, {SECOND: SIZE, THIRD: 2 * SIZE}
    assert all(sizes in (before, after) for sizes in found)
    assert (found[0], found[-1]) == (before, after)


def test_deleting(machine: Machine) -> None:
    found = lose_power_in(machine, lambda ssd: ssd.destroy(SECOND))
    assert all(sizes in ({SECOND: SIZE}, {}) for sizes in found)
    assert (found[0], found[-1]) == ({SECOND: SIZE}, {})


@pytest.mark.parametrize("new", [2 * SIZE, SIZE // 2])
def test_resizing(machine: Machine, new: int) -> None:
    found = lose_power_in(machine, lambda ssd: ssd.resize(SECOND, new))
    assert all(min(SIZE, new) <= sizes[SECOND] <= max(SIZE, new) for sizes in found)
    assert (found[0], found[-1]) == ({SECOND: SIZE}, {SECOND: new})


def test_a_new_ssd(machine: Machine) -> None:
    with machine.running() as folder:
        steps = Steps(after=machine.copy)
        with steps.counted(), opened(folder) as ssd:
            uuid = ssd.uuid
            machine.copy()
    uuids = []
    for folder in machine.after_each():
        with opened(folder) as ssd:
            assert ssd.found() == ([], [])
            uuids.append(ssd.uuid)
    assert uuids[-1] == uuid


class Number(Row, frozen=True):
    TABLE: ClassVar[str] = "numbers"

    number: int

    def key(self) -> str:
        return f"{self.number:03}"


def test_the_catalog_keeps_what_it_has_acknowledged(machine: Machine) -> None:
    with machine.running() as folder, Catalog(folder / "card", [Number]) as catalog:
        for number in range(8):
            catalog.write(Number(number))
            machine.copy()
        uuid = catalog.card_uuid
    for acknowledged, folder in enumerate(machine.after_each(), 1):
        with Catalog(folder / "card", [Number]) as catalog:
            assert catalog.card_uuid == uuid
            assert [row.number for row in catalog.all(Number)] == list(range(acknowledged))
