"""The configuration file: all of it, and all that can be wrong with it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhostnvme.errors import ConfigError
from vhostnvme.fabric.address import Address
from vhostnvme.fabric.config import load_config
from vhostnvme.native import AnaState
from vhostnvme.storage.spec import FileSpec

FULL = """
[target]
listen = ["127.0.0.1:4420", "[::1]:4420"]
listen_tls = ["127.0.0.1:4421"]
referrals = ["10.0.0.2:8009"]
connections = 100
half_open = 10
controllers = 50
handshake_ms = 1000

[[subsystem]]
nqn = "nqn.2026-11.org.example:a"
serial = "S1"
model = "M"
queues = 8
queue_entries = 64

[[subsystem.namespace]]
disk = "file:d.img?size=1M"

[[subsystem.namespace]]
nsid = 7
disk = "mem:1M"
ana_group = 2

[[subsystem.host]]
nqn = "nqn.2026-11.org.example:host"
namespaces = [7]
dhchap_key_file = "keys/host"
dhchap_ctrl_key_file = "/keys/ctrl"
tls_psk_file = "keys/psk"

[[subsystem.ana]]
group = 2
state = "non-optimized"
listen = "[::1]:4420"

[[subsystem]]
nqn = "nqn.2026-11.org.example:b"
allow_any_host = true

[[subsystem.namespace]]
disk = "null:1G"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "target.toml"
    path.write_text(text)
    return path


def test_all_of_it(tmp_path: Path) -> None:
    target = load_config(written(tmp_path, FULL))
    assert [(str(each.address), each.tls) for each in target.listeners] == [
        ("127.0.0.1:4420", False),
        ("[::1]:4420", False),
        ("127.0.0.1:4421", True),
    ]
    assert target.referrals[0].address == Address("10.0.0.2", 8009)
    assert (target.limits.connections, target.limits.half_open) == (100, 10)
    assert (target.limits.controllers, target.limits.handshake_ms) == (50, 1000)
    first, second = target.subsystems
    assert (first.serial, first.model, first.queues, first.queue_entries) == ("S1", "M", 8, 64)
    assert [(each.nsid, each.ana_group) for each in first.namespaces] == [(1, 1), (7, 2)]
    disk = first.namespaces[0].disk
    assert isinstance(disk, FileSpec)
    assert disk.path == str(tmp_path / "d.img"), "seen from the file's folder"
    (host,) = first.hosts
    assert host.namespaces == (7,)
    assert host.dhchap_key_file == tmp_path / "keys/host"
    assert host.dhchap_ctrl_key_file == Path("/keys/ctrl")
    assert first.ana[0].state is AnaState.NON_OPTIMIZED
    assert first.ana[0].listener == Address("::1", 4420)
    assert second.any_host
    assert second.hosts == ()


def mistakes_in(folder: Path, text: str) -> list[str]:
    path = written(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}") for line in lines)
    return [line.removeprefix(str(path)).removeprefix(":").lstrip() for line in lines]


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    found = mistakes_in(
        tmp_path,
        """
        colour = "blue"
        [target]
        listen = ["127.0.0.1", 4420]
        conections = 5
        half_open = -1
        handshake_ms = "long"
        [[subsystem]]
        nqn = "a"
        allow_any_host = 1
        [[subsystem.namespace]]
        disk = "tape:1G"
        nsid = true
        [[subsystem.namespace]]
        ana_group = 2
        [[subsystem.namespace]]
        disk = "mem:1M"
        nsid = 300
        [[subsystem.host]]
        nqn = "nqn.2026-11.org.example:h"
        namespaces = ["1"]
        dhchap_ctrl_key_file = "k"
        [[subsystem.ana]]
        group = 1
        state = "good"
        """,
    )
    assert [line.partition(": ")[0] for line in found] == [*map(str, LINES)]
    for start in STARTS:
        keyed = [line.partition(": ")[2] for line in found]
        assert sum(line.startswith(start) for line in keyed) == 1, f"{start}\n{found}"
    assert len(found) == len(STARTS)


LINES = [2, 4, 4, 5, 6, 7, 9, 10, 12, 13, 14, 16, 19, 21, 25]
STARTS = [
    "target.listen[1]: '127.0.0.1' lacks a port",
    "target.listen[2]: must be a text, not a whole number",
    "target.half_open: must be from 1",
    "target.handshake_ms: must be a whole number, not a text",
    "subsystem[1].nqn: 'a' is no NQN",
    "subsystem[1].allow_any_host: must be true or false, not a whole number",
    "subsystem[1].namespace[1].disk: disk 'tape:1G'",
    "subsystem[1].namespace[1].nsid: must be a whole number, not true or false",
    "subsystem[1].namespace[2].disk: is missing",
    "subsystem[1].namespace[3]: a namespace's id must be from 1 to 256",
    "subsystem[1].host[1].namespaces: must be a list of whole numbers",
    "subsystem[1].host[1]: a key of the controller goes",
    "subsystem[1].ana[1].state: 'good' is no ANA state",
    "target.conections: is no key of this table: did you mean 'connections'?",
    "colour: is no key of this table",
]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "addresses to listen on"),
        ('[target]\nlisten = ["[::1]:1"]', "1 to 1024 subsystems, not 0"),
        ("target = 5", "target: must be a table"),
        ("subsystem = [5]", r"subsystem[1]: must be a table"),
        ("[[target]]", "target: must be a table, not a list"),
    ],
)
def test_what_is_no_target(tmp_path: Path, text: str, sentence: str) -> None:
    assert any(sentence in line for line in mistakes_in(tmp_path, text))


def test_what_is_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no TOML"):
        load_config(written(tmp_path, "[target"))
    with pytest.raises(ConfigError, match=r"cannot read .*/nothing: No such file"):
        load_config(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path)


def test_the_documents_example(tmp_path: Path) -> None:
    document = Path(__file__).resolve().parents[3] / "docs" / "fabric.md"
    _, _, rest = document.read_text().partition("```toml\n")
    target = load_config(written(tmp_path, rest.partition("```")[0]))
    assert [each.tls for each in target.listeners] == [False, False, True]
    assert [each.nsid for each in target.subsystems[0].namespaces] == [1, 7]
