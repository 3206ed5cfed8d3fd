"""Finds the line on which each key of a TOML text stands, which tomllib does not tell.

The text has been read by tomllib already: here it is only walked through, not checked.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Callable

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_PART = r"(?:[A-Za-z0-9_-]+|\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*')"
_KEY = re.compile(rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*")
# Up to two quotes may stand before the three that end a text.
_TEXT = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}'
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_PLAIN = re.compile(r"[^,\]}#\n]*")  # a number, a date, true or false


class TomlLines:
    """The lines of a TOML text by key, as messages write it: `ssd[2].capacity`.

    Entries of lists, and tables of `[[ssd]]`, are numbered from 1.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._lines: dict[str, int] = {}
        self._counts: dict[str, int] = {}  # how many tables `[[key]]` has so far
        self._walk()

    def of(self, key: str) -> int | None:
        """The line, from 1, of a key, or of what it would be in; None where that is the file."""
        while key:
            if key in self._lines:
                return self._lines[key]
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return None

    def _walk(self) -> None:
        at, table = self._blank(0), ""
        while at < len(self._text):
            if self._text[at] == "[":
                table, at = self._header(at)
            else:
                at = self._pair(at, table)
            at = self._blank(at)

    def _header(self, at: int) -> tuple[str, int]:
        """The name of the table that begins there, and where its header ends."""
        several = self._text.startswith("[[", at)
        match = self._match(_KEY, self._blank(at + 1 + several))
        *parents, last = _parts(match[0])
        name = ""
        for part in parents:
            name = _below(name, part)
            if name in self._counts:
                name = f"{name}[{self._counts[name]}]"
        name = _below(name, last)
        if several:
            self._note(name, at)
            self._counts[name] = self._counts.get(name, 0) + 1
            name = f"{name}[{self._counts[name]}]"
        self._note(name, at)
        return name, self._blank(match.end()) + 1 + several

    def _pair(self, at: int, table: str) -> int:
        """A key and its value; where they end."""
        match = self._match(_KEY, at)
        name = table
        for part in _parts(match[0]):
            name = _below(name, part)
            self._note(name, at)
        equals = self._blank(match.end())
        return self._value(self._blank(equals + 1), name)

    def _value(self, at: int, name: str) -> int:
        """A value; where it ends."""
        begin = self._text[at]
        if begin == "[":
            return self._list(at, "]", lambda entry, number: self._entry(entry, name, number))
        if begin == "{":
            return self._list(at, "}", lambda entry, _: self._pair(entry, name))
        return self._match(_TEXT if begin in "\"'" else _PLAIN, at).end()

    def _entry(self, at: int, name: str, number: int) -> int:
        self._note(f"{name}[{number}]", at)
        return self._value(at, f"{name}[{number}]")

    def _list(self, at: int, closing: str, entry: Callable[[int, int], int]) -> int:
        """Entries with commas between them; `entry` tells where one ends, given its number."""
        at, number = self._blank(at + 1), 0
        while self._text[at] != closing:
            number += 1
            at = self._blank(entry(at, number))
            if self._text[at] == ",":
                at = self._blank(at + 1)
        return at + 1

    def _blank(self, at: int) -> int:
        """Behind spaces, ends of lines and comments."""
        return self._match(_BLANK, at).end()

    def _match(self, pattern: re.Pattern[str], at: int) -> re.Match[str]:
        match = pattern.match(self._text, at)
        assert match is not None, "tomllib has read what is no TOML"
        return match

    def _note(self, name: str, at: int) -> None:
        self._lines.setdefault(name, bisect_right(self._ends, at - 1) + 1)


def _below(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def _parts(key: str) -> list[str]:
    """`a."b.c"` is the two keys that tomllib takes it for."""
    parts: list[str] = []
    value: object = tomllib.loads(f"{key} = 0")
    while isinstance(value, dict):
        ((part, value),) = value.items()
        parts.append(part)
    return parts
