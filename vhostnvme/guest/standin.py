"""Stand-ins for shared libraries that a program is linked with but never calls in our guests.

The dynamic loader wants each library to be there and to define the symbols, with their versions; a
stand-in does that and nothing else. Used by image.py; which libraries: images/absent.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from vhostnvme.errors import ProvisionError

# readelf's row: number, value, size, type, binding, visibility, section, name@version.
_SYMBOL = re.compile(
    r"^\s*\d+:\s+\S+\s+\S+\s+(\S+)\s+(\S+)\s+\S+\s+(\S+)\s+([^\s@]+)(?:@@?([^\s(]+))?"
)


def parse_symbols(listing: str, *, defined: bool) -> set[tuple[str, str]]:
    """(name, version) of the dynamic symbols in readelf's listing; "" stands for no version."""
    found = set()
    for line in listing.splitlines():
        match = _SYMBOL.match(line)
        if match and (match.group(3) != "UND") == defined:
            found.add((match.group(4), match.group(5) or ""))
    return found


def stand_in_source(symbols: Iterable[tuple[str, str]], library: str) -> tuple[str, str]:
    """C source and linker version script of a library that defines these symbols."""
    by_version: dict[str, list[str]] = defaultdict(list)
    for name, version in sorted(symbols):
        by_version[version].append(name)
    text = (
        "#include <stdio.h>\n#include <unistd.h>\n"
        "static void absent(void)\n{\n"
        f'\tfprintf(stderr, "{library} is not part of this guest image\\n");\n\t_exit(1);\n}}\n'
    )
    for name in sorted({name for names in by_version.values() for name in names}):
        text += f"void {name}(void)\n{{\n\tabsent();\n}}\n"
    script = ""
    for version, names in by_version.items():
        if version:
            script += f"{version} {{ global: {' '.join(f'{name};' for name in names)} }};\n"
    return text, script


def build_stand_in(program: Path, library: Path, target: Path) -> None:
    """Builds a stand-in for `library` with what `program` wants from it."""
    wanted = parse_symbols(_symbols(program), defined=False)
    offered = {name for name, _ in parse_symbols(_symbols(library), defined=True)}
    text, script = stand_in_source({s for s in wanted if s[0] in offered}, target.name)
    source = target.with_suffix(".c")
    source.write_text(text)
    options = []
    if script:
        versions = target.with_suffix(".map")
        versions.write_text(script)
        options = [f"-Wl,--version-script={versions}"]
    # -w: the stand-ins of functions that the compiler knows have other types.
    command = ["gcc", "-w", "-O1", "-fno-builtin", "-shared", "-fPIC", "-s"]
    command += [f"-Wl,-soname,{target.name}", *options, "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ProvisionError(
            f"The stand-in for {target.name} could not be built: {done.stderr.strip()[:200]}"
        )


def _symbols(path: Path) -> str:
    done = subprocess.run(
        ["readelf", "--dyn-syms", "--wide", str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ProvisionError(f"readelf could not read {path.name}: {done.stderr.strip()[:200]}")
    return done.stdout
