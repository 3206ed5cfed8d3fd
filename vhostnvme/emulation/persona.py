"""How a persona becomes a drive: checked against what our own controller says, then as options."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vhostnvme.errors import ConfigError
from vhostnvme.native import Controller, ControllerOptions, Drive, DriveOptions, Runtime
from vhostnvme.native import PersonaOptions as NativePersona
from vhostnvme.personas import Persona, check_persona
from vhostnvme.personas.honour import FORMATS, Ours, formats_of

_UINT64_MAX = (1 << 64) - 1
# Where Identify Controller has what honour.BITS names (Base 5.17.2.1): offset, bytes.
_FIELDS = {
    "oacs": (256, 2),
    "oncs": (520, 2),
    "fuses": (522, 2),
    "lpa": (261, 1),
    "sanicap": (328, 4),
    "apsta": (265, 1),
    "hctma": (322, 2),
    "nwpc": (531, 1),
    "ctratt": (96, 4),
}
_DOORBELL_BUFFERS = 1 << 8  # of OACS: offered to whoever connects as QEMU does
_POWER = struct.Struct("<HBBIIBBBBHBBHB9x")


def ours(*, managed: bool = True) -> Ours:
    """What a controller of ours says when it is no persona; blocks for some milliseconds.

    Args:
        managed: of an SSD in a folder.
    """
    with tempfile.TemporaryDirectory(prefix="vn-") as folder, Runtime() as runtime:
        drive = Drive(runtime, DriveOptions(managed=managed))
        controller = Controller(runtime, ControllerOptions(serial="OURS", drive=drive))
        controller.listen(Path(folder) / "cntrl")
        page = controller.identify()
    bits = {
        name: int.from_bytes(page[at : at + size], "little") for name, (at, size) in _FIELDS.items()
    }
    bits["oacs"] |= _DOORBELL_BUFFERS
    return Ours(bits, FORMATS)


def native_persona(persona: Persona, *, managed: bool = True) -> NativePersona:
    """The persona as the library takes it, for a drive that is an SSD in a folder or not.

    Raises:
        ConfigError: it cannot be honoured, or is wrong; one sentence that names the field.
    """
    have = ours(managed=managed)
    check_persona(persona, have)
    values = {name: _number(persona, "id_ctrl", name, most) for name, most in _PLAIN.items()}
    starts = {
        ours_name: _number(persona, "smart", name, _UINT64_MAX)
        for name, ours_name in _SMART.items()
    }
    spares = {name: _number(persona, "smart", name, 255) for name in _PERCENTS}
    return NativePersona(
        firmware=persona.text("fr", 8),
        oacs_off=_off(persona, "oacs", have),
        oncs_off=_off(persona, "oncs", have),
        formats=sum(1 << FORMATS.index(each) for each in set(formats_of(persona))),
        power_states=_power_states(persona),
        power_off=_power_off(persona),
        logs=persona.logs,
        uuid=persona.uuid,
        **values,
        **starts,
        **spares,
    )


def capacity_of(persona: Persona) -> int | None:
    """Bytes of the drive, or of its namespace, a multiple of 4096; None: it does not say."""
    total = _number(persona, "id_ctrl", "tnvmcap", 1 << 62)
    formats = formats_of(persona)
    blocks = _number(persona, "id_ns", "nsze", 1 << 50)
    if not total and formats and blocks:
        total = blocks * block_size_of(persona)
    return total // 4096 * 4096 or None


def block_size_of(persona: Persona) -> int:
    """Of the format that its namespace has, if that has no metadata; else 512."""
    listed = persona.id_ns.get("lbafs") or []
    flbas = _number(persona, "id_ns", "flbas", 255)
    index = flbas & 0xF | flbas >> 1 & 0x30
    formats_of(persona)  # they are some
    if index >= len(listed) or listed[index]["ms"]:
        return 512
    size = 1 << int(listed[index]["ds"])
    return size if (size, 0) in FORMATS else 512


def subnqn_of(persona: Persona) -> str | None:
    """Its subsystem NQN, if it has one that is none of the made up ones of old drives."""
    name = persona.text("subnqn", 223)
    return name if name and name.startswith("nqn.") else None


_PLAIN: Mapping[str, int] = {
    "vid": 0xFFFF,
    "ssvid": 0xFFFF,
    "ieee": 0xFFFFFF,
    "rab": 255,
    "rtd3r": 0xFFFFFFFF,
    "rtd3e": 0xFFFFFFFF,
    "wctemp": 0xFFFF,
    "cctemp": 0xFFFF,
    "mntmt": 0xFFFF,
    "mxtmt": 0xFFFF,
}
_SMART: Mapping[str, str] = {
    "data_units_read": "data_units_read",
    "data_units_written": "data_units_written",
    "host_read_commands": "host_reads",
    "host_write_commands": "host_writes",
    "controller_busy_time": "busy_minutes",
    "power_cycles": "power_cycles",
    "power_on_hours": "power_on_hours",
    "unsafe_shutdowns": "unsafe_shutdowns",
    "media_errors": "media_errors",
}
_PERCENTS = ("percent_used", "avail_spare", "spare_thresh")


def _number(persona: Persona, part: str, name: str, most: int) -> int:
    return persona.number(part, name, most) or 0


def _off(persona: Persona, name: str, have: Ours) -> int:
    """The bits that we have, and it has not."""
    said = persona.number("id_ctrl", name, 0xFFFF)
    return 0 if said is None else have.bits[name] & ~said


def _power_off(persona: Persona) -> int:
    """VN_PERSONA_NO_*: what it says that it has not."""
    said = [persona.number("id_ctrl", name, 0xFFFF) for name in ("apsta", "hctma")]
    return sum(1 << bit for bit, value in enumerate(said) if value is not None and not value & 1)


def _power_states(persona: Persona) -> tuple[bytes, ...]:
    states = persona.id_ctrl.get("psds") or []
    count = persona.number("id_ctrl", "npss", 31)
    return tuple(
        _power_state(persona, each)
        for each in states[: len(states) if count is None else count + 1]
    )


def _power_state(persona: Persona, state: Any) -> bytes:
    """A Power State Descriptor (Base 5.17.2.1) of what nvme-cli prints, old and new."""

    def get(*names: str) -> int:
        value = next((state[name] for name in names if name in state), 0)
        if not isinstance(value, int):
            raise TypeError
        return value

    try:
        flags = state.get("flags")
        if flags is None:
            flags = get("max_power_scale") & 1 | (get("non-operational_state") & 1) << 1
        return _POWER.pack(
            *(get("max_power"), 0, int(flags), get("entry_lat"), get("exit_lat")),
            *(get("read_tput"), get("read_lat"), get("write_tput"), get("write_lat")),
            *(get("idle_power"), (get("idle_scale") & 3) << 6, 0, get("active_power")),
            get("active_power_work", "active_work_scale") & 7 | (get("active_scale") & 3) << 6,
        )
    except (AttributeError, TypeError, ValueError, struct.error):
        raise ConfigError(
            f"persona {persona.name}: id_ctrl.psds has a power state that is none"
        ) from None
