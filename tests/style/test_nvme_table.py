"""docs/nvme.md says of each command, structure, log page and feature what the sources say of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests_nvme_table import CHECKS, OFFERED, TEST, TOP, lines_of, offered, table

# Each table, and the enumeration in the headers whose constants are dispatched by their names.
SECTIONS = {
    "Admin commands": ("vn_admin_opcode", "VN_ADMIN_"),
    "I/O commands": ("vn_io_opcode", "VN_IO_"),
    "Identify": ("vn_cns", "VN_CNS_"),
    "Log pages": ("vn_log_id", "VN_LOG_"),
    "Features": ("vn_feature", "VN_FEAT_"),
}
HEADERS = [TOP / "csrc/core" / name for name in ("nvme.h", "nvme_zns.h", "fabrics.h")]


def constants(enumeration: str, prefix: str) -> dict[str, int]:
    """The enumeration's constants; and those of fabrics, which are macros."""
    text = "".join(path.read_text() for path in HEADERS)
    body = re.search(rf"enum {enumeration} {{(.*?)}};", text, re.DOTALL)
    assert body, f"there is no enum {enumeration}"
    found = re.findall(rf"\b({prefix}\w+)\s*=\s*(0x[0-9a-fA-F]+|\d+)", body.group(1))
    found += re.findall(rf"#define ({prefix}\w+) (0x[0-9a-fA-F]+)u?\b", text)
    return {name: int(value, 0) for name, value in found}


def dispatched(name: str) -> bool:
    """Whether something is done for it: it begins an entry of a table, or, but for commands, is a
    case (those of commands also tell kinds apart)."""
    use = re.compile(rf"{{{name},|\[{name}\] =|opcode [!=]= {name}\b")
    if not name.startswith(("VN_ADMIN_", "VN_IO_")):
        use = re.compile(rf"case {name}:|{use.pattern}")
    return any(use.search(path.read_text()) for path in sorted((TOP / "csrc/ctrl").glob("*.c")))


@pytest.mark.parametrize("section", SECTIONS)
def test_what_is_dispatched_is_what_is_offered(section: str) -> None:
    enumeration, prefix = SECTIONS[section]
    rows = table(section)
    for name, number in constants(enumeration, prefix).items():
        assert number in rows, f"{section}: {name} ({number:#x}) has no row"
        done = rows[number].offered != "no"
        assert dispatched(name) == done, f"{section}: {name} is {'' if done else 'not '}offered"
    assert offered(section, "yes", "drive", "zoned", "fabrics") <= set(
        constants(enumeration, prefix).values()
    )


@pytest.mark.parametrize("section", SECTIONS)
def test_rows_are_in_order_and_say_why_or_how_they_are_tested(section: str) -> None:
    rows = table(section)
    assert list(rows) == sorted(rows)
    for row in rows.values():
        assert row.offered in OFFERED, row
        assert row.name and row.last, row
        if row.offered == "no":
            assert not row.tests, f"{row.name}: a reason, not tests"
        else:
            assert row.tests, f"{row.name}: it is offered and has no test"


def test_what_others_got_wrong_has_tests() -> None:
    for cells in lines_of(CHECKS):
        name, tests = cells
        assert name.startswith("**") or TEST.search(tests), f"{name}: no test"


def test_the_tests_are_there() -> None:
    text = (TOP / "docs/nvme.md").read_text()
    for path, function in TEST.findall(text):
        assert (TOP / path).exists(), path
        if function:
            assert re.search(rf"def {function}\b", Path(TOP / path).read_text()), (
                f"{path}::{function}"
            )
