"""The cdef is the header's own text."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("make_cdef", TOP / "tools" / "make_cdef.py")
assert _spec is not None and _spec.loader is not None
make_cdef = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_cdef)


def cdef(tmp_path: Path, text: str) -> str:
    (tmp_path / "h.h").write_text(text)
    result: str = make_cdef.cdef_of(tmp_path / "h.h")
    return result


def test_comments_and_guards_go_and_declarations_stay(tmp_path: Path) -> None:
    text = "#ifndef A_H\n#define A_H\n/* one\n two */\nint f(int a); // three\n#endif\n"
    assert cdef(tmp_path, text) == "int f(int a);\n"


def test_integer_macros_become_constants(tmp_path: Path) -> None:
    text = "#define A 16 /* why */\n#define B 2u\n#define C (1u << 3)\n#define D 0x40\n"
    assert cdef(tmp_path, text).split("\n")[:-1] == [f"#define {name} ..." for name in "ABCD"]


def test_an_included_header_comes_before_what_includes_it(tmp_path: Path) -> None:
    (tmp_path / "other.h").write_text("typedef struct x x;\n")
    text = '#include <stdint.h>\n#include "other.h"\n#include "other.h"\nx *make(void);\n'
    assert cdef(tmp_path, text).split() == "typedef struct x x; x *make(void);".split()


@pytest.mark.parametrize(
    "line", ["#define F(x) x", '#define S "text"', "#include <math.h>", "#error"]
)
def test_what_python_cannot_have_is_an_error(tmp_path: Path, line: str) -> None:
    with pytest.raises(make_cdef.HeaderError):
        cdef(tmp_path, line + "\n")


def test_the_public_header_parses() -> None:
    from cffi import FFI

    text = make_cdef.cdef_of(TOP / "csrc" / "include" / "vhostnvme.h")
    ffi = FFI()
    ffi.cdef(text)
    assert "vn_last_error" in text
    assert "vn_host_open" in text
