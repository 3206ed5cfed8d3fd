"""`card.toml`: a card's configuration, as frozen specs (docs/cluster.md describes the file).

Paths in it are seen from the file's own folder. Sizes in bytes, times in seconds.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from vhostnvme.cluster.records import check_card_name, check_name
from vhostnvme.cluster.store.base import PREFIX
from vhostnvme.cluster.store.etcd_access import EtcdAccess
from vhostnvme.control.paths import CONTROL_NAME, PATH_BYTES_MAX, run_folder
from vhostnvme.emulation.device import QUEUES_MAX
from vhostnvme.errors import ConfigError
from vhostnvme.fabric.address import Address, parse_address
from vhostnvme.fabric.options import MODEL_CHARACTERS_MAX, check_text
from vhostnvme.native import Doorbells, RuntimeOptions
from vhostnvme.storage.ssd_health import CLEAR_S, HANG_S, WINDOW_S, HealthOptions
from vhostnvme.tables import Table, read_toml
from vhostnvme.units import parse_duration_us, parse_size

TTL_S_DEFAULT = 10.0
CONTENTION_S_DEFAULT = 0.5
# Of a copy, of which QEMU and the guest shall not notice more than a pause.
LEG_TIMEOUT_MS_DEFAULT = 2000
REPLACE_AFTER_S_DEFAULT = 60.0
SSDS_MAX = 256
REACTORS_MAX = 16

_PREFIX = re.compile(r"/(?:[A-Za-z0-9._-]+/)+")
# Of etcd alone, and what each of them needs.
_ETCD_KEYS = ("user", "password_file", "ca_file", "cert_file", "key_file")
_GOES_WITH = {
    "user": ("password_file",),
    "password_file": ("user",),
    "cert_file": ("key_file", "ca_file"),
    "key_file": ("cert_file", "ca_file"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SsdConfig:
    """A directory or block device. `capacity` None: what the file system or the device has."""

    name: str
    path: Path
    capacity: int | None = None
    thin: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetConfig:
    """Where other cards' hosts connect. Without `listen` the card gives no space to others."""

    listen: tuple[Address, ...] = ()
    advertise: tuple[Address, ...] = ()  # what other cards are told; as `listen` when empty


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """`store` is `sqlite:///ABSOLUTE/PATH` or `etcd://HOST:PORT[,HOST:PORT]…`.

    What follows `contention_s` is of etcd alone. TLS is used when there is a `ca_file`.
    """

    store: str
    prefix: str = PREFIX
    ttl_s: float = TTL_S_DEFAULT
    contention_s: float = CONTENTION_S_DEFAULT
    user: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def access(self) -> EtcdAccess:
        """What opens the door of an etcd."""
        return EtcdAccess(
            ca=self.ca_file,
            cert=self.cert_file,
            key=self.key_file,
            user=self.user,
            credentials=self.password_file,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """What devices are like. `queues` 0: as many as there can be; `model` None: ours."""

    queues: int = 0
    doorbells: Doorbells = Doorbells.AUTO
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryConfig:
    """What is done about copies that fail. `rebuild_rate` in bytes a second, 0: no limit."""

    leg_timeout_ms: int = LEG_TIMEOUT_MS_DEFAULT
    replace_after_s: float = REPLACE_AFTER_S_DEFAULT
    rebuild_rate: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CardConfig:
    """A card. `cluster` None: it is alone, and has only its own SSDs."""

    name: str
    run_dir: Path
    state_dir: Path
    reserve: int = 0
    ssds: tuple[SsdConfig, ...] = ()
    health: HealthOptions = field(default_factory=HealthOptions)
    target: TargetConfig = TargetConfig()
    cluster: ClusterConfig | None = None
    device: DeviceConfig = DeviceConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)

    @property
    def folder(self) -> Path:
        """Of its sockets."""
        return self.run_dir / self.name

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.folder / CONTROL_NAME

    def remarks(self) -> list[str]:
        """What is allowed, but perhaps not meant: a sentence each."""
        said = []
        if not self.ssds:
            said.append(f"card {self.name} has no [[ssd]]: all its space comes from other cards")
        if self.cluster is None:
            said.append(f"card {self.name} has no [cluster]: it works alone, with its own SSDs")
        elif not self.target.listen:
            said.append(
                f"card {self.name} listens nowhere ([target] listen), so it gives no space to"
                " other cards"
            )
        return said


def load_card(path: Path) -> CardConfig:
    """The card that a file describes.

    Raises:
        ConfigError: all that is wrong with it, a line each, with the line and key.
    """
    top = read_toml(path)
    folder = path.absolute().parent
    card = top.table("card")
    name = card.parse("name", check_card_name, needed=True)
    run_dir = card.parse("run_dir", partial(_path, folder)) or run_folder()
    state_dir = card.parse("state_dir", partial(_path, folder))
    reserve = card.parse("reserve", _size_or_none, like="1G") or 0
    runtime = RuntimeOptions(
        reactors=card.number("reactors", 1, REACTORS_MAX, RuntimeOptions().reactors),
        poll_us=card.number("poll_us", 0, 1_000_000, RuntimeOptions().poll_us),
        sqpoll=bool(card.take("sqpoll", bool)),
        pin_memory=bool(card.take("pin_memory", bool)),
    )
    card.finish()
    clustered = top.peek("cluster") is not None
    cluster = _cluster(top.table("cluster"), folder)
    config = CardConfig(
        name=name or "",
        run_dir=run_dir,
        state_dir=state_dir or state_folder() / (name or ""),
        reserve=reserve,
        ssds=_ssds(top, folder),
        health=_health(top.table("health")),
        target=_target(top.table("target")),
        cluster=cluster if clustered else None,
        device=_device(top.table("device")),
        recovery=_recovery(top.table("recovery")),
        runtime=runtime,
    )
    top.finish()
    if len(os.fsencode(config.control)) > PATH_BYTES_MAX:
        card.wrong(
            "run_dir", f"is too long: {config.control} must have {PATH_BYTES_MAX} bytes at most"
        )
    top.mistakes.finish()
    return config


def state_folder() -> Path:
    """Where cards keep their state when they are not told."""
    given = os.environ.get("XDG_STATE_HOME")
    if given:
        return Path(given) / "vhostnvme"
    if os.geteuid() == 0:
        return Path("/var/lib/vhostnvme")
    return Path.home() / ".local/state/vhostnvme"


def _ssds(top: Table, folder: Path) -> tuple[SsdConfig, ...]:
    ssds: list[SsdConfig] = []
    names: dict[str, str] = {}  # where each has been seen first
    paths: dict[str, str] = {}
    for table in top.tables("ssd"):
        name = table.parse("name", partial(check_name, "SSD"), needed=True)
        path = table.parse("path", partial(_path, folder), needed=True)
        capacity = table.parse("capacity", parse_size, like="100G")
        thin = table.take("thin", bool)
        table.finish()
        if name is not None and (first := names.setdefault(name, table.name)) != table.name:
            table.wrong("name", f"{name!r} is the name of {first} already: each SSD has its own")
        real = os.path.realpath(path) if path is not None else table.name
        if (first := paths.setdefault(real, table.name)) != table.name:
            table.wrong("path", f"{path} is {first} already: an SSD is in the file once")
        if name is not None and path is not None:
            ssds.append(SsdConfig(name=name, path=path, capacity=capacity, thin=bool(thin)))
            if len(ssds) == SSDS_MAX + 1:
                table.wrong("", f"a card has {SSDS_MAX} SSDs at most")
    return tuple(ssds)


def _health(table: Table) -> HealthOptions:
    window_s = table.parse("window", partial(_seconds, 15, 3600), like="60s")
    hang_s = table.parse("hang", partial(_seconds, 1, 600), like="5s")
    clear_s = table.parse("clear", partial(_seconds, 1, 604800), like="300s")
    table.finish()
    return HealthOptions(
        window_s=WINDOW_S if window_s is None else window_s,
        hang_s=HANG_S if hang_s is None else hang_s,
        clear_s=CLEAR_S if clear_s is None else clear_s,
    )


def _target(table: Table) -> TargetConfig:
    listen = table.parse_list("listen", partial(parse_address, any_port=True))
    advertised = table.peek("advertise") is not None
    advertise = table.parse_list("advertise", _reachable)
    if not advertised and any(_is_wildcard(each) for each in listen):
        table.wrong(
            "listen",
            "listens on all addresses, which other cards cannot connect to: say which ones they"
            ' shall use, as in advertise = ["10.0.0.1:4420"]',
        )
    if advertise and not listen:
        table.wrong("advertise", "says nothing without listen")
    table.finish()
    return TargetConfig(listen=tuple(listen), advertise=tuple(advertise))


def _reachable(text: str) -> Address:
    address = parse_address(text)
    if _is_wildcard(address):
        raise ConfigError(f"{text!r} stands for all addresses: write one that others can reach")
    return address


def _is_wildcard(address: Address) -> bool:
    return address.numeric and ipaddress.ip_address(address.host).is_unspecified


def _cluster(table: Table, folder: Path) -> ClusterConfig:
    etcd = str(table.peek("store")).startswith("etcd:")
    store = table.parse("store", partial(_store, folder))
    prefix = table.parse("prefix", _prefix)
    ttl_s = table.parse("ttl", partial(_seconds, 0.5, 3600), like="10s")
    contention_s = table.parse("contention", partial(_seconds, 0, 60), like="500ms")
    given = [key for key in _ETCD_KEYS if table.peek(key) is not None]
    user = table.parse("user", _user)
    files = {key: table.parse(key, partial(_path, folder)) for key in _ETCD_KEYS[1:]}
    for key in given:
        if not etcd:
            table.wrong(key, "is only of a store etcd://…")
            continue
        for needed in _GOES_WITH.get(key, ()):
            if needed not in given:
                table.wrong(key, f"goes together with {needed}, which is missing")
    table.finish()
    return ClusterConfig(
        store=store or f"sqlite://{state_folder() / 'cluster.db'}",
        prefix=prefix or PREFIX,
        ttl_s=TTL_S_DEFAULT if ttl_s is None else ttl_s,
        contention_s=CONTENTION_S_DEFAULT if contention_s is None else contention_s,
        user=user,
        **files,
    )


def _device(table: Table) -> DeviceConfig:
    config = DeviceConfig(
        queues=table.number("queues", 1, QUEUES_MAX),
        doorbells=table.parse("doorbells", _doorbells) or Doorbells.AUTO,
        model=table.parse("model", _model),
    )
    table.finish()
    return config


def _recovery(table: Table) -> RecoveryConfig:
    timeout_s = table.parse("leg_timeout", partial(_seconds, 0.1, 3), like="2s")
    replace_after_s = table.parse("replace_after", partial(_seconds, 1, 86400), like="60s")
    rate = table.parse("rebuild_rate", _size_or_none, like="200M")
    table.finish()
    return RecoveryConfig(
        leg_timeout_ms=LEG_TIMEOUT_MS_DEFAULT if timeout_s is None else round(timeout_s * 1000),
        replace_after_s=REPLACE_AFTER_S_DEFAULT if replace_after_s is None else replace_after_s,
        rebuild_rate=rate or 0,
    )


def _path(folder: Path, text: str) -> Path:
    if not text or "\0" in text:
        raise ConfigError(f"{text!r} is no path")
    return folder / text


def _size_or_none(text: str) -> int:
    return 0 if text == "0" else parse_size(text)


def _seconds(least: float, most: float, text: str) -> float:
    seconds = parse_duration_us(text) / 1e6
    if not least <= seconds <= most:
        raise ConfigError(f"must be from {least:g}s to {most:g}s, not {text}")
    return seconds


def _store(folder: Path, text: str) -> str:
    """The URL, with an absolute path in it."""
    kind, _, rest = text.partition(":")
    if kind == "sqlite" and rest.removeprefix("//"):
        return f"sqlite://{_path(folder, rest.removeprefix('//'))}"
    if kind != "etcd" or not rest.startswith("//"):
        raise ConfigError(
            f"{text!r} is no store: write sqlite:///PATH for cards of one host, or etcd://HOST:PORT"
        )
    if "@" in rest:
        raise ConfigError("a store's URL has no user and password: give user and password_file")
    addresses = [parse_address(each) for each in rest.removeprefix("//").rstrip("/").split(",")]
    return f"etcd://{','.join(map(str, addresses))}"


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise ConfigError(
            f"{text!r} is no prefix of keys: write it as in {PREFIX}, with / at both ends"
        )
    return text


def _user(text: str) -> str:
    if not text:
        raise ConfigError("'' is no name of a user")
    return text


def _doorbells(text: str) -> Doorbells:
    names = {each.name.lower(): each for each in Doorbells}
    if text not in names:
        raise ConfigError(f"{text!r} is no kind of doorbells: write one of {', '.join(names)}")
    return names[text]


def _model(text: str) -> str:
    check_text("model", text, MODEL_CHARACTERS_MAX)
    return text
