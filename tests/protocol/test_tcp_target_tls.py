"""TLS at our target: a scripted host behind `openssl s_client`, with keys derived here.

The key that a connection was made with says whose it may be.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests_protocol import until
from tests_tcp import LOCALHOST, OTHER_HOSTNQN, TcpServed, failed

from vhostnvme.errors import NativeError
from vhostnvme.native import HostAccess, Runtime, TargetLimits
from vhostnvme.testing.nvmetcp_auth import HostProof, authenticate
from vhostnvme.testing.nvmetcp_fabrics import DISCOVERY_NQN, FabricsStatus
from vhostnvme.testing.nvmetcp_host import HOSTNQN, HostOptions, TcpHost
from vhostnvme.testing.nvmetcp_queue import Address, Ended, TcpQueue

KEY, OTHER_KEY = os.urandom(32), os.urandom(32)
OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")


def expand_label(key: bytes, label: str, context: str) -> bytes:
    """HKDF-Extract with no salt, then one block of HKDF-Expand-Label, with SHA-256."""
    prk = hmac.digest(bytes(32), key, "sha256")
    info = b"\0\x20" + bytes([6 + len(label)]) + b"tls13 " + label.encode()
    info += bytes([len(context)]) + context.encode()
    return hmac.digest(prk, info + b"\1", "sha256")


def psk_of(
    key: bytes, subnqn: str, hostnqn: str = HOSTNQN, version: int = 0, hash_id: int = 1
) -> tuple[str, bytes]:
    """Identity and key, as TLS has them."""
    retained = expand_label(key, "HostNQN", hostnqn) if hash_id else key
    names = f"{hostnqn} {subnqn}"
    if version == 0:
        identity = f"NVMe0R01 {names}"
        return identity, expand_label(retained, "nvme-tls-psk", identity)
    text = f"{names} NVMe-over-Fabrics".encode()
    digest = base64.b64encode(hmac.digest(retained, text, hashlib.sha256)).decode()
    identity = f"NVMe1R01 {names} {digest}"
    return identity, expand_label(retained, "nvme-tls-psk", f"01 {digest}")


class Tunnel:
    """A local address; each connection to it goes on in TLS, by a client of its own."""

    def __init__(self, address: Address, psk: tuple[str, bytes]) -> None:
        identity, key = psk
        self._command = [
            *(OPENSSL or "openssl", "s_client", "-quiet", "-tls1_3"),
            *("-connect", f"{address[0]}:{address[1]}"),
            *("-psk_identity", identity, "-psk", key.hex()),
        ]
        self._clients: list[subprocess.Popen[bytes]] = []
        self._listener = socket.create_server((LOCALHOST, 0))
        self.address: Address = self._listener.getsockname()[:2]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                local, _ = self._listener.accept()
            except OSError:
                return
            with local:
                client = subprocess.Popen(
                    self._command, stdin=local, stdout=local, stderr=subprocess.DEVNULL
                )
            self._clients.append(client)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for client in self._clients:
            client.kill()
            client.wait()


class Secured:
    """A target with a listener that takes nothing but TLS."""

    def __init__(self, runtime: Runtime, limits: TargetLimits | None = None) -> None:
        self.served = TcpServed(runtime, any_host=False, limits=limits)
        self._tunnels: list[Tunnel] = []
        _, port = self.served.target.listen(LOCALHOST, 0, tls=True)
        self.address: Address = (LOCALHOST, port)

    @property
    def nqn(self) -> str:
        return self.served.nqn

    def allow(self, hostnqn: str = HOSTNQN, key: bytes = KEY, **more: Any) -> None:
        access = HostAccess(hostnqn=hostnqn, **({"tls_key": key, "tls_hash": 1} | more))
        self.served.subsystem.allow(access)

    def behind(self, psk: tuple[str, bytes]) -> Address:
        self._tunnels.append(Tunnel(self.address, psk))
        return self._tunnels[-1].address

    def queue(self, psk: tuple[str, bytes]) -> TcpQueue:
        """A connection that awaits its Connect."""
        queue = self.served.raw(address=self.behind(psk))
        queue.initialize()
        return queue

    def host(self, psk: tuple[str, bytes], nqn: str = "", **options: Any) -> TcpHost:
        return TcpHost(self.behind(psk), nqn or self.nqn, HostOptions(**options))

    def refused(self, psk: tuple[str, bytes]) -> None:
        """The handshake fails."""
        queue = self.served.raw(address=self.behind(psk))
        with pytest.raises(Ended):
            queue.initialize()

    def close(self) -> None:
        for tunnel in self._tunnels:
            tunnel.close()
        self.served.close()


@pytest.fixture
def secured(runtime: Runtime) -> Iterator[Secured]:
    target = Secured(runtime)
    yield target
    target.close()


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("hash_id", [0, 1])
def test_both_identities_and_both_kinds_of_key(
    secured: Secured, version: int, hash_id: int
) -> None:
    secured.allow(tls_hash=hash_id)
    with secured.host(psk_of(KEY, secured.nqn, version=version, hash_id=hash_id)) as host:
        queue = host.create_queue(1)
        data = os.urandom(1 << 20)
        for at in range(0, len(data), 1 << 18):
            queue.write(at // 512, data[at : at + (1 << 18)])
        assert b"".join(queue.read(at // 512, 512) for at in range(0, len(data), 1 << 18)) == data
        (shown,) = secured.served.target.hosts()
        assert shown.tls
        assert not shown.authenticated


def test_discovery(secured: Secured) -> None:
    secured.allow()
    with secured.host(psk_of(KEY, DISCOVERY_NQN), nqn=DISCOVERY_NQN) as host:
        entries = [each for each in host.discovery_log().entries if each.subnqn == secured.nqn]
        assert len(entries) == 2


def test_a_key_names_its_host_and_subsystem(secured: Secured) -> None:
    secured.allow()
    secured.allow(OTHER_HOSTNQN, OTHER_KEY)
    other = secured.served.add_subsystem(any_host=False)
    other.allow(HostAccess(hostnqn=HOSTNQN, tls_key=KEY, tls_hash=1))
    secured.served.add_subsystem(any_host=True)
    psk = psk_of(KEY, secured.nqn)
    for changes in (
        {"hostnqn": OTHER_HOSTNQN},
        {"subnqn": other.nqn},
        {"subnqn": DISCOVERY_NQN},
        {"hostnqn": HOSTNQN + " " + secured.nqn},
    ):
        queue = secured.queue(psk)
        failed(queue.connect(secured.served.data(**changes)), FabricsStatus.CONNECT_HOST)
    for nqn in (secured.nqn, other.nqn):
        with secured.host(psk_of(KEY, nqn), nqn=nqn):
            pass
    # An I/O queue is held to it as well.
    with secured.host(psk) as host:
        queue = secured.queue(psk_of(OTHER_KEY, secured.nqn, OTHER_HOSTNQN))
        completion = queue.connect(host.connect_data(), qid=1)
        failed(completion, FabricsStatus.CONNECT_HOST)


def test_wrong_keys_do_not_shake_hands(secured: Secured) -> None:
    secured.refused(psk_of(KEY, secured.nqn))  # there are no keys at all yet
    secured.allow()
    good = psk_of(KEY, secured.nqn)
    secured.refused((good[0], OTHER_KEY))
    secured.refused(psk_of(KEY, secured.nqn, OTHER_HOSTNQN))
    secured.refused((good[0] + "x", good[1]))
    secured.refused(psk_of(KEY, secured.nqn + "x"))
    with secured.host(good):
        pass


def test_keys_come_and_go(secured: Secured) -> None:
    old, new = psk_of(KEY, secured.nqn), psk_of(OTHER_KEY, secured.nqn)
    secured.allow()
    other = secured.served.add_subsystem(any_host=False)
    other.allow(HostAccess(hostnqn=HOSTNQN, tls_key=KEY, tls_hash=1))
    secured.allow(key=OTHER_KEY)
    secured.refused(old)
    with secured.host(new) as host:
        secured.served.subsystem.deny(HOSTNQN)
        with pytest.raises(Ended):
            host.admin.ended()
            host.keep_alive()
    secured.refused(new)
    # The other subsystem's key is there still, for discovery too.
    with secured.host(psk_of(KEY, other.nqn), nqn=other.nqn):
        pass
    with secured.host(psk_of(KEY, DISCOVERY_NQN), nqn=DISCOVERY_NQN):
        pass
    other.close()
    secured.refused(psk_of(KEY, other.nqn))
    secured.refused(psk_of(KEY, DISCOVERY_NQN))


def test_plain_text_is_not_understood(secured: Secured) -> None:
    secured.allow()
    queue = secured.served.raw(address=secured.address)
    with pytest.raises(Ended):
        queue.initialize()


def test_a_host_with_a_key_has_to_come_by_tls(secured: Secured) -> None:
    secured.allow()
    secured.served.allow(OTHER_HOSTNQN)
    with secured.served.ready() as queue:
        failed(queue.connect(secured.served.data()), FabricsStatus.CONNECT_HOST)
    with secured.served.connect(hostnqn=OTHER_HOSTNQN) as host:
        host.keep_alive()


def test_tls_and_then_authentication(secured: Secured) -> None:
    secured.allow(dhchap_key=OTHER_KEY)
    queue = secured.queue(psk_of(KEY, secured.nqn))
    assert queue.connect(secured.served.data()).result & 1 << 17  # ATR
    authenticate(queue, HostProof(HOSTNQN, secured.nqn, OTHER_KEY))
    (shown,) = secured.served.target.hosts()
    assert shown.tls
    assert shown.authenticated


def test_who_does_not_shake_hands_is_hung_up_on(runtime: Runtime) -> None:
    target = Secured(runtime, TargetLimits(handshake_ms=200))
    try:
        target.allow()
        queue = target.served.raw(address=target.address)
        queue.send(b"\x16\x03\x01\x02\x00")  # of a ClientHello, the first five bytes
        queue.ended()
        until(lambda: target.served.target.info().connections == 0, "the connection is gone")
    finally:
        target.close()


@pytest.mark.parametrize("hostnqn", ["with space", "a" * 223])
def test_names_that_make_no_identity(secured: Secured, hostnqn: str) -> None:
    if " " in hostnqn:
        with pytest.raises(NativeError, match="no keys can be made"):
            secured.allow(hostnqn)
        return
    # As long as a name may be: there is no version 0 of it, but version 1.
    secured.allow(hostnqn)
    long = secured.served.add_subsystem(any_host=False)
    long.allow(HostAccess(hostnqn=hostnqn, tls_key=KEY, tls_hash=1))
    with secured.host(psk_of(KEY, long.nqn, hostnqn, version=1), nqn=long.nqn, hostnqn=hostnqn):
        pass
