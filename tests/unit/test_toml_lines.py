"""The lines of keys: of every kind of key and value that TOML has."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhostnvme.toml_lines import TomlLines

TEXT = '''# a comment = 1
a = 1
[x]  # of a table
b = [1, # hi
  "]", [ {q = 1, r = "}"} ], 1979-05-27 07:32:00,
]
c . "d" = """
"" "]" \\" x""""
'e.f' = \'\'\'
\'\' # no comment\'\'\'
[[s]]
n = "x#y"
[[s]]
n = 'y'
[s.t]
k = true
[[s.u]]
[[ s . u ]]
z = { a = 1, b.c = {}, d = { } }
e = []
[[s]]
[[s.u]]
last = 1e3'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("a", 2),
        ("x", 3),
        ("x.b", 4),
        ("x.b[1]", 4),
        ("x.b[2]", 5),
        ("x.b[3][1].r", 5),
        ("x.b[4]", 5),
        ("x.c.d", 7),
        ("x.e.f", 9),
        ("s", 11),
        ("s[1]", 11),
        ("s[1].n", 12),
        ("s[2]", 13),
        ("s[2].n", 14),
        ("s[2].t.k", 16),
        ("s[2].u[1]", 17),
        ("s[2].u[2]", 18),
        ("s[2].u[2].z.b.c", 19),
        ("s[2].u[2].z.d", 19),
        ("s[2].u[2].e", 20),
        ("s[3]", 21),
        ("s[3].u[1].last", 23),
    ],
)
def test_every_key_has_its_line(key: str, line: int) -> None:
    tomllib.loads(TEXT)
    assert TomlLines(TEXT).of(key) == line


@pytest.mark.parametrize(
    ("key", "line"),
    [("x.missing", 3), ("s[2].u[2].missing.more", 18), ("s[3].missing", 21), ("x.b[9]", 4)],
)
def test_what_is_missing_has_the_line_of_what_it_would_be_in(key: str, line: int) -> None:
    assert TomlLines(TEXT).of(key) == line


def test_what_is_missing_at_the_top_has_none() -> None:
    assert TomlLines(TEXT).of("missing") is None
    assert TomlLines(TEXT).of("") is None
    assert TomlLines("").of("a") is None


def test_ends_of_lines_as_windows_writes_them() -> None:
    lines = TomlLines("a = 1\r\n# c\r\n[b]\r\nc = 2\r\n")
    assert [lines.of(key) for key in ("a", "b", "b.c")] == [1, 3, 4]


keys = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=6)
bare = st.integers() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8)


def written(value: object) -> str:
    """A value in TOML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(k)} = {written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, str):
        return quoted(value)
    return str(value).lower()


def quoted(text: str) -> str:
    plain = text.isascii() and text.isprintable() and not set(text) & set('"\\')
    return f'"{text}"' if plain else '"' + "".join(f"\\U{ord(each):08x}" for each in text) + '"'


@given(
    st.dictionaries(
        keys,
        st.recursive(
            bare, lambda some: st.lists(some, max_size=3) | st.dictionaries(keys, some, max_size=3)
        ),
        max_size=5,
    )
)
def test_whatever_is_written(values: dict[str, object]) -> None:
    text = "\n".join(f"# {number}\n{quoted(k)} = {written(v)}" for number, (k, v) in
                     enumerate(values.items()))  # fmt: skip
    assert tomllib.loads(text) == values
    lines = TomlLines(text)
    for number, key in enumerate(values):
        line = lines.of(key)
        if key and not set(key) & set(".[]"):
            assert line == 2 * number + 2
