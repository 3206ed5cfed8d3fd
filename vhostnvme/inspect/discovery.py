"""The discovery log (Base 5.16.1.23): what a discovery service has to offer."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from vhostnvme.errors import PeerError, ProtocolError
from vhostnvme.inspect.ask import Asker, good, shown_text
from vhostnvme.testing.nvme import get_log_page

LOG_PAGE = 0x70
ENTRY_BYTES = 1024
ENTRIES_MAX = 4096
_BATCH_BYTES = 4096  # of one command: what every controller can
_TRIES = 3
_HEAD = struct.Struct("<QQH")
_ENTRY = struct.Struct("<BBBBHHHH")


class EntryType(enum.IntEnum):
    REFERRAL = 1
    NVM = 2
    CURRENT = 3


_TRANSPORTS = {1: "rdma", 2: "fc", 3: "tcp", 254: "loop"}
_FAMILIES = {1: "ipv4", 2: "ipv6", 3: "ib", 4: "fc", 254: "loop"}
_TLS = {0: "none", 1: "1.2", 2: "1.3"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A record of the log; codes without a name are shown as numbers.

    `tls` is the version that is spoken there; `tls_required` None: it is not said.
    """

    type: str
    transport: str
    family: str
    address: str
    port: str
    subnqn: str
    port_id: int
    controller_id: int
    admin_queue_entries: int
    tls: str
    tls_required: bool | None
    flags: int


@dataclass(frozen=True, slots=True)
class DiscoveryLog:
    """`generation` counts the log's changes."""

    generation: int
    entries: tuple[Entry, ...]


def read_discovery_log(asker: Asker) -> DiscoveryLog:
    """The whole log, of one moment.

    Raises:
        NativeError, PeerError: there is no service, or it refused us.
        ProtocolError: what it answered is no discovery log.
    """
    for _ in range(_TRIES):
        (answer,) = asker.ask([(get_log_page(LOG_PAGE, ENTRY_BYTES, 0, rae=True), ENTRY_BYTES)])
        generation, count = _head(good("reading the discovery log", answer))
        if not count:
            return DiscoveryLog(generation, ())
        raw, again = _read(asker, (count + 1) * ENTRY_BYTES)
        if _head(raw) == again == (generation, count):
            return DiscoveryLog(generation, tuple(parse_entries(raw, count)))
    raise PeerError(f"the discovery log has changed {_TRIES} times while it was read: try again")


def _read(asker: Asker, length: int) -> tuple[bytes, tuple[int, int]]:
    """The log, and what its head says after that."""
    commands = []
    for offset in range(0, length, _BATCH_BYTES):
        some = min(_BATCH_BYTES, length - offset)
        commands.append((get_log_page(LOG_PAGE, some, 0, offset, rae=True), some))
    commands.append((get_log_page(LOG_PAGE, ENTRY_BYTES, 0), ENTRY_BYTES))
    *parts, last = (good("reading the discovery log", each) for each in asker.ask(commands))
    return b"".join(parts), _head(last)


def _head(raw: bytes) -> tuple[int, int]:
    generation, count, record_format = _HEAD.unpack_from(raw)
    if record_format:
        raise ProtocolError(f"the discovery log has format {record_format}, and 0 is known")
    if count > ENTRIES_MAX:
        raise ProtocolError(f"the discovery log claims {count} entries: {ENTRIES_MAX} are plenty")
    return generation, count


def parse_entries(raw: bytes, count: int) -> list[Entry]:
    """The records behind the head of the log."""
    return [
        parse_entry(raw[at : at + ENTRY_BYTES])
        for at in range(ENTRY_BYTES, (count + 1) * ENTRY_BYTES, ENTRY_BYTES)
    ]


def parse_entry(raw: bytes) -> Entry:
    """One record of 1024 bytes."""
    transport, family, kind, requirements, port, controller, entries, flags = _ENTRY.unpack_from(
        raw
    )
    names = {each.value: each.name.lower() for each in EntryType}
    return Entry(
        type=names.get(kind, str(kind)),
        transport=_TRANSPORTS.get(transport, str(transport)),
        family=_FAMILIES.get(family, str(family)),
        address=shown_text(raw[512:768]),
        port=shown_text(raw[32:64]),
        subnqn=shown_text(raw[256:512]),
        port_id=port,
        controller_id=controller,
        admin_queue_entries=entries,
        tls=_TLS.get(raw[768], str(raw[768])) if transport == 3 else "none",
        tls_required={1: True, 2: False}.get(requirements & 3),
        flags=flags,
    )
