"""What cannot be is refused in one sentence, with exit code 1 or 2, and nothing of it is left."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from tests_cluster import MIB, opened, wait_empty

from vhostnvme.testing.cards import CardPlan, CardProcess, Cards

UUID = "0b4f3c39-9f2a-4d8e-8d5c-5a0c5a3f9f11"
CREATE = ("device", "create", "--vm", "vm1")


@pytest.fixture(scope="module")
def cards() -> Iterator[Cards]:
    with Cards(2, CardPlan(ssd_bytes=64 * MIB, ttl_s=2.0)) as running:
        yield running


def said(done: subprocess.CompletedProcess[str], code: int) -> str:
    """What it was refused with; argparse shows the usage in front of its sentence."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == "" and "Traceback" not in done.stderr
    *before, last = done.stderr.splitlines()
    assert all(line.startswith(("usage:", " ")) for line in before), done.stderr
    return last


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        # Nobody of this name.
        ((*CREATE, "--size", "4M", "--placement", "z"), 2, "there is no card 'z' in this cluster"),
        ((*CREATE, "--size", "4M@z"), 2, "there is no card 'z' in this cluster"),
        (("device", "adopt", "d1", "--from", "z"), 2, "there is no other card 'z'"),
        (("device", "adopt", "d1", "--from", "a"), 2, "there is no other card 'a'"),
        (("device", "adopt", "d1", "--from", "b"), 1, "card 'b' is online"),
        (("cluster", "forget", "z"), 2, "there is no other card 'z'"),
        (("cluster", "forget", "b"), 1, "card 'b' is online"),
        (("vm", "delete", "nobody"), 2, "there is no VM 'nobody' on card 'a'"),
        (("device", "delete", "nothing"), 2, "there is no device 'nothing' on card 'a'"),
        (("device", "show", "nothing"), 2, "has no device 'nothing'"),
        (("namespace", "create", "--vm", "v", "--size", "4M", "--ssd", "s"), 2, "no SSD 's'"),
        (("namespace", "create", "--device", "nothing", "--size", "4M"), 2, "no device 'nothing'"),
        (("namespace", "delete", UUID), 2, UUID),
        (("namespace", "resize", UUID, "--size", "8M"), 2, UUID),
        (("namespace", "clone", UUID), 2, UUID),
        (("namespace", "attach", UUID, "--device", "d"), 2, UUID),
        (("--card", "/nowhere/control", "ssd", "list"), 1, "no server answers on control socket"),
        (("--card", "z", "ssd", "list"), 2, "no card 'z' runs here"),
        # Sizes.
        ((*CREATE, "--size", "0"), 2, "size"),
        ((*CREATE, "--size=-4M"), 2, "'-4M' is no size"),
        ((*CREATE, "--size", "much"), 2, "'much' is no size"),
        ((*CREATE, "--size", "4M", "--size", "1000"), 2, "1000 bytes, is no multiple of 4096"),
        ((*CREATE, "--size", "1T"), 1, "no space for a namespace of 1T"),
        ((*CREATE, "--size", "1T", "--placement", "b"), 1, "no space for a namespace of 1T"),
        ((*CREATE, "--size", "1T", "--placement", "local"), 1, "no space for a namespace of 1T"),
        ((*CREATE, "--size", "65M", "--wait", "1"), 1, "no space for a namespace of 65M"),
        # Words.
        (("device", "create", "--vm", "a/b", "--size", "4M"), 2, "'a/b' is no name of a VM"),
        ((*CREATE, "--size", "4M", "--name", "../d"), 2, "'../d' is no name of a device"),
        ((*CREATE, "--size", "4M", "--priority", "101"), 2, "101"),
        ((*CREATE, "--size", "4M", "--block", "1000"), 2, "1000"),
        ((*CREATE, "--size", "4M", "--wait", "-1"), 2, "-1"),
    ],
)
def test_commands(cards: Cards, words: Sequence[str], code: int, sentence: str) -> None:
    assert sentence in said(cards["a"].cli(*words), code)
    wait_empty(cards)


def test_a_name_that_is_taken(cards: Cards) -> None:
    card = cards["a"]
    made = card.create_device("vm1", 4 * MIB, name="d")
    before = (card.devices(), card.namespaces(), card.ssds())
    refused = said(card.cli(*CREATE, "--size", "4M", "--name", "d"), 2)
    assert "there is a device 'd' already: choose another name" in refused
    uuid = made.namespaces[0].uuid
    for words, sentence in (
        (("namespace", "delete", uuid), "is the only one of device d: delete the device"),
        (("namespace", "attach", uuid, "--device", "d"), "belongs to device d already"),
        (("namespace", "resize", uuid, "--size", "1000"), "is no multiple of 4096"),
    ):
        refused = said(card.cli(*words), 2)
        assert sentence in refused
    refused = said(card.cli("namespace", "resize", uuid, "--size", "1G"), 1)
    assert "space" in refused
    assert (card.devices(), card.namespaces(), card.ssds()) == before
    card.delete_device("d")
    wait_empty(cards)


# --- Cards that cannot be ---------------------------------------------------------------------


def run_card(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vhostnvme", "card", "run", str(config)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def another(card: CardProcess, folder: Path, *changes: tuple[str, str]) -> Path:
    """A file like a card's, with its own state and SSD but for what is changed."""
    text = card.config.read_text()
    for name, path in (("state_dir", card.state), ("path", card.ssd_folders[0])):
        text = text.replace(f'{name} = "{path}"', f'{name} = "{folder / name}"')
    (folder / "path").mkdir(exist_ok=True)
    text = text.replace(f"{card.address}:4420", f"{card.address}:0")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    config = folder / "card.toml"
    config.write_text(text)
    return config


def refusal(config: Path, code: int) -> str:
    """The last line that a card says before it ends; those before are of its start."""
    done = run_card(config)
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) <= 3, done.stderr
    return lines[-1]


def test_two_cards_of_one_name(cards: Cards, tmp_path: Path) -> None:
    """On another host; the one that is there goes on."""
    run_dir = str(cards["a"].control.parent.parent)
    (tmp_path / "run").mkdir(mode=0o700)
    config = another(cards["a"], tmp_path, (run_dir, str(tmp_path / "run")))
    sentence = refusal(config, 2)
    assert "another card of this cluster is called 'a'" in sentence
    assert "choose another name" in sentence
    cards.wait_together()
    config = another(cards["a"], tmp_path)  # the same host
    assert "is in use by another server" in refusal(config, 2)
    assert not list((tmp_path / "path").glob("*.ns"))


def test_two_cards_with_one_ssd_or_state(cards: Cards, tmp_path: Path) -> None:
    card = cards["a"]
    changes = [('name = "a"', 'name = "x"'), (str(tmp_path / "path"), str(card.ssd_folders[0]))]
    sentence = refusal(another(card, tmp_path, *changes), 2)
    assert "SSD ssd0" in sentence and "in use" in sentence
    changes = [('name = "a"', 'name = "x"'), (str(tmp_path / "state_dir"), str(card.state))]
    assert str(card.state) in refusal(another(card, tmp_path, *changes), 2)
    assert sorted(each.card for each in card.cluster()) == ["a", "b"]


def test_an_ssd_of_another_card(cards: Cards, tmp_path: Path) -> None:
    """Which does not run."""
    card = cards["b"]
    card.stop()
    changes = [('name = "b"', 'name = "x"'), (str(tmp_path / "path"), str(card.ssd_folders[0]))]
    assert "another card" in refusal(another(card, tmp_path, *changes), 2)
    cards.start()


def test_a_config_with_mistakes(cards: Cards, tmp_path: Path) -> None:
    config = another(
        cards["a"],
        tmp_path,
        ('name = "a"', 'name = "A card"'),
        ('reserve = "0"', "reserve = 7"),
        ('ttl = "2000ms"', 'ttl = "soon"\ncolour = "red"'),
        ("sqlite://", "paper://"),
    )
    done = run_card(config)
    assert done.returncode == 2
    lines = done.stderr.removeprefix("vhostnvme: ").splitlines()
    for number, what in ((2, "'A card' is no name of a card"), (5, "reserve"), (None, "colour")):
        assert any(what in line for line in lines), (what, lines)
        if number is not None:
            assert any(f":{number}:" in line or f"line {number}" in line for line in lines), lines
    assert any("soon" in line for line in lines) and any("paper" in line for line in lines)
    assert len(lines) == 5
    assert done.stderr == run_check(config)


def run_check(config: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "vhostnvme", "card", "check", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


def stores(cards: Cards, folder: Path) -> dict[str, tuple[str, int]]:
    """Stores that cannot be used: what is said of them, and the exit code."""
    text = folder / "text.db"
    text.write_bytes(b"this is no database, whatever its name says" * 100)
    newer, torn, open_to_all = (folder / f"{name}.db" for name in ("newer", "torn", "open"))
    with (
        closing(sqlite3.connect(cards.store.removeprefix("sqlite://"))) as source,
        closing(sqlite3.connect(newer)) as copy,
    ):
        source.backup(copy)
        copy.execute("PRAGMA user_version = 99")
    torn.write_bytes(newer.read_bytes()[:5000])
    open_to_all.touch(0o666)
    for path in (text, newer, torn):
        path.chmod(0o600)
    return {
        "etcd://127.0.0.1:1": ("etcd cannot be reached: 127.0.0.1:1", 1),
        f"sqlite://{folder}/nowhere/x.db": (f"{folder}/nowhere", 1),
        f"sqlite://{text}": (str(text), 1),
        f"sqlite://{newer}": ("is of version 99, and this program of version 1", 1),
        f"sqlite://{open_to_all}": (f"chmod 600 {open_to_all}", 1),
        f"sqlite://{torn}": (str(torn), 1),
    }


def test_a_store_that_cannot_be_used(cards: Cards, tmp_path: Path) -> None:
    for url, (what, code) in stores(cards, tmp_path).items():
        changes = [('name = "a"', 'name = "x"'), (cards.store, url)]
        sentence = refusal(another(cards["a"], tmp_path, *changes), code)
        assert what in sentence, (url, sentence)
    assert not (cards["a"].control.parent.parent / "x").exists()
    assert sorted(each.card for each in cards["a"].cluster()) == ["a", "b"]


def test_an_ssd_that_vanished(cards: Cards, tmp_path: Path) -> None:
    """While a card runs, and when it starts again; all is there when the SSD is."""
    card = cards["a"]
    made = card.create_device("vm1", 4 * MIB, placement="local", name="d")
    folder, away = card.ssd_folders[0], tmp_path / "away"
    folder.rename(away)
    words = (*CREATE, "--size", "4M", "--placement", "local")
    assert "SSD ssd0" in said(card.cli(*words), 1)
    cards.wait(lambda: not card.ssds()[0].healthy, "it is seen to be away")
    assert "is not there" in card.ssds()[0].reason
    assert "no space for a namespace of 4M" in said(card.cli(*words), 1)
    assert [each.device for each in card.devices()] == ["d"]
    card.restart()
    assert not card.ssds()[0].healthy
    assert "no space for a namespace of 4M" in said(card.cli(*words), 1)
    away.rename(folder)
    cards.wait(lambda: card.ssds()[0].healthy, "it is there again")
    cards.wait(lambda: card.devices()[0].state == "listening", "so is the device")
    host, queue = opened(made.socket)
    with host:
        queue.read(0, 1)
    cards.wait_together()
    card.delete_vm("vm1")
    wait_empty(cards)
