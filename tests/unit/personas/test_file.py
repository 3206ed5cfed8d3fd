"""The file of a persona: what is one, and one sentence for what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vhostnvme.errors import ConfigError
from vhostnvme.personas.file import load_persona, parse_persona, shipped


def persona(**whole: Any) -> bytes:
    return json.dumps(whole).encode()


def test_all_of_a_file() -> None:
    found = parse_persona(
        persona(
            name="n",
            description="d",
            id_ctrl={"vid": 1, "hmpre": 2},
            id_ns={"nsze": 3},
            smart={"percent_used": "4", "temperature": 300},
            limits={"queues": 5, "entries": 6},
            logs={"0xC0": {"hex": "00 ff"}, "0xc1": {"base64": "AQI="}},
            uuid="c194d55b-e094-4794-a21d-29998f56be6f",
            ignore=["id_ctrl.hmpre", "smart.temp*"],
        ),
        "file",
    )
    assert (found.name, found.description) == ("n", "d")
    assert (found.id_ctrl, found.id_ns) == ({"vid": 1}, {"nsze": 3})
    assert found.smart == {"percent_used": "4"}
    assert (found.queues, found.entries) == (5, 6)
    assert found.logs == {0xC0: b"\x00\xff", 0xC1: b"\x01\x02"}
    assert str(found.uuid) == "c194d55b-e094-4794-a21d-29998f56be6f"


def test_a_bare_dump_of_a_controller_is_one() -> None:
    found = parse_persona(persona(vid=1, sn="S  ", mn=" M "), "file")
    assert found.name == "file"
    assert (found.text("sn", 20), found.text("mn", 40)) == ("S", "M")


@pytest.mark.parametrize(
    ("value", "number"), [(7, 7), ("7", 7), ("0x1f", 31), (7.0, 7), (None, None)]
)
def test_numbers_as_they_are_printed(value: Any, number: int | None) -> None:
    found = parse_persona(persona(id_ctrl={"mdts": value}), "file")
    assert found.number("id_ctrl", "mdts", 255) == number


@pytest.mark.parametrize("value", [-1, 256, 1.5, "x", "0x", True, [], {}, "1" * 50])
def test_what_is_no_number(value: Any) -> None:
    found = parse_persona(persona(id_ctrl={"mdts": value}), "file")
    with pytest.raises(ConfigError, match=r"persona file: id_ctrl\.mdts is no whole number"):
        found.number("id_ctrl", "mdts", 255)


@pytest.mark.parametrize("value", [1, "ä", "a\nb", "x" * 21])
def test_what_is_no_text(value: Any) -> None:
    found = parse_persona(persona(id_ctrl={"sn": value}), "file")
    with pytest.raises(ConfigError, match=r"id_ctrl\.sn"):
        found.text("sn", 20)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "is none"),
        (b"[]", "is none"),
        (b"{", "is none"),
        (b"\xff", "is none"),
        (b"[" * 100_000, "is none"),
        (persona(id_ctrl=1), "is none"),
        (persona(id_ctl={}), "is none"),
        (persona(limits={"queues": 65}), "up to 64 queues"),
        (persona(limits={"entries": 1}), "2 to 65536 entries"),
        (persona(logs={"0x02": {"hex": "00"}}), "no vendor specific log page"),
        (persona(logs={"192": {"hex": "00"}}), "no vendor specific log page"),
        (persona(logs={"0xc0": {}}), 'either "hex" or "base64"'),
        (persona(logs={"0xc0": {"hex": "0"}}), "logs.0xc0"),
        (persona(logs={"0xc0": {"base64": "!"}}), "logs.0xc0"),
        (persona(logs={"0xc0": {"hex": ""}}), "has 0 bytes"),
        (persona(logs={"0xc0": {"hex": "00" * 65537}}), "has 65537 bytes"),
        (persona(logs={f"0x{lid:02x}": {"hex": "00"} for lid in range(0xC0, 0xD1)}), "at most 16"),
    ],
)
def test_what_is_none(data: bytes, part: str) -> None:
    with pytest.raises(ConfigError, match=part) as caught:
        parse_persona(data, "file")
    assert "\n" not in str(caught.value)


def test_files_and_names(tmp_path: Path) -> None:
    assert sorted(shipped()) == ["consumer", "datacentre"]
    path = tmp_path / "mine.json"
    path.write_bytes(persona(id_ctrl={"mn": "M"}))
    assert load_persona(str(path)).text("mn", 40) == "M"
    with pytest.raises(ConfigError, match="one of consumer, datacentre"):
        load_persona("mine")
    path.write_bytes(b" " * (1 << 20) + persona())
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load_persona(str(path))
