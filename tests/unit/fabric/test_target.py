"""A running target: the order of its start and stop, and what it leaves behind: nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhostnvme.errors import ConfigError, NativeError
from vhostnvme.fabric.address import Address
from vhostnvme.fabric.options import (
    HostOptions,
    ListenerOptions,
    ReferralOptions,
    TargetOptions,
)
from vhostnvme.fabric.single import SingleOptions, single_target
from vhostnvme.fabric.target import FabricTarget
from vhostnvme.limits import Limits
from vhostnvme.native import AnaState, EventType, Runtime
from vhostnvme.storage.spec import parse_spec

NQN = "nqn.2026-11.org.example:a"
HOST = "nqn.2026-11.org.example:host"
ANYWHERE = Address("127.0.0.1", 0)


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime() as opened:
        yield opened


def options(*specs: str, **more: object) -> TargetOptions:
    disks = [parse_spec(spec) for spec in specs or ("mem:1M",)]
    given = {"listen": [ANYWHERE], "disks": disks, "subnqn": NQN} | more
    return single_target(SingleOptions(**given))  # type: ignore[arg-type]


async def test_it_listens_until_it_is_stopped(runtime: Runtime) -> None:
    target = FabricTarget(runtime, options(listen=[ANYWHERE, Address("localhost", 0)]))
    await target.start()
    ports = [each.address.port for each in target.listeners]
    assert len(set(ports)) == 2
    with socket.create_connection(("127.0.0.1", ports[0])):
        assert target.info().connections <= 1
    await target.stop()
    await target.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]))
    assert runtime.targets == []
    assert runtime.namespaces == []
    assert EventType.TARGET_DESTROYED in {event.type for event in runtime.poll_events()}


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"listen": [ANYWHERE, Address("203.0.113.7", 4420)]}, NativeError),
        ({"listen": [Address("no-such-host.invalid", 4420)]}, ConfigError),
        ({"referrals": [Address("no-such-host.invalid", 4420)]}, ConfigError),
    ],
)
async def test_a_failed_start_leaves_nothing(
    runtime: Runtime, more: dict[str, object], kind: type[Exception], tmp_path: Path
) -> None:
    target = FabricTarget(runtime, options(f"file:{tmp_path}/d?size=1M", **more))
    with pytest.raises(kind):
        await target.start()
    assert runtime.targets == []
    assert runtime.namespaces == []


async def test_hosts_come_and_go(runtime: Runtime) -> None:
    target = FabricTarget(runtime, options(hosts=[HOST]))
    await target.start()
    target.allow(NQN, HostOptions(nqn=f"{HOST}2", namespaces=(1,)))
    target.deny(NQN, HOST)
    target.subsystem(NQN).set_ana(1, AnaState.INACCESSIBLE)
    with pytest.raises(ConfigError, match="no subsystem"):
        target.deny(f"{NQN}b", HOST)
    assert target.native.hosts() == []
    await target.stop()


async def test_referrals_of_everywhere(runtime: Runtime) -> None:
    listeners = (ListenerOptions(address=ANYWHERE),)
    referrals = (
        ReferralOptions(address=Address("::1", 4420)),
        ReferralOptions(address=Address("localhost", 4421)),
    )
    subsystems = options().subsystems
    target = FabricTarget(
        runtime, TargetOptions(listeners=listeners, subsystems=subsystems, referrals=referrals)
    )
    await target.start()
    await target.stop()


async def test_limits_of_its_namespaces(runtime: Runtime) -> None:
    target = FabricTarget(runtime, options("mem:1M?iops=5"))
    await target.start()
    assert target.limits(1).iops == 5
    target.set_limits(Limits(iops=6), 1)
    assert target.limits(1).iops == 6
    await target.stop()


async def test_a_runtime_closes_what_is_left(tmp_path: Path) -> None:
    with Runtime() as runtime:
        target = FabricTarget(runtime, options(f"file:{tmp_path}/d?size=1M"))
        await target.start()
    assert target.native.gone
