"""The etcd server of one's own: it keeps its data when killed, and leaves nothing when it ends."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vhostnvme.cluster.store import open_store
from vhostnvme.cluster.store.base import Put
from vhostnvme.errors import PeerError
from vhostnvme.testing.etcd import EtcdServer


async def test_it_is_killed_and_comes_back_with_its_data(tmp_path: Path) -> None:
    with EtcdServer(directory=tmp_path / "etcd") as server:
        async with open_store(server.url) as store:
            await store.txn([], [Put("a", b"1")])
        url = server.url
        server.kill()
        assert not server.alive
        server.restart()
        assert server.alive
        assert server.url == url
        async with open_store(server.url) as store:
            entry = await store.get("a")
        assert entry is not None
        assert entry.value == b"1"
        server.stop()
        server.stop()
        assert not server.alive
    assert b"serving client traffic" in (tmp_path / "etcd" / "etcd.log").read_bytes()


def test_nothing_is_left_of_it() -> None:
    with EtcdServer() as server:
        server.pause()
        pid = server.pid
    assert not server.directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    server.close()


def test_secrets_are_this_users() -> None:
    with EtcdServer(tls=True, password=True) as server:
        for name in ("ca.key", "server.key", "client.key", "root.credentials", "card.credentials"):
            assert stat.S_IMODE((server.directory / name).stat().st_mode) == 0o600
        assert server.url.count("=") == 4


def test_it_ends_with_its_maker(tmp_path: Path) -> None:
    maker = subprocess.Popen(
        [sys.executable, "-m", "vhostnvme.testing.etcd"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    with maker:
        assert maker.stdout is not None
        pid = json.loads(maker.stdout.readline())["pid"]
        watched = os.pidfd_open(pid)
        maker.kill()
        maker.wait()
        # Readable when it has ended; the test's own timeout ends the wait.
        subprocess.run(
            [sys.executable, "-c", f"import select; select.select([{watched}], [], [])"],
            pass_fds=[watched],
            check=True,
        )
    os.close(watched)


def test_the_command_says_where_it_is_and_ends_with_its_input() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vhostnvme.testing.etcd", "--password"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["url"].startswith("etcd://127.0.0.1:")
    assert "?credentials=/" in told["url"]
    with pytest.raises(ProcessLookupError):
        os.kill(told["pid"], 0)


def test_what_is_said_when_it_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PeerError, match=r"etcd did not start: .*192\.0\.2\.1"):
        EtcdServer(host="192.0.2.1", directory=tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PeerError, match="no program etcd: install it"):
        EtcdServer(directory=tmp_path)
