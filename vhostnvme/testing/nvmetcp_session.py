"""One connection of a scripted NVMe/TCP target, on its own thread: PDUs in, commands, PDUs out.

Well-behaved as long as no rule of the target's says otherwise; it judges what the host sends, and
ends the connection with a termination request when that is not right.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhostnvme.errors import ProtocolError
from vhostnvme.testing import nvmetcp_fabrics as fabrics
from vhostnvme.testing.nvme import Admin, Sqe, Status
from vhostnvme.testing.nvmetcp_device import ControllerState, Outcome, failed
from vhostnvme.testing.nvmetcp_fabrics import ConnectData, Fctype
from vhostnvme.testing.nvmetcp_pdu import (
    R2T,
    C2HData,
    C2HTerm,
    Command,
    H2CData,
    H2CTerm,
    IcReq,
    IcResp,
    Pdu,
    Response,
)
from vhostnvme.testing.nvmetcp_queue import DATA_DIGEST, HEADER_DIGEST, SQHD_NO_FLOW
from vhostnvme.testing.nvmetcp_rules import Request
from vhostnvme.testing.nvmetcp_wire import PLAIN, Sendable, Wire, encode, read_pdu

if TYPE_CHECKING:
    from vhostnvme.testing.nvmetcp_target import ScriptedTarget

C2H_BYTES = 64 << 10  # of one C2HData PDU: so that larger reads are several
SGL_IN_CAPSULE, SGL_TRANSPORT = 0x01, 0x5A


class _Over(Exception):
    """The connection has ended."""


@dataclass
class _Write:
    """A command whose data is fetched by R2Ts."""

    sqe: Sqe
    data: bytearray
    asked: int = 0
    came: int = 0
    outstanding: int = 0


class Session:
    """`controller` is None before Connect."""

    def __init__(self, target: ScriptedTarget, port: int, peer: socket.socket) -> None:
        self.target = target
        self.port = port
        self.socket = peer
        self.qid = -1
        self.controller: ControllerState | None = None
        self.over = threading.Event()
        self.ic_req: IcReq | None = None
        self._event_requests: list[int] = []  # CIDs
        self._events: list[fabrics.AsyncEvent] = []  # that wait for a request
        self._entries = 2
        self._flow_control = True
        self._reset = False
        self._sqhd = 0
        self._outstanding = 0
        self._wire_in = self._wire_out = PLAIN
        self._writes: dict[int, _Write] = {}  # by TTAG
        self._next_ttag = 1
        self._send_lock = threading.RLock()
        self.thread = threading.Thread(target=self._run, name="scripted", daemon=True)

    @property
    def fenced(self) -> bool:
        """Its controller has ended, as a host has been told: nothing of it may be executed."""
        return self.controller is not None and self.controller.cntlid in self.target.fenced

    # --- The connection ---

    def _run(self) -> None:
        try:
            while True:
                pdu = read_pdu(self._take, self._wire_in, from_controller=False)
                self.target.note(self, pdu)
                if self.target.rules.pdu_goes_on(self, pdu):
                    self._handle(pdu)
        except (_Over, OSError):
            pass
        except ProtocolError as error:
            self.target.complaints.append(str(error))
            self.send(C2HTerm(fes=1), rules=False)
        finally:
            self.close()
            self.target.ended(self)

    def _take(self, length: int) -> bytes:
        out = bytearray()
        while len(out) < length:
            more = self.socket.recv(length - len(out))
            if not more:
                raise _Over
            out += more
        return bytes(out)

    def close(self, *, reset: bool = False) -> None:
        """Ends the connection, with a RST if asked to."""
        self.over.set()
        try:
            if reset:
                linger = struct.pack("<ii", 1, 0)
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self._reset = True
            # Wakes our thread; with a RST to come, nothing is to leave before.
            self.socket.shutdown(socket.SHUT_RD if self._reset else socket.SHUT_RDWR)
        except OSError:
            pass
        if threading.current_thread() is self.thread:
            self.socket.close()

    def send(self, *items: Sendable, rules: bool = True) -> None:
        """Sends PDUs, as rules have them. A connection that has ended swallows them."""
        out: list[Sendable] = []
        for item in items:
            passing = rules and isinstance(item, Pdu)
            out += self.target.rules.sent_instead(self, item) if passing else [item]  # type: ignore[arg-type]
        try:
            with self._send_lock:
                self.socket.sendall(b"".join(encode(item, self._wire_out) for item in out))
        except OSError:
            self.over.set()

    def drip(self, item: Sendable, pause: float) -> None:
        """One byte at a time, with a pause after each, until the host has had enough."""
        raw = encode(item, self._wire_out)
        with self._send_lock:
            for at in range(len(raw)):
                if self.over.is_set():
                    return
                self.send(raw[at : at + 1], rules=False)
                time.sleep(pause)

    # --- PDUs ---

    def _handle(self, pdu: Pdu) -> None:
        if isinstance(pdu, IcReq) and self.ic_req is None:
            self._initialize(pdu)
        elif isinstance(pdu, Command) and self.ic_req is not None:
            self._on_command(pdu)
        elif isinstance(pdu, H2CData):
            self._on_data(pdu)
        elif isinstance(pdu, H2CTerm):
            self.target.complaints.append(f"the host gave up: FES {pdu.fes:#x} FEI {pdu.info:#x}")
            raise _Over
        else:
            raise ProtocolError(f"{type(pdu).__name__} out of order")

    def _initialize(self, request: IcReq) -> None:
        target = self.target
        self.ic_req = request
        digest = request.digest & target.digests
        self.send(IcResp(0, target.cpda, digest, target.maxh2cdata))
        digests = bool(digest & HEADER_DIGEST), bool(digest & DATA_DIGEST)
        self._wire_in = Wire(*digests, align=4 * (target.cpda + 1))
        self._wire_out = Wire(*digests, align=4 * (request.hpda + 1))

    def _on_command(self, command: Command) -> None:
        sqe, data = command.sqe, command.data
        self._sqhd = (self._sqhd + 1) % self._entries
        self._outstanding += 1
        if self._outstanding > self._entries:
            raise ProtocolError(f"{self._outstanding} commands in a queue of {self._entries}")
        if sqe.flags >> 6 != 1:
            self.answer(sqe, failed(Status.INVALID_FIELD))
            return
        raw = bytes(sqe)[24:40]
        length, kind = int.from_bytes(raw[8:12], "little"), raw[15]
        writes = sqe.opcode & 3 == 1 if sqe.opcode != fabrics.FABRICS else bool(sqe.nsid & 1)
        if kind == SGL_IN_CAPSULE and length != len(data):
            raise ProtocolError(f"in-capsule data of {len(data)} bytes, SGL of {length}")
        if kind == SGL_TRANSPORT and writes and length:
            write = _Write(sqe, bytearray(length))
            self._ask(write)
            return
        self.execute_request(Request(self, sqe, data))

    def _ask(self, write: _Write) -> None:
        """R2Ts, as many as the host takes at once."""
        assert self.ic_req is not None
        pdus = []
        while write.asked < len(write.data) and write.outstanding <= self.ic_req.maxr2t:
            length = min(self.target.r2t_bytes, len(write.data) - write.asked)
            ttag, self._next_ttag = self._next_ttag, self._next_ttag % 0xFFFE + 1
            self._writes[ttag] = write
            pdus.append(R2T(write.sqe.cid, ttag, write.asked, length))
            write.asked += length
            write.outstanding += 1
        self.send(*pdus)

    def _on_data(self, pdu: H2CData) -> None:
        write = self._writes.get(pdu.ttag)
        if write is None or write.sqe.cid != pdu.cid:
            raise ProtocolError(f"H2CData for TTAG {pdu.ttag}, CID {pdu.cid}")
        if pdu.offset != write.came or pdu.offset + len(pdu.data) > write.asked:
            raise ProtocolError(f"H2CData at {pdu.offset}, where {write.came} was due")
        if len(pdu.data) > self.target.maxh2cdata:
            raise ProtocolError(f"H2CData of {len(pdu.data)} bytes")
        write.data[pdu.offset : pdu.offset + len(pdu.data)] = pdu.data
        write.came += len(pdu.data)
        if pdu.last:
            del self._writes[pdu.ttag]
            write.outstanding -= 1
        if write.came == len(write.data):
            self.execute_request(Request(self, write.sqe, bytes(write.data)))
        else:
            self._ask(write)

    # --- Commands ---

    def execute_request(self, request: Request) -> None:
        self.target.arrived(request)
        if not self.target.rules.command_goes_on(request):
            return
        sqe = request.sqe
        if sqe.opcode == fabrics.FABRICS and sqe.nsid & 0xFF == Fctype.CONNECT:
            self.answer(sqe, self._connect(sqe, request.data))
        elif self.controller is None:
            self.answer(sqe, failed(Status.COMMAND_SEQUENCE))
        elif request.admin and sqe.opcode == Admin.ASYNC_EVENT:
            self._event_requests.append(sqe.cid)
            self._post_events()
        elif request.admin and sqe.opcode == fabrics.CROSS_RESET:
            self.answer(sqe, self.target.cross_reset(sqe))
        elif request.admin and sqe.opcode == Admin.ABORT:
            self.answer(sqe, Outcome(result=1))
        else:
            request.finish()

    def execute(self, sqe: Sqe, data: bytes) -> Outcome:
        """What the device makes of it."""
        assert self.controller is not None
        device = self.target.device
        if sqe.opcode == fabrics.FABRICS:
            return device.fabrics(self.controller, sqe)
        if self.qid == 0:
            return device.admin(self.controller, sqe)
        return device.io(self.controller, sqe, data)

    def answer(self, sqe: Sqe, outcome: Outcome) -> None:
        """Data, if any, and a response; or SUCCESS in the last data PDU."""
        self._outstanding -= 1
        pdus: list[Pdu] = []
        data = outcome.data if not outcome.status & 0x7FF else b""
        short = self.target.success and (self.target.lax or not self._flow_control)
        for at in range(0, len(data), C2H_BYTES):
            last = at + C2H_BYTES >= len(data)
            piece = data[at : at + C2H_BYTES]
            pdus.append(C2HData(sqe.cid, at, piece, last, last and short))
        if not (data and short):
            sqhd = self._sqhd if self._flow_control else SQHD_NO_FLOW
            pdus.append(Response(sqe.cid, outcome.status, outcome.result, outcome.dword1, sqhd))
        self.send(*pdus)

    def _connect(self, sqe: Sqe, raw: bytes) -> Outcome:
        data = ConnectData.of(raw)
        qid, entries = sqe.cdw10 >> 16, (sqe.cdw11 & 0xFFFF) + 1
        if data.subnqn != self.target.device.subnqn:
            return self._refuse(fabrics.AT_SUBNQN)
        if self.controller is not None or sqe.cdw10 & 0xFFFF or len(raw) != 1024:
            return failed(fabrics.FabricsStatus.CONNECT_FORMAT)
        if qid == 0:
            self.controller = self.target.new_controller(self, data, sqe.cdw12)
        else:
            self.controller = self.target.find_controller(data)
            if self.controller is None or not self.controller.cc & 1:
                return self._refuse(fabrics.AT_CNTLID)
        self.qid, self._entries = qid, max(entries, 2)
        self._flow_control = not (sqe.cdw11 >> 16 & fabrics.NO_SQ_FLOW and self.target.no_sq_flow)
        self._sqhd = 1 % self._entries
        return Outcome(result=self.controller.cntlid)

    @staticmethod
    def _refuse(where: int) -> Outcome:
        outcome = failed(fabrics.FabricsStatus.CONNECT_PARAMETER)
        outcome.result = where
        return outcome

    def post_event(self, event: fabrics.AsyncEvent) -> None:
        """Completes an Asynchronous Event Request, or the next one that comes."""
        with self._send_lock:
            if event not in self._events:
                self._events.append(event)
            self._post_events()

    def _post_events(self) -> None:
        with self._send_lock:
            while self._events and self._event_requests:
                sqe = Sqe(Admin.ASYNC_EVENT, cid=self._event_requests.pop(0))
                self.answer(sqe, Outcome(result=self._events.pop(0).result))


def sessions_of(sessions: Sequence[Session], cntlid: int) -> list[Session]:
    """Those of one controller."""
    return [
        session
        for session in sessions
        if session.controller is not None and session.controller.cntlid == cntlid
    ]
