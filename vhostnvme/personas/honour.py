"""What of a persona an emulated drive can be, and what not: `problems` is pure.

What a persona has and we have not cannot be pretended: a host would use it. What we have and the
persona has not is switched off where hosts choose commands by it (OACS, ONCS), and stays otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vhostnvme.errors import ConfigError
from vhostnvme.personas.file import Persona

MDTS_MAX = 8  # 2^8 pages of 4 KiB
NAMESPACES_MAX = 256
# As Identify Namespace lists them: bytes of a block, and of its metadata.
FORMATS = ((512, 0), (512, 8), (512, 64), (4096, 0), (4096, 8), (4096, 64))
POWER_STATES_MAX = 32

# Bits that a host acts upon: the field's width in bits, and what its bits are called.
BITS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    "oacs": (
        16,
        (
            "Security Send and Receive",
            "Format NVM",
            "Firmware Commit and Download",
            "Namespace Management but with --ssd",
            "Device Self-test",
            "Directives",
            "NVMe-MI Send and Receive",
            "Virtualization Management",
            "Doorbell Buffer Config",
            "Get LBA Status",
            "Command and Feature Lockdown",
        ),
    ),
    "oncs": (
        16,
        (
            "Compare",
            "Write Uncorrectable",
            "Dataset Management",
            "Write Zeroes",
            "Save and Select of features",
            "Reservations",
            "Timestamp",
            "Verify",
            "Copy",
            "Copy of any length",
        ),
    ),
    "fuses": (16, ("Compare and Write",)),
    "lpa": (
        8,
        (
            "SMART log of a namespace",
            "Commands Supported log",
            "extended data of Get Log Page",
            "Telemetry",
            "Persistent Event log",
            "Supported Log Pages",
            "Telemetry data area 4",
        ),
    ),
    "sanicap": (32, ("Crypto Erase", "Block Erase", "Overwrite")),
    "apsta": (8, ("autonomous power state transitions",)),
    "hctma": (16, ("host controlled thermal management",)),
    "nwpc": (8, ("write protection", "until a power cycle", "for ever")),
    "ctratt": (
        32,
        (
            "128-bit host identifiers",
            "non-operational permissive mode",
            "NVM sets",
            "read recovery levels",
            "endurance groups",
            "predictable latency mode",
            "traffic based keep alive",
            "namespace granularity",
            "SQ associations",
            "UUID list",
        ),
    ),
}
# What a host is asked to give or may rely upon, and we know nothing of: it must be 0.
NOTHING = {
    "hmpre": "a host memory buffer",
    "nsetidmax": "NVM sets",
    "icsvscc": "vendor specific I/O commands",
    "rpmbs": "replay protected memory",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """What cannot be honoured, and why; `field` as in `ignore`."""

    field: str
    why: str


@dataclass(frozen=True, slots=True)
class Ours:
    """What our own controller says: fields of `BITS`, and its formats as (bytes, metadata)."""

    bits: Mapping[str, int]
    formats: tuple[tuple[int, int], ...]


def problems(persona: Persona, ours: Ours) -> list[Problem]:
    """Everything that it has and we have not.

    Raises:
        ConfigError: a field is not what it should be.
    """
    found: list[Problem] = []
    for name, (width, words) in BITS.items():
        value = persona.number("id_ctrl", name, (1 << width) - 1) or 0
        missing = value & ~ours.bits.get(name, 0)
        if missing:
            found.append(Problem(f"id_ctrl.{name}", f"we have no {_words(missing, words)}"))
    for name, words_of in NOTHING.items():
        if persona.number("id_ctrl", name, (1 << 32) - 1):
            found.append(Problem(f"id_ctrl.{name}", f"we have no {words_of}"))
    found += _of_numbers(persona)
    found += _of_formats(persona, ours)
    return found


def check_persona(persona: Persona, ours: Ours) -> None:
    """
    Raises:
        ConfigError: it cannot be honoured: one sentence that names the field.
    """
    found = problems(persona, ours)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ConfigError(
            f"persona {persona.name}: {found[0].field} cannot be honoured{more}: {found[0].why};"
            f' `vhostnvme persona check` names all: put what may be missing into "ignore"'
        )


def formats_of(persona: Persona) -> list[tuple[int, int]]:
    """(block size, metadata) of its LBA formats that are in use, in order.

    Raises:
        ConfigError: they are no formats.
    """
    listed = persona.id_ns.get("lbafs")
    if listed is None:
        return []
    count = persona.number("id_ns", "nlbaf", 63)
    found = []
    try:
        for entry in listed if count is None else listed[: count + 1]:
            size, metadata = int(entry["ds"]), int(entry["ms"])
            if size:
                found.append((1 << size, metadata))
    except (TypeError, KeyError, ValueError, IndexError, OverflowError):
        raise ConfigError(
            f'persona {persona.name}: id_ns.lbafs is no list of {{"ms": 0, "ds": 9, "rp": 0}}'
        ) from None
    return found


def _of_numbers(persona: Persona) -> list[Problem]:
    found = []
    mdts = persona.number("id_ctrl", "mdts", 255)
    if mdts is not None and not 1 <= mdts <= MDTS_MAX:
        why = f"we transfer up to 2^{MDTS_MAX} pages at once: take 1 to {MDTS_MAX}"
        found.append(Problem("id_ctrl.mdts", why))
    count = persona.number("id_ctrl", "nn", (1 << 32) - 1)
    if count is not None and not 1 <= count <= NAMESPACES_MAX:
        why = f"we have up to {NAMESPACES_MAX} namespaces"
        found.append(Problem("id_ctrl.nn", why))
    why_not = _wrong_states(persona.id_ctrl.get("psds"))
    if why_not:
        found.append(Problem("id_ctrl.psds", why_not))
    return found


def _wrong_states(states: object) -> str | None:
    """Why these cannot be power states (Base 8.15); None: they can, or there are none."""
    if states is None:
        return None
    if not isinstance(states, list) or len(states) > POWER_STATES_MAX:
        return f"there are up to {POWER_STATES_MAX} power states"
    watts = []
    for number, state in enumerate(states):
        try:
            flags = state.get("flags")
            scale = int(state.get("max_power_scale", 0) if flags is None else flags) & 1
            sleeps = bool(state.get("non-operational_state", 0) if flags is None else flags & 2)
            watts.append(int(state.get("max_power", 0)) * (1 if scale else 100))
        except (AttributeError, TypeError, ValueError):
            return f"power state {number} is none"
        if sleeps and number == 0:
            return "power state 0 takes I/O commands"
    known = [each for each in watts if each]
    if known != sorted(known, reverse=True):
        return "a power state takes no more power than the one before it"
    return None


def _of_formats(persona: Persona, ours: Ours) -> list[Problem]:
    return [
        Problem(
            "id_ns.lbafs", f"we have no blocks of {size} bytes with {metadata} bytes of metadata"
        )
        for size, metadata in formats_of(persona)
        if (size, metadata) not in ours.formats
    ]


def _words(bits: int, words: tuple[str, ...]) -> str:
    named = [
        words[bit] if bit < len(words) else f"bit {bit}" for bit in range(32) if bits & 1 << bit
    ]
    return ", no ".join(named)
