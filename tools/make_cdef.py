"""Makes the source of the extension module `vhostnvme._native` from csrc/include/vhostnvme.h.

The declarations that cffi is given are the header's own text: comments and preprocessor lines are
taken out, an included header of the same folder is put in its place, and `#define NAME integer`
becomes a constant. The C compiler then checks the result against the header, so the two cannot
differ.

Usage: make_cdef.py HEADER OUTPUT.c
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

MODULE = "vhostnvme._native"

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_INCLUDE = re.compile(r'#\s*include\s+(?:"(?P<own>[^"]+)"|<(?P<system>[^>]+)>)\s*')
_DEFINE = re.compile(r"#\s*define\s+(?P<name>\w+)(?P<call>\()?\s*(?P<value>.*)")
_INTEGER = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)[uUlL]*|\(?1[uUlL]*\s*<<\s*[0-9]+\)?|-[0-9]+")
_DROPPED = re.compile(r"#\s*(ifndef|ifdef|if|endif|else|elif|undef|pragma)\b.*")
# What these system headers declare, cffi knows by itself.
_KNOWN_SYSTEM_HEADERS = {"stdint.h", "stdbool.h", "stddef.h"}


class HeaderError(Exception):
    """The header holds something that cannot be taken over."""


def cdef_of(header: Path, _seen: set[Path] | None = None) -> str:
    """The text for ``FFI.cdef`` of a header and of those that it includes by name in quotes.

    Raises:
        HeaderError: a macro that is no plain integer, or an include that cffi does not know.
    """
    seen = _seen if _seen is not None else set()
    path = header.resolve()
    if path in seen:
        return ""
    seen.add(path)
    text = _COMMENT.sub(" ", path.read_text(encoding="utf-8")).replace("\\\n", " ")
    lines: list[str] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line.startswith("#"):
            lines.append(raw.rstrip())
        elif match := _INCLUDE.fullmatch(line):
            if own := match["own"]:
                lines.append(cdef_of(path.parent / own, seen))
            elif match["system"] not in _KNOWN_SYSTEM_HEADERS:
                raise HeaderError(f"{header}: cannot include <{match['system']}> in the cdef")
        elif match := _DEFINE.fullmatch(line):
            lines += _constant(header, number, match)
        elif not _DROPPED.fullmatch(line):
            raise HeaderError(f"{header}: do not know what to do with {line!r}")
    return "\n".join(line for line in lines if line.strip()) + "\n"


def _constant(header: Path, number: int, match: re.Match[str]) -> list[str]:
    value = match["value"].strip()
    if not value and not match["call"]:
        return []  # an include guard
    if match["call"] or not _INTEGER.fullmatch(value):
        raise HeaderError(
            f"{header}:{number}: #define {match['name']} is no plain integer: Python cannot have it"
        )
    # "..." lets the C compiler supply the value.
    return [f"#define {match['name']} ..."]


def main() -> int:
    from cffi import FFI

    header, output = Path(sys.argv[1]), Path(sys.argv[2])
    ffi = FFI()
    ffi.cdef(cdef_of(header))
    ffi.set_source(MODULE, f'#include "{header.name}"\n')
    ffi.emit_c_code(str(output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
