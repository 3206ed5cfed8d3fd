"""Tables for people."""

from __future__ import annotations

import pytest

from vhostnvme.inspect.table import COLUMNS_MIN, print_table

Capture = pytest.CaptureFixture[str]


def lines(capsys: Capture) -> list[str]:
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")


def test_numbers_are_aligned_to_the_right(capsys: Capture) -> None:
    print_table("2 disks", ("name", "size"), [("a", "5"), ("b", "1024M")], numbers={"size"})
    title, headings, _, first, second = lines(capsys)
    assert title == "2 disks"
    assert headings == "name   size"
    assert (first, second) == ("a         5", "b     1024M")


def test_what_is_to_be_copied_stays_on_its_line(capsys: Capture) -> None:
    long = "/run/" + "x" * 150
    print_table("1 socket", ("socket",), [(long,)], folded=False)
    assert lines(capsys)[-1] == long
    print_table("1 socket", ("socket",), [(long,)])
    assert [len(line) for line in lines(capsys)[-2:]] == [COLUMNS_MIN - 1, 156 - COLUMNS_MIN]


def test_a_table_without_rows_is_its_title(capsys: Capture) -> None:
    print_table("0 [disks]", ("name",), [])
    assert lines(capsys) == ["0 [disks]"]


def test_what_a_peer_says_is_no_markup(capsys: Capture) -> None:
    print_table("", ("",), [("[red]x[/red]",)])
    assert lines(capsys)[-1] == "[red]x[/red]"
