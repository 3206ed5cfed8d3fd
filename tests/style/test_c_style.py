"""The shape of csrc/: who may include whom, file headers, and sizes."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
CSRC = TOP / "csrc"
FILES = sorted(CSRC.rglob("*.[ch]"))
NAMES = [str(path.relative_to(CSRC)) for path in FILES]

# What a room may include besides itself and core/.
ROOMS: dict[str, set[str]] = {
    "core": set(),
    "backend": {"include/vhostnvme.h"},  # for its plain option structs
    "ns": {"backend", "include/vhostnvme.h"},
    "ctrl": {"ns"},
    "guest": {"ctrl"},
    "nvmetcp": set(),
    "nvmetcp, the door": {"ctrl", "ns/ns.h"},
    "host": {"include/vhostnvme_host.h"},
    "include": set(),
}
# core/event.c and the door speak the event structs of the public header.
PUBLIC_HEADER_USERS = {"core", "ctrl", "guest", "nvmetcp", "nvmetcp, the door"}
# Both ends of NVMe/TCP share a room: its door is the target; the forwarder is over its host.
DOOR_OF_NVMETCP = re.compile(r"nvmetcp/(target|subsys)\w*\.[ch]")
FORWARDER = re.compile(r"backend/forward\w*\.[ch]")
# What the load generator and the forwarder know of each other is one header of plain terms.
BRIDGES = {"backend/forward_perf.c": {"host/perf_bridge.h"}}
API = {"api.c", "api.h", "api_drive.c", "api_fabric.c", "api_mirror.c"}
HOST_MAY_USE_OF_CORE = {"core/nvme.h"}

LINES_MAX = 600
FUNCTION_LINES_MAX = 70
# Longer than the rule, each for a reason.
LONG_FILES: dict[str, str] = {}


def includes(path: Path) -> list[str]:
    """The quoted includes of a file, as paths below csrc/."""
    found = re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(), re.MULTILINE)
    result = []
    for name in found:
        for base in (CSRC, CSRC / "include", path.parent):
            if (base / name).is_file():
                result.append(str((base / name).resolve().relative_to(CSRC)))
                break
        else:
            result.append(name)
    return result


@pytest.mark.parametrize("name", NAMES)
def test_includes_go_one_way(name: str) -> None:
    room = folder = name.split("/")[0]
    if name in API:
        return
    if DOOR_OF_NVMETCP.fullmatch(name):
        room = "nvmetcp, the door"
    allowed = ROOMS[room] | ({"nvmetcp"} if FORWARDER.fullmatch(name) else set())
    allowed = allowed | BRIDGES.get(name, set())
    for included in includes(CSRC / name):
        target = included.split("/")[0]
        if DOOR_OF_NVMETCP.fullmatch(included):
            assert room == "nvmetcp, the door", f"{name} may not include it"
        if target == folder or (target == "core" and room != "host"):
            continue
        if room == "host" and included in HOST_MAY_USE_OF_CORE:
            continue
        if included == "include/vhostnvme.h" and room in PUBLIC_HEADER_USERS:
            continue
        assert included in allowed or target in allowed, f"{name} may not include {included}"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_opens_by_saying_what_it_owns(name: str) -> None:
    text = (CSRC / name).read_text()
    assert text.startswith("/* "), f"{name}: no opening comment"
    comment = text[: text.index("*/")]
    assert len(comment.splitlines()) <= 24, f"{name}: the opening comment is an essay"


@pytest.mark.parametrize("name", NAMES)
def test_lines_and_files_have_a_bound(name: str) -> None:
    lines = (CSRC / name).read_text().splitlines()
    long = [number for number, line in enumerate(lines, 1) if len(line) > 132]
    assert not long, f"{name}: lines of more than 132 characters: {long}"
    assert len(lines) <= LINES_MAX or name in LONG_FILES, f"{name} has {len(lines)} lines"


def test_long_functions_are_reported() -> None:
    for path in FILES:
        for match in re.finditer(r"^[a-z][^\n]*\) \{$.*?^\}$", path.read_text(), re.M | re.S):
            if (length := match[0].count("\n") + 1) > FUNCTION_LINES_MAX:
                head = match[0].splitlines()[0]
                warnings.warn(f"{path.name}: {length} lines: {head}", stacklevel=1)


def test_exceptions_are_still_needed() -> None:
    for name in LONG_FILES:
        assert len((CSRC / name).read_text().splitlines()) > LINES_MAX, f"{name} needs no exception"


@pytest.mark.parametrize("name", NAMES)
def test_no_work_is_left_in_comments(name: str) -> None:
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", (CSRC / name).read_text())
