"""What is on the hosts of a lab: files and commands."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest
from tests_lab import standin_plan

from vhostnvme.config import load_card
from vhostnvme.errors import LabError
from vhostnvme.lab import LabPlan, hosts
from vhostnvme.lab.plan import layout_of


def test_the_configuration_is_one_of_a_card(tmp_path: Path) -> None:
    layout = layout_of(tmp_path)
    times = {"ttl_us": 2_500_000, "replace_after_us": 4_000_000}
    plan = LabPlan(cards=2, ssds=2, ssd_size=3 << 30, reserve=1 << 30, **times)
    host = plan.hosts(layout.lab)[1]
    hosts.make_card(layout, plan, host, hosts.store_uri(layout, plan, []))
    card = load_card(layout.config("b"))
    assert card.name == "b"
    assert card.control == layout.control("b")
    assert card.state_dir == tmp_path / "b" / "state"
    assert card.reserve == 1 << 30
    assert [ssd.path for ssd in card.ssds] == [tmp_path / "b" / "ssd0", tmp_path / "b" / "ssd1"]
    assert all(ssd.path.is_dir() and ssd.capacity == 3 << 30 for ssd in card.ssds)
    assert [str(address) for address in card.target.listen] == ["10.77.0.2:4420"]
    assert card.cluster is not None
    assert card.cluster.store == f"sqlite://{tmp_path}/store/cluster.db"
    assert card.cluster.ttl_s == 2.5
    assert card.recovery.replace_after_s == 4.0
    with pytest.raises(LabError, match="cannot make the folder of card b"):
        hosts.make_card(layout, plan, host, "")


def test_a_card_has_devices_in_place_of_folders(tmp_path: Path) -> None:
    layout = layout_of(tmp_path)
    plan = LabPlan(cards=2, devices={"b": [Path("/dev/loop3"), Path("/dev/loop4")]})
    for host in plan.hosts(layout.lab):
        hosts.make_card(layout, plan, host, "sqlite:///store")
    table = tomllib.loads(layout.config("b").read_text())
    assert table["ssd"] == [
        {"name": "ssd0", "path": "/dev/loop3"},
        {"name": "ssd1", "path": "/dev/loop4"},
    ]
    assert [each.name for each in load_card(layout.config("a")).ssds] == ["ssd0"]
    assert not (layout.host_directory("b") / "ssd0").exists()


def test_what_is_not_said_is_the_cards_default(tmp_path: Path) -> None:
    layout = layout_of(tmp_path)
    plan = LabPlan(cards=1, store="etcd", etcd=3)
    *stores, host = plan.hosts(layout.lab)
    hosts.make_card(layout, plan, host, hosts.store_uri(layout, plan, stores))
    table = tomllib.loads(layout.config("a").read_text())
    assert "reserve" not in table["card"]
    assert table["cluster"] == {"store": "etcd://10.77.1.1:2379,10.77.1.2:2379,10.77.1.3:2379"}


def test_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted"\\ näme'
    folder.mkdir()
    layout = layout_of(folder)
    plan = LabPlan(cards=1)
    hosts.make_card(layout, plan, plan.hosts(layout.lab)[0], "sqlite:///x")
    assert load_card(layout.config("a")).state_dir == folder / "a" / "state"


def test_sockets_have_short_paths(tmp_path: Path) -> None:
    layout = layout_of(tmp_path / ("long" * 30))
    assert len(str(layout.control("a"))) < 40


def test_the_environment_names_the_card_and_our_programs(tmp_path: Path) -> None:
    layout = layout_of(tmp_path)
    store, card = LabPlan(cards=1, store="etcd").hosts(layout.lab)
    of_card = hosts.environment(layout, card)
    assert of_card["VHOSTNVME_CARD"] == str(layout.control("a"))
    assert of_card["VHOSTNVME_LAB"] == str(tmp_path)
    assert of_card["PATH"].startswith(f"{Path(sys.executable).parent}:")
    assert "VHOSTNVME_CARD" not in hosts.environment(layout, store)


def test_nobody_answers_where_nobody_is(tmp_path: Path) -> None:
    layout = layout_of(tmp_path)
    host = standin_plan(1).hosts(layout.lab)[0]
    assert not hosts.card_answers(layout, host)
    assert not hosts.card_sees(layout, host, ["a"])


def test_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert hosts.last_words(log) == "it has no log"
    log.write_text("\n")
    assert hosts.last_words(log) == "its log is empty"
    log.write_text("x" * 10_000 + "\nthe end\n\n")
    assert hosts.last_words(log) == "the end"
