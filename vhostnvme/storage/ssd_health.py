"""Whether an SSD is failing: by what becomes of its commands, and of looks at its label.

Pure: it is told what is seen and when (seconds of any clock that only grows), and says what that
comes to. An SSD is failing when one of these holds:

- within WINDOW_S at least ERRORS_MIN commands have failed, ERRORS_SHARE of all or more; or
  FEW_ERRORS_MIN, FEW_ERRORS_SHARE of all or more: an SSD of which little is asked;
- within WINDOW_S at least SLOW_MIN commands took longer than SLOW_S each, SLOW_SHARE of all or
  more, and fewer than SLOW_RATE a second have ended: a busy disk is slow too, but it gets on;
- commands are under way, and none has ended for HANG_S; or one has been for HANG_PATIENCE times
  that, while others come and go; or a look at its label has not come back for as long;
- LOOKS_MIN looks within WINDOW_S could not read its label. That it is missing is none of them.

Once it is failing, it stays so until nothing of this has been seen for CLEAR_S, and no command has
failed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from vhostnvme.native import MediumInfo

WINDOW_S = 60.0
HANG_S = 5.0
CLEAR_S = 300.0
ERRORS_MIN = 10
ERRORS_SHARE = 0.01
FEW_ERRORS_MIN = 3
FEW_ERRORS_SHARE = 0.5
SLOW_MIN = 5
SLOW_SHARE = 0.1
SLOW_RATE = 32.0
HANG_PATIENCE = 3.0
LOOKS_MIN = 2

_NOTHING = MediumInfo(commands=0, errors=0, slow=0, slow_ns=0, inflight=0, oldest_ns=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthOptions:
    """Times in seconds; see above."""

    window_s: float = WINDOW_S
    hang_s: float = HANG_S
    clear_s: float = CLEAR_S


@dataclass(frozen=True, slots=True)
class _Seen:
    at: float
    info: MediumInfo


class SsdHealth:
    """Of one SSD, from the time `now` on. `reason`: a clause, as of when it was marked."""

    def __init__(self, options: HealthOptions, now: float) -> None:
        self._options = options
        self._seen = deque([_Seen(now, _NOTHING)])  # within the window, and the last before it
        self._bad_looks: deque[float] = deque()
        self._moved_at = now  # when the last command was seen to have ended
        self._bad_at = now
        self.reason = ""

    @property
    def failing(self) -> bool:
        return bool(self.reason)

    def looked(self, now: float, error: str = "") -> None:
        """Its label has been read, or could not be."""
        if not error:
            return
        self._bad_looks.append(now)
        self._forget(now)
        if self.failing or len(self._bad_looks) >= LOOKS_MIN:
            self._mark(now, error)

    def see(self, now: float, info: MediumInfo, looking_s: float = 0.0) -> None:
        """What has been counted; once a second or so, to which the times are exact.

        `looking_s`: for how long the look at its label has been under way.
        """
        last = self._seen[-1].info
        self._seen.append(_Seen(now, info))
        self._forget(now)
        if info.commands != last.commands or not info.inflight:
            self._moved_at = now
        reason = self._hang(now, info, looking_s) or self._slow()
        if not self.failing:
            reason = reason or self._errors()
        if reason:
            self._mark(now, reason)
        elif info.errors != last.errors:
            self._bad_at = now
        elif self.failing and now - self._bad_at >= self._options.clear_s:
            self.reason = ""
            self._seen = deque([self._seen[-1]])
            self._bad_looks.clear()

    def _mark(self, now: float, reason: str) -> None:
        self._bad_at = now
        self.reason = self.reason or reason

    def _forget(self, now: float) -> None:
        edge = now - self._options.window_s
        while len(self._seen) > 1 and self._seen[1].at <= edge:
            self._seen.popleft()
        while self._bad_looks and self._bad_looks[0] < edge:
            self._bad_looks.popleft()

    # --- The rules: a clause each, "" when it does not hold ---

    def _hang(self, now: float, info: MediumInfo, looking_s: float) -> str:
        hang_s = self._options.hang_s
        oldest_s = info.oldest_ns / 1e9 if info.inflight else 0.0
        silent_s = now - self._moved_at
        if min(oldest_s, silent_s) >= hang_s:
            return f"commands are under way, and none has ended for {silent_s:.1f} s"
        if oldest_s >= HANG_PATIENCE * hang_s:
            return f"a command has not ended after {oldest_s:.1f} s"
        if looking_s >= HANG_PATIENCE * hang_s:
            return f"a read of its label has not ended after {looking_s:.1f} s"
        return ""

    def _slow(self) -> str:
        first, last = self._seen[0].info, self._seen[-1].info
        commands, slow = last.commands - first.commands, last.slow - first.slow
        busy = commands >= SLOW_RATE * self._span_s()
        if slow < SLOW_MIN or slow < SLOW_SHARE * commands or busy:
            return ""
        mean_s = (last.slow_ns - first.slow_ns) / 1e9 / slow
        return self._so_many(slow, commands, f"took {mean_s:.1f} s on average")

    def _errors(self) -> str:
        first, last = self._seen[0].info, self._seen[-1].info
        commands, errors = last.commands - first.commands, last.errors - first.errors
        many = errors >= ERRORS_MIN and errors >= ERRORS_SHARE * commands
        most = errors >= FEW_ERRORS_MIN and errors >= FEW_ERRORS_SHARE * commands
        if not many and not most:
            return ""
        return self._so_many(errors, commands, "ended with an error")

    def _span_s(self) -> float:
        return max(1.0, min(self._options.window_s, self._seen[-1].at - self._seen[0].at))

    def _so_many(self, some: int, all_: int, what: str) -> str:
        return f"{some:,} of {all_:,} commands within {self._span_s():.0f} s {what}"
