"""The measurement of many cards, small: what it prints is whole, and nothing is left behind."""

from __future__ import annotations

import json

import pytest

from vhostnvme.testing import scale

LOADS = {"transactions", "renewals", "reads", "events", "bytes_out", "bytes_in", "cpu_ms"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "placement", "per_device"), [("sqlite", "remote", 1), ("etcd", "auto", 4)]
)
def test_cards_with_many_namespaces(
    store: str, placement: str, per_device: int, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"--cards 3 --namespaces 8 --per-device {per_device} --seconds 0.5 --at-once 4"
    assert scale.main([*words.split(), "--store", store, "--placement", placement]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["namespaces"] == 24
    assert said["given"] == (24 if placement == "remote" else 0)
    assert said["left"] == 0
    for name in ("create_ms", "delete_ms", "status_ms"):
        spread = said[name]
        assert 0 < spread["p50"] <= spread["p90"] <= spread["p99"] <= spread["max"]
    assert 0 < said["rss_bytes"]["empty"] <= said["rss_bytes"]["full"]
    for name in ("idle", "full"):
        assert said[name].keys() == LOADS
        # Cards to which nothing happens renew their leases, and that is all.
        assert said[name]["transactions"] == said[name]["events"] == said[name]["reads"] == 0
    # Asked and answered; and what all cards have to offer now, five times a second at most.
    assert said["creating"]["for_each"]["transactions"] <= 2 * per_device + 2
