"""One queue of a scripted NVMe/TCP host: a connection, driven PDU by PDU or command by command.

::

    with TcpQueue(address) as queue:
        queue.initialize(digest=HEADER_DIGEST)
        queue.send(crooked(Command(sqe), hlen=64))      # anything goes out
        term = queue.ended()                            # and what comes back is judged

What comes in is checked against what was sent; a controller that breaks the protocol raises
`ProtocolError`. Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from typing import TypeAlias

from vhostnvme.closable import Closable
from vhostnvme.errors import PeerError, ProtocolError
from vhostnvme.testing import nvmetcp_fabrics as fabrics
from vhostnvme.testing.nvme import Completion, Sqe, succeeded
from vhostnvme.testing.nvmetcp_pdu import (
    R2T,
    C2HData,
    C2HTerm,
    Command,
    H2CData,
    IcReq,
    IcResp,
    Pdu,
    Response,
)
from vhostnvme.testing.nvmetcp_wire import PLAIN, Sendable, Wire, encode, read_pdu

Address: TypeAlias = tuple[str, int]

HEADER_DIGEST, DATA_DIGEST = 1, 2
CAPSULE_DATA = 8192
SQHD_NO_FLOW = 0xFFFF


class Ended(PeerError):
    """The peer has closed the connection; `term` is its termination request, if it sent one."""

    def __init__(self, term: C2HTerm | None = None) -> None:
        why = "" if term is None else f" (FES {term.fes:#x}, FEI {term.info:#x})"
        super().__init__(f"the controller closed the connection{why}")
        self.term = term


class Silent(PeerError, TimeoutError):
    """Nothing came in time."""


@dataclass
class Reply:
    """A command's completion and data; `success`: C2HData said it, no response capsule came."""

    completion: Completion
    data: bytes = b""
    success: bool = False


@dataclass
class _Waiting:
    """A command under way."""

    write: bytes
    left: int  # bytes of `write` not yet asked for
    read: int
    data: bytearray = field(default_factory=bytearray)
    reply: Reply | None = None


class TcpQueue(Closable):
    """A connection to a controller; nothing is sent before `initialize` or `send`."""

    def __init__(self, address: Address, timeout: float = 5.0) -> None:
        self.timeout = timeout
        try:
            self.socket = socket.create_connection(address, timeout)
        except OSError as error:
            raise PeerError(f"connecting to {address[0]}:{address[1]} failed: {error}") from None
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.qid = 0
        self.ic_req = IcReq()
        self.ic_resp = IcResp()
        self.wire_in = self.wire_out = PLAIN
        self.check_data = True
        self.hold_data = False  # R2Ts are kept in `r2ts` and not answered
        self.flow_control = True
        self.r2ts: list[R2T] = []
        self.term: C2HTerm | None = None
        self._buffer = bytearray()
        self._waiting: dict[int, _Waiting] = {}
        self._next_cid = 1

    def close(self) -> None:
        """Closes the socket, as a dying host does."""
        self.socket.close()

    def reset(self) -> None:
        """Closes it with a RST instead of a FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    # --- PDUs ---

    def send(self, *items: Sendable) -> None:
        """Sends PDUs, straight or crooked, or bytes, in one piece.

        Raises:
            Ended: the controller has closed the connection.
        """
        try:
            self.socket.sendall(b"".join(encode(item, self.wire_out) for item in items))
        except OSError as error:
            raise Ended(self.term) from error

    def drip(self, item: Sendable, pause: float) -> None:
        """Sends it one byte at a time, with a pause after each."""
        for byte in encode(item, self.wire_out):
            self.send(bytes([byte]))
            time.sleep(pause)

    def _take(self, length: int) -> bytes:
        while len(self._buffer) < length:
            try:
                more = self.socket.recv(256 << 10)
            except TimeoutError:
                raise Silent(f"nothing came for {self.timeout} s") from None
            except OSError:
                more = b""
            if not more:
                raise Ended(self.term)
            self._buffer += more
        out = bytes(self._buffer[:length])
        del self._buffer[:length]
        return out

    def receive(self, timeout: float | None = None) -> Pdu:
        """The next PDU as it comes, checked for form only.

        Raises:
            Ended: the controller has closed the connection.
            Silent: none came within `timeout`, or that of the queue.
            ProtocolError: it is malformed.
        """
        self.socket.settimeout(self.timeout if timeout is None else timeout)
        pdu = read_pdu(self._take, self.wire_in, from_controller=True, check_data=self.check_data)
        if isinstance(pdu, C2HTerm):
            self.term = pdu
        return pdu

    def ended(self, timeout: float | None = None) -> C2HTerm | None:
        """Reads until the connection's end; what came last, if it was a termination request.

        Raises:
            Silent: the connection does not end within `timeout`, or that of the queue.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        try:
            while True:
                self.receive(max(deadline - time.monotonic(), 0.001))
        except Ended as end:
            return end.term

    def quiet(self, seconds: float) -> bool:
        """True: nothing came for so long, and the connection stands."""
        try:
            self.receive(seconds)
        except Silent:
            return True
        except Ended:
            pass
        return False

    # --- Initialization ---

    def initialize(
        self, *, pfv: int = 0, hpda: int = 0, digest: int = 0, maxr2t: int = 3
    ) -> IcResp:
        """ICReq and ICResp; what they agree on holds from then on."""
        self.ic_req = IcReq(pfv, hpda, digest, maxr2t)
        self.send(self.ic_req)
        answer = self.receive()
        if not isinstance(answer, IcResp):
            raise ProtocolError(f"{type(answer).__name__} came instead of an ICResp")
        if answer.maxh2cdata < 4096 or answer.maxh2cdata % 4:
            raise ProtocolError(f"MAXH2CDATA is {answer.maxh2cdata}")
        if answer.digest & ~digest:
            raise ProtocolError(f"digests {answer.digest:#x} were not asked for")
        self.ic_resp = answer
        digests = bool(answer.digest & HEADER_DIGEST), bool(answer.digest & DATA_DIGEST)
        self.wire_out = Wire(*digests, align=4 * (answer.cpda + 1))
        self.wire_in = Wire(*digests, align=4 * (hpda + 1))
        return answer

    def connect(
        self,
        data: fabrics.ConnectData,
        *,
        qid: int = 0,
        entries: int = 32,
        kato_ms: int = 0,
        no_sq_flow: bool = False,
    ) -> Completion:
        """The Connect command; `entries` counts from one. Any completion is handed back."""
        cattr = fabrics.NO_SQ_FLOW if no_sq_flow else 0
        sqe = fabrics.connect(qid, entries - 1, kato_ms=kato_ms, cattr=cattr)
        completion = self.command(sqe, bytes(data)).completion
        if completion.ok:
            self.qid = qid
            self.flow_control = completion.sqhd != SQHD_NO_FLOW
            if not (self.flow_control or no_sq_flow):
                raise ProtocolError("SQ flow control was disabled without having been asked for")
        return completion

    # --- Commands ---

    def next_cid(self) -> int:
        cid, self._next_cid = self._next_cid, self._next_cid % 0xFFFE + 1
        return cid

    def point(self, sqe: Sqe, length: int, in_capsule: bool) -> Sqe:
        """`sqe` with the SGL descriptor that fits, and a CID of its own."""
        kind = fabrics.IN_CAPSULE if in_capsule else fabrics.TRANSPORT
        return sqe.with_fields(cid=self.next_cid()).with_sgl(0, length, **kind)

    def submit(
        self, sqe: Sqe, data: bytes = b"", read: int = 0, in_capsule: bool | None = None
    ) -> int:
        """Sends a command that writes `data`, or reads so many bytes; returns its CID.

        Data goes in the capsule where it fits, unless `in_capsule` says otherwise.
        """
        if in_capsule is None:
            in_capsule = len(data) <= CAPSULE_DATA
        in_capsule = in_capsule and bool(data)
        return self.submit_raw(
            self.point(sqe, len(data) or read, in_capsule), data, read, in_capsule
        )

    def submit_raw(self, sqe: Sqe, data: bytes, read: int, in_capsule: bool) -> int:
        """The same with an SQE that is complete, CID and SGL included."""
        self._waiting[sqe.cid] = _Waiting(data, 0 if in_capsule else len(data), read)
        self.send(Command(sqe, data if in_capsule else b""))
        return sqe.cid

    def wait(self, cid: int, timeout: float | None = None) -> Reply:
        """The reply to this command; others that come meanwhile are kept."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        waiting = self._waiting[cid]
        while waiting.reply is None:
            self.step(max(deadline - time.monotonic(), 0.001))
        return self._waiting.pop(cid).reply or waiting.reply

    def command(
        self, sqe: Sqe, data: bytes = b"", read: int = 0, in_capsule: bool | None = None
    ) -> Reply:
        return self.wait(self.submit(sqe, data, read, in_capsule))

    def data(self, what: str, sqe: Sqe, length: int) -> bytes:
        """The data of a command that must succeed."""
        reply = self.command(sqe, read=length)
        succeeded(what, reply.completion)
        return reply.data

    @property
    def completed(self) -> list[int]:
        """CIDs of commands whose reply has come and was not waited for."""
        return [cid for cid, waiting in self._waiting.items() if waiting.reply is not None]

    def step(self, timeout: float | None = None) -> Pdu:
        """Takes one PDU and does what a host does with it."""
        pdu = self.receive(timeout)
        if isinstance(pdu, C2HTerm):
            raise Ended(self.term)
        if not isinstance(pdu, R2T | C2HData | Response):
            raise ProtocolError(f"{type(pdu).__name__} came unasked")
        waiting = self._waiting.get(pdu.cid)
        if waiting is None or waiting.reply is not None:
            raise ProtocolError(f"{type(pdu).__name__} for CID {pdu.cid}, which is not under way")
        if isinstance(pdu, R2T):
            self._on_r2t(pdu, waiting)
        elif isinstance(pdu, C2HData):
            self._on_data(pdu, waiting)
        else:
            waiting.reply = Reply(pdu.completion, bytes(waiting.data))
        return pdu

    def _on_r2t(self, r2t: R2T, waiting: _Waiting) -> None:
        if r2t.offset != len(waiting.write) - waiting.left or not 0 < r2t.length <= waiting.left:
            raise ProtocolError(f"an R2T asks for {r2t.length} bytes at {r2t.offset}")
        waiting.left -= r2t.length
        self.r2ts.append(r2t)
        held = sum(1 for kept in self.r2ts if kept.cid == r2t.cid)
        if held > self.ic_req.maxr2t + 1:
            raise ProtocolError(f"{held} R2Ts of CID {r2t.cid} are outstanding")
        if not self.hold_data:
            self.answer(r2t)

    def answer(self, r2t: R2T) -> None:
        """Sends what it asks for, in PDUs of at most MAXH2CDATA."""
        self.r2ts.remove(r2t)
        self.send(*self.h2c_data(r2t))

    def h2c_data(self, r2t: R2T, size: int | None = None) -> list[H2CData]:
        """The PDUs that answer an R2T, each of at most `size` bytes, else MAXH2CDATA."""
        size = size or self.ic_resp.maxh2cdata
        data, end = self._waiting[r2t.cid].write, r2t.offset + r2t.length
        return [
            H2CData(r2t.cid, r2t.ttag, at, data[at : min(at + size, end)], at + size >= end)
            for at in range(r2t.offset, end, size)
        ]

    def _on_data(self, pdu: C2HData, waiting: _Waiting) -> None:
        if pdu.offset != len(waiting.data) or pdu.offset + len(pdu.data) > waiting.read:
            raise ProtocolError(f"C2HData of {len(pdu.data)} bytes at {pdu.offset}")
        waiting.data += pdu.data
        if pdu.last and len(waiting.data) != waiting.read:
            raise ProtocolError(f"the last C2HData ends at {len(waiting.data)}")
        if pdu.success:
            if self.flow_control:
                raise ProtocolError("SUCCESS with SQ flow control on")
            done = Completion(0, SQHD_NO_FLOW, self.qid, pdu.cid, 0)
            waiting.reply = Reply(done, bytes(waiting.data), success=True)
