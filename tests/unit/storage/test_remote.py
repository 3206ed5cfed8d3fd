"""SPECs of namespaces on other targets."""

from __future__ import annotations

import pytest

from vhostnvme.errors import ConfigError
from vhostnvme.fabric.address import Address
from vhostnvme.storage.disk import native_options
from vhostnvme.storage.spec import RemoteSpec, format_spec, parse_spec

NQN = "nqn.2026-11.io.vhostnvme:card-b"
UUID = "3d8d3b54-5f43-5cc0-9a3b-5e1d7e0c6a47"


def parsed(text: str) -> RemoteSpec:
    spec = parse_spec(text)
    assert isinstance(spec, RemoteSpec)
    return spec


def test_an_address_an_nqn_and_an_id_are_enough() -> None:
    spec = parsed(f"nvme+tcp://10.0.0.1:4420/{NQN}/7")
    assert spec == RemoteSpec(paths=(Address("10.0.0.1", 4420),), subnqn=NQN, nsid=7, block_size=0)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "?path=10.0.0.2:4420&path=[fe80::1]:4421",
        "?queues=2&depth=64&hdgst=on&ddgst=on",
        "?kato=2s&reconnect=500ms&connect=1s&timeout=4s",
        f"?hostnqn=nqn.2026-01.org.example:h&hostid={UUID}",
        "?tls-psk-file=/k/psk&dhchap-key-file=/k/a&dhchap-ctrl-key-file=/k/b",
        f"?size=1G&block=4096&readonly=on&uuid={UUID}&delay=1ms&error=1%25&iops=100",
    ],
)
def test_what_is_written_parses_to_the_same(options: str) -> None:
    spec = parsed(f"nvme+tcp://[::1]:4420/{NQN}/1{options}")
    assert parse_spec(format_spec(spec)) == spec


def test_signs_of_a_uri_in_an_nqn_are_written_in_hexadecimal() -> None:
    spec = parsed("nvme+tcp://h:1/nqn.2026-01.org.example:a%2Fb%3Fc%25/1")
    assert spec.subnqn == "nqn.2026-01.org.example:a/b?c%"
    assert parse_spec(format_spec(spec)) == spec


def test_paths_keep_their_order_and_are_there_once() -> None:
    spec = parsed(f"nvme+tcp://b:1/{NQN}/1?path=a:1&path=b:1&path=c:1")
    assert [path.host for path in spec.paths] == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("rest", "sentence"),
    [
        ("10.0.0.1:0/n/1", "no port from 1"),
        ("::1:4420/n/1", "brackets"),
        ("[::g]:4420/n/1", "no IPv6 address"),
        ("h:1/n/0", "begin with 1"),
        ("h:1/n/4294967295", "begin with 1"),
        ("h:1/n%20m/1", "printable"),
        ("h:1/" + "n" * 224 + "/1", "223"),
        ("h:1/n/1?queues=0", "too little"),
        ("h:1/n/1?queues=17", "up to 16"),
        ("h:1/n/1?depth=1", "too little"),
        ("h:1/n/1?depth=1025", "up to 1024"),
        ("h:1/n/1?kato=99ms", "100ms"),
        ("h:1/n/1?kato=1500us", "no time"),
        ("h:1/n/1?hdgst=yes", "neither on nor off"),
        ("h:1/n/1?hostnqn=me", "no NQN"),
        ("h:1/n/1?hostid=me", "no UUID"),
        ("h:1/n/1?dhchap-ctrl-key-file=/k", "dhchap-key-file"),
        ("h:1/n/1?tls-psk-file=", "path is missing"),
        ("h:1/n/1?queue=1", "did you mean 'queues'"),
        ("h:1/n/1?queues=1&queues=2", "there twice"),
        ("h:1/n/1?" + "&".join(f"path=h:{port}" for port in range(2, 10)), "up to 8 paths"),
    ],
)
def test_a_mistake_gets_one_sentence(rest: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace("[", r"\[")) as caught:
        parse_spec(f"nvme+tcp://{rest}")
    assert "\n" not in str(caught.value)


def test_the_library_gets_all_of_it() -> None:
    spec = parsed(f"nvme+tcp://10.0.0.1:4420/{NQN}/7?path=[::1]:1&queues=3&kato=2s&ddgst=on")
    options = native_options(spec)
    assert options.backend == "forward"
    assert options.block_size == 0
    assert options.uuid is None
    remote = options.remote
    assert remote is not None
    assert remote.paths == (("10.0.0.1", 4420), ("::1", 1))
    assert (remote.subnqn, remote.nsid, remote.queues) == (NQN, 7, 3)
    assert (remote.keep_alive_ms, remote.data_digest, remote.header_digest) == (2000, True, False)
    assert remote.hostnqn.startswith("nqn.")
