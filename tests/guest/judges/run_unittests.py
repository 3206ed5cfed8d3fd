"""Runs in the guest: Python unit tests of a suite, one after the other, each within a bound.

Usage: run_unittests.py FOLDER SECONDS MODULE... - writes one JSON object a test to stdout: name,
outcome (passed, failed, skipped), seconds, and the reason or the end of the traceback.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import unittest
from collections.abc import Iterator
from typing import Any, TextIO

DETAIL_CHARACTERS_MAX = 3000
# What the programs that a test starts say of errors.
_said = os.fdopen(os.memfd_create("said"), "w+b")


class Recorder(unittest.TestResult):
    """Writes each test's outcome as soon as it is known; a test has one, the worst."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self._out = out
        self._outcome = ("passed", "")
        self._started = 0.0

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._outcome, self._started = ("passed", ""), time.monotonic()
        _said.seek(0)
        _said.truncate()

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._outcome = ("failed", self.failures[-1][1])

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._outcome = ("failed", self.errors[-1][1])

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._outcome = ("skipped", reason)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        outcome, detail = self._outcome
        if outcome == "failed":
            _said.seek(0)
            detail += _said.read().decode(errors="replace")
        line = {
            "name": test.id(),
            "outcome": outcome,
            "seconds": round(time.monotonic() - self._started, 1),
            "detail": detail[-DETAIL_CHARACTERS_MAX:],
        }
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()


def too_long(number: int, frame: object) -> None:
    raise TimeoutError("the test did not end within its bound")


def each(suite: unittest.TestSuite | unittest.TestCase) -> Iterator[unittest.TestCase]:
    if isinstance(suite, unittest.TestCase):
        yield suite
        return
    for part in suite:
        yield from each(part)


def main(folder: str, seconds: str, *modules: str) -> None:
    sys.path.insert(0, folder)
    os.dup2(_said.fileno(), 2)
    out = sys.stdout
    result = Recorder(out)
    signal.signal(signal.SIGALRM, too_long)
    for module in modules:
        for test in each(unittest.defaultTestLoader.loadTestsFromName(module)):
            signal.alarm(int(seconds))
            test.run(result)
            signal.alarm(0)
            # Suites put their own in the place of these.
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # type: ignore[assignment]


if __name__ == "__main__":
    main(*sys.argv[1:])
