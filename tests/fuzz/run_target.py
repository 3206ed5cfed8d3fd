"""One fuzz target for as long as one likes: run_target.py TARGET [-- LIBFUZZER ARGUMENTS].

New inputs go to build/fuzz/corpus/TARGET, and are the start of the next run; what crashes goes to
build/fuzz/found.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

from tests_build import fuzz_build  # noqa: E402

TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.c"))


def main(arguments: list[str]) -> NoReturn:
    name = arguments[0].removeprefix("fuzz_") if arguments else ""
    extra = arguments[1:]
    if extra[:1] == ["--"]:
        extra = extra[1:]
    if name not in TARGETS:
        sys.stderr.write(f"there is no fuzz target '{name}': take one of {', '.join(TARGETS)}\n")
        sys.exit(2)
    target = f"fuzz_{name}"
    program = fuzz_build(TOP).target(f"tests/fuzz/{target}")
    new, found = TOP / "build/fuzz/corpus" / target, TOP / "build/fuzz/found"
    new.mkdir(parents=True, exist_ok=True)
    found.mkdir(parents=True, exist_ok=True)
    command = [str(program), f"-artifact_prefix={found}/{target}-", "-timeout=20"]
    command += ["-len_control=20", "-max_len=2048", *extra]
    # Files among the arguments are inputs to run once, as libFuzzer has it.
    if not any(Path(argument).is_file() for argument in extra):
        seeds = HERE / "corpus" / target
        command += [str(new), *([str(seeds)] if seeds.is_dir() else [])]
    os.environ.setdefault("UBSAN_OPTIONS", "halt_on_error=1:print_stacktrace=1")
    os.execv(program, command)


if __name__ == "__main__":
    main(sys.argv[1:])
