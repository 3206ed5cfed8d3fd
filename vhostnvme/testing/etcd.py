"""An etcd server of one's own, in a temporary folder, for tests, the lab and users.

`python -m vhostnvme.testing.etcd` starts one on loopback, prints one line of JSON with the URL of
its store, and ends it at the end of standard input, SIGINT or SIGTERM. The program `etcd` must be
there (Debian: etcd-server); a server that the system may run is not touched.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from vhostnvme.closable import Closable
from vhostnvme.cluster.store.base import PREFIX
from vhostnvme.errors import PeerError

__all__ = ["EtcdServer"]

# Its smallest lease is one and a half election timeouts, in whole seconds: 1 s with these.
_HEARTBEAT_MS, _ELECTION_MS = 20, 200
_READY = b"serving client traffic"
_USER = "card"
# However its maker ends: nobody is left who would end it.
_ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")


class EtcdServer(Closable):
    """A server of one member; a context manager that ends it and removes what it wrote.

    It also ends with the thread that made it, and so with the process, whatever ends that.

    Args:
        host: the address that it listens on.
        directory: for its data and its log; by default a temporary one, which goes with it.
        tls: it takes TLS connections only, from clients with a certificate that it has made.
        password: it takes users with passwords only, `root`, and `card` for the store's keys; both
            have a random password, in files that only this user may read.
        prefix: words in front of its command, such as those of a network namespace.
        timeout_s: for its start, and for its end.

    Attributes:
        url: of the store, for `open_store`, with the files that it needs.
        endpoint: HOST:PORT.

    Raises:
        PeerError: it is not installed, or did not start; the message says what it wrote.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        directory: Path | None = None,
        tls: bool = False,
        password: bool = False,
        prefix: Sequence[str] = (),
        timeout_s: float = 20.0,
    ) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="vhostnvme-etcd-")
            directory = Path(self._temporary.name)
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.log = directory / "etcd.log"
        self._timeout_s = timeout_s
        self._prefix = list(prefix)
        client, peer = _free_ports(2)
        self.endpoint = f"{host}:{client}"
        self._peer = f"http://{host}:{peer}"
        self._tls = tls
        self._options: dict[str, str] = {}
        if tls:
            _make_certificates(directory, host)
            self._options = {
                "ca": str(directory / "ca.crt"),
                "cert": str(directory / "client.crt"),
                "key": str(directory / "client.key"),
            }
        self._process = self._start()
        if password:
            try:
                self._ask_for_passwords()
            except BaseException:
                self.close()
                raise

    @property
    def url(self) -> str:
        options = urlencode(self._options, safe="/")
        return f"etcd://{self.endpoint}{'?' if options else ''}{options}"

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def _start(self) -> subprocess.Popen[bytes]:
        program = shutil.which("etcd")
        if program is None:
            raise PeerError("there is no program etcd: install it (Debian: etcd-server)")
        client = f"{'https' if self._tls else 'http'}://{self.endpoint}"
        options = {
            "name": "vhostnvme",
            "data-dir": str(self.directory / "data"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": self._peer,
            "initial-advertise-peer-urls": self._peer,
            "initial-cluster": f"vhostnvme={self._peer}",
            "heartbeat-interval": str(_HEARTBEAT_MS),
            "election-timeout": str(_ELECTION_MS),
            "logger": "zap",
        }
        if self._tls:
            options |= {
                "cert-file": str(self.directory / "server.crt"),
                "key-file": str(self.directory / "server.key"),
                "trusted-ca-file": str(self.directory / "ca.crt"),
                "client-cert-auth": "true",
            }
        with self.log.open("ab") as log:
            begin = log.tell()
            process = subprocess.Popen(
                [
                    *self._prefix,
                    *_ENDS_WITH_US,
                    program,
                    *(f"--{name}={text}" for name, text in options.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={name: text for name, text in os.environ.items() if name[:5] != "ETCD_"},
            )
        until = time.monotonic() + self._timeout_s
        while time.monotonic() < until and process.poll() is None:
            if _READY in self._log_from(begin):
                return process
            time.sleep(0.01)
        process.kill()
        process.wait()
        last = self._log_from(begin).decode(errors="replace").strip().splitlines()[-1:]
        raise PeerError(f"etcd did not start: {''.join(last)[:500]}")

    def _log_from(self, begin: int) -> bytes:
        with self.log.open("rb") as log:
            log.seek(begin)
            return log.read()

    def kill(self) -> None:
        """SIGKILL: what it has acknowledged is on the disk."""
        self._process.kill()
        self._process.wait(self._timeout_s)

    def stop(self) -> None:
        """Ends it in order; when it has ended, nothing happens."""
        self._process.terminate()
        try:
            self._process.wait(self._timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay, and nothing is answered until `resume`."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Starts it again, with the same data and addresses, after `kill` or `stop`.

        Raises:
            PeerError: it did not start.
        """
        self._process = self._start()

    def close(self) -> None:
        """Ends it; what it wrote goes when it is in a temporary folder. A second call is free."""
        if self.alive:
            self.resume()
            self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _ask_for_passwords(self) -> None:
        from aetcd import rpc

        passwords = {name: secrets.token_hex(16) for name in ("root", _USER)}
        with self._channel() as channel:
            auth = rpc.AuthStub(channel)
            for name, password in passwords.items():
                auth.UserAdd(rpc.AuthUserAddRequest(name=name, password=password))
                auth.RoleAdd(rpc.AuthRoleAddRequest(name=name))
                auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=name, role=name))
            prefix = PREFIX.encode()
            end = prefix[:-1] + bytes([prefix[-1] + 1])
            allowed = rpc.Permission(permType=rpc.Permission.READWRITE, key=prefix, range_end=end)
            auth.RoleGrantPermission(rpc.AuthRoleGrantPermissionRequest(name=_USER, perm=allowed))
            auth.AuthEnable(rpc.AuthEnableRequest())
        for name, password in passwords.items():
            path = self.directory / f"{name}.credentials"
            path.touch(0o600)
            path.write_text(f"{name}:{password}\n", encoding="ascii")
        self._options["credentials"] = str(self.directory / f"{_USER}.credentials")

    def _channel(self) -> Any:
        import grpc

        if not self._tls:
            return grpc.insecure_channel(self.endpoint)
        ca, key, cert = (Path(self._options[name]).read_bytes() for name in ("ca", "key", "cert"))
        return grpc.secure_channel(self.endpoint, grpc.ssl_channel_credentials(ca, key, cert))


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has; held until all are chosen, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _make_certificates(folder: Path, host: str) -> None:
    """An authority, and a certificate of it for the server and for its clients."""
    _openssl(
        folder,
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-days", "3650", "-subj", "/CN=vhostnvme-test", "-keyout", "ca.key", "-out", "ca.crt"),
    )
    for name in ("server", "client"):
        _openssl(
            folder,
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "3650", "-subj", f"/CN={name}", "-CA", "ca.crt", "-CAkey", "ca.key"),
            *("-addext", f"subjectAltName=IP:{host},DNS:localhost"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
            *("-keyout", f"{name}.key", "-out", f"{name}.crt"),
        )


def _openssl(folder: Path, *words: str) -> None:
    done = subprocess.run(
        ["openssl", *words], cwd=folder, capture_output=True, text=True, check=False, umask=0o077
    )
    if done.returncode != 0:
        raise PeerError(f"openssl did not make a certificate: {done.stderr.strip()[-500:]}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="An etcd server until standard input ends.")
    parser.add_argument("--tls", action="store_true", help="it takes TLS connections only")
    parser.add_argument("--password", action="store_true", help="it takes users with passwords")
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with EtcdServer(tls=args.tls, password=args.password) as server:
            sys.stdout.write(json.dumps({"url": server.url, "pid": server.pid}) + "\n")
            sys.stdout.flush()
            sys.stdin.read()
    except KeyboardInterrupt:
        return 0
    except PeerError as error:
        sys.stderr.write(f"etcd: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
