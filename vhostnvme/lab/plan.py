"""What a lab shall be, as the user says it, and where all of its parts are."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vhostnvme.control.paths import CONTROL_NAME
from vhostnvme.errors import ConfigError
from vhostnvme.lab.names import STORES_MAX, Host, card_hosts, is_store, lab_name, store_hosts

SSDS_MAX = 16
SSD_BYTES = 2 << 30
SSD_BYTES_MIN = 1 << 20
STORE_KINDS = ("sqlite", "etcd")
CARD_PORT = 4420
DIRECTORY_VARIABLE = "VHOSTNVME_LAB"

StoreKind = Literal["sqlite", "etcd"]


def card_command(config: Path) -> list[str]:
    """The command line of a card's process."""
    return [sys.executable, "-P", "-m", "vhostnvme", "card", "run", str(config)]


@dataclass(frozen=True, slots=True)
class LabPlan:
    """How many cards, with which SSDs (bytes each), on which store.

    `reserve` is what each card keeps back, in bytes, `ttl_us` its lease, and `replace_after_us` how
    long a copy may be away, in microseconds; None: as a card has them by itself. `etcd` counts its
    servers. `ready_s` is how long all cards together may take until they answer; None: by their
    number. `card_command` makes a card's command line of its configuration file. `devices`: the
    SSDs of some cards, by the cards' names, which the lab does not make, in place of those that it
    does.
    """

    cards: int = 3
    store: StoreKind = "sqlite"
    etcd: int = 1
    ssds: int = 1
    ssd_size: int = SSD_BYTES
    reserve: int | None = None
    ttl_us: int | None = None
    replace_after_us: int | None = None
    ready_s: float | None = None
    card_command: Callable[[Path], Sequence[str]] = card_command
    devices: Mapping[str, Sequence[Path]] = field(default_factory=dict)

    def check(self) -> None:
        """Raises:
        ConfigError: it cannot be.
        """
        if self.store not in STORE_KINDS:
            raise ConfigError(f"a lab's store is sqlite or etcd, not {self.store!r}")
        if self.store == "etcd" and not 1 <= self.etcd <= STORES_MAX:
            raise ConfigError(f"etcd has from 1 to {STORES_MAX} servers, not {self.etcd}")
        if not 1 <= self.ssds <= SSDS_MAX:
            raise ConfigError(f"a card of the lab has from 1 to {SSDS_MAX} SSDs, not {self.ssds}")
        if self.ssd_size < SSD_BYTES_MIN:
            raise ConfigError(f"an SSD has at least {SSD_BYTES_MIN} bytes, not {self.ssd_size}")

    def hosts(self, lab: str) -> list[Host]:
        """The machines that it takes: the store's first.

        Raises:
            ConfigError: too many, or none.
        """
        stores = store_hosts(lab, self.etcd if self.store == "etcd" else 0)
        return stores + card_hosts(lab, self.cards)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of the lab in this folder are. The folder's path is absolute."""

    directory: Path

    @property
    def lab(self) -> str:
        return lab_name(self.directory)

    @property
    def run_directory(self) -> Path:
        """Of the sockets, whose paths must be short."""
        return Path(f"/run/vhostnvme-{self.lab}")

    @property
    def lock(self) -> Path:
        return Path(f"/run/vhostnvme-{self.lab}.lock")

    @property
    def state(self) -> Path:
        return self.directory / "lab.json"

    @property
    def store_directory(self) -> Path:
        """Of the store that is a file."""
        return self.directory / "store"

    def host_directory(self, name: str) -> Path:
        return self.directory / name

    def config(self, name: str) -> Path:
        return self.host_directory(name) / "card.toml"

    def log(self, name: str) -> Path:
        return self.host_directory(name) / ("etcd.log" if is_store(name) else "card.log")

    def ssds(
        self, name: str, count: int, devices: Mapping[str, Sequence[str | Path]]
    ) -> list[Path]:
        """`devices`: of those cards that have others than the lab makes."""
        if name in devices:
            return [Path(device) for device in devices[name]]
        return [self.host_directory(name) / f"ssd{number}" for number in range(count)]

    def control(self, name: str) -> Path:
        return self.run_directory / name / CONTROL_NAME


def default_directory() -> Path:
    """Where the lab is when nothing is said: VHOSTNVME_LAB, or among the program's state."""
    if given := os.environ.get(DIRECTORY_VARIABLE):
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME")
    return Path(state or "/var/lib") / "vhostnvme" / "lab"


def layout_of(directory: Path | None) -> Layout:
    """Of the lab in this folder; None: in the default one."""
    return Layout((directory or default_directory()).absolute().resolve())
