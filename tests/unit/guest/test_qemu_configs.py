"""Every file in qemu-configs/ is taken by the QEMU that is used here."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from vhostnvme.guest.accel import die_with_parent
from vhostnvme.guest.provision import provision

FOLDER = Path(__file__).resolve().parents[3] / "qemu-configs"
CONFIGS = sorted(path.name for path in FOLDER.glob("*.cfg"))
QMP = b"".join(
    b'{"execute": "%s"}\n' % name for name in (b"qmp_capabilities", b"query-memdev", b"quit")
)


@pytest.mark.guest
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CONFIGS)
def test_qemu_takes_the_file(name: str) -> None:
    hugepages = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    if "hugepages" in name and int(hugepages.read_text()) < 512:
        # QEMU then gets as far as the memory, and says so.
        assert b"memory-backend-memfd" in start(name).stderr or b"memory" in start(name).stderr
        return
    done = start(name)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    memory = answers[2]["return"]
    assert [(entry["id"], entry["share"], entry["size"]) for entry in memory] == [
        ("mem", True, 1 << 30)
    ]


def start(name: str) -> subprocess.CompletedProcess[bytes]:
    command = [*provision().qemu.start(), "-nodefaults", "-display", "none", "-S"]
    return subprocess.run(
        [*command, "-readconfig", str(FOLDER / name), "-qmp", "stdio"],
        input=QMP,
        capture_output=True,
        timeout=60,
        check=False,
        preexec_fn=die_with_parent,
    )


def test_the_libvirt_snippet_shares_memory_and_names_the_device() -> None:
    domain = ElementTree.parse(FOLDER / "libvirt.xml").getroot()
    access = domain.find("memoryBacking/access")
    assert access is not None
    assert access.get("mode") == "shared"
    arguments = [
        element.get("value", "") for element in domain.iter() if element.tag.endswith("arg")
    ]
    assert arguments[0] == "-device"
    assert json.loads(arguments[1])["driver"] == "vfio-user-pci"
