"""Names and addresses of a lab's hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhostnvme.errors import ConfigError
from vhostnvme.lab.names import CARDS_MAX, card_hosts, card_names, is_store, lab_name, store_hosts


def test_cards_are_called_by_letters() -> None:
    names = card_names(CARDS_MAX)
    assert names[:3] == ["a", "b", "c"]
    assert names[25:28] == ["z", "aa", "ab"]
    assert len(set(names)) == CARDS_MAX


@pytest.mark.parametrize("count", [0, -1, CARDS_MAX + 1])
def test_so_many_cards_cannot_be(count: int) -> None:
    with pytest.raises(ConfigError, match="from 1 to 50 cards"):
        card_names(count)


def test_hosts_differ_in_everything() -> None:
    hosts = card_hosts("12345678", CARDS_MAX) + store_hosts("12345678", 3)
    for values in (
        {host.name for host in hosts},
        {host.address for host in hosts},
        {host.mac for host in hosts},
        {host.namespace for host in hosts},
    ):
        assert len(values) == len(hosts)
    assert hosts[0].address == "10.77.0.1"
    assert hosts[0].mac == "02:00:0a:4d:00:01"
    assert hosts[0].namespace == "vhostnvme-12345678-a"
    assert [host.name for host in hosts if is_store(host.name)] == ["store1", "store2", "store3"]


def test_labs_of_two_folders_have_two_names() -> None:
    assert lab_name(Path("/one")) == lab_name(Path("/one"))
    assert lab_name(Path("/one")) != lab_name(Path("/two"))
