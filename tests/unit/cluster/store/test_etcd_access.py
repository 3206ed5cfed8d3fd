"""The files that open an etcd's door: which are refused, and that nothing of them is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vhostnvme.cluster.store.etcd_access import EtcdAccess
from vhostnvme.errors import ConfigError


def secret(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_what_is_in_the_files(tmp_path: Path) -> None:
    path = secret(tmp_path, "card:a:b c\n")
    found = EtcdAccess(ca=path, cert=path, key=path, credentials=path).read()
    assert found.ca == found.cert == found.key == b"card:a:b c\n"
    assert found.user == ("card", "a:b c")
    assert EtcdAccess(user="me", credentials=path).read().user == ("me", "card:a:b c")
    assert EtcdAccess().read().user is None
    assert "a:b" not in repr(found)


@pytest.mark.parametrize("text", ["", "SECRET", ":SECRET", "card:SECRET\nb:c\n"])
def test_no_user_and_password(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="USER:PASSWORD") as error:
        EtcdAccess(credentials=secret(tmp_path, text)).read()
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_secrets_that_others_may_read(tmp_path: Path, mode: int) -> None:
    path = secret(tmp_path, "card:password", mode)
    for access in (EtcdAccess(credentials=path), EtcdAccess(ca=path, cert=path, key=path)):
        with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
            access.read()
    EtcdAccess(ca=path).read()


def test_secrets_of_another_user(tmp_path: Path) -> None:
    path = secret(tmp_path, "card:password")
    os.chown(path, 12345, 12345)
    with pytest.raises(ConfigError, match="another user"):
        EtcdAccess(credentials=path).read()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        EtcdAccess(ca=tmp_path / "none").read()
    with pytest.raises(ConfigError, match="not a file"):
        EtcdAccess(ca=tmp_path).read()
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="not a file"):
        EtcdAccess(credentials=tmp_path / "pipe").read()
    with pytest.raises(ConfigError, match="too long"):
        EtcdAccess(ca=secret(tmp_path, "x" * 70000)).read()


def test_what_goes_together(tmp_path: Path) -> None:
    path = secret(tmp_path, "card:password")
    with pytest.raises(ConfigError, match="give both"):
        EtcdAccess(ca=path, cert=path).read()
    with pytest.raises(ConfigError, match="give the authority"):
        EtcdAccess(cert=path, key=path).read()
    with pytest.raises(ConfigError, match="user me of the store has no password"):
        EtcdAccess(user="me").read()
