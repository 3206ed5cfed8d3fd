"""Tables of TOML: each value checked, each mistake told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhostnvme.errors import ConfigError
from vhostnvme.tables import FILE_BYTES_MAX, Table, read_toml
from vhostnvme.units import parse_size


def opened(folder: Path, text: str) -> Table:
    path = folder / "x.toml"
    path.write_text(text)
    return read_toml(path)


def mistakes(top: Table) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        top.mistakes.finish()
    return [line.replace(f"{top.mistakes.path}", "x") for line in str(caught.value).splitlines()]


def test_values_are_taken(tmp_path: Path) -> None:
    top = opened(tmp_path, 'a = 1\nb = "4K"\nc = ["1K", "2K"]\n[t]\n[[u]]\nd = true\n[[u]]\n')
    assert top.peek("a") == 1
    assert top.number("a", 0, 5) == 1
    assert top.peek("a") is None
    assert top.number("none", 0, 5, 3) == 3
    assert top.parse("b", parse_size) == 4096
    assert top.parse_list("c", parse_size) == [1024, 2048]
    top.table("t").finish()
    top.table("not there").finish()
    assert [each.take("d", bool, False) for each in top.tables("u")] == [True, False]
    top.finish()
    top.mistakes.finish()


def test_mistakes_come_in_the_order_of_their_lines(tmp_path: Path) -> None:
    top = opened(tmp_path, 'a = "x"\n\n[t]\nb = 7\nc = 1\nlegth = 1\n')
    table = top.table("t")
    table.take("length", int, needed=True)
    table.number("b", 1, 5)
    table.parse("c", parse_size, like="10G")
    table.finish()
    top.take("a", int)
    top.take("z", str, needed=True)
    top.mistakes.add("", "says nothing")
    assert mistakes(top) == [
        "x: z: is missing",
        "x: says nothing",
        "x:1: a: must be a whole number, not a text",
        "x:3: t.length: is missing",
        "x:4: t.b: must be from 1 to 5, not 7",
        'x:5: t.c: must be a text, as in "10G", not a whole number',
        "x:6: t.legth: is no key of this table: did you mean 'length'?",
    ]
    assert len(top.mistakes) == 7


def test_a_key_that_is_like_no_other_gets_the_list(tmp_path: Path) -> None:
    top = opened(tmp_path, "colour = 1")
    top.take("size", int)
    top.take("name", str)
    top.finish()
    assert mistakes(top) == ["x:1: colour: is no key of this table: there are size, name"]


@pytest.mark.parametrize("text", ["a = ", "a = 1\na = 2", "[" * 5000, "a = " + "[" * 5000])
def test_what_is_no_toml(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="is no TOML"):
        opened(tmp_path, text)


def test_lists_as_deep_as_tomllib_reads_them(tmp_path: Path) -> None:
    depth = 100
    opened(tmp_path, "a = " + "[" * depth + "]" * depth).mistakes.finish()


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too long"):
        opened(tmp_path, "#" * (FILE_BYTES_MAX + 1))
