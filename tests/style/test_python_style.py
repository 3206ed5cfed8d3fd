"""The shape of vhostnvme/: the linters, the one door to the C library, headers, and sizes."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PACKAGE = TOP / "vhostnvme"
FILES = sorted(path for path in PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]
LINES_MAX = 400
# Longer than the rule, each for a reason.
LONG_FILES: dict[str, str] = {}


def run_tool(*command: str) -> None:
    done = subprocess.run(
        command, cwd=TOP, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]


def tool(name: str) -> str:
    path = shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/bin")
    assert path is not None, f"{name} is not installed"
    return path


def test_ruff() -> None:
    run_tool(tool("ruff"), "check", "--no-cache", "vhostnvme", "tests", "tools")


@pytest.mark.timeout(300)
def test_mypy() -> None:
    run_tool(tool("mypy"))


@pytest.mark.parametrize("name", NAMES)
def test_only_native_touches_the_library(name: str) -> None:
    if name.startswith("native/"):
        return
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for imported in names:
            assert "_native" not in imported.split("."), f"{name} imports {imported}"
            assert imported.split(".")[0] != "cffi", f"{name} imports cffi"


@pytest.mark.parametrize("name", NAMES)
def test_a_module_opens_by_saying_what_it_is(name: str) -> None:
    assert ast.get_docstring(ast.parse((PACKAGE / name).read_text())), f"{name}: no docstring"


@pytest.mark.parametrize("name", NAMES)
def test_files_have_a_bound(name: str) -> None:
    length = len((PACKAGE / name).read_text().splitlines())
    assert length <= LINES_MAX or name in LONG_FILES, f"{name} has {length} lines"


@pytest.mark.parametrize("name", NAMES)
def test_no_work_is_left_in_comments(name: str) -> None:
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b", (PACKAGE / name).read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_command_line_is_not_imported_by_what_it_calls(name: str) -> None:
    if name.startswith("cli/") or name == "__main__.py":
        return
    assert "vhostnvme.cli" not in (PACKAGE / name).read_text(), f"{name} knows the command line"
