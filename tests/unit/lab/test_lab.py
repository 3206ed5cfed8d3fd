"""A lab of hosts whose cards are stand-ins that only answer. Needs root, and etcd."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_lab import standin_plan, traces

from vhostnvme.errors import ConfigError, LabError
from vhostnvme.lab import Lab, LabPlan, namespaces
from vhostnvme.lab.status import HostStatus


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("standins") / "lab"
    with Lab.up(directory, standin_plan(3, store="etcd")) as made:
        yield made
    assert traces(directory) == []


@pytest.fixture(autouse=True)
def mended(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "lab" in request.fixturenames:
        lab: Lab = request.getfixturevalue("lab")
        lab.heal()
        for host in lab.status():
            if host.state != "running":
                lab.restart(host.name)


def status(lab: Lab, name: str) -> HostStatus:
    return next(host for host in lab.status() if host.name == name)


def reaches_store(lab: Lab, name: str) -> bool:
    """Half a second is enough in a network without a wire."""
    try:
        namespaces.connect(lab.card(name).namespace, "10.77.1.1", 2379, timeout_s=0.5).close()
    except TimeoutError:
        return False
    return True


def test_every_host_runs(lab: Lab) -> None:
    hosts = lab.status()
    assert [host.name for host in hosts] == ["a", "b", "c", "store1"]
    assert [host.kind for host in hosts] == ["card", "card", "card", "store"]
    assert {host.state for host in hosts} == {"running"}
    assert not any(host.cut_off or host.loses_to or host.rate_bits for host in hosts)
    assert lab.store == "etcd://10.77.1.1:2379"
    assert [card.name for card in lab.cards] == ["a", "b", "c"]
    assert lab.card("b").control.is_socket()
    assert all(ssd.is_dir() for ssd in lab.card("b").ssds)
    with pytest.raises(ConfigError, match="there is no card 'store1' in this lab: a, b, c"):
        lab.card("store1")


def test_commands_run_on_their_hosts(lab: Lab) -> None:
    done = lab.run("b", "sh", "-c", 'echo "$VHOSTNVME_CARD"; ip -brief address; exit 5')
    assert done.returncode == 5
    assert str(lab.card("b").control) in done.stdout
    assert "10.77.0.2/16" in done.stdout
    assert lab.run("a", "cat", input="stdin", stdin=None).stdout == "stdin"
    with pytest.raises(LabError, match=r"'sleep 60' on a did not end within 0\.1 s"):
        lab.run("a", "sleep", "60", timeout_s=0.1)
    with pytest.raises(ConfigError, match="there is no host 'd' in this lab: store1, a, b, c"):
        lab.run("d", "true")


def test_a_card_that_is_cut_off_does_not_reach_the_store(lab: Lab) -> None:
    assert reaches_store(lab, "b")
    lab.partition("b")
    assert status(lab, "b").cut_off
    assert not reaches_store(lab, "b")
    assert reaches_store(lab, "a")
    lab.heal("b")
    assert reaches_store(lab, "b")


def test_a_card_is_cut_off_from_one_other(lab: Lab) -> None:
    lab.partition("b", "store")
    assert status(lab, "b").loses_to == ["store1"]
    assert status(lab, "store1").loses_to == ["b"]
    assert not reaches_store(lab, "b")
    assert reaches_store(lab, "a")
    lab.heal()
    assert reaches_store(lab, "b")


def test_one_way(lab: Lab) -> None:
    lab.partition("a", "b", "out")
    assert (status(lab, "a").loses_to, status(lab, "b").loses_to) == (["b"], [])
    lab.heal()
    lab.partition("a", "b", "in")
    assert (status(lab, "a").loses_to, status(lab, "b").loses_to) == ([], ["a"])
    lab.heal()
    lab.partition("a", one_way="out")
    assert status(lab, "a").loses_to == ["store1", "b", "c"]
    lab.heal("a")
    lab.partition("a", one_way="in")
    assert [status(lab, name).loses_to for name in ("b", "c", "store1")] == [["a"]] * 3
    with pytest.raises(ConfigError, match="a cannot be cut off from itself"):
        lab.partition("a", "a")


def test_the_store_is_cut_off(lab: Lab) -> None:
    lab.partition("store")
    assert not reaches_store(lab, "a")


def test_slow(lab: Lab) -> None:
    lab.slow("c", 10_000_000)
    assert status(lab, "c").rate_bits == 10_000_000
    lab.slow("c", None)
    assert status(lab, "c").rate_bits is None
    with pytest.raises(ConfigError, match="a rate is from"):
        lab.slow("c", 1)


def test_killed_and_started_again(lab: Lab) -> None:
    before = status(lab, "b").pid
    lab.kill("b")
    lab.kill("b")
    assert status(lab, "b").state == "ended"
    with pytest.raises(LabError, match="b does not run: `lab restart b` starts it"):
        lab.freeze("b")
    lab.restart("b")
    assert status(lab, "b").state == "running"
    assert status(lab, "b").pid != before
    assert "goodbye" not in lab.card("b").log.read_text()


def test_stopped_and_restarted(lab: Lab) -> None:
    lab.stop("c")
    assert status(lab, "c").state == "ended"
    assert lab.card("c").log.read_text() == "goodbye\n"
    lab.restart("c")
    lab.restart("c")  # which stops it first
    assert lab.card("c").log.read_text() == "goodbye\n" * 2


def test_frozen_and_thawed(lab: Lab) -> None:
    lab.freeze("a")
    assert status(lab, "a").state == "frozen"
    lab.thaw("a")
    assert status(lab, "a").state == "running"


def test_the_store_is_killed_and_started_again(lab: Lab) -> None:
    lab.kill("store")
    assert status(lab, "store1").state == "ended"
    lab.restart("store")
    assert reaches_store(lab, "a")


def test_there_is_one_lab_in_a_folder(lab: Lab) -> None:
    with pytest.raises(LabError, match=r"a lab of 3 cards is up in .*: `vhostnvme lab down` first"):
        Lab.up(lab.layout.directory, standin_plan(1))
    assert {host.state for host in lab.status()} == {"running"}


def test_another_process_sees_the_same_lab(lab: Lab) -> None:
    other = Lab.open(lab.layout.directory)
    other.kill("a")
    assert status(lab, "a").state == "ended"
    lab.restart("a")
    assert status(other, "a") == status(lab, "a")


def test_what_still_lives_on_a_host_goes_with_the_lab(tmp_path: Path) -> None:
    with Lab.up(tmp_path / "lab", standin_plan(1)) as lab:
        stays = lab.popen("a", "env", "-i", "sleep", "600", start_new_session=True)
        lab.freeze("a")
    assert stays.wait(10) == -signal.SIGTERM
    assert traces(tmp_path / "lab") == []


def test_a_store_of_three_servers(tmp_path: Path) -> None:
    with Lab.up(tmp_path / "lab", standin_plan(1, store="etcd", etcd=3)) as lab:
        assert [host.name for host in lab.status()] == ["a", "store1", "store2", "store3"]
        lab.kill("store2")
        lab.restart("store2")
    assert traces(tmp_path / "lab") == []


def test_a_store_that_is_a_file_is_no_host(tmp_path: Path) -> None:
    with Lab.up(tmp_path / "lab", standin_plan(1)) as lab:
        assert lab.store_is_a_file
        assert lab.store == f"sqlite://{tmp_path}/lab/store/cluster.db"
        for act in (lab.kill, lab.partition, lab.restart):
            with pytest.raises(ConfigError, match="the store of this lab is a file"):
                act("store")


def test_a_card_that_does_not_start_leaves_nothing(tmp_path: Path) -> None:
    plan = LabPlan(cards=2, card_command=lambda _: ["sh", "-c", "echo no such SSD; exit 3"])
    with pytest.raises(LabError, match="a ended at its start: no such SSD"):
        Lab.up(tmp_path / "lab", plan)
    assert traces(tmp_path / "lab") == []


def test_a_card_that_never_answers_leaves_nothing(tmp_path: Path) -> None:
    plan = LabPlan(cards=1, card_command=lambda _: ["sleep", "600"], ready_s=0.2)
    with pytest.raises(LabError, match=r"a does not answer within 0\.2 s: its log is empty"):
        Lab.up(tmp_path / "lab", plan)
    assert traces(tmp_path / "lab") == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"cards": 0}, "from 1 to 50 cards"),
        ({"cards": 51}, "from 1 to 50 cards"),
        ({"store": "paper"}, "sqlite or etcd, not 'paper'"),
        ({"store": "etcd", "etcd": 4}, "etcd has from 1 to 3 servers"),
        ({"ssds": 0}, "from 1 to 16 SSDs"),
        ({"ssd_size": 1}, "at least 1048576 bytes"),
    ],
)
def test_a_plan_that_cannot_be(tmp_path: Path, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Lab.up(tmp_path / "lab", LabPlan(**options))  # type: ignore[arg-type]
    assert [*tmp_path.iterdir()] == []


def test_no_lab_is_up(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no lab is up in"):
        Lab.open(tmp_path)
    assert not Lab.remove(tmp_path)
    assert traces(tmp_path / "lab") == []
