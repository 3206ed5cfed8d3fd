"""card.toml: its defaults, all of it, and all that can be wrong with it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhostnvme.config import CardConfig, ClusterConfig, SsdConfig, load_card, state_folder
from vhostnvme.errors import ConfigError
from vhostnvme.fabric.address import Address
from vhostnvme.native import Doorbells
from vhostnvme.storage.ssd_health import HealthOptions

FULL = """
[card]
name = "a"
run_dir = "/run/x"
state_dir = "state"
reserve = "1G"
reactors = 2
poll_us = 0
sqpoll = true
pin_memory = true

[[ssd]]
name = "ssd0"
path = "ssds/0"
capacity = "100G"

[[ssd]]
name = "ssd1"
path = "/dev/vdb"
thin = true

[health]
window = "30s"
hang = "2s"
clear = "60s"

[target]
listen = ["0.0.0.0:4420", "[::1]:4420"]
advertise = ["10.0.0.1:4420"]

[cluster]
store = "etcd://10.0.0.1:2379,[::1]:2379"
prefix = "/other/"
ttl = "5s"
contention = "0s"
user = "cards"
password_file = "password"
ca_file = "/etc/ca.pem"
cert_file = "cert.pem"
key_file = "key.pem"

[device]
queues = 8
doorbells = "trapped"
model = "M"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "card.toml"
    path.write_text(text)
    return path


def loaded(folder: Path, text: str) -> CardConfig:
    return load_card(written(folder, text))


def mistakes_in(folder: Path, text: str) -> list[str]:
    path = written(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_card(path)
    return [line.replace(str(path), "card.toml") for line in str(caught.value).splitlines()]


def test_all_of_it(tmp_path: Path) -> None:
    card = loaded(tmp_path, FULL)
    assert (card.name, card.run_dir, card.state_dir) == ("a", Path("/run/x"), tmp_path / "state")
    assert (card.folder, card.control) == (Path("/run/x/a"), Path("/run/x/a/control"))
    assert card.reserve == 1 << 30
    assert (card.runtime.reactors, card.runtime.poll_us) == (2, 0)
    assert card.runtime.sqpoll and card.runtime.pin_memory
    assert card.ssds == (
        SsdConfig(name="ssd0", path=tmp_path / "ssds/0", capacity=100 << 30),
        SsdConfig(name="ssd1", path=Path("/dev/vdb"), thin=True),
    )
    assert card.health == HealthOptions(window_s=30, hang_s=2, clear_s=60)
    assert card.target.listen == (Address("0.0.0.0", 4420), Address("::1", 4420))
    assert card.target.advertise == (Address("10.0.0.1", 4420),)
    assert card.cluster == ClusterConfig(
        store="etcd://10.0.0.1:2379,[::1]:2379",
        prefix="/other/",
        ttl_s=5.0,
        contention_s=0.0,
        user="cards",
        password_file=tmp_path / "password",
        ca_file=Path("/etc/ca.pem"),
        cert_file=tmp_path / "cert.pem",
        key_file=tmp_path / "key.pem",
    )
    access = card.cluster.access
    assert (access.user, access.credentials) == ("cards", tmp_path / "password")
    assert (access.ca, access.cert) == (Path("/etc/ca.pem"), tmp_path / "cert.pem")
    assert access.key == tmp_path / "key.pem"
    assert (card.device.queues, card.device.doorbells) == (8, Doorbells.TRAPPED)
    assert card.device.model == "M"
    assert card.remarks() == []


def test_a_name_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/u/state")
    card = loaded(tmp_path, '[card]\nname = "a"')
    assert card.run_dir == Path("/run/user/1/vhostnvme")
    assert card.state_dir == Path("/home/u/state/vhostnvme/a")
    assert (card.reserve, card.ssds, card.target.listen, card.cluster) == (0, (), (), None)
    assert (card.device.queues, card.device.doorbells) == (0, Doorbells.AUTO)
    assert card.health == HealthOptions(window_s=60, hang_s=5, clear_s=300)
    no_ssd, alone = card.remarks()
    assert "no [[ssd]]" in no_ssd
    assert "no [cluster]" in alone
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert loaded(tmp_path, '[card]\nname = "a"').run_dir == Path("/run/vhostnvme")


def test_a_cluster_without_a_store_has_the_file_of_this_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/home/u/state")
    card = loaded(tmp_path, '[card]\nname = "a"\n[[ssd]]\nname = "s"\npath = "s"\n[cluster]')
    assert card.cluster == ClusterConfig(store="sqlite:///home/u/state/vhostnvme/cluster.db")
    assert card.cluster.prefix == "/vhostnvme/v1/"
    assert (card.cluster.ttl_s, card.cluster.contention_s) == (10.0, 0.5)
    (remark,) = card.remarks()
    assert "gives no space to other cards" in remark


def test_where_state_lies_when_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert state_folder() == Path("/var/lib/vhostnvme")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/u")
    assert state_folder() == Path("/home/u/.local/state/vhostnvme")


@pytest.mark.parametrize(
    ("given", "store"),
    [
        ("sqlite:///x/cluster.db", "sqlite:///x/cluster.db"),
        ("sqlite:cluster.db", "sqlite://FOLDER/cluster.db"),
        ("sqlite://cluster.db", "sqlite://FOLDER/cluster.db"),
        ("etcd://host:2379", "etcd://host:2379"),
        ("etcd://host:2379/", "etcd://host:2379"),
    ],
)
def test_stores(tmp_path: Path, given: str, store: str) -> None:
    card = loaded(tmp_path, f'[card]\nname = "a"\n[cluster]\nstore = "{given}"')
    assert card.cluster is not None
    assert card.cluster.store == store.replace("FOLDER", str(tmp_path))


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    text = """colour = "blue"
[card]
name = "Card A"
rundir = "/run/x"
reserve = "1Q"
poll_us = -1
[[ssd]]
name = "ssd0"
path = "ssd0"
capacity = 5
[[ssd]]
name = "ssd0"
path = "./ssd0"
capacity = "0"
thin = "yes"
[[ssd]]
name = "a/b"
[target]
listen = ["0.0.0.0:4420", "127.0.0.1"]
[cluster]
store = "sqlite:cluster.db"
prefix = "x"
ttl = "10"
contention = "2000s"
user = "u"
[device]
queues = 65
doorbells = "loud"
[health]
hang = "0s"
window = "1s"
"""
    starts = [
        "card.toml:1: colour: is no key of this table",
        "card.toml:3: card.name: 'Card A' is no name of a card: up to 32",
        "card.toml:4: card.rundir: is no key of this table: did you mean 'run_dir'?",
        "card.toml:5: card.reserve: '1Q' is no size: write a whole number",
        "card.toml:6: card.poll_us: must be from 0 to 1000000, not -1",
        'card.toml:10: ssd[1].capacity: must be a text, as in "100G", not a whole number',
        "card.toml:12: ssd[2].name: 'ssd0' is the name of ssd[1] already",
        "card.toml:13: ssd[2].path: " + str(tmp_path / "ssd0") + " is ssd[1] already",
        "card.toml:14: ssd[2].capacity: '0' is no possible size",
        "card.toml:15: ssd[2].thin: must be true or false, not a text",
        "card.toml:16: ssd[3].path: is missing",
        "card.toml:17: ssd[3].name: 'a/b' is no name of a SSD",
        "card.toml:19: target.listen: listens on all addresses",
        "card.toml:19: target.listen[2]: '127.0.0.1' lacks a port",
        "card.toml:22: cluster.prefix: 'x' is no prefix of keys",
        "card.toml:23: cluster.ttl: '10' is no duration",
        "card.toml:24: cluster.contention: must be from 0s to 60s, not 2000s",
        "card.toml:25: cluster.user: is only of a store etcd://",
        "card.toml:27: device.queues: must be from 1 to 64, not 65",
        "card.toml:28: device.doorbells: 'loud' is no kind of doorbells: write one of auto",
        "card.toml:30: health.hang: must be from 1s to 600s, not 0s",
        "card.toml:31: health.window: must be from 15s to 3600s, not 1s",
    ]
    found = mistakes_in(tmp_path, text)
    for start in starts:
        assert sum(line.startswith(start) for line in found) == 1, f"{start}\n{found}"
    assert len(found) == len(starts)
    lines = [int(line.split(":")[1]) for line in found]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "card.toml: card.name: is missing"),
        ('[card]\nname = ""', "'' is no name of a card"),
        ('[card]\nname = "a"\nstate_dir = ""', "card.toml:3: card.state_dir: '' is no path"),
        ('[card]\nname = "a"\nstate_dir = "a\\u0000"', "is no path"),
        (f'[card]\nname = "a"\nrun_dir = "/{"x" * 99}"', "card.toml:3: card.run_dir: is too long"),
        ('[card]\nname = "a"\n[target]\nadvertise = ["h:1"]', "says nothing without listen"),
        (
            '[card]\nname = "a"\n[target]\nlisten = ["[::]:1"]\nadvertise = ["0.0.0.0:1"]',
            "card.toml:5: target.advertise[1]: '0.0.0.0:1' stands for all addresses",
        ),
        ('[card]\nname = "a"\n[cluster]\nstore = "redis://x"', "'redis://x' is no store"),
        ('[card]\nname = "a"\n[cluster]\nstore = "sqlite:"', "'sqlite:' is no store"),
        ('[card]\nname = "a"\n[cluster]\nstore = "etcd://h"', "'h' lacks a port"),
        ('[card]\nname = "a"\n[cluster]\nstore = "etcd://u:p@h:1"', "give user and password_file"),
        (
            '[card]\nname = "a"\n[cluster]\nstore = "etcd://h:1"\ncert_file = "c"\nca_file = "a"',
            "card.toml:5: cluster.cert_file: goes together with key_file, which is missing",
        ),
        (
            '[card]\nname = "a"\n[cluster]\nstore = "etcd://h:1"\nuser = "u"',
            "card.toml:5: cluster.user: goes together with password_file, which is missing",
        ),
        ('[card]\nname = "a"\n[device]\nmodel = "' + "x" * 41 + '"', "device.model: "),
    ],
)
def test_single_mistakes(tmp_path: Path, text: str, sentence: str) -> None:
    (found,) = mistakes_in(tmp_path, text)
    assert sentence in found


def test_what_is_no_table(tmp_path: Path) -> None:
    assert "card.toml:1: card: must be a table, not a text" in mistakes_in(tmp_path, 'card = "a"')


def test_an_ssd_under_two_paths_is_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    text = '[card]\nname = "a"\n'
    text += "".join(f'[[ssd]]\nname = "{name}"\npath = "{name}"\n' for name in ("real", "link"))
    (found,) = mistakes_in(tmp_path, text)
    assert found.startswith("card.toml:8: ssd[2].path: ")


def test_the_documents_example(tmp_path: Path) -> None:
    document = Path(__file__).resolve().parents[2] / "docs" / "cluster.md"
    _, _, rest = document.read_text().partition("```toml\n")
    card = loaded(tmp_path, rest.partition("```")[0])
    assert card.name == "a"
    assert [each.name for each in card.ssds] == ["ssd0"]
    assert card.remarks() == []
