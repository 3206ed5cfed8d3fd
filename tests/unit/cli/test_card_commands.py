"""The commands on a card, against two that run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vhostnvme.cli.main import run
from vhostnvme.control.paths import CARD_VARIABLE
from vhostnvme.testing.cards import CardPlan, Cards

Capture = pytest.CaptureFixture[str]

MIB = 1 << 20
COLUMNS = 100


@pytest.fixture(scope="module")
def cards() -> Iterator[Cards]:
    with Cards(2, CardPlan(ssd_bytes=64 * MIB, contention_s=0.0)) as running:
        yield running


@pytest.fixture(autouse=True)
def card_a(cards: Cards, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CARD_VARIABLE, str(cards["a"].control))
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


class Shell:
    """Runs commands in this process."""

    def __init__(self, capsys: Capture) -> None:
        self._capsys = capsys

    def json(self, *words: str) -> Any:
        assert run([*words, "--json"]) == 0, self._capsys.readouterr().err
        output = self._capsys.readouterr().out
        assert output.count("\n") == 1
        return json.loads(output)

    def text(self, *words: str) -> str:
        assert run(list(words)) == 0, self._capsys.readouterr().err
        return self._capsys.readouterr().out

    def fails(self, code: int, *words: str) -> str:
        assert run(list(words)) == code
        return self._capsys.readouterr().err


@pytest.fixture
def shell(capsys: Capture) -> Shell:
    return Shell(capsys)


@pytest.fixture
def vm(shell: Shell) -> Iterator[str]:
    """A VM that is deleted at the end."""
    name = "vm1"
    yield name
    run(["vm", "delete", name])


def test_a_device_lives_where_it_shall(shell: Shell, cards: Cards, vm: str) -> None:
    made = shell.json("device", "create", "--vm", vm, "--size", "8M", "--size", "4M@remote")
    assert list(made) == ["device", "vm", "card", "socket", "qemu_args", "namespaces"]
    assert (made["vm"], made["card"]) == (vm, "a")
    assert Path(made["socket"]).is_socket()
    assert made["socket"].endswith("/cntrl")
    assert made["socket"] in made["qemu_args"][1]
    local, remote = made["namespaces"]
    assert list(local) == ["nsid", "uuid", "size", "card", "ssd", "placement"]
    assert (local["nsid"], local["size"], local["card"]) == (1, 8 * MIB, "a")
    assert (local["placement"], local["ssd"]) == ("local", "ssd0")
    assert (remote["nsid"], remote["size"], remote["card"]) == (2, 4 * MIB, "b")
    assert (remote["placement"], remote["ssd"]) == ("remote", "ssd0")
    (listed,) = shell.json("device", "list", "--vm", vm)
    assert made.items() <= listed.items()
    assert listed["state"] == "listening"
    assert listed == shell.json("device", "show", made["device"])
    assert [each["uuid"] for each in shell.json("namespace", "list", "--vm", vm)] == [
        local["uuid"],
        remote["uuid"],
    ]
    (given,) = shell.json("namespace", "list", "--card", str(cards["b"].control))
    assert (given["owner"], given["uuid"], given["card"]) == ("a", remote["uuid"], "b")
    (own,) = shell.json("ssd", "list")
    (other,) = shell.json("--card", str(cards["b"].control.parent), "ssd", "list")
    assert (own["local"], own["remote"], own["used"]) == (8 * MIB, 0, 8 * MIB)
    assert (other["local"], other["remote"], other["free"]) == (0, 4 * MIB, 60 * MIB)
    (known,) = shell.json("vm", "list")
    assert known == {
        "vm": vm, "card": "a", "devices": 1, "namespaces": 2, "local": 8 * MIB, "remote": 4 * MIB,
    }  # fmt: skip
    a, b = shell.json("cluster", "status")
    assert (a["card"], a["self"], a["health"], b["card"], b["self"]) == (
        "a",
        True,
        "online",
        "b",
        False,
    )
    (held,) = a["holds"]
    assert (held["uuid"], held["card"], held["vm"]) == (remote["uuid"], "b", vm)
    assert b["holds"] == []


def test_deletions_are_safe_to_repeat(shell: Shell, cards: Cards, vm: str) -> None:
    shell.json("device", "create", "--vm", vm, "--size", "4M@remote", "--name", "d1")
    added = shell.json("namespace", "create", "--device", "d1", "--size", "8K", "--placement", "b")
    assert (added["nsid"], added["card"], added["device"]) == (2, "b", "d1")
    deleted = shell.json("namespace", "delete", added["uuid"][:8])
    assert (deleted["namespaces"], deleted["already"]) == ([added["uuid"]], False)
    assert shell.json("namespace", "delete", added["uuid"])["already"]
    assert "1 device and 1 namespace" in shell.text("device", "delete", "d1")
    assert "nothing to delete" in shell.text("device", "delete", "d1")
    assert shell.json("device", "delete", "d1")["already"]
    for name in "ab":
        (ssd,) = shell.json("ssd", "list", "--card", str(cards[name].control))
        assert (ssd["used"], ssd["free"]) == (0, 64 * MIB)


def test_a_namespace_for_later(shell: Shell, vm: str) -> None:
    made = shell.json("namespace", "create", "--vm", vm, "--size", "1M", "--ssd", "ssd0")
    assert (made["device"], made["nsid"], made["state"]) == ("", None, "held")
    uuid = made["uuid"]
    assert shell.json("namespace", "resize", uuid, "--size", "2M")["size"] == 2 * MIB
    shell.json("device", "create", "--vm", vm, "--size", "4K", "--block", "4096", "--name", "d2")
    attached = shell.json("namespace", "attach", uuid, "--device", "d2")
    assert (attached["device"], attached["nsid"]) == ("d2", 2)
    assert shell.json("namespace", "list", "--device", "d2")[0]["block_size"] == 4096
    deleted = shell.json("vm", "delete", vm)
    assert deleted["devices"] == ["d2"]
    assert uuid in deleted["namespaces"]


def test_for_people(shell: Shell, vm: str) -> None:
    made = shell.text(
        "device", "create", "--vm", vm, "--size", "4M", "--size", "1048576@b", "--name", "d3"
    )
    for part in (
        "device d3 of VM vm1",
        "4M on a/ssd0 (local)",
        "1M on b/ssd0 (remote)",
        "share=on",
    ):
        assert part in made
    assert "vfio-user-pci" in made
    for words, parts in (
        (["device", "list"], ["d3", "5M", "a/ssd0, b/ssd0", "listening"]),
        (["device", "show", "d3"], ["serial number", "namespace 2"]),
        (["namespace", "list"], ["4M", "b/ssd0", "held"]),
        (["ssd", "list"], ["directory", "64M", "60M"]),
        (["vm", "list"], ["vm1", "4M", "1M"]),
        (["cluster", "status"], ["a (this)", "online", "1 namespace on other cards"]),
        (["card", "status"], ["card a: a member of sqlite:///", "1 SSD, 1 device, 2 namespaces"]),
    ):
        text = shell.text(*words)
        for part in parts:
            assert part in text, (words, text)
        if "list" in words or "cluster" in words:
            assert all(len(line) <= COLUMNS for line in text.splitlines()), text


@pytest.mark.parametrize(
    ("code", "words", "sentence"),
    [
        (1, "device create --vm v --size 10G", "no space for a namespace of 10G"),
        (1, "device create --vm v --size 10G --wait 0.3", "no space for a namespace of 10G"),
        (1, "device create --vm v --size 4K --size 1T@b", "no space"),
        (1, "cluster forget b", "'b' is online"),
        (1, "device adopt d --from b", "'b' is online"),
        (1, "--card /not/there ssd list", "no server answers on control socket /not/there"),
        (2, "device create --vm v --size 4K@c", "no card 'c'"),
        (2, "device create --vm v --size 4K --placement c", "no card 'c'"),
        (2, "device create --vm v --size 0", "no possible size"),
        (2, "device create --vm v --size -4K", "expected one argument"),
        (2, "device create --vm v --size 4K@", "no placement behind its @"),
        (2, "device create --vm v --size 1000", "no multiple of 4096"),
        (2, "device create --vm v/w --size 4K", "no name of a VM"),
        (2, "device create --vm v --size 4K --priority 101", "from 0 to 100"),
        (2, "device create --size 4K", "--vm"),
        (2, "device show d9", "no device 'd9'"),
        (2, "device delete d9", "no device 'd9'"),
        (2, "vm delete v9", "no VM 'v9'"),
        (2, "namespace delete 12345678", "no namespace '12345678'"),
        (2, "namespace create --vm v --size 4K --ssd s9", "no SSD 's9'"),
        (2, "namespace create --vm v --device d --size 4K", "not allowed with"),
        (2, "namespace create --vm v --size 4K --wait 1", "go with --device"),
        (2, "namespace create --device d --size 4K --ssd s", "--ssd goes with --vm"),
        (2, "namespace create --device d9 --size 4K", "no device 'd9'"),
        (2, "cluster forget c", "no other card 'c'"),
        (2, "cluster forget a", "no other card 'a'"),
        (2, "--card z ssd list", "no card 'z' runs here"),
        (2, "ssd", "VERB"),
        (2, "ssd lst", "invalid choice"),
        (2, "--card", "expected one argument"),
    ],
)
def test_what_cannot_be(shell: Shell, cards: Cards, code: int, words: str, sentence: str) -> None:
    error = shell.fails(code, *words.split())
    assert sentence in error
    if not error.startswith("usage:"):
        assert error.count("\n") == 1
    cards.wait(lambda: shell.json("namespace", "list") == [], "nothing half-done is left")


def test_a_name_is_taken_once(shell: Shell, vm: str) -> None:
    shell.json("device", "create", "--vm", vm, "--size", "4K", "--name", "d4")
    words = ("device", "create", "--vm", vm, "--size", "4K", "--name", "d4")
    assert "'d4' already" in shell.fails(2, *words)


def test_every_verb_has_help_with_an_example(shell: Shell) -> None:
    for group, verbs in (
        ("card", "run check status"),
        ("ssd", "list"),
        ("namespace", "list create clone snapshot attach resize delete"),
        ("device", "create list show delete adopt"),
        ("vm", "list delete"),
        ("cluster", "status forget"),
    ):
        for verb in verbs.split():
            text = shell.text(group, verb, "--help")
            assert "example: vhostnvme " in text
            assert ("--card" in text) == ((group, verb) not in {("card", "run"), ("card", "check")})


def test_a_file_is_checked(shell: Shell, cards: Cards, tmp_path: Path) -> None:
    text = shell.text("card", "check", str(cards["a"].config))
    assert text.startswith("card a: 1 SSD, control socket ")
    bad = tmp_path / "bad.toml"
    bad.write_text('[card]\nname = "A"\n[[ssd]]\nname = "s"\n')
    for verb in ("check", "run"):
        error = shell.fails(2, "card", verb, str(bad))
        assert f"{bad}:2: card.name: 'A' is no name" in error
        assert f"{bad}:3: ssd[1].path: is missing" in error
    lonely = tmp_path / "lonely.toml"
    lonely.write_text('[card]\nname = "a"\n')
    assert "note: card a has no [cluster]" in shell.text("card", "check", str(lonely))
    error = shell.fails(2, "card", "run", str(lonely), "--ready-fd", str(_closed()))
    assert "is no open descriptor" in error


def _closed() -> int:
    number = os.dup(0)
    os.close(number)
    return number
