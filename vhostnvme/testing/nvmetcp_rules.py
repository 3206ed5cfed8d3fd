"""How a scripted NVMe/TCP target is told to misbehave: rules at three moments of a command's way.

`on_pdu` when a PDU has come, `on_command` when a command is complete with its data and not yet
executed, `on_send` when a PDU is about to leave. A rule fires on what it matches, `times` times,
and tells tests when it has.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from vhostnvme.errors import PeerError
from vhostnvme.testing.nvme import Sqe
from vhostnvme.testing.nvmetcp_device import Outcome
from vhostnvme.testing.nvmetcp_fabrics import FABRICS
from vhostnvme.testing.nvmetcp_pdu import Pdu
from vhostnvme.testing.nvmetcp_wire import Sendable

if TYPE_CHECKING:
    from vhostnvme.testing.nvmetcp_session import Session

Subject = TypeVar("Subject")
Sent: TypeAlias = "Sendable | Iterable[Sendable] | None"


class Request:
    """A command that has come, with its data; answered once, at any later moment, by any thread."""

    def __init__(self, session: Session, sqe: Sqe, data: bytes) -> None:
        self.session = session
        self.sqe = sqe
        self.data = data
        self.time = time.monotonic()
        self.applied = False

    @property
    def admin(self) -> bool:
        return self.session.qid == 0

    def apply(self) -> Outcome | None:
        """Executes it without answering; None: its controller has ended, a target may not any more.

        What a target must not do, and a test of a host wants: `apply_late`.
        """
        with self.session.target.device.lock:  # a fence comes before it, or after
            return None if self.session.fenced else self.apply_late()

    def apply_late(self) -> Outcome:
        """Executes it whatever has become of its controller: the ghost of a command."""
        self.applied = True
        return self.session.execute(self.sqe, self.data)

    def answer(self, outcome: Outcome) -> None:
        self.session.answer(self.sqe, outcome)

    def fail(self, status: int) -> None:
        """Ends it with this status: type << 8 | code, DNR in bit 14."""
        self.answer(Outcome(status))

    def finish(self) -> None:
        """Executes and answers, as if nothing had been."""
        outcome = self.apply()
        if outcome is not None:
            self.answer(outcome)

    def __repr__(self) -> str:
        return f"<{'admin' if self.admin else 'I/O'} {self.sqe.opcode:02X}h cid {self.sqe.cid}>"


class Rule(Generic[Subject]):
    """`times` None: for ever. `seen` holds what it fired on."""

    def __init__(
        self,
        match: Callable[[Subject], bool],
        act: Callable[[Any], object],
        times: int | None,
    ) -> None:
        self.match = match
        self.act = act
        self.left = times
        self.seen: list[Subject] = []
        self._changed = threading.Condition()

    def takes(self, subject: Subject) -> bool:
        """True: it fires on this one, which is counted."""
        with self._changed:
            if self.left == 0 or not self.match(subject):
                return False
            if self.left is not None:
                self.left -= 1
            self.seen.append(subject)
            self._changed.notify_all()
            return True

    def wait(self, count: int = 1, timeout: float = 10.0) -> Subject:
        """Until it has fired so often; the one that it fired on then.

        Raises:
            PeerError: it did not, in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.seen) >= count, timeout):
                raise PeerError(f"what was to come {count} times came {len(self.seen)} times")
            return self.seen[count - 1]

    def stop(self) -> None:
        """It fires no more."""
        with self._changed:
            self.left = 0


class Rules:
    """All rules of a target; the oldest that fires wins."""

    def __init__(self) -> None:
        self._pdu: list[Rule[tuple[Session, Pdu]]] = []
        self._command: list[Rule[Request]] = []
        self._send: list[Rule[tuple[Session, Pdu]]] = []

    def on_pdu(
        self,
        match: Callable[[Session, Pdu], bool],
        act: Callable[[Session, Pdu], object],
        times: int | None = 1,
    ) -> Rule[tuple[Session, Pdu]]:
        """`act` returns True for the PDU to be handled as usual after all."""
        rule = Rule[tuple["Session", Pdu]](
            lambda pair: match(*pair), lambda pair: act(*pair), times
        )
        self._pdu.append(rule)
        return rule

    def on_command(
        self,
        match: Callable[[Request], bool],
        act: Callable[[Request], object],
        times: int | None = 1,
    ) -> Rule[Request]:
        """`act` returns True for the command to be executed as usual after all."""
        rule = Rule[Request](match, act, times)
        self._command.append(rule)
        return rule

    def on_send(
        self,
        match: Callable[[Session, Pdu], bool],
        act: Callable[[Session, Pdu], Sent],
        times: int | None = 1,
    ) -> Rule[tuple[Session, Pdu]]:
        """`act` returns what is sent instead: PDUs, crooked ones, bytes, or None for nothing."""
        rule = Rule[tuple["Session", Pdu]](
            lambda pair: match(*pair), lambda pair: act(*pair), times
        )
        self._send.append(rule)
        return rule

    def hold(self, match: Callable[[Request], bool], times: int | None = None) -> Rule[Request]:
        """Commands that are kept, in `seen`, until the test finishes them."""
        return self.on_command(match, lambda request: False, times)

    def clear(self) -> None:
        """Forgets all rules: the target behaves again."""
        for rule in self._command:
            rule.stop()
        for other in [*self._pdu, *self._send]:
            other.stop()
        self._pdu, self._command, self._send = [], [], []

    # --- For the session ---

    def pdu_goes_on(self, session: Session, pdu: Pdu) -> bool:
        for rule in self._pdu:
            if rule.takes((session, pdu)):
                return rule.act((session, pdu)) is True
        return True

    def command_goes_on(self, request: Request) -> bool:
        for rule in self._command:
            if rule.takes(request):
                return rule.act(request) is True
        return True

    def sent_instead(self, session: Session, pdu: Pdu) -> list[Sendable]:
        for rule in self._send:
            if rule.takes((session, pdu)):
                instead: Any = rule.act((session, pdu))
                if instead is None:
                    return []
                return list(instead) if isinstance(instead, list | tuple) else [instead]
        return [pdu]


# --- What rules match ---


def io(*opcodes: int) -> Callable[[Request], bool]:
    """I/O commands, of these opcodes or all."""
    return lambda request: (
        request.session.qid > 0
        and (request.sqe.opcode in opcodes if opcodes else request.sqe.opcode != FABRICS)
    )


def admin(*opcodes: int) -> Callable[[Request], bool]:
    """Admin commands, of these opcodes or all; no fabrics commands unless named."""
    return lambda request: (
        request.admin
        and (request.sqe.opcode in opcodes if opcodes else request.sqe.opcode != FABRICS)
    )


def fabrics_of(fctype: int) -> Callable[[Request], bool]:
    return lambda request: request.sqe.opcode == FABRICS and request.sqe.nsid & 0xFF == fctype


def pdus(*kinds: type[Pdu], qid: int | None = None) -> Callable[[Session, Pdu], bool]:
    """PDUs of these kinds, of a queue or all: I/O queues alone are `qid=-1`."""

    def matches(session: Session, pdu: Pdu) -> bool:
        wanted = qid is None or session.qid == qid or (qid == -1 and session.qid > 0)
        return wanted and isinstance(pdu, kinds)

    return matches
