"""The tcp section: its loads, what bare TCP sends in their place, and its table."""

from __future__ import annotations

import pytest
from rich.console import Console

from vhostnvme.bench.record import to_record
from vhostnvme.bench.samples import OURS, Case, Load, Results, Sample
from vhostnvme.bench.tcp import CARDS, LOCAL, SECTION, WIRE, bare_tcp, tcp_loads
from vhostnvme.bench.tcp_report import tcp_table, verdict
from vhostnvme.bench.wire import message_bytes

SMALL, LARGE = Load("randread", 4096, 1), Load("read", 128 << 10, 32)


def sample(iops: float, median_us: float) -> Sample:
    return Sample(iops, {50.0: median_us}, 0.1)


def case(name: str, load: Load = SMALL) -> Case:
    return Case(SECTION, "memory", load, name)


def test_small_ones_at_all_depths_large_ones_not() -> None:
    loads = tcp_loads((1, 32, 128))
    assert Load("randwrite", 4096, 128) in loads
    assert Load("write", 128 << 10, 32) in loads
    assert max(load.depth for load in loads if load.block_size > 4096) == 32


@pytest.mark.parametrize(
    ("rw", "size", "there", "back"),
    [
        ("randread", 4096, 72, 4120),
        ("randwrite", 4096, 4168, 24),
        ("write", 128 << 10, 96 + (128 << 10), 48),
        ("read", 128 << 10, 72, 24 + (128 << 10)),
    ],
)
def test_messages_are_as_long_as_an_io(rw: str, size: int, there: int, back: int) -> None:
    assert message_bytes(rw, size) == (there, back)


@pytest.mark.parametrize(
    ("load", "to_local", "to_wire", "beyond_us", "expected"),
    [
        (SMALL, 0.1, 0.1, 9.9, "ok"),
        (SMALL, 0.9, 0.9, 10.1, "below"),
        (SMALL, 0.9, 0.9, None, ""),
        (Load("randread", 4096, 32), 0.7, 0.1, None, "ok"),
        (Load("randread", 4096, 32), 0.69, 1.0, None, "below"),
        (Load("read", 128 << 10, 1), 0.1, 0.1, 50.0, ""),
        (LARGE, 0.1, 0.9, None, "ok"),
        (LARGE, 0.9, 0.89, None, "below"),
    ],
)
def test_verdicts(
    load: Load, to_local: float, to_wire: float, beyond_us: float | None, expected: str
) -> None:
    assert verdict(case(OURS, load), to_local, to_wire, beyond_us) == expected


def test_the_table_and_the_record_have_the_ratios() -> None:
    results = Results()
    for name, iops, us in ((OURS, 40_000, 25), (CARDS, 20_000, 50), (LOCAL, 100_000, 9)):
        results.add(case(name), sample(iops, us))
    results.add(case(WIRE), sample(50_000, 12))
    console = Console(width=112, record=True, file=None)
    console.print(tcp_table(results))
    shown = console.export_text()
    assert "one card" in shown
    assert "two cards" in shown
    assert "0.40" in shown  # to local
    assert "0.80" in shown  # to bare TCP
    assert "4.0" in shown  # 25 - 9 - 12
    rows = to_record(results, {})["results"]
    assert rows[0]["ratios"] == {LOCAL: 0.4, WIRE: 0.8}
    assert rows[2]["ratios"] == {}


async def test_bare_tcp_is_a_sample_as_others() -> None:
    measured = await bare_tcp(SMALL, seconds=0.2)
    assert measured.iops > 0
    assert 50.0 in measured.latency_us
    assert measured.server_cpu_s_per_10k is not None
