"""Medians, ratios, order of turns, and which percentiles a number of I/Os can tell."""

from __future__ import annotations

import pytest

from vhostnvme.bench.samples import Case, Load, Results, Sample, percentiles_that_tell, rotated

LOAD = Load("randread", 4096, 32)


def case(name: str, backing: str = "ram", load: Load = LOAD) -> Case:
    return Case("guest", backing, load, name)


def results_of(figures: dict[Case, list[float]]) -> Results:
    results = Results()
    for each, values in figures.items():
        for iops in values:
            results.add(each, Sample(iops, {50.0: 1e6 / iops}, 0.5))
    return results


def test_a_ratio_is_of_medians_to_the_best_peer_of_the_same_load() -> None:
    ours, slow, fast = case("vhostnvme"), case("virtio-blk"), case("qemu nvme")
    elsewhere = case("qemu nvme", backing="disk")
    results = results_of(
        {ours: [90, 300, 120], slow: [50], fast: [100, 1, 100], elsewhere: [10_000]}
    )
    assert results.best_peer(ours) == fast
    assert results.ratio(ours) == pytest.approx(1.2)
    assert results.ratio(fast) is None


def test_ours_are_no_peers_of_each_other() -> None:
    results = results_of({case("vhostnvme"): [1], case("vhostnvme mapped"): [2]})
    assert results.best_peer(case("vhostnvme")) is None
    assert results.ratio(case("vhostnvme")) is None


def test_groups_keep_one_order_whoever_was_first() -> None:
    deeper = Load("randread", 4096, 128)
    results = results_of(
        {
            case("vhostnvme"): [1],
            case("fio"): [1],
            case("fio", load=deeper): [1],
            case("vhostnvme", load=deeper): [1],
        }
    )
    names = [[each.contestant for each in group] for group in results.groups("guest")]
    assert names == [["vhostnvme", "fio"]] * 2


@pytest.mark.parametrize(
    ("nr_ios", "left"),
    [(99, [50.0]), (100, [50.0, 99.0]), (999, [50.0, 99.0]), (10_000, [50.0, 99.0, 99.9, 99.99])],
)
def test_a_percentile_needs_an_io_above_it(nr_ios: int, left: list[float]) -> None:
    known = {50.0: 1.0, 99.0: 2.0, 99.9: 3.0, 99.99: 4.0}
    assert list(percentiles_that_tell(known, nr_ios)) == left


def test_latency_is_a_median_only_when_every_round_can_tell() -> None:
    results, ours = Results(), case("vhostnvme")
    results.add(ours, Sample(1.0, {50.0: 10.0}, 0.5))
    results.add(ours, Sample(1.0, {50.0: 20.0, 99.9: 7.0}, 0.5))
    assert results.latency_us(ours, 50.0) == 15.0
    assert results.latency_us(ours, 99.9) is None
    assert results.percentiles(ours) == [50.0]


def test_the_cpu_ratio_is_to_the_thriftiest_peer_not_the_fastest() -> None:
    results, ours = Results(), case("vhostnvme")
    results.add(ours, Sample(100.0, {}, 2.0))
    results.add(case("virtio-blk"), Sample(900.0, {}, 4.0))
    results.add(case("qemu nvme"), Sample(10.0, {}, 3.0))
    assert results.cpu_ratio(ours) == pytest.approx(1.5)
    assert results.cpu_ratio(case("virtio-blk")) is None


def test_a_polling_load_has_no_cpu_ratio() -> None:
    results, ours = Results(), case("vhostnvme")
    results.add(ours, Sample(100.0, {}, 2.0, 0.5))
    results.add(case("fio"), Sample(100.0, {}, 1.0))
    assert results.cpu_ratio(ours) is None


def test_everyone_is_first_once() -> None:
    firsts = [rotated("abc", turn)[0] for turn in range(3)]
    assert sorted(firsts) == ["a", "b", "c"]
    assert sorted(rotated("abc", 7)) == ["a", "b", "c"]
    assert rotated([], 3) == []
