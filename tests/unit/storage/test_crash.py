"""An SSD whose card ends at any step: what is found then is right, and can be repaired."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from tests_crash import cuts
from tests_storage import FIRST, MIB, SECOND, file_of, file_system, names_in, opened

from vhostnvme.errors import NativeError, NoSpace
from vhostnvme.storage.spec import FileSpec
from vhostnvme.storage.ssd import Ssd
from vhostnvme.storage.ssd_directory import DirectorySsd

CHUNK = 4 * MIB


@pytest.fixture(params=["directory", "block"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A new SSD with FIRST, of a chunk of a's."""
    with file_system("tmpfs", tmp_path) as memory:
        place = file_of(memory, 32 * MIB) if request.param == "block" else memory
        prepare(place)
        yield place


def prepare(place: Path) -> None:
    with opened(place) as ssd:
        ssd.carve(FIRST, CHUNK)
        fill(ssd, FIRST, CHUNK, b"a")
        ssd.carve(SECOND, 4 * CHUNK)  # what it leaves there is not to be seen again
        fill(ssd, SECOND, 4 * CHUNK, b"z")
        ssd.destroy(SECOND)


def read(ssd: Ssd, uuid: str, size: int) -> bytes:
    disk = ssd.disk(uuid, size)
    assert isinstance(disk, FileSpec)
    with Path(disk.path).open("rb") as file:
        file.seek(disk.offset or 0)
        return file.read(size)


def fill(ssd: Ssd, uuid: str, size: int, letter: bytes) -> None:
    disk = ssd.disk(uuid, size)
    assert isinstance(disk, FileSpec)
    with Path(disk.path).open("r+b") as file:
        file.seek(disk.offset or 0)
        file.write(letter * size)
        os.fsync(file.fileno())


def repaired(ssd: Ssd) -> dict[str, int]:
    """As a card does when it starts: what is not whole is taken away. Answers the rest."""
    for found in ssd.found()[0]:
        if not found.whole:
            ssd.destroy(found.uuid)
    rest, strangers = ssd.found()
    assert strangers == []
    assert all(found.whole for found in rest)
    sizes = {found.uuid: found.size for found in rest}
    assert ssd.state().allocated == sum(sizes.values())
    if isinstance(ssd, DirectorySsd):
        expected = [".vhostnvme-ssd.json", *(f"{uuid}.ns" for uuid in sizes)]
        assert names_in(ssd.path) == sorted(expected)
    if FIRST in sizes:
        assert read(ssd, FIRST, CHUNK) == b"a" * CHUNK
    return sizes


@pytest.mark.parametrize("kind", ["directory", "block"])
def test_a_new_ssd(tmp_path: Path, kind: str) -> None:
    for number, steps in enumerate(cuts()):
        place = tmp_path / str(number)
        if kind == "block":
            file_of(tmp_path, 32 * MIB, place.name)
        else:
            place.mkdir()
        with steps.counted():
            opened(place).close()
        with opened(place) as ssd:
            assert ssd.state().healthy
            assert ssd.found() == ([], [])
            uuid = ssd.uuid
        with opened(place) as ssd:
            assert ssd.uuid == uuid


def test_making(place: Path) -> None:
    for steps in cuts():
        with opened(place) as ssd, steps.counted():
            ssd.carve(SECOND, 2 * CHUNK)
        with opened(place) as ssd:
            sizes = repaired(ssd)
            assert sizes == {FIRST: CHUNK} or sizes == {FIRST: CHUNK, SECOND: 2 * CHUNK}
            assert steps.cut or SECOND in sizes
            ssd.carve(SECOND, 2 * CHUNK)
            assert read(ssd, SECOND, 2 * CHUNK) == bytes(2 * CHUNK)
            fill(ssd, SECOND, 2 * CHUNK, b"z")
            ssd.destroy(SECOND)


def test_deleting(place: Path) -> None:
    for steps in cuts():
        with opened(place) as ssd:
            ssd.carve(SECOND, CHUNK)
            fill(ssd, SECOND, CHUNK, b"b")
            with steps.counted():
                ssd.destroy(SECOND)
        with opened(place) as ssd:
            sizes = repaired(ssd)
            assert sizes == {FIRST: CHUNK} or (steps.cut and sizes[SECOND] == CHUNK)
            if SECOND in sizes:
                assert read(ssd, SECOND, CHUNK) == b"b" * CHUNK
            ssd.destroy(SECOND)
            assert repaired(ssd) == {FIRST: CHUNK}


@pytest.mark.parametrize("new", [3 * CHUNK, CHUNK])
def test_resizing(place: Path, new: int) -> None:
    old = 2 * CHUNK
    for steps in cuts():
        with opened(place) as ssd:
            ssd.carve(SECOND, old)
            fill(ssd, SECOND, old, b"b")
            with steps.counted():
                ssd.resize(SECOND, new)
        with opened(place) as ssd:
            size = repaired(ssd)[SECOND]
            assert min(old, new) <= size <= max(old, new)
            assert steps.cut or size == new
            for _ in "ab":
                kept = min(size, old)
                assert read(ssd, SECOND, size) == b"b" * kept + bytes(size - kept)
                ssd.resize(SECOND, new)
                size = new
            fill(ssd, SECOND, new, b"z")
            ssd.destroy(SECOND)


def test_cloning(tmp_path: Path) -> None:
    with file_system("xfs", tmp_path) as place:
        prepare(place)
        for steps in cuts():
            with opened(place) as ssd, steps.counted():
                ssd.clone(FIRST, SECOND)
            with opened(place) as ssd:
                sizes = repaired(ssd)
                assert sizes == {FIRST: CHUNK} or sizes == {FIRST: CHUNK, SECOND: CHUNK}
                assert steps.cut or SECOND in sizes
                ssd.clone(FIRST, SECOND)
                assert read(ssd, SECOND, CHUNK) == b"a" * CHUNK
                ssd.destroy(SECOND)


def test_a_write_of_the_table_that_fails_is_not_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have got there all the same; what is done next must count, and not it."""
    place = file_of(tmp_path, 32 * MIB)
    real = os.fdatasync

    def fail(fd: int) -> None:
        real(fd)
        raise OSError(5, os.strerror(5))

    with opened(place) as ssd:
        ssd.carve(FIRST, CHUNK)
        for _ in "abc":
            with monkeypatch.context() as patch:
                patch.setattr(os, "fdatasync", fail)
                with pytest.raises(NativeError, match="Input/output error; check the medium"):
                    ssd.destroy(FIRST)
            assert [found.uuid for found in ssd.found()[0]] == [FIRST]
        ssd.carve(SECOND, CHUNK)
    with opened(place) as ssd:
        assert [found.uuid for found in ssd.found()[0]] == [FIRST, SECOND]


# Sizes in chunks; 0: it is deleted.
CHANGES = [(FIRST, 1), (FIRST, 2), (FIRST, 0), (SECOND, 1), (SECOND, 3), (SECOND, 0)]


def change(ssd: Ssd, uuid: str, chunks: int) -> None:
    """Makes, resizes or deletes; without room nothing."""
    try:
        if not chunks:
            ssd.destroy(uuid)
        elif uuid in sizes_of(ssd):
            ssd.resize(uuid, chunks * CHUNK)
        else:
            ssd.carve(uuid, chunks * CHUNK)
    except NoSpace:
        pass


def sizes_of(ssd: Ssd) -> dict[str, int]:
    found, _strangers = ssd.found()
    assert all(one.whole for one in found)
    return {one.uuid: one.size // CHUNK for one in found}


def tables_in(place: Path) -> bytes:
    with place.open("rb") as file:
        return file.read(CHUNK)


def put_back(place: Path, tables: bytes) -> None:
    with place.open("r+b") as file:
        file.write(tables)


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with file_system("tmpfs", tmp_path_factory.mktemp("memory")) as folder:
        yield folder


@pytest.mark.parametrize("first", CHANGES)
def test_every_short_history_of_a_device(
    memory: Path, monkeypatch: pytest.MonkeyPatch, first: tuple[str, int]
) -> None:
    """Cut off at every step of its third change: the table is the one before it or after it."""
    monkeypatch.setattr("vhostnvme.storage.ssd_block._WRITE_BYTES", CHUNK)
    place = file_of(memory, 20 * MIB)
    opened(place).close()
    fresh = tables_in(place)
    for second, third in product(CHANGES, repeat=2):
        put_back(place, fresh)
        with opened(place) as ssd:
            change(ssd, *first)
            change(ssd, *second)
        start = tables_in(place)
        for steps in cuts(grain=32):  # as small as an entry: these tables are within a sector
            put_back(place, start)
            with opened(place) as ssd:
                before = sizes_of(ssd)
                with steps.counted():
                    change(ssd, *third)
                if not steps.names:
                    break  # there was no room, or nothing to delete
            with opened(place) as ssd:
                rest = {uuid: size for uuid, size in before.items() if uuid != third[0]}
                after = {**rest, third[0]: third[1]} if third[1] else rest
                assert sizes_of(ssd) == after or (steps.cut and sizes_of(ssd) == before)
                change(ssd, *third)
                assert sizes_of(ssd) == after


# Says what it is about to do, and that it has done it.
WORKER = """
import sys
from pathlib import Path
from tests_storage import MIB, SECOND, opened
with opened(Path(sys.argv[1])) as ssd:
    for number in range(100_000):
        print("make", flush=True)
        ssd.carve(SECOND, 4 * MIB)
        print("made", flush=True)
        ssd.resize(SECOND, 8 * MIB)
        print("delete", flush=True)
        ssd.destroy(SECOND)
        print("deleted", flush=True)
"""


@pytest.mark.parametrize("lines", [1, 2, 3, 4, 5, 10, 23])
def test_kill_at_any_time(place: Path, lines: int) -> None:
    tests = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", WORKER, str(place)]
    env = {**os.environ, "PYTHONPATH": tests}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as worker:
        assert worker.stdout is not None
        said = [worker.stdout.readline().strip() for _ in range(lines)]
        worker.kill()
        said += [line.strip() for line in worker.stdout]
    with opened(place) as ssd:
        sizes = repaired(ssd)
        assert sizes.pop(FIRST) == CHUNK
        if said[-1] == "deleted":
            assert sizes == {} or sizes == {SECOND: CHUNK}
        elif said[-1] == "made":
            assert CHUNK <= sizes[SECOND] <= 2 * CHUNK
        ssd.destroy(SECOND)
        assert repaired(ssd) == {FIRST: CHUNK}
