"""Key files: what nvme-cli writes, permissions, damage, and messages that give nothing away."""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from vhostnvme.errors import ConfigError
from vhostnvme.fabric.keys import (
    Key,
    parse_dhchap_key,
    parse_tls_key,
    read_dhchap_key,
    read_tls_key,
)

SECRET = bytes.fromhex("5512dbb6737d0106f65975b773dfb011ffc344bcf442e2dd6d8bc4870b5d5b03")
# As libnvme's own tests have them.
TLS_KEYS = {
    "NVMeTLSkey-1:00:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:": Key(0, SECRET),
    "NVMeTLSkey-1:01:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwNf9LrZ:": Key(1, SECRET),
    "NVMeTLSkey-1:02:VRLbtnN9AQb2WXW3c9+wEf/DRLz0QuLdbYvEhwtdWwP/w0S89ELi3W2LxIcLXVsDn8kXZQ==:": (
        Key(2, SECRET + SECRET[16:])
    ),
}
GOOD_TLS = next(iter(TLS_KEYS))


def text_of(form: str, number: int, secret: bytes) -> str:
    data = secret + zlib.crc32(secret).to_bytes(4, "little")
    return f"{form}:{number:02}:{base64.b64encode(data).decode()}:"


def file_of(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("text", TLS_KEYS)
def test_published_tls_keys(tmp_path: Path, text: str) -> None:
    assert read_tls_key(file_of(tmp_path, text + "\n")) == TLS_KEYS[text]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("length", [32, 48, 64])
def test_dhchap_keys(tmp_path: Path, number: int, length: int) -> None:
    secret = os.urandom(length)
    path = file_of(tmp_path, text_of("DHHC-1", number, secret))
    assert read_dhchap_key(path) == Key(number, secret)


@pytest.mark.parametrize(
    ("parse", "text", "says"),
    [
        (parse_tls_key, "", "no key of the form"),
        (parse_tls_key, GOOD_TLS[:-1], "no key of the form"),
        (parse_tls_key, GOOD_TLS.replace("-1:", "-2:"), "no key of the form"),
        (parse_tls_key, GOOD_TLS + GOOD_TLS, "no key of the form"),
        (parse_tls_key, text_of("DHHC-1", 1, SECRET), "no key of the form"),
        (parse_dhchap_key, GOOD_TLS, "no key of the form"),
        (parse_tls_key, GOOD_TLS.replace(":00:", ":03:"), "hash 03"),
        (parse_dhchap_key, text_of("DHHC-1", 4, SECRET), "hash 04"),
        (parse_tls_key, GOOD_TLS.replace(":00:", ":02:"), "has 32 bytes; with hash 02 it is 48"),
        (parse_tls_key, text_of("NVMeTLSkey-1", 0, SECRET * 2), "it is 32 or 48"),
        (parse_dhchap_key, text_of("DHHC-1", 0, SECRET[:31]), "has 31 bytes"),
        (parse_tls_key, "NVMeTLSkey-1:00:AAAAA:", "base64"),
        (parse_tls_key, "NVMeTLSkey-1:00:AA==:", "0 bytes"),
        (parse_tls_key, GOOD_TLS.replace("VRL", "VRM"), "checksum"),
    ],
)
def test_what_is_no_key(parse: Callable[[str, str], Key], text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse(text, "FILE")
    assert "FILE" in str(caught.value)
    assert "VRLbtnN9" not in str(caught.value)
    assert caught.value.__cause__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o777])
def test_a_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = file_of(tmp_path, GOOD_TLS, mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        read_tls_key(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_tls_key(tmp_path / "missing")
    with pytest.raises(ConfigError, match="not a file"):
        read_tls_key(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="not a file"):
        read_dhchap_key(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="too long"):
        read_tls_key(file_of(tmp_path, GOOD_TLS + " " * 4096))
    path = tmp_path / "bytes"
    path.write_bytes(b"\xff\xfe" + GOOD_TLS.encode())
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="no key of the form"):
        read_tls_key(path)


def test_no_representation_shows_the_secret() -> None:
    key = parse_tls_key(GOOD_TLS, "FILE")
    assert repr(SECRET)[2:10] not in repr(key)
    assert "secret" not in repr(key)
