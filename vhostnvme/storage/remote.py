"""Namespaces on other targets, as SPECs name them.

::

    nvme+tcp://HOST:PORT/SUBNQN/NSID[?OPTION=VALUE&...]

HOST is an address or a name, in brackets when it is IPv6. Colons stand in a SUBNQN as they are;
whatever means something in a URI (`/`, `?`, `%`, ...) is written as % and two hexadecimal digits.
Keys come by file only.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from vhostnvme.errors import ConfigError
from vhostnvme.fabric.address import Address, parse_address
from vhostnvme.fabric.nqn import NQN_BYTES_MAX, check_nqn
from vhostnvme.storage.common import (
    DiskSpec,
    Options,
    common_options,
    decoded,
    on_off,
    parse_on_off,
    take_common,
    whole_number,
)
from vhostnvme.units import format_duration_us, format_size, parse_duration_us, parse_size

PATHS_MAX = 8  # VN_REMOTE_MAX_PATHS
QUEUES_MAX = 16
DEPTH_MAX = 1024
KATO_MS_MAX = 3_600_000
KATO_MS_MIN = 100
TIME_MS_MAX = 86_400_000
# Options that may be there more than once, by the kind of SPEC.
SEVERAL = {"nvme+tcp": ("path",)}
_NSID_MAX = 0xFFFFFFFE


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSpec(DiskSpec):
    """A namespace of another target. Times in milliseconds; 0 and None: the library's defaults.

    `uuid` is the one that is expected there; `size` and `block_size` as well, where they are given.
    """

    paths: tuple[Address, ...]
    subnqn: str
    nsid: int
    queues: int = 0
    depth: int = 0
    header_digest: bool = False
    data_digest: bool = False
    hostnqn: str | None = None
    hostid: uuid.UUID | None = None
    keep_alive_ms: int = 0
    reconnect_ms: int = 0
    connect_ms: int = 0
    timeout_ms: int = 0
    tls_psk_file: str | None = None
    dhchap_key_file: str | None = None
    dhchap_ctrl_key_file: str | None = None


def parse_remote(body: str, options: Options) -> DiskSpec:
    """What follows `nvme+tcp:`.

    Raises:
        ConfigError: one sentence on what is wrong with it.
    """
    match = re.fullmatch(r"//([^/]+)/([^/]+)/([0-9]{1,10})", body, re.ASCII)
    if match is None:
        raise ConfigError("the address must read nvme+tcp://HOST:PORT/SUBNQN/NSID")
    nsid = int(match[3])
    if not 0 < nsid <= _NSID_MAX:
        raise ConfigError(f"{nsid} is no namespace id: they begin with 1")
    paths = (parse_address(match[1]), *options.take_all("path", parse_address))
    if len(paths) > PATHS_MAX:
        raise ConfigError(f"a namespace has up to {PATHS_MAX} paths, not {len(paths)}")
    spec = RemoteSpec(
        paths=tuple(dict.fromkeys(paths)),
        subnqn=_subsystem(decoded(match[2], "the NQN")),
        nsid=nsid,
        size=options.take("size", parse_size, None),
        queues=options.take("queues", _number(1, QUEUES_MAX), 0),
        depth=options.take("depth", _number(2, DEPTH_MAX), 0),
        header_digest=options.take("hdgst", parse_on_off, False),
        data_digest=options.take("ddgst", parse_on_off, False),
        hostnqn=options.take("hostnqn", check_nqn, None),
        hostid=options.take("hostid", _parse_hostid, None),
        keep_alive_ms=options.take("kato", _milliseconds(KATO_MS_MIN, KATO_MS_MAX), 0),
        reconnect_ms=options.take("reconnect", _milliseconds(1, TIME_MS_MAX), 0),
        connect_ms=options.take("connect", _milliseconds(1, TIME_MS_MAX), 0),
        timeout_ms=options.take("timeout", _milliseconds(1, TIME_MS_MAX), 0),
        tls_psk_file=options.take("tls-psk-file", _parse_path, None),
        dhchap_key_file=options.take("dhchap-key-file", _parse_path, None),
        dhchap_ctrl_key_file=options.take("dhchap-ctrl-key-file", _parse_path, None),
        **take_common(options, block_size=0),
    )
    options.finish()
    if spec.dhchap_ctrl_key_file and not spec.dhchap_key_file:
        raise ConfigError("option 'dhchap-ctrl-key-file' needs 'dhchap-key-file' beside it")
    return spec


def format_remote(spec: RemoteSpec) -> str:
    """The shortest SPEC that parses to this namespace."""
    options: list[tuple[str, str]] = [("path", str(path)) for path in spec.paths[1:]]
    if spec.size is not None:
        options.append(("size", format_size(spec.size)))
    for name, number in (("queues", spec.queues), ("depth", spec.depth)):
        if number:
            options.append((name, str(number)))
    for name, on in (("hdgst", spec.header_digest), ("ddgst", spec.data_digest)):
        if on:
            options.append((name, on_off(on)))
    for name, milliseconds in (
        ("kato", spec.keep_alive_ms),
        ("reconnect", spec.reconnect_ms),
        ("connect", spec.connect_ms),
        ("timeout", spec.timeout_ms),
    ):
        if milliseconds:
            options.append((name, format_duration_us(milliseconds * 1000)))
    for name, text in (
        ("hostnqn", spec.hostnqn),
        ("hostid", spec.hostid and str(spec.hostid)),
        ("tls-psk-file", spec.tls_psk_file),
        ("dhchap-key-file", spec.dhchap_key_file),
        ("dhchap-ctrl-key-file", spec.dhchap_ctrl_key_file),
    ):
        if text:
            options.append((name, text))
    options += common_options(spec, block_size=0).items()
    query = "&".join(
        f"{name}={quote(value, safe='/:@,+[]', errors='surrogateescape')}"
        for name, value in options
    )
    head = f"nvme+tcp://{spec.paths[0]}/{quote(spec.subnqn, safe=':@,+=;')}/{spec.nsid}"
    return f"{head}?{query}" if query else head


def _subsystem(text: str) -> str:
    """Other targets may have names that are no NQN by the letter: they are taken as they are."""
    if not text.isascii() or not text.isprintable() or " " in text or len(text) > NQN_BYTES_MAX:
        raise ConfigError(
            f"the subsystem's NQN must be up to {NQN_BYTES_MAX} printable ASCII characters"
        )
    return text


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = whole_number(high)(text)
        if number < low:
            raise ConfigError(f"{text!r} is too little: at least {low}")
        return number

    return parse


def _milliseconds(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        milliseconds, rest = divmod(parse_duration_us(text), 1000)
        if rest or not low <= milliseconds <= high:
            raise ConfigError(f"{text!r} is no time from {low}ms to {high // 1000}s")
        return milliseconds

    return parse


def _parse_hostid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no UUID: write 32 hexadecimal digits, 8-4-4-4-12") from None


def _parse_path(text: str) -> str:
    if not text:
        raise ConfigError("the path is missing")
    return text
