"""Shared by all tests: where things are, and how hypothesis searches.

By default it tries the same examples every time; HYPOTHESIS_PROFILE=thorough looks for new ones.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

TOP = Path(__file__).resolve().parent.parent

settings.register_profile("default", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("thorough", deadline=None, print_blob=True, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def top() -> Path:
    """The root of the source tree."""
    return TOP
