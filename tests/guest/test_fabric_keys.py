"""Keys over the network: the Linux kernel's host and target prove themselves, and so do we."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import pytest
from tests_fabric import (
    HOSTNQN,
    Served,
    check_refused,
    check_verified,
    connect_words,
    connected,
    disk,
    listening,
)
from tests_guest import GuestRig

from vhostnvme.fabric.options import HostOptions, SubsystemOptions, TargetOptions

KEYS = "nqn.2026-11.test.vhostnvme:keys"
SECRET = "nqn.2026-11.test.vhostnvme:secret"


def interchange(prefix: str, key: bytes) -> str:
    """A key in the text form of nvme-cli: the key and its CRC-32, in base 64."""
    text = base64.b64encode(key + zlib.crc32(key).to_bytes(4, "little")).decode()
    return f"{prefix}:{text}:"


HOST_KEY = interchange("DHHC-1:00", bytes(range(32)))
CTRL_KEY = interchange("DHHC-1:00", bytes(range(32, 64)))
WRONG_KEY = interchange("DHHC-1:00", bytes(range(64, 96)))
PSK = interchange("NVMeTLSkey-1:01", bytes(range(100, 132)))
WRONG_PSK = interchange("NVMeTLSkey-1:01", bytes(range(132, 164)))


def key_file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def rig(networked: GuestRig) -> GuestRig:
    return networked


@pytest.fixture(scope="module")
def locked(rig: GuestRig, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A subsystem whose host proves itself, and one whose host has a key for TLS."""
    folder = tmp_path_factory.mktemp("keys")
    proves = HostOptions(
        nqn=HOSTNQN,
        dhchap_key_file=key_file(folder, "host", HOST_KEY),
        dhchap_ctrl_key_file=key_file(folder, "ctrl", CTRL_KEY),
    )
    with_psk = HostOptions(nqn=HOSTNQN, tls_psk_file=key_file(folder, "psk", PSK))
    options = TargetOptions(
        listeners=(listening(), listening(tls=True)),
        subsystems=(
            SubsystemOptions(nqn=KEYS, hosts=(proves,), namespaces=(disk("mem:64M"),)),
            SubsystemOptions(nqn=SECRET, hosts=(with_psk,), namespaces=(disk("mem:64M"),)),
        ),
    )
    return Served.of(rig.wait(rig.services.add_target(options)))


def test_hosts_prove_that_they_know_the_key_and_so_do_we(rig: GuestRig, locked: Served) -> None:
    both = f"-S {HOST_KEY} -C {CTRL_KEY}"
    with rig.quiet_kernel(), connected(rig, locked.port, KEYS, f"-S {HOST_KEY}") as connection:
        check_verified(rig, connection.node(), depth=8)
    with rig.quiet_kernel(), connected(rig, locked.port, KEYS, both) as connection:
        check_verified(rig, connection.node(), depth=8)


@pytest.mark.parametrize(
    "options",
    ["", f"-S {WRONG_KEY}", f"-S {HOST_KEY} -C {WRONG_KEY}"],
    ids=["none", "wrong", "wrong-of-ours"],
)
def test_who_does_not_know_the_key_stays_outside(
    rig: GuestRig, locked: Served, options: str
) -> None:
    check_refused(rig, locked, connect_words(locked.port, KEYS, options))


@pytest.fixture(scope="module")
def handshakes(rig: GuestRig) -> None:
    """The daemon that shakes hands for the kernel."""
    rig.run("modprobe tls; (tlshd -s >/tmp/tlshd.log 2>&1) & echo")


def insert_key(rig: GuestRig, psk: str, subnqn: str) -> None:
    rig.run(f"nvme check-tls-key -d {psk} -n {HOSTNQN} -c {subnqn} -I 1 -i")


@pytest.mark.usefixtures("handshakes")
@pytest.mark.parametrize("options", ["--tls", "--tls -g -G"], ids=["plain", "digests"])
def test_tls_with_a_shared_key(rig: GuestRig, locked: Served, options: str) -> None:
    insert_key(rig, PSK, SECRET)
    with rig.quiet_kernel(), connected(rig, locked.tls_port, SECRET, options) as connection:
        assert connection.attribute("tls_key")
        check_verified(rig, connection.node(), depth=16)


@pytest.mark.usefixtures("handshakes")
def test_without_tls_or_with_another_key_nobody_gets_in(rig: GuestRig, locked: Served) -> None:
    check_refused(rig, locked, connect_words(locked.tls_port, SECRET))
    insert_key(rig, WRONG_PSK, KEYS)
    check_refused(rig, locked, connect_words(locked.tls_port, KEYS, "--tls"))
