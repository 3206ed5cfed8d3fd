"""HOST:PORT in all its forms, and NQNs."""

from __future__ import annotations

import pytest

from vhostnvme.errors import ConfigError, PeerError
from vhostnvme.fabric.address import Address, parse_address, resolve
from vhostnvme.fabric.nqn import (
    DISCOVERY_NQN,
    check_nqn,
    check_subsystem_nqn,
    host_identity,
    nqn_of_serial,
    serial_of,
)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:4420", "127.0.0.1", 4420),
        ("[::1]:4420", "::1", 4420),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("card-a.example.org:65535", "card-a.example.org", 65535),
        ("0.0.0.0:8009", "0.0.0.0", 8009),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    address = parse_address(text)
    assert address == Address(host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "neither"),
        ("127.0.0.1", "lacks a port"),
        ("127.0.0.1:", "lacks a port"),
        (":4420", "neither"),
        ("::1:4420", "brackets"),
        ("::1", "brackets"),
        ("[::1]", "lacks a port"),
        ("[127.0.0.1]:4420", "no IPv6 address"),
        ("[zz::1]:4420", "no IPv6 address"),
        ("127.0.0.256:4420", "neither"),
        ("127.1:4420", "neither"),
        ("host:0", "no port from 1"),
        ("host:65536", "no port"),
        ("host:+80", "no port"),
        ("host:४", "no port"),
        ("ho st:80", "neither"),
        ("-a:80", "neither"),
        ("a:b:c", "no address"),
        ("x" * 300 + ":80", "neither"),
    ],
)
def test_what_is_no_address(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_address(text)


def test_port_0_is_for_listeners() -> None:
    assert parse_address("[::]:0", any_port=True).port == 0


def test_names_are_resolved() -> None:
    assert resolve(Address("::1", 7)) == [Address("::1", 7)]
    found = resolve(Address("localhost", 4420))
    assert found
    assert all(each.numeric and each.port == 4420 for each in found)


def test_an_unknown_name() -> None:
    with pytest.raises(PeerError, match=r"'no-such-host\.invalid' is not known"):
        resolve(Address("no-such-host.invalid", 4420))


@pytest.mark.parametrize(
    "text",
    [
        "nqn.2016-06.io.spdk:cnode1",
        "nqn.2014-08.org.nvmexpress:uuid:8d3b5432-0000-4000-8000-000000000001",
        "nqn.2026-11.org.example",
        "nqn.2026-11.org.example:" + "x" * 199,
    ],
)
def test_nqns(text: str) -> None:
    assert check_subsystem_nqn(text) == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is no NQN"),
        ("disk1", "is no NQN"),
        ("nqn.2026-13.org.example:a", "is no NQN"),
        ("nqn.2026-11.org.example:", "is no NQN"),
        ("nqn.2026-11.org.example:a b", "without spaces"),
        ("nqn.2026-11.org.example:ä", "printable ASCII"),
        ("nqn.2026-11.org.example:" + "x" * 200, "223"),
        ("nqn.2014-08.org.nvmexpress:uuid:123", "must be a UUID"),
        (DISCOVERY_NQN, "discovery service"),
    ],
)
def test_what_is_no_nqn_of_ours(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_subsystem_nqn(text)


def test_made_names_stay_and_are_good() -> None:
    assert check_nqn(nqn_of_serial("A B"))
    assert serial_of("a") == serial_of("a") != serial_of("b")
    assert len(serial_of("a")) <= 20
    assert check_nqn(host_identity().nqn)
    assert host_identity() == host_identity()
