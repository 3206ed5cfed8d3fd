"""Reads TOML into checked values: every mistake is collected, and told by its line and key."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from vhostnvme.errors import ConfigError
from vhostnvme.toml_lines import TomlLines

T = TypeVar("T")

FILE_BYTES_MAX = 4 << 20


class Mistakes:
    """What is wrong with a file so far, one sentence each."""

    def __init__(self, path: Path, lines: TomlLines) -> None:
        self.path = path
        self._lines = lines
        self._sentences: list[tuple[int, str]] = []

    def add(self, key: str, sentence: object) -> None:
        """About a key, such as `ssd[2].capacity`, or about the whole file (``)."""
        line = self._lines.of(key)
        place = f"{self.path}:{line}" if line else f"{self.path}"
        self._sentences.append((line or 0, f"{place}: {key + ': ' if key else ''}{sentence}"))

    def __len__(self) -> int:
        return len(self._sentences)

    def finish(self) -> None:
        """Raises:
        ConfigError: all of them in the order of their lines; nothing when there are none.
        """
        if self._sentences:
            in_order = sorted(self._sentences, key=lambda mistake: mistake[0])
            raise ConfigError("\n".join(sentence for _, sentence in in_order))


class Table:
    """A table of the file; each key is taken once, and `finish` reports those that are left."""

    def __init__(self, values: dict[str, Any], mistakes: Mistakes, name: str = "") -> None:
        self._values = dict(values)
        self.mistakes = mistakes
        self._known: list[str] = []
        self.name = name

    def peek(self, key: str) -> object:
        """What is there, without taking it; None when nothing is."""
        return self._values.get(key)

    def key(self, key: str) -> str:
        """Its whole name in messages."""
        return f"{self.name}.{key}" if self.name else key

    def wrong(self, key: str, sentence: object) -> None:
        self.mistakes.add(self.key(key) if key else self.name, sentence)

    def take(
        self,
        key: str,
        kind: type[T],
        default: T | None = None,
        *,
        needed: bool = False,
        like: str = "",
    ) -> T | None:
        """The value of a key, of this type; `default` when it is not there, or is wrong.

        `like` is an example for those who wrote something else.
        """
        self._known.append(key)
        if key not in self._values:
            if needed:
                self.wrong(key, "is missing")
            return default
        value = self._values.pop(key)
        # bool is an int to Python, not to people
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            example = f', as in "{like}"' if like else ""
            self.wrong(key, f"must be {_NAMES[kind]}{example}, not {_kind_of(value)}")
            return default
        return value

    def number(self, key: str, least: int, most: int, default: int = 0) -> int:
        """A whole number in these bounds; `default` when it is not there, or is wrong."""
        value = self.take(key, int)
        if value is None:
            return default
        if not least <= value <= most:
            self.wrong(key, f"must be from {least} to {most}, not {value}")
            return default
        return value

    def parse(
        self, key: str, parse: Callable[[str], T], *, needed: bool = False, like: str = ""
    ) -> T | None:
        """A text, parsed; None when it is not there, or is wrong."""
        text = self.take(key, str, needed=needed, like=like)
        return None if text is None else self._parsed(key, text, parse)

    def parse_list(self, key: str, parse: Callable[[str], T]) -> list[T]:
        """A list of texts, parsed; those that are wrong are left out."""
        parsed = []
        for number, value in enumerate(self.take(key, list) or [], 1):
            place = f"{key}[{number}]"
            if not isinstance(value, str):
                self.wrong(place, f"must be a text, not {_kind_of(value)}")
            elif (one := self._parsed(place, value, parse)) is not None:
                parsed.append(one)
        return parsed

    def _parsed(self, key: str, text: str, parse: Callable[[str], T]) -> T | None:
        try:
            return parse(text)
        except ConfigError as error:
            self.wrong(key, error)
            return None

    def table(self, key: str) -> Table:
        """A table below this one; empty when it is not there."""
        return Table(self.take(key, dict) or {}, self.mistakes, self.key(key))

    def tables(self, key: str) -> Iterator[Table]:
        """The tables of `[[key]]`, numbered from 1 in messages."""
        for number, value in enumerate(self.take(key, list) or [], 1):
            name = f"{self.key(key)}[{number}]"
            if isinstance(value, dict):
                yield Table(value, self.mistakes, name)
            else:
                self.mistakes.add(name, f"must be a table, not {_kind_of(value)}")

    def finish(self) -> None:
        """Reports the keys that nobody knows."""
        for key in self._values:
            close = difflib.get_close_matches(key.lower(), self._known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(self._known)}"
            self.wrong(key, f"is no key of this table: {hint}")


def read_toml(path: Path) -> Table:
    """The top table of a file.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path} is too long for a configuration: at most {FILE_BYTES_MAX} bytes")
    try:
        text = data.decode()
        values = tomllib.loads(text)
        return Table(values, Mistakes(path, TomlLines(text)))
    except (tomllib.TOMLDecodeError, UnicodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None


_NAMES: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


def _kind_of(value: object) -> str:
    return _NAMES.get(type(value), f"a {type(value).__name__}")
