"""A scripted NVMe/TCP target: serves namespaces in memory, correctly unless told otherwise.

::

    with ScriptedTarget() as target:
        target.rules.on_send(pdus(R2T), lambda session, r2t: replace(r2t, length=1 << 30))
        held = target.rules.hold(io(Io.WRITE), times=1)
        ...                                   # a host connects to target.address() and writes
        old = held.wait()                     # the write has come and is not executed
        target.cut()                          # all connections end
        old.apply_late()                      # and there the ghost is

One thread accepts on each port, and each connection has one. `target.log` holds every command in
the order of arrival; `complaints` what was wrong with what hosts sent.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from vhostnvme.closable import Closable
from vhostnvme.testing.nvme import Sqe
from vhostnvme.testing.nvmetcp_device import ControllerState, Device, MemoryNamespace, Outcome
from vhostnvme.testing.nvmetcp_fabrics import ANA_CHANGED, NS_CHANGED, AsyncEvent, ConnectData
from vhostnvme.testing.nvmetcp_pdu import Pdu
from vhostnvme.testing.nvmetcp_queue import Address
from vhostnvme.testing.nvmetcp_rules import Request, Rules
from vhostnvme.testing.nvmetcp_session import Session, sessions_of


@dataclass(frozen=True)
class Arrival:
    """A command as it came in; `time` is monotonic seconds."""

    time: float
    port: int
    cntlid: int
    qid: int
    sqe: Sqe


class Port:
    """A listener that can go away and come back at the same address."""

    def __init__(self, target: ScriptedTarget, number: int) -> None:
        self.target = target
        self.number = number
        self.address: Address = ("127.0.0.1", 0)
        self.accepting = True  # False: connections are ended at once
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self.start()

    def start(self) -> None:
        """Listens, where it listened before."""
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self.address)
        listener.listen(64)
        self.address = listener.getsockname()
        self._listener = listener
        self._thread = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            if not self.accepting:
                peer.close()
                continue
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.target.accepted(Session(self.target, self.number, peer))

    def stop(self, *, cut: bool = True) -> None:
        """Refuses connections from now on, and ends those that stand."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        if self._thread is not None:
            self._thread.join(5)
        if cut:
            self.target.cut(self.number)


class ScriptedTarget(Closable):
    """`ports` listeners on 127.0.0.1 for one subsystem; namespace 1 of 4 MiB by default."""

    def __init__(
        self, namespaces: dict[int, MemoryNamespace] | None = None, ports: int = 1
    ) -> None:
        self.device = Device(namespaces or {1: MemoryNamespace()})
        self.rules = Rules()
        self.digests = 3
        self.cpda = 0
        self.maxh2cdata = 128 << 10
        self.r2t_bytes = 64 << 10
        self.no_sq_flow = True
        self.success = True
        self.lax = False  # SUCCESS with SQ flow control as well, as SPDK's target has it
        self.log: list[Arrival] = []
        self.complaints: list[str] = []
        self.pdus: list[tuple[Session, Pdu]] = []
        self.keep_pdus = False
        self.fenced: set[int] = set()  # CNTLIDs that a cross-controller reset has ended
        self._lock = threading.Condition()
        self._sessions: list[Session] = []
        self._threads: list[threading.Thread] = []
        self._controllers: dict[int, ControllerState] = {}
        self._next_cntlid = 1
        self.ports = [Port(self, number) for number in range(ports)]

    # --- For tests ---

    @property
    def namespace(self) -> MemoryNamespace:
        """Namespace 1."""
        return self.device.namespaces[1]

    def address(self, port: int = 0) -> Address:
        return self.ports[port].address

    @property
    def sessions(self) -> list[Session]:
        """Connections that stand."""
        with self._lock:
            return list(self._sessions)

    @property
    def controllers(self) -> list[ControllerState]:
        with self._lock:
            return list(self._controllers.values())

    def cut(self, port: int | None = None, *, reset: bool = False) -> None:
        """Ends all connections of a port, or of all; waits until they have ended."""
        cut = [session for session in self.sessions if port in (None, session.port)]
        for session in cut:
            session.close(reset=reset)
        # Of these: a host may have made new ones before the last of them has ended.
        done = self.wait(lambda: not any(session in self._sessions for session in cut))
        assert done, "a connection of the scripted target does not end"

    def wait(self, condition: Callable[[], bool], timeout: float = 10.0) -> bool:
        """Until `condition()` is true, looked at whenever something happens here."""
        with self._lock:
            return bool(self._lock.wait_for(condition, timeout))

    def wait_connected(self, queues: int = 1, timeout: float = 10.0) -> None:
        """Until so many I/O queues are connected."""
        connected = self.wait(
            lambda: sum(session.qid > 0 for session in self._sessions) >= queues, timeout
        )
        assert connected, f"no {queues} I/O queues were connected within {timeout} s"

    def arrivals(self, *opcodes: int, admin: bool = False) -> list[Arrival]:
        """Commands that came, of these opcodes or all, in their order."""
        with self._lock:
            return [
                arrival
                for arrival in self.log
                if (arrival.qid == 0) is admin and (not opcodes or arrival.sqe.opcode in opcodes)
            ]

    def post_event(self, event: AsyncEvent, port: int | None = None) -> None:
        """Sends an event to every controller, of a port or of all."""
        for session in self.sessions:
            if session.qid == 0 and port in (None, session.port):
                session.post_event(event)

    def set_ana(self, port: int, state: int, group: int = 1) -> None:
        """Changes the state and tells the port's controllers."""
        with self.device.lock:
            self.device.ana[port, group] = state
            self.device.ana_changes += 1
        self.post_event(ANA_CHANGED, port)

    def resize(self, size: int, nsid: int = 1) -> None:
        """Changes the size and tells all controllers."""
        with self.device.lock:
            self.device.namespaces[nsid].resize(size)
        self.post_event(NS_CHANGED)

    def close(self) -> None:
        for port in self.ports:
            port.stop()
        for thread in self._threads:
            thread.join(5)

    # --- For sessions ---

    def accepted(self, session: Session) -> None:
        with self._lock:
            self._sessions.append(session)
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.append(session.thread)
        session.thread.start()

    def ended(self, session: Session) -> None:
        """The connection is over; with an admin queue's end its controller ends."""
        with self._lock:
            self._sessions.remove(session)
            controller = session.controller
            ends = session.qid == 0 and controller is not None
            others = sessions_of(self._sessions, controller.cntlid) if ends and controller else []
            if ends and controller:
                self._controllers.pop(controller.cntlid, None)
            self._lock.notify_all()
        for other in others:
            other.close()

    def note(self, session: Session, pdu: Pdu) -> None:
        if self.keep_pdus:
            with self._lock:
                self.pdus.append((session, pdu))

    def arrived(self, request: Request) -> None:
        session = request.session
        cntlid = session.controller.cntlid if session.controller else 0
        arrival = Arrival(time.monotonic(), session.port, cntlid, max(session.qid, 0), request.sqe)
        with self._lock:
            self.log.append(arrival)
            self._lock.notify_all()

    def new_controller(self, session: Session, data: ConnectData, kato: int) -> ControllerState:
        with self._lock:
            cntlid, self._next_cntlid = self._next_cntlid, self._next_cntlid + 1
            state = ControllerState(
                cntlid=cntlid,
                port=session.port,
                hostnqn=str(data.hostnqn),
                hostid=data.hostid,
                kato_ms=kato,
                instance=1,
                instance_random=random.Random(cntlid).getrandbits(64),
            )
            self._controllers[cntlid] = state
            return state

    def find_controller(self, data: ConnectData) -> ControllerState | None:
        with self._lock:
            state = self._controllers.get(data.cntlid)
        return state if state and state.hostnqn == data.hostnqn else None

    def cross_reset(self, sqe: Sqe) -> Outcome:
        """Ends the impacted controller; what it has in hand is not executed any more."""
        cntlid = sqe.cdw10 & 0xFFFF
        with self._lock:
            sessions = sessions_of(self._sessions, cntlid)
        with self.device.lock:
            self.fenced.add(cntlid)
        for session in sessions:
            session.close()
        return Outcome(result=1)
