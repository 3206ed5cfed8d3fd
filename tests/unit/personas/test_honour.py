"""What of a persona can be honoured: pure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vhostnvme.errors import ConfigError
from vhostnvme.personas.file import Persona, parse_persona
from vhostnvme.personas.honour import FORMATS, Ours, check_persona, formats_of, problems

OURS = Ours({"oacs": 0b1010, "oncs": 0b11, "lpa": 0b110}, FORMATS)


def persona(**whole: Any) -> Persona:
    return parse_persona(json.dumps(whole).encode(), "p")


def formats(*listed: tuple[int, int]) -> dict[str, Any]:
    return {"lbafs": [{"ms": metadata, "ds": shift, "rp": 0} for metadata, shift in listed]}


def test_power_states_in_units_of_their_own() -> None:
    states = [{"max_power": 30}, {"max_power": 900, "max_power_scale": 1}, {}, {"max_power": 8}]
    assert problems(persona(id_ctrl={"psds": states}), OURS) == []


def test_what_we_have_is_no_problem() -> None:
    said = {"oacs": 0b10, "oncs": 1, "lpa": 6, "mdts": 8, "nn": 256, "hmpre": 0, "ver": 65536}
    assert problems(persona(id_ctrl=said, id_ns=formats((0, 9), (8, 12))), OURS) == []
    assert problems(persona(), OURS) == []


@pytest.mark.parametrize(
    ("part", "said", "field", "why"),
    [
        ("id_ctrl", {"oacs": 1}, "id_ctrl.oacs", "Security"),
        ("id_ctrl", {"oncs": "0x4"}, "id_ctrl.oncs", "Dataset Management"),
        ("id_ctrl", {"oncs": 1 << 15}, "id_ctrl.oncs", "bit 15"),
        ("id_ctrl", {"apsta": 1}, "id_ctrl.apsta", "autonomous"),
        ("id_ctrl", {"hmpre": 1}, "id_ctrl.hmpre", "host memory buffer"),
        ("id_ctrl", {"mdts": 0}, "id_ctrl.mdts", "take 1 to 8"),
        ("id_ctrl", {"mdts": 9}, "id_ctrl.mdts", "take 1 to 8"),
        ("id_ctrl", {"nn": 257}, "id_ctrl.nn", "256 namespaces"),
        ("id_ctrl", {"psds": [{}] * 33}, "id_ctrl.psds", "32 power states"),
        ("id_ctrl", {"psds": [{"max_power": 1}, 7]}, "id_ctrl.psds", "state 1 is none"),
        ("id_ctrl", {"psds": [{"non-operational_state": 1}]}, "id_ctrl.psds", "takes I/O"),
        ("id_ctrl", {"psds": [{"flags": 2}]}, "id_ctrl.psds", "takes I/O"),
        ("id_ctrl", {"psds": [{"max_power": 1}, {"max_power": 2}]}, "id_ctrl.psds", "no more"),
        ("id_ns", formats((128, 12)), "id_ns.lbafs", "4096 bytes with 128 bytes"),
    ],
)
def test_what_we_have_not_is_named(part: str, said: dict[str, Any], field: str, why: str) -> None:
    found = problems(persona(**{part: said}), OURS)
    assert [each.field for each in found] == [field]
    assert why in found[0].why
    with pytest.raises(ConfigError, match=f"persona p: {field} cannot be honoured"):
        check_persona(persona(**{part: said}), OURS)
    assert problems(persona(**{part: said}, ignore=[field]), OURS) == []


def test_the_others_are_counted() -> None:
    with pytest.raises(ConfigError, match=r"\(and 2 more\)"):
        check_persona(persona(id_ctrl={"oacs": 1, "hmpre": 1, "mdts": 9}), OURS)


def test_formats_in_use() -> None:
    said = formats((0, 9), (0, 12), (0, 0), (8, 12))
    assert formats_of(persona(id_ns=said)) == [(512, 0), (4096, 0), (4096, 8)]
    assert formats_of(persona(id_ns=said | {"nlbaf": 0})) == [(512, 0)]
    assert formats_of(persona()) == []


@pytest.mark.parametrize("listed", [1, [1], [{}], [{"ms": "x", "ds": 9}], [{"ms": 0, "ds": -1}]])
def test_what_is_no_format(listed: Any) -> None:
    with pytest.raises(ConfigError, match=r"id_ns\.lbafs"):
        formats_of(persona(id_ns={"lbafs": listed}))
