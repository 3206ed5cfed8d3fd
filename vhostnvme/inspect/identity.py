"""Identify data (Base 5.17): what a controller and its namespaces say of themselves."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass

from vhostnvme.errors import PeerError
from vhostnvme.inspect.ask import Asker, good, shown_text
from vhostnvme.testing.nvme import identify

PAGE_BYTES = 4096
NAMESPACES_MAX = 1024  # of one list
_KINDS = {0: "unknown", 1: "io", 2: "discovery", 3: "administrative"}
_OPTIONAL = {  # ONCS, by bit
    0: "compare",
    1: "write-uncorrectable",
    2: "dataset-management",
    3: "write-zeroes",
    4: "save-features",
    5: "reservations",
    6: "timestamp",
    7: "verify",
    8: "copy",
}


@dataclass(frozen=True, slots=True)
class ControllerIdentity:
    """Identify Controller. Sizes in bytes, times in milliseconds; 0 or "": it says nothing.

    `max_transfer` 0: no limit; `namespaces` is the largest id; `in_capsule_data` is of fabrics.
    """

    kind: str
    subnqn: str
    serial: str
    model: str
    firmware: str
    version: str
    vendor: int
    controller_id: int
    max_transfer: int
    namespaces: int
    volatile_cache: bool
    optional: tuple[str, ...]
    multipath: bool
    ana: bool
    keep_alive_step_ms: int
    in_capsule_data: int
    sgl: bool


@dataclass(frozen=True, slots=True)
class NamespaceIdentity:
    """Identify Namespace, and its descriptors. Sizes in bytes; "": no such identifier."""

    nsid: int
    size: int
    capacity: int
    used: int
    block_size: int
    metadata_size: int
    thin: bool
    shared: bool
    read_only: bool
    ana_group: int
    uuid: str
    nguid: str
    eui64: str


def read_identity(
    asker: Asker, nsid: int | None = None
) -> tuple[ControllerIdentity, list[NamespaceIdentity]]:
    """The controller, and one namespace, or all of its active ones.

    Raises:
        NativeError, PeerError: there is no controller, or it refused us.
    """
    first = asker.ask([(identify(1), PAGE_BYTES), (identify(2), PAGE_BYTES)])
    controller = parse_controller(good("Identify Controller", first[0]))
    # A discovery controller has no list, and need not say so politely.
    active = [] if first[1].status else parse_active(first[1].data)
    wanted = active if nsid is None else [nsid]
    commands = [(identify(cns, each), PAGE_BYTES) for each in wanted for cns in (0, 3)]
    answers = asker.ask(commands) if commands else []
    namespaces = []
    for each, data, descriptors in zip(wanted, answers[::2], answers[1::2], strict=True):
        raw = good(f"Identify Namespace {each}", data)
        if not any(raw):  # how an id without a namespace is answered
            raise PeerError(f"there is no namespace {each}, or it is not for us to see")
        namespaces.append(
            parse_namespace(each, raw, b"" if descriptors.status else descriptors.data)
        )
    return controller, namespaces


def parse_active(raw: bytes) -> list[int]:
    """A list of active namespaces (CNS 02h), which ends with the first zero."""
    found: list[int] = []
    for (nsid,) in struct.iter_unpack("<I", raw):
        if nsid == 0 or len(found) == NAMESPACES_MAX:
            break
        found.append(nsid)
    return found


def parse_controller(raw: bytes) -> ControllerIdentity:
    """4096 bytes of CNS 01h."""
    version, optional = _u32(raw, 80), _u16(raw, 520)
    return ControllerIdentity(
        kind=_KINDS.get(raw[111], str(raw[111])),
        subnqn=shown_text(raw[768:1024]),
        serial=shown_text(raw[4:24]),
        model=shown_text(raw[24:64]),
        firmware=shown_text(raw[64:72]),
        version=f"{version >> 16}.{version >> 8 & 0xFF}.{version & 0xFF}",
        vendor=_u16(raw, 0),
        controller_id=_u16(raw, 78),
        max_transfer=PAGE_BYTES << raw[77] if 0 < raw[77] < 32 else 0,
        namespaces=_u32(raw, 516),
        volatile_cache=bool(raw[525] & 1),
        optional=tuple(name for bit, name in _OPTIONAL.items() if optional >> bit & 1),
        multipath=bool(raw[76] & 3),
        ana=bool(raw[76] & 8),
        keep_alive_step_ms=_u16(raw, 320) * 100,
        in_capsule_data=max(_u32(raw, 1792) * 16 - 64, 0),
        sgl=bool(_u32(raw, 536) & 3),
    )


def parse_namespace(nsid: int, raw: bytes, descriptors: bytes = b"") -> NamespaceIdentity:
    """4096 bytes of CNS 00h, and those of CNS 03h where there are any."""
    number = raw[26] & 0xF | raw[26] >> 1 & 0x30
    metadata, shift = struct.unpack_from("<HB", raw, 128 + 4 * number)
    block = 1 << shift if 9 <= shift <= 32 else 0
    size, capacity, used = struct.unpack_from("<QQQ", raw)
    known = parse_descriptors(descriptors)
    return NamespaceIdentity(
        nsid=nsid,
        size=size * block,
        capacity=capacity * block,
        used=used * block,
        block_size=block,
        metadata_size=metadata,
        thin=bool(raw[24] & 1),
        shared=bool(raw[30] & 1),
        read_only=bool(raw[99] & 1),
        ana_group=_u32(raw, 92),
        uuid=str(uuid.UUID(bytes=known[3])) if 3 in known else "",
        nguid=known.get(2, raw[104:120]).hex() if any(known.get(2, raw[104:120])) else "",
        eui64=known.get(1, raw[120:128]).hex() if any(known.get(1, raw[120:128])) else "",
    )


_DESCRIPTOR_BYTES = {1: 8, 2: 16, 3: 16}  # EUI64, NGUID, UUID


def parse_descriptors(raw: bytes) -> dict[int, bytes]:
    """Identifiers by their type; those of a wrong length are left out."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(raw) and raw[at]:
        kind, length = raw[at], raw[at + 1]
        value = raw[at + 4 : at + 4 + length]
        if length == _DESCRIPTOR_BYTES.get(kind) == len(value):
            found[kind] = value
        at += 4 + length
    return found


def _u16(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 2], "little")


def _u32(raw: bytes, at: int) -> int:
    return int.from_bytes(raw[at : at + 4], "little")
