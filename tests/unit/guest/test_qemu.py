"""QEMU's command line, and what is said about a binary that will not do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vhostnvme.errors import ProvisionError
from vhostnvme.guest.qemu import (
    BootFiles,
    MachineOptions,
    QemuBinary,
    Wiring,
    command_line,
    vfio_user_device,
)

FILES = BootFiles(Path("/k"), Path("/i"))
QEMU = QemuBinary(("qemu",), (Path("/fw"),))


def words(options: MachineOptions) -> list[str]:
    return command_line(QEMU, FILES, options, Wiring(qmp=3, agent=4, console=5))


def values(line: list[str], option: str) -> list[str]:
    return [line[at + 1] for at, word in enumerate(line) if word == option]


def test_memory_is_shared() -> None:
    line = words(MachineOptions(memory="3G"))
    assert values(line, "-object") == ["memory-backend-memfd,id=mem,share=on,size=3G"]
    assert values(line, "-m") == ["3G"]
    assert "memory-backend=mem" in values(line, "-machine")[0]


def test_disks_are_attached_in_order() -> None:
    line = words(MachineOptions(disks=(Path("/a b/cntrl"), Path('/c"d/cntrl'))))
    devices = [json.loads(word) for word in values(line, "-device") if word.startswith("{")]
    assert [device["socket"]["path"] for device in devices] == ["/a b/cntrl", '/c"d/cntrl']
    assert all(device["driver"] == "vfio-user-pci" for device in devices)


def test_properties_keep_their_types() -> None:
    device = json.loads(vfio_user_device("/s", **{"x-no-posted-writes": True, "bootindex": 1})[1])
    assert device["x-no-posted-writes"] is True
    assert device["bootindex"] == 1


def test_network_can_be_left_out() -> None:
    assert values(words(MachineOptions()), "-netdev")
    line = words(MachineOptions(network=False))
    assert not values(line, "-netdev")
    assert "vhostnvme.net=on" not in values(line, "-append")[0]


def test_accelerators() -> None:
    assert values(words(MachineOptions()), "-accel") == ["tcg,thread=multi"]
    line = words(MachineOptions(accel="kvm"))
    assert (values(line, "-accel"), values(line, "-cpu")) == (["kvm"], ["host"])


def test_extra_arguments_come_last() -> None:
    assert words(MachineOptions(extra=("-snapshot",)))[-1] == "-snapshot"


def fake_qemu(folder: Path, devices: str, version: str = "7.2.22") -> Path:
    path = folder / "qemu-system-x86_64"
    path.write_text(
        f'#!/bin/sh\ncase $1 in\n--version) echo "QEMU emulator version {version}";;\n'
        f"-device) echo 'name \"{devices}\", bus PCI';;\nesac\n"
    )
    path.chmod(0o755)
    return path


def test_a_new_enough_qemu(tmp_path: Path) -> None:
    found = QemuBinary.probe([str(fake_qemu(tmp_path, "vfio-user-pci", "10.1.0"))])
    assert found.version == "10.1.0"


def test_too_old_a_qemu_is_told_with_its_version(tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match=r"QEMU 7\.2\.22 .* 10\.1 or newer is needed"):
        QemuBinary.probe([str(fake_qemu(tmp_path, "nvme"))])


def test_no_qemu() -> None:
    with pytest.raises(ProvisionError, match="cannot be run"):
        QemuBinary.probe(["/nowhere/qemu"])
