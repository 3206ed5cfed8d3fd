"""NVMe Qualified Names (Base 4.7), and who this machine is."""

from __future__ import annotations

import hashlib
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from vhostnvme.errors import ConfigError

DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery"
NQN_BYTES_MAX = 223
_FORM = re.compile(r"nqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[a-z0-9][a-z0-9-]*(\.[a-z0-9-]+)*(:.+)?", re.I)
_UUID_FORM = "nqn.2014-08.org.nvmexpress:uuid:"
# As the controller names itself without an NQN (csrc/ctrl/ctrl.c).
_OWN_FORM = "nqn.2026-11.io.vhostnvme:"
_HOST_NAMESPACE = uuid.UUID("3d8d3b54-5f43-5cc0-9a3b-5e1d7e0c6a47")
_HOST_FOLDER = Path("/etc/nvme")  # where the NVMe tools of Linux keep who the machine is


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """What a host tells of itself in Connect."""

    nqn: str
    hostid: uuid.UUID


def check_nqn(text: str) -> str:
    """The text, which is an NQN.

    Raises:
        ConfigError: it is none.
    """
    if len(text.encode("utf-8", "replace")) > NQN_BYTES_MAX:
        raise ConfigError(f"{_shown(text)} is too long: an NQN has {NQN_BYTES_MAX} characters")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigError(f"{_shown(text)}: an NQN consists of printable ASCII, without spaces")
    if not _FORM.fullmatch(text):
        raise ConfigError(
            f"{_shown(text)} is no NQN: write nqn.YEAR-MONTH.REVERSED.DOMAIN:NAME, such as"
            " nqn.2026-01.org.example:disk1"
        )
    if text.startswith(_UUID_FORM) and not _is_uuid(text.removeprefix(_UUID_FORM)):
        raise ConfigError(f"{_shown(text)}: what follows {_UUID_FORM} must be a UUID")
    return text


def check_subsystem_nqn(text: str) -> str:
    """The same for a subsystem of ours, which is not the discovery service.

    Raises:
        ConfigError: it cannot be one.
    """
    if check_nqn(text) == DISCOVERY_NQN:
        raise ConfigError(f"{text!r} is every target's discovery service: choose another NQN")
    return text


def nqn_of_serial(serial: str) -> str:
    """The subsystem NQN that belongs to a serial number."""
    return _OWN_FORM + re.sub(r"[^!-~]", "-", serial)


def serial_of(text: str) -> str:
    """A serial number that stays the same for this machine and this text."""
    digest = hashlib.sha256(f"{_machine_id()}\0{text}".encode("utf-8", "surrogateescape"))
    return "VN" + digest.hexdigest()[:16].upper()


def host_identity() -> HostIdentity:
    """Who this machine is as a host: as its NVMe tools say, else made from the machine's id."""
    made = uuid.uuid5(_HOST_NAMESPACE, _machine_id())
    nqn = _first_line(_HOST_FOLDER / "hostnqn")
    hostid = _first_line(_HOST_FOLDER / "hostid")
    try:
        checked = check_nqn(nqn)
    except ConfigError:
        checked = f"{_UUID_FORM}{made}"
    return HostIdentity(checked, uuid.UUID(hostid) if _is_uuid(hostid) else made)


def _machine_id() -> str:
    return _first_line(Path("/etc/machine-id"))


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").partition("\n")[0].strip()
    except (OSError, UnicodeError):
        return ""


def _is_uuid(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text, re.I) is not None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "…")
