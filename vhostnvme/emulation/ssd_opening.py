"""What an SSD in a folder shall be, and how its folder is opened."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from vhostnvme.emulation.drive import DriveSetup
from vhostnvme.emulation.persona import block_size_of, capacity_of, native_persona
from vhostnvme.errors import NativeError
from vhostnvme.native import Decision
from vhostnvme.personas.file import Persona, parse_persona
from vhostnvme.storage.ssd_folder import PERSONA_NAME, RECORD_NAME, SsdFolder, SsdSpec

FREE_S_MAX = 5.0  # for the I/O of a process that was killed
_FREE_STEP_S = 0.02

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class SsdSetup(DriveSetup):
    """`ssd`: the folder; `serial` and `model` are kept there when they are given."""

    ssd: SsdSpec
    serial: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class NewNamespace:
    """What a namespace shall be. `blocks` 0: without metadata, as many as fit into `size` bytes."""

    size: int
    block_size: int
    shared: bool = True
    group: int = 1
    attached: set[int] | None = field(default_factory=set)
    flbas: int = 0
    dps: int = 0
    blocks: int = 0

    @classmethod
    def of(cls, decision: Decision) -> NewNamespace:
        plain = decision.size == decision.blocks * decision.block_size
        return cls(
            decision.size,
            decision.block_size,
            decision.shared,
            decision.group,
            flbas=decision.flbas,
            dps=decision.dps,
            blocks=0 if plain else decision.blocks,
        )


def open_folder(setup: SsdSetup, nsid_max: int) -> tuple[SsdFolder, SsdSetup, Persona | None]:
    """The folder; the setup, completed by the persona; and the persona.

    That is the one of the setup, else the one that the SSD was last started with.

    Raises:
        ConfigError: the folder cannot be used, is in use or damaged; or the persona cannot be.
    """
    spec, given = setup.ssd, setup.persona
    serial, model = setup.serial, setup.model
    if given is not None:
        native_persona(given)  # before anything is made
        serial, model = serial or given.text("sn", 20), model or given.text("mn", 40)
        if not (spec.folder / RECORD_NAME).exists():
            spec = replace(
                spec,
                capacity=spec.capacity or capacity_of(given),
                block_size=spec.block_size or block_size_of(given),
                max_namespaces=spec.max_namespaces or nsid_max,
            )
    folder = SsdFolder(spec, serial=serial, model=model)
    try:
        if given is not None:
            folder.keep_persona(given.source)
        elif (kept := folder.kept_persona()) is not None:
            given = parse_persona(kept, str(folder.path / PERSONA_NAME))
    except BaseException:
        folder.close()
        raise
    return folder, replace(setup, ssd=spec), given


async def when_free(opened: Callable[[], T]) -> T:
    """The folder is ours: who has a file of it open is killed, and its I/O is about to end."""
    deadline_s = time.monotonic() + FREE_S_MAX
    while True:
        try:
            return opened()
        except NativeError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline_s:
                raise
        await asyncio.sleep(_FREE_STEP_S)
