"""Which store a URL names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vhostnvme.cluster.store import EtcdAccess, open_store
from vhostnvme.cluster.store.etcd import EtcdStore
from vhostnvme.cluster.store.sqlite import SqliteStore
from vhostnvme.errors import ConfigError


def test_a_file(tmp_path: Path) -> None:
    store = open_store(f"sqlite://{tmp_path}/cluster.db")
    assert isinstance(store, SqliteStore)
    assert store.path == tmp_path / "cluster.db"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("etcd://10.0.0.1:2379", ["10.0.0.1:2379"]),
        ("etcd://a.example:1,b-2.example:65535/", ["a.example:1", "b-2.example:65535"]),
        ("etcd://[::1]:2379,127.0.0.1:2379", ["[::1]:2379", "127.0.0.1:2379"]),
    ],
)
def test_servers(url: str, addresses: list[str]) -> None:
    store = open_store(url)
    assert isinstance(store, EtcdStore)
    assert store._link.addresses == addresses


def test_files_by_url_and_by_argument(tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.touch(0o600)
    file.write_text("card:password")
    quoted = str(file).replace(" ", "%20")
    store = open_store(f"etcd://h:1?ca={quoted}&credentials={quoted}")
    assert isinstance(store, EtcdStore)
    assert store._link._secrets.ca == b"card:password"
    assert store._link._secrets.user == ("card", "password")
    store = open_store(f"etcd://h:1?ca={file}", access=EtcdAccess(user="me", credentials=file))
    assert isinstance(store, EtcdStore)
    assert store._link._secrets.ca == b"card:password"
    assert store._link._secrets.user == ("me", "card:password")
    with pytest.raises(ConfigError, match="No such file"):
        open_store(f"etcd://h:1?ca={file}2")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cluster.db",
        "/var/lib/cluster.db",
        "mysql://h:1",
        "sqlite:/cluster.db",
        "sqlite://cluster.db",
        "sqlite:///",
        "sqlite:///c.db?mode=ro",
        "etcd://",
        "etcd://host",
        "etcd://host:0",
        "etcd://host:65536",
        "etcd://host:1,",
        "etcd://host:1,host:1",
        "etcd://user:password@host:1",
        "etcd://host:1/path",
        "etcd://host:1?ca=",
        "etcd://host:1?tls=on",
        "etcd://host:1?ca=/a&ca=/b",
    ],
)
def test_no_store(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        open_store(url)
    assert "password@" not in str(error.value)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("etcd", "etcd_link"):
        monkeypatch.delitem(sys.modules, f"vhostnvme.cluster.store.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "aetcd", None)
    with pytest.raises(ConfigError, match=r"package aetcd: pip install 'vhostnvme\[etcd\]'"):
        open_store("etcd://host:1")
