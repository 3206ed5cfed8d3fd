"""The measurement of the first command after idle, on a real server, shortly."""

from __future__ import annotations

import json

import pytest

from vhostnvme.testing import idle


def test_one_line_for_each_idle_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(idle, "RATES", (0, 100))
    assert idle.main(["--doorbells", "trapped", "--seconds", "0.1"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["idle_ms"] for line in lines] == [0, 10.0]
    for line in lines:
        assert line["doorbells"] == "trapped" and line["commands"] > 0
        assert line["min_us"] <= line["p50_us"] <= line["p99_us"] <= line["max_us"]
