"""DH-HMAC-CHAP at our target: by a host of our own making in Python, straight and crooked.

Every queue authenticates for itself, before anything else; what goes wrong ends the connection.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests_protocol import until
from tests_tcp import TcpServed, failed

from vhostnvme.errors import ProtocolError
from vhostnvme.native import HostAccess, Runtime, TargetLimits
from vhostnvme.testing import nvme
from vhostnvme.testing.nvme import Status
from vhostnvme.testing.nvmetcp_auth import (
    DHCHAP,
    FAILURE2,
    FFDHE2048,
    NEGOTIATE,
    NULL_GROUP,
    REPLY,
    SUCCESS1,
    HostProof,
    Refused,
    auth_receive,
    auth_send,
    authenticate,
    receive,
    send,
    transformed,
)
from vhostnvme.testing.nvmetcp_fabrics import FabricsStatus, connect, property_get
from vhostnvme.testing.nvmetcp_host import HOSTNQN, TcpHost
from vhostnvme.testing.nvmetcp_queue import Ended

ATR = 1 << 17
FREE_HOST = "nqn.2026-11.test:free"
ONE_WAY = "nqn.2026-11.test:one-way"
HOST_SECRET, CTRL_SECRET = os.urandom(48), os.urandom(64)
REASONS = {
    "failed": 1,
    "protocol": 2,
    "concat": 3,
    "hash": 4,
    "group": 5,
    "payload": 6,
    "message": 7,
}


@pytest.fixture(scope="module")
def served(runtime: Runtime) -> Iterator[TcpServed]:
    target = TcpServed(runtime, any_host=False)
    target.allow(FREE_HOST)
    keys = {"dhchap_key": HOST_SECRET, "dhchap_hash": 2}
    target.subsystem.allow(HostAccess(hostnqn=ONE_WAY, **keys))
    keys |= {"dhchap_ctrl_key": CTRL_SECRET, "dhchap_ctrl_hash": 3}
    target.subsystem.allow(HostAccess(hostnqn=HOSTNQN, **keys))
    yield target
    target.close()


def proof_of(served: TcpServed, **changes: object) -> HostProof:
    fields = {
        "hostnqn": HOSTNQN,
        "subnqn": served.nqn,
        "host_key": transformed(HOST_SECRET, 2, HOSTNQN),
        "ctrl_key": transformed(CTRL_SECRET, 3, served.nqn),
    }
    return HostProof(**(fields | changes))  # type: ignore[arg-type]


def connected(served: TcpServed, **options: object) -> TcpHost:
    host = served.connect(enable=False, **options)
    assert host.connected.result & ATR
    return host


@pytest.mark.parametrize("hash_id", [1, 2, 3])
@pytest.mark.parametrize("group", [NULL_GROUP, FFDHE2048])
@pytest.mark.parametrize("no_sq_flow", [False, True])
def test_every_queue_authenticates(
    served: TcpServed, hash_id: int, group: int, no_sq_flow: bool
) -> None:
    proof = proof_of(served, hashes=(hash_id,), groups=(group,))
    with connected(served, no_sq_flow=no_sq_flow) as host:
        failed(host.admin.command(property_get(0)).completion, FabricsStatus.AUTH_REQUIRED)
        failed(host.admin.command(nvme.identify(1), read=4096).completion, 0x191)
        authenticate(host.admin, proof)
        assert (proof.hash_id, proof.group) == (hash_id, group)
        host.enable()
        assert host.active_namespaces() == [1]
        queue, completion = host.try_queue(1)
        assert completion.ok
        assert completion.result & ATR
        failed(queue.command(nvme.read(1, 0, 1), read=512).completion, FabricsStatus.AUTH_REQUIRED)
        authenticate(queue, proof)
        queue.write(0, b"\x5a" * 512)
        assert queue.read(0, 1) == b"\x5a" * 512
        # Once more, on a queue that is at work.
        authenticate(host.admin, proof_of(served, t_id=2))
        host.keep_alive()


def test_one_way_and_none(served: TcpServed) -> None:
    with connected(served, hostnqn=ONE_WAY) as host:
        key = transformed(HOST_SECRET, 2, ONE_WAY)
        authenticate(host.admin, proof_of(served, hostnqn=ONE_WAY, host_key=key, ctrl_key=b""))
        host.enable()
    with served.connect(hostnqn=FREE_HOST) as host:
        assert not host.connected.result & ATR
        failed(send(host.admin, proof_of(served).negotiate()), Status.INVALID_OPCODE)
        host.keep_alive()


def test_the_host_is_told_of_when_it_has_authenticated(served: TcpServed) -> None:
    with connected(served) as host:
        assert HOSTNQN not in [each.hostnqn for each in served.target.hosts()]
        authenticate(host.admin, proof_of(served))
        (shown,) = [each for each in served.target.hosts() if each.hostnqn == HOSTNQN]
        assert shown.authenticated


def refused(served: TcpServed, reason: str, proof: HostProof, **changes: object) -> None:
    with connected(served, **changes) as host:
        with pytest.raises(Refused) as caught:
            authenticate(host.admin, proof)
        assert caught.value.reason == REASONS[reason]
        host.admin.ended()


def test_wrong_keys_end_the_connection(served: TcpServed) -> None:
    refused(served, "failed", proof_of(served, host_key=bytes(32)))
    refused(served, "failed", proof_of(served, hostnqn=FREE_HOST))
    # Another host's key does not fit, although it is on the list too.
    key = transformed(HOST_SECRET, 2, ONE_WAY)
    refused(served, "failed", proof_of(served, host_key=key))
    # A proof that the target cannot give.
    refused(
        served,
        "failed",
        proof_of(served, hostnqn=ONE_WAY, host_key=key),
        hostnqn=ONE_WAY,
    )
    refused(served, "hash", proof_of(served, hashes=(9,)))
    refused(served, "group", proof_of(served, groups=(9,)))
    refused(served, "group", proof_of(served, groups=(4, 5)))  # the work is ours too


def test_a_host_that_does_not_believe_us(served: TcpServed) -> None:
    with connected(served) as host:
        proof = proof_of(served, ctrl_key=bytes(64))
        with pytest.raises(ProtocolError, match="has not proved itself"):
            authenticate(host.admin, proof)
        failed(host.admin.command(property_get(0)).completion, FabricsStatus.AUTH_REQUIRED)
        assert send(host.admin, proof.head(DHCHAP, FAILURE2) + b"\1\1").ok
        host.admin.ended()


@pytest.mark.parametrize(
    ("number", "at", "value", "reason"),
    [
        (NEGOTIATE, 0, 1, "message"),
        (NEGOTIATE, 1, 2, "message"),
        (NEGOTIATE, 6, 1, "concat"),
        (NEGOTIATE, 7, 0, "payload"),
        (NEGOTIATE, 7, 2, "payload"),
        (NEGOTIATE, 8, 2, "protocol"),
        (NEGOTIATE, 10, 31, "payload"),
        (NEGOTIATE, 11, 31, "payload"),
        (REPLY, 0, 0, "message"),
        (REPLY, 1, 4, "message"),
        (REPLY, 4, 9, "payload"),
        (REPLY, 6, 0, "payload"),
        (REPLY, 6, 255, "payload"),
        (REPLY, 8, 2, "payload"),
        (REPLY, 10, 1, "payload"),
        (REPLY, 11, 0xFF, "payload"),
        (REPLY, 16, 0, "failed"),
    ],
)
def test_crooked_messages(served: TcpServed, number: int, at: int, value: int, reason: str) -> None:
    def spoil(current: int, message: bytes) -> bytes:
        if current != number:
            return message
        value_now = value if message[at] != value else value ^ 0xFF
        return message[:at] + bytes([value_now]) + message[at + 1 :]

    with connected(served) as host:
        with pytest.raises(Refused) as caught:
            authenticate(host.admin, proof_of(served, groups=(FFDHE2048,), hashes=(1,)), spoil)
        assert caught.value.reason == REASONS[reason]
        host.admin.ended()


@pytest.mark.parametrize("length", [1, 5, 8, 71])
def test_short_messages(served: TcpServed, length: int) -> None:
    with connected(served) as host:
        with pytest.raises(Refused) as caught:
            authenticate(host.admin, proof_of(served), lambda number, message: message[:length])
        assert caught.value.reason == REASONS["payload"]
        host.admin.ended()


def test_commands_that_make_no_sense(served: TcpServed) -> None:
    negotiate = proof_of(served).negotiate()
    with connected(served) as host:
        admin = host.admin
        for cdw10 in (0, 0xE8010100, 0xE9020100, 0xE9010200):
            completion = admin.command(auth_send(len(negotiate), cdw10), negotiate).completion
            failed(completion, Status.INVALID_FIELD)
            completion = admin.command(auth_receive(4096, cdw10), read=4096).completion
            failed(completion, Status.INVALID_FIELD)
        for length in (0, 4097, 0xFFFFFFFF):
            completion = admin.command(auth_send(length), negotiate).completion
            failed(completion, Status.INVALID_FIELD)
        failed(admin.command(auth_send(71), negotiate).completion, Status.SGL_DATA_LENGTH)
        failed(admin.command(auth_receive(64), read=4096).completion, Status.SGL_DATA_LENGTH)
        # None of it was an authentication: that one still goes well.
        authenticate(admin, proof_of(served))


def test_out_of_turn(served: TcpServed) -> None:
    """It is not the target's turn to speak; then it is, and the host speaks again."""
    with connected(served) as host:
        completion = host.admin.command(auth_receive(4096), read=4096).completion
        failed(completion, Status.COMMAND_SEQUENCE)
        assert send(host.admin, proof_of(served).negotiate()).ok
        failed(send(host.admin, proof_of(served).negotiate()), Status.COMMAND_SEQUENCE)
        host.admin.ended()


def test_a_buffer_that_is_too_small_can_be_tried_again(served: TcpServed) -> None:
    proof = proof_of(served, groups=(FFDHE2048,), hashes=(1,))
    with connected(served) as host:
        assert send(host.admin, proof.negotiate()).ok
        completion = host.admin.command(auth_receive(64), read=64).completion
        failed(completion, Status.COMMAND_SEQUENCE)
        challenge = receive(host.admin, 1)
        assert send(host.admin, proof.reply(challenge)).ok
        proof.check(receive(host.admin, SUCCESS1))


def test_who_has_not_authenticated_can_have_no_io_queue(served: TcpServed) -> None:
    with connected(served) as host:
        queue, completion = host.try_queue(1)
        failed(completion, Status.COMMAND_SEQUENCE)
        queue.close()
        # And its connection is one of those that are bounded in time.
        authenticate(host.admin, proof_of(served))


def test_who_takes_too_long_is_hung_up_on(runtime: Runtime) -> None:
    limits = TargetLimits(handshake_ms=200)
    target = TcpServed(runtime, any_host=False, limits=limits)
    try:
        target.subsystem.allow(HostAccess(hostnqn=HOSTNQN, dhchap_key=HOST_SECRET))
        host = connected(target)
        host.admin.ended()
        until(lambda: target.target.info().connections == 0, "the connection is gone")
        assert target.target.info().controllers == 0
    finally:
        target.close()


def test_authentications_are_bounded_by_a_rate(runtime: Runtime) -> None:
    """One costs time, a name costs nothing: after a burst Connect says busy, and others go on."""
    limits = TargetLimits(half_open=400, controllers=400)
    target = TcpServed(runtime, any_host=False, limits=limits)
    try:
        target.allow(FREE_HOST)
        target.subsystem.allow(HostAccess(hostnqn=HOSTNQN, dhchap_key=HOST_SECRET))
        queues = [target.ready() for _ in range(300)]
        data = bytes(target.data())
        cids = [queue.submit(connect(0, 31), data) for queue in queues]
        codes = [queue.wait(cid).completion.code for queue, cid in zip(queues, cids, strict=True)]
        assert codes[:256] == [Status.SUCCESS] * 256
        assert codes[-1] == FabricsStatus.CONNECT_BUSY
        with target.connect(hostnqn=FREE_HOST) as host:
            host.keep_alive()
    finally:
        target.close()


def test_a_key_that_was_taken_back(runtime: Runtime) -> None:
    target = TcpServed(runtime, any_host=False)
    try:
        target.subsystem.allow(HostAccess(hostnqn=HOSTNQN, dhchap_key=HOST_SECRET[:32]))
        proof = HostProof(HOSTNQN, target.nqn, HOST_SECRET[:32])
        host = connected(target)
        target.subsystem.deny(HOSTNQN)
        with pytest.raises(Ended):
            authenticate(host.admin, proof)
        target.subsystem.allow(HostAccess(hostnqn=HOSTNQN, dhchap_key=bytes(32)))
        with connected(target) as host, pytest.raises(Refused):
            authenticate(host.admin, proof)
        target.subsystem.allow(HostAccess(hostnqn=HOSTNQN))
        with target.connect() as host:
            assert not host.connected.result & ATR
    finally:
        target.close()
