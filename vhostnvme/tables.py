"""Reads TOML into checked values: every mistake is collected, and told by the name of its key."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from vhostnvme.errors import ConfigError

T = TypeVar("T")

FILE_BYTES_MAX = 4 << 20


class Mistakes:
    """What is wrong with a file so far, one sentence each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sentences: list[str] = []

    def add(self, key: str, sentence: object) -> None:
        self._sentences.append(
            f"{self.path}: {key}: {sentence}" if key else f"{self.path}: {sentence}"
        )

    def __len__(self) -> int:
        return len(self._sentences)

    def finish(self) -> None:
        """Raises:
        ConfigError: all of them, a line each; nothing when there are none.
        """
        if self._sentences:
            raise ConfigError("\n".join(self._sentences))


class Table:
    """A table of the file; each key is taken once, and `finish` reports those that are left."""

    def __init__(self, values: dict[str, Any], mistakes: Mistakes, name: str = "") -> None:
        self._values = dict(values)
        self._mistakes = mistakes
        self._known: list[str] = []
        self.name = name

    def key(self, key: str) -> str:
        """Its whole name in messages."""
        return f"{self.name}.{key}" if self.name else key

    def wrong(self, key: str, sentence: object) -> None:
        self._mistakes.add(self.key(key) if key else self.name, sentence)

    def take(
        self, key: str, kind: type[T], default: T | None = None, *, needed: bool = False
    ) -> T | None:
        """The value of a key, of this type; `default` when it is not there, or is wrong."""
        self._known.append(key)
        if key not in self._values:
            if needed:
                self.wrong(key, "is missing")
            return default
        value = self._values.pop(key)
        # bool is an int to Python, not to people
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.wrong(key, f"must be {_NAMES[kind]}, not {_kind_of(value)}")
            return default
        return value

    def parse(self, key: str, parse: Callable[[str], T], *, needed: bool = False) -> T | None:
        """A text, parsed; None when it is not there, or is wrong."""
        text = self.take(key, str, needed=needed)
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
        return Table(self.take(key, dict) or {}, self._mistakes, self.key(key))

    def tables(self, key: str) -> Iterator[Table]:
        """The tables of `[[key]]`, numbered from 1 in messages."""
        for number, value in enumerate(self.take(key, list) or [], 1):
            name = f"{self.key(key)}[{number}]"
            if isinstance(value, dict):
                yield Table(value, self._mistakes, name)
            else:
                self._mistakes.add(name, f"must be a table, not {_kind_of(value)}")

    def finish(self) -> None:
        """Reports the keys that nobody knows."""
        for key in self._values:
            close = difflib.get_close_matches(key.lower(), self._known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(self._known)}"
            self.wrong(key, f"is no key of this table: {hint}")


def read_toml(path: Path) -> dict[str, Any]:
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
        return tomllib.loads(data.decode())
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
