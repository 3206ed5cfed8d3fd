"""What a benchmark leaves: tables, bench.json and pictures, from made-up samples."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vhostnvme.bench import plots, record, report
from vhostnvme.bench.host import loads_of
from vhostnvme.bench.report import TARGETS
from vhostnvme.bench.run import BenchOptions
from vhostnvme.bench.samples import Case, Load, Results, Sample
from vhostnvme.cli.bench import numbers, words
from vhostnvme.errors import ConfigError

ABOUT: dict[str, Any] = {
    "machine": {
        "cpu": "a processor",
        "cores": 2,
        "kernel": "6.1",
        "accel": "tcg",
        "versions": {"fio": "fio-3.33", "qemu": None},
    },
    "disturbance": {
        "guest": {"others_cores": 0.75, "stolen_cores": 0.0},
        "host": {"others_cores": 0.01, "stolen_cores": 0.0},
    },
}


@pytest.fixture
def results() -> Results:
    made = Results()
    latency = {50.0: 20.0, 90.0: 25.0, 99.0: 150.0, 99.9: 900.0}
    for depth in (1, 32):
        for backing in ("disk", "ram"):
            load = Load("randread", 4096, depth)
            for name, iops in (("vhostnvme", 1400.0 * depth), ("virtio-blk", 1000.0 * depth)):
                made.add(Case("guest", backing, load, name), Sample(iops, latency, 2.0))
    for load in loads_of((1, 32)):
        made.add(Case("host", "disk", load, "vhostnvme"), Sample(800.0, latency, 0.4, 0.1))
        made.add(Case("host", "disk", load, "fio"), Sample(1000.0, {50.0: 9.0}, 0.2))
        made.add(Case("engine", "memory", load, "vhostnvme null"), Sample(2e6, latency, 0.1, 0.1))
    for count in (1, 2, 64):
        for name in ("vhostnvme, 1 reactor", "vhostnvme, 2 reactors"):
            load = Load("randread", 4096, 8, count)
            made.add(Case("scaling", "null", load, name), Sample(1e5 * count, latency, 0.1, 0.05))
    return made


def test_the_tables_have_ratios_and_verdicts(results: Results) -> None:
    out = io.StringIO()
    report.show(results, ABOUT, Console(file=out, width=80))
    text = out.getvalue()
    lines = text.splitlines()
    assert any("1.40" in line and "goal" in line and "virtio-blk" in line for line in lines)
    assert any("0.80" in line and "below" in line and "fio" in line for line in lines)
    assert any(line.split()[:1] == ["64"] and "6,400,000" in line for line in lines)
    assert "guest: others took 0.75 cores" in text
    assert "host: others" not in text
    assert "None" not in text


def test_a_target_has_three_verdicts() -> None:
    assert [str(TARGETS["guest"].verdict(ratio)) for ratio in (0.99, 1.0, 1.3)] == [
        "below",
        "bar",
        "goal",
    ]
    assert str(TARGETS["host"].verdict(7.0)) == "bar"


def test_the_record_can_be_read_back(results: Results, tmp_path: Path) -> None:
    made = record.to_record(results, ABOUT)
    record.write(made, tmp_path / "bench.json")
    read = json.loads((tmp_path / "bench.json").read_text())
    assert read == made
    assert record.from_record(read) == results
    first = read["results"][0]
    assert first["ratio"] == pytest.approx(1.4)
    assert first["best_peer"] == "virtio-blk"
    assert first["latency_us"]["99.9"] == 900.0
    assert (read["schema"], read["schema_version"]) == ("vhostnvme-bench", 1)


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema": "vhostnvme-bench", "schema_version": 0}'])
def test_another_file_is_no_record(text: str) -> None:
    with pytest.raises(ConfigError, match=r"no bench\.json"):
        record.from_record(json.loads(text))


def test_every_picture_is_drawn(results: Results, tmp_path: Path) -> None:
    paths = plots.draw_all(results, ABOUT["machine"], tmp_path)
    assert [path.name for path in paths] == [
        "bench-iops.png",
        "bench-cpu.png",
        "bench-latency-1.png",
        "bench-latency-32.png",
        "bench-scaling.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_ours_and_peers_never_look_the_same() -> None:
    names = ["vhostnvme", "vhostnvme mapped", "a", "b", "c", "d", "e"]
    styles = plots._styles(names, lambda name: name.startswith("vhostnvme"))
    looks = {(style["color"], style["marker"]) for style in styles.values()}
    assert len(looks) == len(names)


def test_each_nine_has_the_same_room() -> None:
    steps = [plots.nines(each) for each in (90, 99, 99.9, 99.99)]
    assert steps == pytest.approx([1, 2, 3, 4])


def test_options_that_cannot_be_are_told(tmp_path: Path) -> None:
    for wrong in (
        {"sections": ("gest",)},
        {"patterns": ("randreed",)},
        {"backings": ("tape",)},
        {"contestants": ("virtio",)},
        {"depths": (0,)},
    ):
        with pytest.raises(ConfigError):
            BenchOptions(output=tmp_path, **wrong)  # type: ignore[arg-type]


def test_depths_are_of_all_sections_or_of_each_its_own(tmp_path: Path) -> None:
    own = BenchOptions(output=tmp_path)
    assert {load.depth for load in own.guest_loads} == {1, 32}
    assert {load.depth for load in own.host_loads} == {1, 32, 128}
    given = BenchOptions(output=tmp_path, depths=(4,))
    assert {load.depth for load in [*given.guest_loads, *given.host_loads]} == {4}


def test_lists_are_read_with_and_without_blanks() -> None:
    assert words("qemu nvme, virtio-blk") == ("qemu nvme", "virtio-blk")
    assert numbers("1, 32") == (1, 32)
