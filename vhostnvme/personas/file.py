"""The file of a persona: what `nvme id-ctrl`, `id-ns` and `smart-log` print with `-o json`.

::

    {"name": "…", "description": "…",
     "id_ctrl": {…}, "id_ns": {…}, "smart": {…},       what nvme-cli prints; each may be missing
     "limits": {"queues": 16, "entries": 256},         I/O queue pairs, and entries of each
     "logs": {"0xc0": {"hex": "…"}, "0xc1": {"base64": "…"}},        vendor specific log pages
     "uuid": "c194d55b-e094-4794-a21d-29998f56be6f",   whose they are, for hosts that ask by UUID
     "ignore": ["id_ctrl.hmpre", "smart.*"]}           what is there, and shall not count

A file that is what `nvme id-ctrl -o json` prints, and nothing else, is one too. Fields that say
nothing about how a drive behaves towards a host, or that we do not know, are left aside.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec

from vhostnvme.errors import ConfigError

FILE_BYTES_MAX = 1 << 20
LOG_BYTES_MAX = 64 << 10
LOGS_MAX = 16
VENDOR_LOGS = range(0xC0, 0x100)
_SHIPPED = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Persona:
    """What a file says: the three dumps as they are, less what is to be ignored.

    `queues` and `entries` 0: as many as there can be. `logs` by log page id. `source`: the file.
    """

    name: str
    description: str = ""
    id_ctrl: Mapping[str, Any] = field(default_factory=dict)
    id_ns: Mapping[str, Any] = field(default_factory=dict)
    smart: Mapping[str, Any] = field(default_factory=dict)
    queues: int = 0
    entries: int = 0
    logs: Mapping[int, bytes] = field(default_factory=dict)
    uuid: uuid.UUID | None = None
    source: bytes = field(default=b"", compare=False, repr=False)

    def number(self, part: str, name: str, most: int) -> int | None:
        """A whole number from 0 to `most`; None: it is not said.

        Raises:
            ConfigError: it is something else.
        """
        values: Mapping[str, Any] = getattr(self, part)
        value = values.get(name)
        if value is None:
            return None
        if isinstance(value, str) and re.fullmatch(r"(0x[0-9a-fA-F]{1,32}|[0-9]{1,39})", value):
            value = int(value, 0) if value.startswith("0x") else int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise ConfigError(
                f"persona {self.name}: {part}.{name} is no whole number from 0 to {most}"
            )
        return value

    def text(self, name: str, most: int) -> str | None:
        """Printable ASCII of `id_ctrl`, without its padding; None: it is not said, or blank.

        Raises:
            ConfigError: it is something else, or has more than `most` characters.
        """
        value = self.id_ctrl.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise ConfigError(f"persona {self.name}: id_ctrl.{name} is no text of printable ASCII")
        value = value.strip()
        if len(value) > most:
            raise ConfigError(
                f"persona {self.name}: id_ctrl.{name} has {len(value)} characters, and {most} fit"
            )
        return value or None


class _Limits(msgspec.Struct, forbid_unknown_fields=True):
    queues: int = 0
    entries: int = 0


class _Log(msgspec.Struct, forbid_unknown_fields=True):
    hex: str | None = None
    base64: str | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    name: str = ""
    description: str = ""
    id_ctrl: dict[str, Any] = {}
    id_ns: dict[str, Any] = {}
    smart: dict[str, Any] = {}
    limits: _Limits = msgspec.field(default_factory=_Limits)
    logs: dict[str, _Log] = {}
    uuid: uuid.UUID | None = None
    ignore: list[str] = []


def shipped() -> dict[str, Path]:
    """The personas that come with this program, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.json"))}


def load_persona(given: str) -> Persona:
    """The persona of a file, or of one of the names in `shipped`.

    Raises:
        ConfigError: there is none, or it is no persona; one sentence.
    """
    path = Path(given)
    if given in shipped() and not path.exists():
        path = shipped()[given]
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        known = ", ".join(shipped())
        raise ConfigError(
            f"cannot read persona {given}: {error.strerror}; take a file, or one of {known}"
        ) from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"persona {given} is larger than {FILE_BYTES_MAX >> 20} MiB")
    return parse_persona(data, path.stem)


def parse_persona(data: bytes, name: str) -> Persona:
    """
    Args:
        name: what it is called in messages, when it has no name itself.

    Raises:
        ConfigError: it is no persona.
    """
    try:
        whole = msgspec.json.decode(data, type=dict[str, Any])
        if "id_ctrl" not in whole and {"vid", "sn"} <= whole.keys():
            whole = {"id_ctrl": whole}
        found = msgspec.convert(whole, _File)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ConfigError(
            f"persona {name} is none: {error}; docs/nvme-ssd.md says what is in one"
        ) from None
    limits = found.limits
    if not 0 <= limits.queues <= 64 or not (limits.entries == 0 or 2 <= limits.entries <= 65536):
        raise ConfigError(f"persona {name}: limits are up to 64 queues of 2 to 65536 entries")
    return Persona(
        name=found.name or name,
        description=found.description,
        id_ctrl=_without(found.id_ctrl, "id_ctrl", found.ignore),
        id_ns=_without(found.id_ns, "id_ns", found.ignore),
        smart=_without(found.smart, "smart", found.ignore),
        queues=limits.queues,
        entries=limits.entries,
        logs=_logs(name, found.logs),
        uuid=found.uuid if found.uuid and found.uuid.int else None,
        source=data,
    )


def _without(values: dict[str, Any], part: str, ignored: list[str]) -> dict[str, Any]:
    return {
        name: value
        for name, value in values.items()
        if not any(fnmatchcase(f"{part}.{name}", pattern) for pattern in ignored)
    }


def _logs(name: str, logs: dict[str, _Log]) -> dict[int, bytes]:
    if len(logs) > LOGS_MAX:
        raise ConfigError(f"persona {name}: there are at most {LOGS_MAX} log pages of its own")
    found = {}
    for number, log in logs.items():
        if not re.fullmatch(r"0x[0-9a-fA-F]{2}", number) or int(number, 16) not in VENDOR_LOGS:
            raise ConfigError(
                f"persona {name}: logs.{number} is no vendor specific log page: 0xc0 to 0xff"
            )
        if (log.hex is None) == (log.base64 is None):
            raise ConfigError(f'persona {name}: logs.{number} has either "hex" or "base64"')
        try:
            data = (
                bytes.fromhex(log.hex)
                if log.hex is not None
                else base64.b64decode(log.base64 or "", validate=True)
            )
        except (ValueError, binascii.Error) as error:
            raise ConfigError(f"persona {name}: logs.{number}: {error}") from None
        if not 0 < len(data) <= LOG_BYTES_MAX:
            raise ConfigError(
                f"persona {name}: logs.{number} has {len(data)} bytes: 1 to {LOG_BYTES_MAX} fit"
            )
        found[int(number, 16)] = data
    return found
