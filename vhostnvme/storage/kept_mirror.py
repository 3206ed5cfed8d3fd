"""A mirror that a SPEC names, with the decisions about its legs: for servers without a card.

Each decision is recorded beside the bitmap before the library is told. It is made from what the
library says that is, never from an event alone: a lost event is made up for by the next look.
"""

from __future__ import annotations

import errno
import logging

from vhostnvme.errors import ConfigError, NativeError
from vhostnvme.native import LegInfo, LegState, Mirror
from vhostnvme.storage.mirror_record import MirrorRecord, Standing

_log = logging.getLogger(__name__)

RETRY_S_MIN = 1.0
RETRY_S_MAX = 30.0
STEADY_S = 60.0  # in sync for so long: the next attempts to come back follow quickly again


class KeptMirror(Mirror):
    """`decide` is to be called when an event tells of a leg, and once a second besides."""

    def keep_with(self, record: MirrorRecord, names: tuple[str, ...]) -> None:
        """The record of its legs, and what they are called in the log."""
        self._record = record
        self._names = names
        self._retry_s = [RETRY_S_MIN] * len(names)
        self._due_s = [0.0] * len(names)

    def decide(self, now_s: float) -> list[int]:
        """One look at all legs; it waits for nothing but the record's disk.

        `now_s`: on any clock that only goes forward.

        Returns:
            Legs that it is time to `bring_in`.
        """
        try:
            info = self.mirror_info()
        except NativeError as error:
            _log.debug("a mirror cannot be looked at now: %s", error)
            return []
        due = []
        for leg, of_leg in enumerate(info.legs[: len(self._names)]):
            try:
                self._decide(leg, of_leg, now_s)
            except (ConfigError, NativeError) as error:
                _log.error("the mirror's %s: %s", self._names[leg], error)
            if of_leg.state is LegState.OUT and now_s >= self._due_s[leg]:
                self._due_s[leg] = now_s + self._retry_s[leg]
                self._retry_s[leg] = min(self._retry_s[leg] * 2, RETRY_S_MAX)
                due.append(leg)
        return due

    def _decide(self, leg: int, info: LegInfo, now_s: float) -> None:
        name, record = self._names[leg], self._record
        if info.state is LegState.FAILED:
            record.change(leg, Standing.STALE)
            self.leg_out(leg)
            self._due_s[leg] = now_s + self._retry_s[leg]
            _log.warning("the mirror's %s is stale: it goes on without it", name)
        elif info.state is LegState.READY:
            record.change(leg, Standing.IN_SYNC)
            try:
                self.leg_counts(leg)
            except NativeError as error:
                if error.errno != errno.ESTALE:
                    raise
                return  # it has failed since: all is held until the next look has recorded that
            self._due_s[leg] = now_s + STEADY_S
            _log.info("the mirror's %s is in sync", name)
        elif info.state is LegState.REBUILDING:
            if info.covered and record.standing(leg) is Standing.NEW:
                record.change(leg, Standing.STALE)
        elif info.state is LegState.IN_SYNC and now_s >= self._due_s[leg]:
            self._retry_s[leg] = RETRY_S_MIN

    async def bring_in(self, leg: int) -> None:
        """Has a leg that is out brought up to date. What goes wrong is logged, and tried again.

        What a remote leg has open connects again by itself, and knows which of its writes may still
        be on their way. A local one is opened anew: it may have forgotten writes.
        """
        assert self.options.mirror is not None
        options = self.options.mirror.legs[leg]
        assert options is not None
        full = self._record.standing(leg) is Standing.NEW
        try:
            if options.backend == "forward" and self.mirror_info().legs[leg].open:
                self.leg_in(leg, full=full)
            else:
                self.leg_close(leg)
                await self.aleg_in(leg, options, full=full)
        except (ConfigError, NativeError) as error:
            _log.warning("the mirror's %s stays out: %s", self._names[leg], error)
        else:
            _log.info("the mirror's %s is being brought up to date", self._names[leg])
