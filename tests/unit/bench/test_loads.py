"""What fio, perf and the guest answer, read; and the words that start them."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from vhostnvme.bench import contestants, host
from vhostnvme.bench.contestants import CONTESTANTS, Disk, make_disks
from vhostnvme.bench.fio import fio_words, parse_fio
from vhostnvme.bench.guest import cpu_per_10k
from vhostnvme.bench.load import sample_of
from vhostnvme.bench.samples import Load
from vhostnvme.errors import GuestError, ProvisionError

LOAD = Load("randwrite", 4096, 32)


def fio_json(*, error: int = 0, total: int = 2000) -> str:
    side = {
        "iops": 1000.5,
        "total_ios": total,
        "lat_ns": {"percentile": {"50.000000": 1500, "99.900000": 9000, "99.990000": 10000}},
    }
    return json.dumps({"jobs": [{"error": error, "read": {}, "write": side}]})


def test_fio_is_read_after_what_it_warns_of() -> None:
    answer = parse_fio("fio: a warning\n" + fio_json(), LOAD)
    assert (answer.iops, answer.nr_ios) == (1000.5, 2000)
    assert answer.latency_us == {50.0: 1.5, 99.9: 9.0}  # 2,000 I/Os tell no p99.99


@pytest.mark.parametrize("output", ["", "{}", fio_json(error=5), fio_json(total=0)])
def test_an_answer_without_ios_is_an_error(output: str) -> None:
    with pytest.raises(GuestError):
        parse_fio(output, LOAD)


def test_fio_takes_fractions_of_seconds() -> None:
    words = fio_words("/dev/x", LOAD, seconds=1.5, ramp_s=0.4)
    assert {"--runtime=1500ms", "--ramp_time=400ms", "--direct=1", "--rw=randwrite"} <= set(words)


def test_perf_is_read_with_the_cpu_time_of_both_sides() -> None:
    latency = {"count": 5000, "p50": 2000, "p90": 0, "p99": 4000, "p99_9": 9000, "p99_99": 1}
    sample = sample_of(
        {
            "iops": 20_000.0,
            "latency_ns": {"all": latency},
            "cpu": {"host_cores": 1.0, "server_cores": 0.5},
        }
    )
    assert sample.cpu_s_per_10k == pytest.approx(0.75)
    assert sample.server_cpu_s_per_10k == pytest.approx(0.25)
    assert sample.latency_us[99.9] == 9.0
    assert 99.99 not in sample.latency_us


def test_cpu_time_is_counted_between_the_marks() -> None:
    assert cpu_per_10k("mark 1000\nfio: a note\nmark 6000\n", [7.0, 8.0]) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("said", "cpu"), [("mark 5\n", [1.0]), ("mark 5\nmark 5\n", [1.0, 2.0]), ("", [])]
)
def test_marks_without_ios_are_an_error(said: str, cpu: list[float]) -> None:
    with pytest.raises(GuestError):
        cpu_per_10k(said, cpu)


@pytest.fixture
def small_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contestants, "DISK_BYTES", 1 << 16)
    monkeypatch.setattr(contestants, "CHUNK_BYTES", 1 << 16)


def disks_of(tmp_path: Path, names: list[str] | None) -> list[Disk]:
    folders = {"ram": tmp_path / "ram", "disk": tmp_path / "disk"}
    for folder in folders.values():
        folder.mkdir()
    return make_disks(folders, names)


@pytest.mark.usefixtures("small_disks")
def test_all_take_part_but_mapped_doorbells(tmp_path: Path) -> None:
    disks = disks_of(tmp_path, None)
    names = {each.name for each in CONTESTANTS} - {"vhostnvme mapped"}
    assert {disk.contestant.name for disk in disks} == names
    assert len({disk.path for disk in disks}) == len({disk.serial for disk in disks}) == len(disks)
    assert all(disk.path.stat().st_size == 1 << 16 for disk in disks)


@pytest.mark.usefixtures("small_disks")
def test_vhost_user_disks_are_told_apart_by_their_place(tmp_path: Path) -> None:
    ram, disk = disks_of(tmp_path, ["vhost-user-blk"])
    assert ram.pci_address != disk.pci_address
    assert f"addr={ram.slot:#x}" in ram.qemu_arguments()[-1]
    assert str(ram.socket) in " ".join(ram.qemu_arguments())
    words = " ".join(ram.daemon_arguments())
    assert f"addr.path={ram.socket}" in words
    assert f"filename={ram.path}" in words
    assert "cache.direct=on" in words


@pytest.mark.usefixtures("small_disks")
def test_only_disks_of_ours_have_no_words_for_qemu(tmp_path: Path) -> None:
    for disk in disks_of(tmp_path, [each.name for each in CONTESTANTS]):
        assert bool(disk.qemu_arguments()) != disk.contestant.is_ours
        assert bool(disk.pci_address) == (disk.contestant.name == "vhost-user-blk")


def test_a_missing_fio_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ProvisionError, match="no fio"):
        host.fio_of_host()


def test_fio_on_the_host_never_makes_a_file_of_its_own(tmp_path: Path) -> None:
    fio = tmp_path / "fio"
    fio.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "assert '--allow_file_create=0' in sys.argv and '--fixedbufs=1' in sys.argv\n"
        f"print({fio_json()!r})\n"
    )
    fio.chmod(0o755)
    path = tmp_path / "disk.img"
    sample = asyncio.run(host.native_fio(str(fio), path, LOAD, 1.0, host.FIXED_WORDS))
    assert sample.iops == 1000.5
    assert sample.server_cpu_s_per_10k is None
