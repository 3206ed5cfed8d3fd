"""Meson build folders for tests: kept between runs, reconfigured as files come or go."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

BUILD_TIME_LIMIT_S = 540
_LISTED = ("csrc/**/*.c", "tests/c/test_*.c", "tests/fuzz/fuzz_*.c")


class Build:
    """The folder build/NAME of a source tree, without the Python extension."""

    def __init__(
        self, top: Path, name: str, options: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        self._top = top
        self._folder = top / "build" / name
        self._env = {**os.environ, **(env or {})}
        self._env["PATH"] = f"{Path(sys.executable).parent}:{self._env.get('PATH', '')}"
        files = sorted(str(path.relative_to(top)) for glob in _LISTED for path in top.glob(glob))
        state = "\n".join(["1", *options, *files])
        stamp = self._folder / ".configured-for"
        if stamp.is_file() and stamp.read_text() == state:
            return
        # Sanitizers make gcc warn of what cannot be; the warnings count in the plain build.
        fixed = ["-Dpython=false", "-Dbuildtype=debugoptimized", "-Dwerror=false"]
        command = ["setup", *fixed, *options]
        if (self._folder / "build.ninja").is_file():
            command.insert(1, "--reconfigure")
        else:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._run("meson", *command, str(self._folder), str(top))
        stamp.write_text(state)

    def target(self, name: str) -> Path:
        """Builds one program and says where it is."""
        self._run("ninja", "-C", str(self._folder), name)
        return self._folder / name

    def compiler(self) -> str:
        """Like "gcc 12.2.0"."""
        known = json.loads((self._folder / "meson-info/intro-compilers.json").read_text())
        return f"{known['host']['c']['id']} {known['host']['c']['version']}"

    def _run(self, tool: str, *arguments: str) -> None:
        program = shutil.which(tool, path=self._env["PATH"])
        assert program is not None, f"{tool} is not installed"
        done = subprocess.run(
            [program, *arguments],
            cwd=self._top,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=BUILD_TIME_LIMIT_S,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"{tool} failed:\n{(done.stdout + done.stderr)[-6000:]}")


def fuzz_build(top: Path) -> Build:
    """Clang's, with libFuzzer, ASan and UBSan."""
    options = ["-Dfuzz=true", "-Db_sanitize=address,undefined", "-Db_lundef=false"]
    return Build(top, "fuzz", options, env={"CC": "clang"})
