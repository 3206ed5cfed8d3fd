"""Documents: links lead somewhere, tests that they name exist, and no mirror is named."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")])
NAMES = [str(path.relative_to(TOP)) for path in DOCUMENTS]
# Reserved for documentation, or a name that any machine has.
OPEN_HOSTS = re.compile(r"localhost|127\.0\.0\.1|10\.0\.\d+\.\d+|0\.0\.0\.0|[\w.-]*example\.\w+")


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files"], cwd=TOP, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [TOP / name for name in done.stdout.splitlines() if (TOP / name).is_file()]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    path = TOP / name
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target or target.startswith("#"):
            continue
        assert (path.parent / target.partition("#")[0]).exists(), f"{name}: {target} is not there"


@pytest.mark.parametrize("name", NAMES)
def test_paths_in_documents_exist(name: str) -> None:
    text = (TOP / name).read_text()
    for path in re.findall(
        r"`((?:csrc|vhostnvme|tests|tools|docs|images|qemu-configs)/[\w./-]+)`", text
    ):
        assert (TOP / path).exists(), f"{name}: {path} is not there"


@pytest.mark.parametrize("name", NAMES)
def test_named_tests_exist(name: str) -> None:
    text = (TOP / name).read_text()
    for path, test in re.findall(r"`(tests/[\w./-]+\.py)::(\w+)`", text):
        assert re.search(rf"def {test}\b", (TOP / path).read_text()), f"{name}: {path}::{test}"


def test_no_mirror_is_named() -> None:
    """Addresses of package mirrors and registries belong to the machine, not to the project."""
    for path in tracked_files():
        text = path.read_text(errors="replace")
        for host in re.findall(r"https?://([^/\s\"'`<>{}:)]+)", text):
            if OPEN_HOSTS.fullmatch(host) or "$" in host:
                continue
            assert "mirror" not in host, f"{path}: {host}"
            assert "registry" not in host, f"{path}: {host}"
