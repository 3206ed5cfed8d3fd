"""What the guest's unit tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhostnvme.guest.image import build_agent


@pytest.fixture(scope="session")
def agent_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's agent, built as for the image; it runs on the host as well."""
    path = tmp_path_factory.mktemp("agent") / "guest-agent"
    build_agent(path)
    return path
