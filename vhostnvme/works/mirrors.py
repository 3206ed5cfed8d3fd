"""The mirrors of a card as they run: every namespace of a device is one, most with a single copy.

Nothing is decided here: what a mirror's legs come to is told to the managers, and what these say is
done. The file of a write-intent bitmap lies in the card's state folder, on a disk of none of its
SSDs.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from vhostnvme.cluster.mirror_messages import (
    AttachMirror,
    LegCounts,
    LegDrop,
    LegIn,
    LegOut,
    LegSeen,
    LegState,
    MirrorSeen,
)
from vhostnvme.cluster.rows import HoldingRow, Leg
from vhostnvme.config import RecoveryConfig
from vhostnvme.control.paths import make_folder
from vhostnvme.emulation.server import Services
from vhostnvme.errors import ClusterError, NativeError
from vhostnvme.fabric.address import Address
from vhostnvme.native import Event, EventType, Mirror, MirrorInfo, MirrorOptions, NamespaceOptions
from vhostnvme.native import LegState as NativeState
from vhostnvme.storage.common import DiskSpec
from vhostnvme.storage.disk import native_options
from vhostnvme.storage.mirror import LEGS_MAX
from vhostnvme.storage.mirror_record import Standing
from vhostnvme.works.legs import SpecOf

_log = logging.getLogger(__name__)

LOOK_S = 1.0
_EVENTS = (EventType.LEG_FAILED, EventType.LEG_LOST, EventType.LEG_IN_SYNC)
LOST_SHARE = 4  # of the leg timeout: a card that has hung up has so long to be back
SILENT_S = 8.0  # after a leg was too slow: by then the keep-alive has told whether its card answers
_TOO_SLOW = 0  # instead of an NVMe status
_STATES = {
    NativeState.NONE: LegState.NONE,
    NativeState.OUT: LegState.OUT,
    NativeState.REBUILDING: LegState.REBUILDING,
    NativeState.READY: LegState.READY,
    NativeState.IN_SYNC: LegState.IN_SYNC,
    NativeState.FAILED: LegState.FAILED,
}


class Unit(Protocol):
    """A namespace as its guest sees it."""

    @property
    def uuid(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def block_size(self) -> int: ...


@dataclass(slots=True)
class Running:
    """`holdings`: what was opened for each leg, and `options` how."""

    mirror: Mirror
    id: int  # by which events name it
    holdings: list[str]
    options: list[NamespaceOptions | None]
    local: list[bool]
    told: MirrorSeen | None = None
    hung_up: dict[int, asyncio.TimerHandle] = field(default_factory=dict)  # by leg
    away: set[int] = field(default_factory=set)  # legs without a connection now
    slow_at: dict[int, float] = field(default_factory=dict)  # legs that have been too slow


class VmMirrors:
    """Of one card.

    Args:
        me: the card's name.
        folder: for the bitmaps.
        spec: what the data path opens of a holding.
        tell: the managers.
    """

    def __init__(
        self,
        running: Services,
        me: str,
        folder: Path,
        spec: SpecOf,
        tell: Callable[[MirrorSeen], None],
        config: RecoveryConfig,
    ) -> None:
        self._running = running
        self._me = me
        self._folder = folder
        self._spec = spec
        self._tell = tell
        self._config = config
        self._mirrors: dict[str, Running] = {}
        running.listeners.append(self._on_event)

    # --- As a whole ---

    async def open_one(self, row: HoldingRow, spec: DiskSpec) -> Mirror:
        """A plain namespace, as a mirror with one copy.

        Raises:
            NativeError, ConfigError: it cannot be opened here and now.
        """
        legs = (Leg(row.uuid, Standing.IN_SYNC), *[Leg()] * (LEGS_MAX - 1))
        nothing = [None] * (LEGS_MAX - 1)
        holdings, specs = (row, *nothing), (spec, *nothing)
        return await self._open(row, legs, holdings, specs, same=True, read_only=row.read_only)

    async def open(self, effect: AttachMirror, specs: Sequence[DiskSpec | None]) -> Mirror:
        """With the legs that count; one that cannot be opened has failed, unless it is the last.

        Args:
            specs: of each leg of `effect`.

        Raises:
            NativeError, ConfigError: none of them can be opened here and now.
        """
        mirror = effect.mirror
        return await self._open(mirror, mirror.legs, effect.legs, specs, same=effect.fresh)

    async def _open(
        self,
        unit: Unit,
        legs: tuple[Leg, ...],
        rows: tuple[HoldingRow | None, ...],
        specs: Sequence[DiskSpec | None],
        *,
        same: bool,
        read_only: bool = False,
    ) -> Mirror:
        make_folder(self._folder)
        options = [None if spec is None else native_options(spec) for spec in specs]
        local = [row is not None and row.giver == self._me for row in rows]
        states = tuple(
            NativeState.IN_SYNC if row else NativeState.OUT if leg.uuid else NativeState.NONE
            for leg, row in zip(legs, rows, strict=True)
        )
        mirror = await Mirror.aopen(
            self._running.runtime,
            NamespaceOptions(
                backend="mirror",
                mirror=MirrorOptions(
                    legs=tuple(options),
                    states=states,
                    bitmap_path=str(self._bitmap(unit.uuid)),
                    uuid=uuid.UUID(unit.uuid),
                    preferred=_preferred(local, states),
                    rebuild_rate=self._config.rebuild_rate,
                    leg_timeout_ms=self._config.leg_timeout_ms,
                    same=same,
                ),
                size=unit.size,
                block_size=unit.block_size,
                read_only=read_only,
                uuid=uuid.UUID(unit.uuid),
            ),
        )
        assert isinstance(mirror, Mirror)
        self._running.names[mirror.id] = f"namespace {unit.uuid}"
        holdings = [leg.uuid for leg in legs]
        self._mirrors[unit.uuid] = Running(mirror, mirror.id, holdings, options, local)
        return mirror

    def _bitmap(self, name: str) -> Path:
        return self._folder / name

    def opened(self, name: str) -> None:
        """A device has it: from now on the managers hear of it."""
        self._look(name)

    def closed(self, name: str) -> None:
        """No device has it any more."""
        running = self._mirrors.pop(name, None)
        if running is not None:
            self._running.names.pop(running.id, None)
            for timer in running.hung_up.values():
                timer.cancel()

    def sweep(self, known: Callable[[str], bool]) -> None:
        """Removes the bitmaps of namespaces that are not there any more.

        One that comes back later, from another card, has changed meanwhile.

        Args:
            known: whether a namespace is.
        """
        if not self._folder.is_dir():
            return
        for path in self._folder.iterdir():
            if path.name not in self._mirrors and not known(path.name):
                path.unlink(missing_ok=True)

    # --- Leg by leg ---

    async def out(self, effect: LegOut) -> None:
        running = self._of(effect.mirror)
        try:
            running.mirror.leg_out(effect.leg)
        finally:
            self._look(effect.mirror)

    async def counts(self, effect: LegCounts) -> None:
        running = self._of(effect.mirror)
        try:
            running.mirror.leg_counts(effect.leg)
            if running.local[effect.leg]:
                running.mirror.prefer(effect.leg)
        finally:
            self._look(effect.mirror)

    async def drop(self, effect: LegDrop) -> None:
        """It is made to fail first: what it has is cancelled, and nobody waits for it.

        Raises:
            NativeError: EBUSY: commands are under way on it still.
        """
        running = self._of(effect.mirror)
        mirror, leg = running.mirror, effect.leg
        try:
            mirror.leg_fail(leg)
            if mirror.mirror_info().legs[leg].state is NativeState.FAILED:
                mirror.leg_out(leg)
            mirror.leg_drop(leg)
            running.holdings[leg], running.options[leg] = "", None
            running.local[leg] = False
            self._prefer_local(running)
        finally:
            self._look(effect.mirror)

    async def bring_in(self, effect: LegIn) -> None:
        """What a remote leg has open connects again by itself, and knows which of its writes may
        still be on their way. A local one is opened anew: it may have forgotten writes.

        Raises:
            NativeError: it cannot be opened here and now; EBUSY: another one is being copied, or
                commands are under way on it still.
        """
        running = self._of(effect.mirror)
        mirror, leg, row = running.mirror, effect.leg, effect.holding
        try:
            options = native_options(await self._spec(row))
            is_open = mirror.mirror_info().legs[leg].open
            if is_open and options == running.options[leg] and options.backend == "forward":
                self._check_answers(running, leg)
                mirror.leg_in(leg, full=effect.full)
            else:
                if is_open:
                    mirror.leg_close(leg)
                await mirror.aleg_in(leg, options, full=effect.full)
            running.holdings[leg], running.options[leg] = row.uuid, options
            running.local[leg] = row.giver == self._me
            running.away.discard(leg)
        finally:
            self._look(effect.mirror)

    def _check_answers(self, running: Running, leg: int) -> None:
        """Writes wait for a leg that is brought in: so it is to be one that answers.

        Raises:
            NativeError: EBUSY: not yet.
        """
        silent = time.monotonic() < running.slow_at.get(leg, 0.0) + SILENT_S
        if leg in running.away or silent:
            raise NativeError(errno.EBUSY, "its card does not answer yet")

    def _prefer_local(self, running: Running) -> None:
        info = running.mirror.mirror_info()
        states = tuple(leg.state for leg in info.legs)
        running.mirror.prefer(_preferred(running.local, states))

    def _of(self, name: str) -> Running:
        running = self._mirrors.get(name)
        if running is None:
            raise ClusterError(f"namespace {name} has been detached meanwhile")
        return running

    # --- What the managers are told ---

    async def watch(self, known: Callable[[str], bool]) -> None:
        """Looks at all of them now and then, until it is cancelled: events may be lost."""
        while True:
            await asyncio.sleep(LOOK_S)
            for name in list(self._mirrors):
                self._look(name)
            await asyncio.to_thread(self.sweep, known)

    def _on_event(self, event: Event) -> None:
        found = next(
            (name for name, each in self._mirrors.items() if each.id == event.controller), None
        )
        if found is None:
            return
        if event.type in _EVENTS:
            if event.type is not EventType.LEG_IN_SYNC and event.b == _TOO_SLOW:
                self._mirrors[found].slow_at[event.a] = time.monotonic()
            self._look(found)
        elif event.type in (EventType.REMOTE_LOST, EventType.REMOTE_BACK):
            self._on_connection(self._mirrors[found], event)

    def _on_connection(self, running: Running, event: Event) -> None:
        """A card that has hung up is waited for less long than one that is silent."""
        legs = [
            number
            for number, options in enumerate(running.options)
            if options is not None
            and options.remote is not None
            and len(options.remote.paths) == 1
            and event.text.startswith(str(Address(*options.remote.paths[0])))
        ]
        for leg in legs:
            timer = running.hung_up.pop(leg, None)
            if timer is not None:
                timer.cancel()
            running.away.discard(leg)
            running.slow_at.pop(leg, None)
            if event.type is EventType.REMOTE_LOST:
                running.away.add(leg)
                wait_s = self._config.leg_timeout_ms / 1000 / LOST_SHARE
                loop = asyncio.get_running_loop()
                running.hung_up[leg] = loop.call_later(wait_s, self._give_up, running, leg)

    def _give_up(self, running: Running, leg: int) -> None:
        running.hung_up.pop(leg, None)
        try:
            states = [each.state for each in running.mirror.mirror_info().legs]
            counts = states.count(NativeState.IN_SYNC)
            if states[leg] is NativeState.IN_SYNC and counts > 1:
                running.mirror.leg_fail(leg)
        except NativeError as error:
            _log.debug("a leg is not given up: %s", error)

    def _look(self, name: str) -> None:
        running = self._mirrors.get(name)
        if running is None:
            return
        try:
            info = running.mirror.mirror_info()
        except NativeError as error:
            _log.debug("namespace %s cannot be looked at now: %s", name, error)
            return
        seen = _seen(name, info, running.holdings)
        if seen != running.told:
            running.told = seen
            self._tell(seen)


def _seen(name: str, info: MirrorInfo, holdings: list[str]) -> MirrorSeen:
    legs = tuple(
        LegSeen(
            uuid=holding,
            state=_STATES[leg.state],
            covered=leg.covered,
            failures=leg.failures,
        )
        if holding
        else LegSeen()
        for leg, holding in zip(info.legs, holdings, strict=True)
    )
    dirty, left = info.dirty * info.region_bytes, info.left * info.region_bytes
    return MirrorSeen(name, legs, dirty=dirty, left=left, held=info.held)


def _preferred(local: list[bool], states: tuple[NativeState, ...]) -> int:
    """The leg to read from: one of this card, else any that counts."""
    counts = [number for number, state in enumerate(states) if state is NativeState.IN_SYNC]
    here = [number for number in counts if local[number]]
    return next(iter(here or counts), 0)
