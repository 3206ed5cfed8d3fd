"""When a client of the SQLite store may say that another one's lease has ended.

The database cannot end leases by itself, so its clients do. After the file was out of reach no
holder has had a chance to renew: who then looked at the clock alone would declare all of them dead.
So a client judges a lease only when it has itself been in contact with the database for the lease's
whole time. Times are in nanoseconds of CLOCK_BOOTTIME.
"""

from __future__ import annotations

from collections import deque

from vhostnvme.cluster.store.sqlite_rows import LeaseRow

__all__ = ["Contact"]

# Shorter ones are those between two looks, on a machine that is busy too.
_PAUSE_NS_MIN = 1_000_000_000
_PAUSES_MAX = 64


class Contact:
    """Remembers the pauses of one client's contact with the database."""

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._since_ns: int | None = None
        # When each pause ended and how long it was; the longest first.
        self._pauses: deque[tuple[int, int]] = deque()

    def made(self, now_ns: int) -> None:
        """The database has answered."""
        if self._since_ns is None or self._last_ns is None or now_ns < self._last_ns:
            self._since_ns = now_ns
            self._pauses.clear()
        else:
            length_ns = now_ns - self._last_ns
            # One that is as long and later says all that an earlier one does.
            while self._pauses and self._pauses[-1][1] <= length_ns:
                self._pauses.pop()
            self._pauses.append((now_ns, length_ns))
            if len(self._pauses) > _PAUSES_MAX:
                self._since_ns = self._pauses.popleft()[0]
        self._last_ns = now_ns

    def lost(self) -> None:
        """The database could not be read or changed: contact begins anew."""
        self._since_ns = None

    def whole(self, ttl_ns: int, now_ns: int) -> bool:
        """Whether it has lasted for that long, without a pause that is long beside it."""
        if self._since_ns is None or now_ns - self._since_ns < ttl_ns:
            return False
        return all(
            length_ns <= max(ttl_ns // 4, _PAUSE_NS_MIN) or now_ns - ended_ns >= ttl_ns
            for ended_ns, length_ns in self._pauses
        )

    def has_ended(self, lease: LeaseRow, now_ns: int, boot: str) -> bool:
        """boot: names the start of this host; a lease of another one has a clock that is gone."""
        over = lease.boot != boot or now_ns >= lease.ends_ns
        return over and self.whole(lease.ttl_ns, now_ns)
