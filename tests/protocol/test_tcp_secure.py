"""Both ends of ours with keys: the forwarder behind a guest's door, the target in front of memory.

What goes wrong with keys is one sentence that says what to do.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests_protocol import Serve, until
from tests_tcp import LOCALHOST, TcpServed

from vhostnvme.cli.main import run
from vhostnvme.errors import ConfigError, NativeError
from vhostnvme.native import HostAccess, Namespace, Runtime
from vhostnvme.storage.disk import native_options
from vhostnvme.storage.spec import parse_spec
from vhostnvme.testing.nvmetcp_host import HOSTNQN
from vhostnvme.testing.server import ServerProcess

TLS = {"": (b"", 0), "sha256": (os.urandom(32), 1), "sha384": (os.urandom(48), 2)}
HOST_KEY, CTRL_KEY = (os.urandom(32), 1), (os.urandom(64), 3)
OTHER_KEY = (os.urandom(32), 1)
CHAP = ("", "one way", "both")


class Keyring:
    """Key files of one test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()

    def file(self, form: str, key: tuple[bytes, int]) -> str:
        secret, number = key
        data = secret + zlib.crc32(secret).to_bytes(4, "little")
        path = self._folder / f"key{next(self._numbers)}"
        path.touch(0o600)
        path.write_text(f"{form}:{number:02}:{base64.b64encode(data).decode()}:\n")
        return str(path)

    def tls(self, key: tuple[bytes, int]) -> str:
        return self.file("NVMeTLSkey-1", key)

    def chap(self, key: tuple[bytes, int]) -> str:
        return self.file("DHHC-1", key)


class Pair:
    """A target with both kinds of listener, and SPECs for what it has."""

    def __init__(self, runtime: Runtime) -> None:
        self.served = TcpServed(runtime, any_host=False)
        self.plain_port = self.served.address[1]
        _, self.tls_port = self.served.target.listen(LOCALHOST, 0, tls=True)

    def allow(
        self,
        *,
        tls: tuple[bytes, int] = (b"", 0),
        host: tuple[bytes, int] = (b"", 0),
        ctrl: tuple[bytes, int] = (b"", 0),
    ) -> None:
        access = HostAccess(
            hostnqn=HOSTNQN,
            tls_key=tls[0],
            tls_hash=tls[1],
            dhchap_key=host[0],
            dhchap_hash=host[1],
            dhchap_ctrl_key=ctrl[0],
            dhchap_ctrl_hash=ctrl[1],
        )
        self.served.subsystem.allow(access)

    def spec(self, *, tls: bool = False, **options: str) -> str:
        port = self.tls_port if tls else self.plain_port
        query = "&".join(
            f"{name.replace('_', '-')}={value}"
            for name, value in ({"hostnqn": HOSTNQN} | options).items()
        )
        return f"nvme+tcp://{LOCALHOST}:{port}/{self.served.nqn}/1?{query}"


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path)


@pytest.fixture
def pair(runtime: Runtime) -> Iterator[Pair]:
    target = Pair(runtime)
    yield target
    target.served.close()


def refused(runtime: Runtime, spec: str, says: str) -> None:
    with pytest.raises(NativeError, match=says):
        Namespace(runtime, native_options(parse_spec(spec))).close()


@pytest.mark.parametrize("tls", TLS)
@pytest.mark.parametrize("chap", CHAP)
def test_every_pair_of_ways(
    serve: Serve, pair: Pair, keyring: Keyring, tls: str, chap: str
) -> None:
    keys: dict[str, Any] = {"tls": TLS[tls]}
    options = {"queues": "2"} if tls else {"hdgst": "on", "ddgst": "on"}
    if tls:
        options["tls_psk_file"] = keyring.tls(TLS[tls])
    if chap:
        keys["host"] = HOST_KEY
        options["dhchap_key_file"] = keyring.chap(HOST_KEY)
    if chap == "both":
        keys["ctrl"] = CTRL_KEY
        options["dhchap_ctrl_key_file"] = keyring.chap(CTRL_KEY)
    pair.allow(**keys)
    served = serve(pair.spec(tls=bool(tls), **options))
    host = served.connect()
    queue = host.create_queue_pair(1, depth=16)
    data = os.urandom(1 << 20)
    for at in range(0, len(data), 128 << 10):
        queue.write(at // 512, data[at : at + (128 << 10)])
    queue.write(3, data[:512])
    assert queue.read(3, 1) == data[:512]
    queue.write(3, data[3 * 512 : 4 * 512])
    assert b"".join(queue.read(at // 512, 256) for at in range(0, len(data), 128 << 10)) == data
    (shown,) = pair.served.target.hosts()
    assert (shown.tls, shown.authenticated) == (bool(tls), bool(chap))


def test_wrong_tls_keys(runtime: Runtime, pair: Pair, keyring: Keyring) -> None:
    good, other = keyring.tls(TLS["sha256"]), keyring.tls(OTHER_KEY)
    long = keyring.tls(TLS["sha384"])
    where = f"TLS with {LOCALHOST}:[0-9]+ failed: "
    refused(runtime, pair.spec(tls=True, tls_psk_file=good), "ended the connection|reset by peer")
    pair.allow(tls=TLS["sha256"])
    refused(runtime, pair.spec(tls=True, tls_psk_file=other), where + "the two ends have different")
    refused(runtime, pair.spec(tls=True, tls_psk_file=long), where + "the target does not know our")
    refused(runtime, pair.spec(tls_psk_file=good), where + "the peer does not speak TLS")
    refused(runtime, pair.spec(tls=True), "ended the connection|reset by peer")
    refused(runtime, pair.spec(), "does not let the host")
    refused(
        runtime,
        pair.spec(tls=True, tls_psk_file=good).replace(pair.served.nqn, pair.served.nqn + "x"),
        where + "the target does not know our",
    )
    Namespace(runtime, native_options(parse_spec(pair.spec(tls=True, tls_psk_file=good)))).close()


def test_every_version_of_a_key_is_tried_once(
    runtime: Runtime, pair: Pair, keyring: Keyring
) -> None:
    """The target does not say which it knows, so a wrong key costs several attempts."""
    pair.allow(tls=TLS["sha256"])
    target = pair.served.target
    spec = pair.spec(tls=True, tls_psk_file=keyring.tls(OTHER_KEY))
    refused(runtime, spec, "the two ends have different")
    wrong = target.info().accepted
    assert wrong in (2, 3)
    spec = pair.spec(tls=True, tls_psk_file=keyring.tls(TLS["sha256"]))
    Namespace(runtime, native_options(parse_spec(spec))).close()
    assert target.info().accepted == wrong + 2  # both queues


def test_wrong_chap_keys(runtime: Runtime, pair: Pair, keyring: Keyring) -> None:
    host, ctrl, other = (keyring.chap(key) for key in (HOST_KEY, CTRL_KEY, OTHER_KEY))
    pair.allow(host=HOST_KEY)
    where = f"authentication with {LOCALHOST}:[0-9]+ failed: "
    refused(runtime, pair.spec(), "wants the host .* to authenticate: give its key")
    refused(runtime, pair.spec(dhchap_key_file=other), where + "the peer does not accept our key")
    # The target has no key of its own, but is asked for a proof.
    both = {"dhchap_key_file": host, "dhchap_ctrl_key_file": ctrl}
    refused(runtime, pair.spec(**both), where + "the peer does not accept")
    pair.allow(host=HOST_KEY, ctrl=OTHER_KEY)
    refused(runtime, pair.spec(**both), where + "the peer's key is not the one that we know")
    pair.allow()
    refused(runtime, pair.spec(**both), "does not authenticate hosts, so it cannot prove who it is")
    # It does not ask for ours: that is no harm.
    spec = parse_spec(pair.spec(dhchap_key_file=host))
    Namespace(runtime, native_options(spec)).close()


def test_files_that_hold_no_key(pair: Pair, keyring: Keyring, tmp_path: Path) -> None:
    tls, chap = keyring.tls(TLS["sha256"]), keyring.chap(HOST_KEY)
    for option, path, says in (
        ("tls_psk_file", chap, "no key of the form NVMeTLSkey-1"),
        ("dhchap_key_file", tls, "no key of the form DHHC-1"),
        ("tls_psk_file", str(tmp_path / "none"), "No such file"),
    ):
        with pytest.raises(ConfigError, match=says):
            native_options(parse_spec(pair.spec(**{option: path})))
    with pytest.raises(ConfigError, match="needs 'dhchap-key-file'"):
        parse_spec(pair.spec(dhchap_ctrl_key_file=chap))


def test_the_way_back_asks_for_the_keys_again(
    runtime: Runtime, serve: Serve, pair: Pair, keyring: Keyring
) -> None:
    """The host is thrown out and let in again; then its key is changed, and it stays outside."""
    keys = {"tls": TLS["sha256"], "host": HOST_KEY, "ctrl": CTRL_KEY}
    pair.allow(**keys)
    options = {
        "tls_psk_file": keyring.tls(TLS["sha256"]),
        "dhchap_key_file": keyring.chap(HOST_KEY),
        "dhchap_ctrl_key_file": keyring.chap(CTRL_KEY),
    }
    host = serve(pair.spec(tls=True, **options)).connect()
    queue = host.create_queue_pair(1, depth=16)
    queue.write(0, b"\x11" * 512)
    pair.served.subsystem.deny(HOSTNQN)
    pair.allow(**keys)
    assert queue.read(0, 1) == b"\x11" * 512
    accepted = pair.served.target.info().accepted
    pair.served.subsystem.deny(HOSTNQN)
    pair.allow(**keys | {"tls": OTHER_KEY})
    until(lambda: pair.served.target.info().accepted > accepted + 1, "it tries")
    assert pair.served.target.hosts() == []
    pair.allow(**keys)
    assert queue.read(0, 1) == b"\x11" * 512


def test_two_processes_with_all_keys(keyring: Keyring, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user has it: `serve` with key files, `discover`, `identify` and `perf` with theirs."""
    nqn = "nqn.2026-11.test:locked"
    files = {
        "tls-psk-file": keyring.tls(TLS["sha384"]),
        "dhchap-key-file": keyring.chap(HOST_KEY),
        "dhchap-ctrl-key-file": keyring.chap(CTRL_KEY),
    }
    options = ["--tcp", f"{LOCALHOST}:0", "--subnqn", nqn, "--allow-host", HOSTNQN, "--tls"]
    options += [word for name, path in files.items() for word in (f"--{name}", path)]
    with ServerProcess(["mem:16M"], options) as server:
        found = re.search(rf"listening on {LOCALHOST}:([0-9]+) ", server.log_text())
        assert found
        where = f"nvme+tcp://{LOCALHOST}:{found[1]}/{nqn}"
        query = "&".join(f"{name}={path}" for name, path in files.items())
        uri = f"{where}/1?hostnqn={HOSTNQN}&{query}"
        assert run(["identify", uri, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["controller"]["subnqn"] == nqn
        load = [
            "--rw",
            "randrw",
            "--fill",
            "--verify",
            "--io-limit",
            "2000",
            "--qd",
            "16",
            "--json",
        ]
        assert run(["perf", uri, *load]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["errors"] == report["verify"]["errors"] == 0
        assert report["verify"]["blocks"] > 0
        # Without a key: one sentence, no traceback, and nothing of a key.
        assert run(["identify", f"{where}/1?hostnqn={HOSTNQN}"]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        until(lambda: "did not complete the TLS handshake" in server.log_text(), "it is said")
        log = server.log_text()
        for secret, _ in (TLS["sha384"], HOST_KEY, CTRL_KEY):
            assert base64.b64encode(secret).decode()[:20] not in log + error
            assert secret.hex()[:20] not in log + error
