"""Public test suites in the guest, as judges of the device: they fail nothing, and skip nothing but
what docs/nvme.md says and why.

nvme-cli's own tests come from Debian's source package. Others are dropped in: each folder in the
folder $VHOSTNVME_SUITES that has an executable `run` (images/README.md).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from tests_guest import GuestRig
from tests_nvme_table import lines_of

from vhostnvme.emulation.ssd import SsdSetup
from vhostnvme.guest.extras import GuestFolder, extended, package_source
from vhostnvme.guest.provision import provision
from vhostnvme.storage.ssd_folder import SsdSpec

HERE = Path(__file__).parent
SUITES = os.environ.get("VHOSTNVME_SUITES")
DROPPED_IN = sorted(path.parent for path in Path(SUITES).glob("*/run")) if SUITES else []
PACKAGES = ("bash", "coreutils", "fio", "gawk", "nvme-cli", "pciutils", "python3", "util-linux")
CAPACITY = 64 << 20
TEST_S = 200
NAMESPACES = 16  # that the drive can have: a test of nvme-cli's makes, uses and deletes them all

pytestmark = pytest.mark.timeout(1800 if DROPPED_IN else 600)


def excused() -> dict[str, str]:
    """What the document has of tests that do not pass: their reasons."""
    return {name.strip("`"): why for name, why in lines_of("Test suites")}


@pytest.fixture(scope="module")
def judged(disk_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestRig]:
    """A guest whose one controller, of a managed drive, is theirs; with the suites in /root."""
    tests = package_source("nvme-cli") / "tests"
    folders = [
        GuestFolder(tests, PurePosixPath("/root/nvme-cli/tests")),
        GuestFolder(HERE / "judges", PurePosixPath("/root/judges")),
        *(GuestFolder(suite, PurePosixPath("/root") / suite.name) for suite in DROPPED_IN),
    ]
    artifacts = extended(
        provision(),
        tmp_path_factory.mktemp("image"),
        folders=folders,
        packages=PACKAGES if DROPPED_IN else ["python3"],
    )
    drive = SsdSetup(
        ssd=SsdSpec(folder=disk_folder / "judged", capacity=CAPACITY, max_namespaces=NAMESPACES)
    )
    with GuestRig({}, drives={"JUDGED": drive}, artifacts=artifacts) as running:
        yield running


def outcomes(rig: GuestRig, modules: list[str]) -> list[dict[str, Any]]:
    """Runs modules of nvme-cli's tests; what became of each test."""
    config = {
        "controller": rig.controller("JUDGED"),
        "ns1": rig.controller("JUDGED") + "n1",
        "log_dir": "logs",
    }
    rig.run(f"echo '{json.dumps(config)}' >/root/nvme-cli/tests/config.json")
    command = f"python3 /root/judges/run_unittests.py tests {TEST_S} {' '.join(modules)}"
    said = rig.run(f"cd /root/nvme-cli && {command}", timeout=1400).stdout
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert lines, said
    return lines


def test_nvme_cli(judged: GuestRig) -> None:
    modules = sorted(
        path.stem for path in (package_source("nvme-cli") / "tests").glob("nvme_*_test.py")
    )
    modules.remove("nvme_simple_template_test")
    results = outcomes(judged, modules)
    for result in results:
        print(f"{result['outcome']:8} {result['seconds']:6} s  {result['name']}")  # noqa: T201
    known = excused()
    bad = {
        result["name"]: f"{result['outcome']}: {result['detail']}"
        for result in results
        if result["outcome"] != "passed" and result["name"] not in known
    }
    assert not bad, "\n\n".join(f"{name}: {why}" for name, why in bad.items())
    assert len(results) >= len(modules)


if DROPPED_IN:

    @pytest.mark.parametrize("suite", DROPPED_IN, ids=lambda suite: suite.name)
    def test_dropped_in(judged: GuestRig, suite: Path) -> None:
        judged.node("JUDGED")
        done = judged.run(f"cd /root/{suite.name} && ./run", timeout=1400, check=False)
        print(done.stdout)  # noqa: T201
        assert done.exit_code == 0, (done.stdout + done.stderr)[-6000:]
