"""Targets that can be, and those that cannot; the command line's single subsystem."""

from __future__ import annotations

from pathlib import Path

import pytest

from vhostnvme.errors import ConfigError
from vhostnvme.fabric.address import Address
from vhostnvme.fabric.options import (
    AnaOptions,
    ExportOptions,
    HostOptions,
    ListenerOptions,
    ReferralOptions,
    SubsystemOptions,
    TargetOptions,
)
from vhostnvme.fabric.single import Keys, SingleOptions, single_target
from vhostnvme.native import AnaState
from vhostnvme.storage.spec import parse_spec

NQN = "nqn.2026-11.org.example:a"
HOST = "nqn.2026-11.org.example:host"
ADDRESS = Address("127.0.0.1", 4420)
KEY = Path("/key")
DISK = parse_spec("mem:1M")


def export(nsid: int = 1, **more: object) -> ExportOptions:
    return ExportOptions(nsid=nsid, disk=DISK, **more)  # type: ignore[arg-type]


def subsystem(**more: object) -> SubsystemOptions:
    return SubsystemOptions(**{"nqn": NQN, "namespaces": (export(),)} | more)  # type: ignore[arg-type]


def target(**more: object) -> TargetOptions:
    listeners = (ListenerOptions(address=ADDRESS),)
    return TargetOptions(**{"listeners": listeners, "subsystems": (subsystem(),)} | more)  # type: ignore[arg-type]


def test_a_target() -> None:
    assert target().subsystems[0].hosts == ()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"namespaces": ()}, "1 to 256 namespaces, not 0"),
        ({"namespaces": (export(), export())}, "namespace 1 is there twice"),
        ({"hosts": (HostOptions(nqn=HOST),) * 2}, "host .* is there twice"),
        ({"hosts": (HostOptions(nqn=HOST, namespaces=(2,)),)}, "namespace 2, which is none"),
        ({"serial": "x" * 21}, "serial number"),
        ({"model": ""}, "model"),
        ({"queues": 129}, "from 0 to 128"),
        ({"nqn": "a"}, "no NQN"),
        (
            {"any_host": True, "hosts": (HostOptions(nqn=HOST, dhchap_key_file=KEY),)},
            "everybody may connect",
        ),
    ],
)
def test_what_no_subsystem_can_be(more: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        subsystem(**more)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"listeners": ()}, "addresses to listen on"),
        ({"listeners": (ListenerOptions(address=ADDRESS),) * 2}, "is there twice"),
        ({"subsystems": (subsystem(),) * 2}, "subsystem .* twice"),
        ({"referrals": (ReferralOptions(address=ADDRESS),) * 2}, "referral .* twice"),
        ({"listeners": (ListenerOptions(address=ADDRESS, tls=True),)}, "nobody could connect"),
        (
            {"subsystems": (subsystem(hosts=(HostOptions(nqn=HOST, tls_psk_file=KEY),)),)},
            "no listener has TLS",
        ),
        (
            {
                "subsystems": (
                    subsystem(
                        ana=(
                            AnaOptions(
                                group=1, state=AnaState.OPTIMIZED, listener=Address("::1", 1)
                            ),
                        )
                    ),
                )
            },
            r"nobody listens on \[::1\]:1",
        ),
    ],
)
def test_what_no_target_can_be(more: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        target(**more)


def test_several_listeners_may_take_any_port() -> None:
    anywhere = ListenerOptions(address=Address("127.0.0.1", 0))
    assert len(target(listeners=(anywhere, anywhere)).listeners) == 2


def test_a_controllers_key_alone_proves_nothing() -> None:
    with pytest.raises(ConfigError, match="goes with one of the host"):
        HostOptions(nqn=HOST, dhchap_ctrl_key_file=KEY)


@pytest.mark.parametrize("number", [0, 257])
def test_ids_of_namespaces(number: int) -> None:
    with pytest.raises(ConfigError, match="from 1 to 256"):
        export(number)


def single(**more: object) -> TargetOptions:
    return single_target(SingleOptions(**{"listen": [ADDRESS], "disks": [DISK]} | more))  # type: ignore[arg-type]


def test_a_single_subsystem_has_a_name_that_stays() -> None:
    made = single().subsystems[0]
    assert made.nqn == single().subsystems[0].nqn
    assert made.nqn.endswith(f":{made.serial}")
    assert made.nqn != single(listen=[Address("::1", 4420)]).subsystems[0].nqn
    assert single(serial="S1").subsystems[0].nqn == "nqn.2026-11.io.vhostnvme:S1"


def test_keys_of_all_allowed_hosts() -> None:
    made = single(tls=True, hosts=[HOST, NQN], keys=Keys(tls_psk=KEY, dhchap=KEY))
    assert made.listeners[0].tls
    assert [host.tls_psk_file for host in made.subsystems[0].hosts] == [KEY, KEY]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"keys": Keys(dhchap=KEY)}, "--allow-host"),
        ({"tls": True, "hosts": [HOST]}, "--tls-psk-file"),
        ({"keys": Keys(tls_psk=KEY), "hosts": [HOST]}, "add --tls"),
        ({"keys": Keys(dhchap_ctrl=KEY), "hosts": [HOST]}, "goes with one of the host"),
    ],
)
def test_keys_that_do_not_fit(more: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        single(**more)
