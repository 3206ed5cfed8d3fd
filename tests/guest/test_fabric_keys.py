"""Keys over the network: the Linux kernel's host and target prove themselves, and so do we."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import pytest
from tests_fabric import (
    HOSTNQN,
    LinuxPeer,
    Served,
    check_refused,
    check_verified,
    connect_words,
    connected,
    disk,
    listening,
)
from tests_guest import GuestRig

from vhostnvme.errors import PeerError
from vhostnvme.fabric.options import HostOptions, SubsystemOptions, TargetOptions
from vhostnvme.testing import NvmeHost
from vhostnvme.testing.server import ServerProcess

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


# -- the other way: our forwarder, and the kernel's target -----------------------------------------


@pytest.mark.parametrize("kind", ["dhchap", "tls"])
def test_the_forwarder_has_keys_for_linux(tmp_path: Path, kind: str) -> None:
    """The right keys open a disk; none, or another, is a sentence."""
    texts = {
        "dhchap": {"dhchap-key": HOST_KEY, "dhchap-ctrl-key": CTRL_KEY},
        "tls": {"tls-key": PSK},
    }[kind]
    words = [word for name, text in texts.items() for word in (f"--{name}", text)]
    wrong = WRONG_KEY if kind == "dhchap" else WRONG_PSK
    with LinuxPeer("--host", HOSTNQN, *words, "--size", "32") as peer:

        def serving(name: str, keys: dict[str, str]) -> ServerProcess:
            folder = tmp_path / name
            folder.mkdir()
            options = [f"hostnqn={HOSTNQN}", "connect=10s"]
            for key, text in keys.items():
                option = "tls-psk-file" if key == "tls-key" else f"{key}-file"
                options.append(f"{option}={key_file(folder, key, text)}")
            spec = f"nvme+tcp://127.0.0.1:{peer.port}/{peer.subnqn}/1?{'&'.join(options)}"
            return ServerProcess([spec], directory=folder)

        for name, keys in {"none": {}, "wrong": dict.fromkeys(texts, wrong)}.items():
            with pytest.raises(PeerError, match="did not start: vhostnvme: "):
                serving(name, keys)
        with serving("right", texts) as server, NvmeHost.connect(server.socket) as host:
            host.enable()
            queue = host.create_queue_pair()
            data = bytes(range(256)) * 512
            for lba in range(0, 4096, 256):
                queue.write(lba, data)
            assert all(queue.read(lba, 256) == data for lba in range(0, 4096, 256))
