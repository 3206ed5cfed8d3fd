"""A card's SSDs together: opened, looked at, and what is carved and given back on them.

The SSDs' own methods block: they run in threads, a few at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from vhostnvme.cluster.messages import Carve, Clone, Destroy, SsdReport, Stretch
from vhostnvme.cluster.rows import RowState, SpaceRow, SsdRow
from vhostnvme.errors import ConfigError, NativeError
from vhostnvme.storage.catalog import Catalog
from vhostnvme.storage.common import DiskSpec
from vhostnvme.storage.ssd import Ssd, SsdOptions, check_places, open_ssd

_log = logging.getLogger(__name__)

LOOK_S = 5.0
# The free space of a file system that others write to changes all the time: less is not told.
CAPACITY_STEP = 64 << 20


class Ssds:
    """Open from construction to `close`. `changed` is called with what they are like now.

    Raises:
        ConfigError: one cannot be used, and nothing is known to be on it.
    """

    def __init__(
        self,
        options: Sequence[SsdOptions],
        catalog: Catalog,
    ) -> None:
        self._catalog = catalog
        self._ssds: dict[str, Ssd] = {}
        self._reports: dict[str, SsdReport] = {}
        self._looks = 0
        self._applied: dict[str, int] = {}  # the latest look of each
        self.changed: Callable[[Sequence[SsdReport]], None] = lambda _: None
        wrong = check_places(options)
        if wrong:
            raise ConfigError("\n".join(wrong))
        try:
            for each in options:
                self._open(each)
        except BaseException:
            self.close()
            raise
        self._reports = {name: _report(ssd) for name, ssd in self._ssds.items()}
        self._look_for_strangers()

    def _open(self, options: SsdOptions) -> None:
        known = self._catalog.get(SsdRow, options.name)
        if known is not None and Path(known.path) != options.path:
            _log.info("SSD %s was at %s, and is at %s now", known.name, known.path, options.path)
        ssd = open_ssd(options, self._catalog.card_uuid, known.uuid if known else "")
        self._ssds[options.name] = ssd
        row = SsdRow(name=options.name, uuid=ssd.uuid, path=str(options.path))
        if row != known:
            self._catalog.write(row)

    def _look_for_strangers(self) -> None:
        """What lies on them and is in no row is told, and never touched; what is missing too."""
        rows = {row.uuid: row for row in self._catalog.all(SpaceRow)}
        for name in {row.ssd for row in rows.values()} - self._ssds.keys():
            _log.error("namespaces lie on SSD %s, which card.toml does not have any more", name)
        for ssd in self._ssds.values():
            try:
                found, foreign = ssd.found()
            except NativeError as error:
                _log.error("%s", error)
                continue
            for each in found:
                if each.uuid not in rows:
                    _log.warning(
                        "SSD %s: nobody knows the namespace %s of %d bytes there: it is left",
                        ssd.name,
                        each.uuid,
                        each.size,
                    )
            if foreign:
                _log.warning("SSD %s: left alone: %s", ssd.name, ", ".join(sorted(foreign)[:10]))
            whole = {each.uuid for each in found if each.whole}
            for row in rows.values():
                ready = row.ssd == ssd.name and row.state is RowState.READY
                if ready and row.uuid not in whole:
                    _log.error(
                        "SSD %s: namespace %s of VM %s is missing", ssd.name, row.uuid, row.vm
                    )

    def close(self) -> None:
        """Safe to repeat."""
        for ssd in self._ssds.values():
            ssd.close()
        self._ssds.clear()

    def reports(self) -> list[SsdReport]:
        """As they were seen last."""
        return list(self._reports.values())

    async def watch(self) -> None:
        """Looks at them every LOOK_S, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look(list(self._ssds))

    async def _look(self, names: Iterable[str]) -> None:
        changed = False
        for name in names:
            self._looks += 1
            number = self._looks
            report = await asyncio.to_thread(_report, self._ssds[name])
            if number < self._applied.get(name, 0):
                continue  # a later look has been faster
            self._applied[name] = number
            old = self._reports[name]
            if abs(old.capacity - report.capacity) < CAPACITY_STEP:
                report = replace(report, capacity=old.capacity)
            if old.healthy != report.healthy:
                _log.warning("SSD %s: %s", name, report.reason or "it is there again")
            changed = changed or report != old
            self._reports[name] = report
        if changed:
            self.changed(self.reports())

    # --- Effects ---

    async def carve(self, effect: Carve) -> None:
        ssd = self._ssd(effect.ssd)
        await asyncio.to_thread(ssd.carve, effect.uuid, _rounded(effect.size, ssd))
        await self._look([ssd.name])

    async def clone(self, effect: Clone) -> None:
        ssd = self._ssd(effect.ssd)
        await asyncio.to_thread(ssd.clone, effect.source, effect.uuid)
        await self._look([ssd.name])

    async def stretch(self, effect: Stretch) -> None:
        ssd = self._ssd(effect.ssd)
        await asyncio.to_thread(ssd.resize, effect.uuid, _rounded(effect.size, ssd))
        await self._look([ssd.name])

    async def destroy(self, effect: Destroy) -> None:
        ssd = self._ssd(effect.ssd)
        await asyncio.to_thread(ssd.destroy, effect.uuid)
        await self._look([ssd.name])

    async def disk(
        self, ssd: str, uuid: str, size: int, block_size: int, *, read_only: bool = False
    ) -> DiskSpec:
        """What the data path opens of a namespace; its identity is its UUID.

        Raises:
            NativeError: the SSD or the namespace is not there.
        """
        return await asyncio.to_thread(self._ssd(ssd).disk, uuid, size, block_size, read_only)

    def _ssd(self, name: str) -> Ssd:
        if name not in self._ssds:
            raise ConfigError(
                f"this card has no SSD {name!r} any more: put it into card.toml again"
            )
        return self._ssds[name]


def _rounded(size: int, ssd: Ssd) -> int:
    return -(-size // ssd.granule) * ssd.granule


def _report(ssd: Ssd) -> SsdReport:
    """What others leave of a file system bounds what a card can have of it."""
    state = ssd.state()
    return SsdReport(
        name=ssd.name,
        kind=ssd.kind,
        capacity=min(state.capacity, state.promised + state.available)
        if state.healthy
        else state.capacity,
        available=state.available,
        largest=state.largest,
        granule=ssd.granule,
        promised=state.promised,
        healthy=state.healthy,
        reason=state.reason,
        can_clone=ssd.can_clone,
    )
