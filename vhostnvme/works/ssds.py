"""A card's SSDs together: opened, looked at, and what is carved and given back on them.

The SSDs' own methods block, perhaps for ever: they run in threads, of which each SSD has its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vhostnvme.cluster.messages import Carve, Clone, Destroy, SsdReport, Stretch
from vhostnvme.cluster.rows import RowState, SpaceRow, SsdRow
from vhostnvme.errors import ConfigError, NativeError
from vhostnvme.storage.catalog import Catalog
from vhostnvme.storage.common import DiskSpec
from vhostnvme.storage.spec import FileSpec
from vhostnvme.storage.ssd import SsdOptions, check_places, open_ssd
from vhostnvme.storage.ssd_health import HealthOptions
from vhostnvme.works.ssd_watch import SsdWatch

_log = logging.getLogger(__name__)

LOOK_S = 5.0
COUNT_S = 1.0
ANSWER_S = 5.0  # a look after a change is waited for no longer
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
        health: HealthOptions | None = None,
    ) -> None:
        self._catalog = catalog
        self._health = health or HealthOptions()
        self._ssds: dict[str, SsdWatch] = {}
        self._reports: dict[str, SsdReport] = {}
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
        for watch in self._ssds.values():
            watch.look_here(time.monotonic())
        self._reports = {name: watch.report() for name, watch in self._ssds.items()}
        self._look_for_strangers()

    def _open(self, options: SsdOptions) -> None:
        known = self._catalog.get(SsdRow, options.name)
        if known is not None and Path(known.path) != options.path:
            _log.info("SSD %s was at %s, and is at %s now", known.name, known.path, options.path)
        ssd = open_ssd(options, self._catalog.card_uuid, known.uuid if known else "")
        self._ssds[options.name] = SsdWatch(ssd, self._health, time.monotonic())
        row = SsdRow(name=options.name, uuid=ssd.uuid, path=str(options.path))
        if row != known:
            self._catalog.write(row)

    def _look_for_strangers(self) -> None:
        """What lies on them and is in no row is told, and never touched; what is missing too."""
        rows = {row.uuid: row for row in self._catalog.all(SpaceRow)}
        for name in {row.ssd for row in rows.values()} - self._ssds.keys():
            _log.error("namespaces lie on SSD %s, which card.toml does not have any more", name)
        for ssd in (watch.ssd for watch in self._ssds.values()):
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
        for watch in self._ssds.values():
            watch.close()
        self._ssds.clear()

    def reports(self) -> list[SsdReport]:
        """As they were seen last."""
        return list(self._reports.values())

    async def watch(self) -> None:
        """Looks at them every LOOK_S and at their counts every COUNT_S, until it is cancelled."""
        while True:
            await asyncio.sleep(COUNT_S)
            now = time.monotonic()
            for watch in self._ssds.values():
                watch.see(now)
                if not watch.looking and now - watch.looked_at >= LOOK_S:
                    self._begin_look(watch)
            self._tell()

    def _begin_look(self, watch: SsdWatch) -> asyncio.Future[None]:
        look = watch.look(time.monotonic)
        look.add_done_callback(lambda _: self._tell())
        return look

    async def _look(self, watch: SsdWatch) -> None:
        """Until it is told, unless the SSD hangs."""
        await asyncio.wait([self._begin_look(watch)], timeout=ANSWER_S)

    def _tell(self) -> None:
        changed = False
        for name, watch in self._ssds.items():
            old, report = self._reports[name], watch.report()
            if abs(old.capacity - report.capacity) < CAPACITY_STEP:
                report = replace(report, capacity=old.capacity)
            if (old.healthy, old.failing) != (report.healthy, report.failing):
                _log.warning("SSD %s: %s", name, _said(report))
            changed = changed or report != old
            self._reports[name] = report
        if changed:
            self.changed(self.reports())

    # --- Effects ---

    async def carve(self, effect: Carve) -> None:
        watch = self._watch(effect.ssd)
        await watch.run(watch.ssd.carve, effect.uuid, _rounded(effect.size, watch))
        await self._look(watch)

    async def clone(self, effect: Clone) -> None:
        watch = self._watch(effect.ssd)
        await watch.run(watch.ssd.clone, effect.source, effect.uuid)
        await self._look(watch)

    async def stretch(self, effect: Stretch) -> None:
        watch = self._watch(effect.ssd)
        await watch.run(watch.ssd.resize, effect.uuid, _rounded(effect.size, watch))
        await self._look(watch)

    async def destroy(self, effect: Destroy) -> None:
        watch = self._watch(effect.ssd)
        await watch.run(watch.ssd.destroy, effect.uuid)
        await self._look(watch)

    async def disk(
        self, ssd: str, uuid: str, size: int, block_size: int, *, read_only: bool = False
    ) -> DiskSpec:
        """What the data path opens of a namespace; its identity is its UUID.

        Raises:
            NativeError: the SSD or the namespace is not there.
        """
        watch = self._watch(ssd)
        spec = await watch.run(watch.ssd.disk, uuid, size, block_size, read_only)
        return replace(spec, medium=watch.medium) if isinstance(spec, FileSpec) else spec

    def _watch(self, name: str) -> SsdWatch:
        if name not in self._ssds:
            raise ConfigError(
                f"this card has no SSD {name!r} any more: put it into card.toml again"
            )
        return self._ssds[name]


def _rounded(size: int, watch: SsdWatch) -> int:
    return -(-size // watch.ssd.granule) * watch.ssd.granule


def _said(report: SsdReport) -> str:
    if report.failing:
        return f"it is failing, and gets nothing new: {report.reason}"
    return report.reason or "it is well again"
