"""What the protocol tests of the fabric share: a target of this process, hosts, expectations."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from vhostnvme.native import HostAccess, Namespace, Runtime, Subsystem, Target, TargetLimits
from vhostnvme.storage.disk import native_options
from vhostnvme.storage.spec import parse_spec
from vhostnvme.testing.nvme import Completion, Status
from vhostnvme.testing.nvmetcp_fabrics import ConnectData, FabricsStatus
from vhostnvme.testing.nvmetcp_host import HOSTNQN, HostOptions, IoQueue, TcpHost
from vhostnvme.testing.nvmetcp_pdu import C2HTerm
from vhostnvme.testing.nvmetcp_queue import Address, TcpQueue

BLOCK = 512
OTHER_HOSTNQN = "nqn.2014-08.org.nvmexpress:uuid:0d3f8a52-55f0-4c63-8f3e-2f7d5f1f6c11"
LOCALHOST = "127.0.0.1"

_numbers = itertools.count(1)


class TcpServed:
    """A target with one listener and one subsystem; more of each can be added. Close it."""

    def __init__(
        self,
        runtime: Runtime,
        specs: Sequence[str] = ("mem:8M",),
        *,
        limits: TargetLimits | None = None,
        any_host: bool = True,
        **options: Any,
    ) -> None:
        self.runtime = runtime
        self._spaces = ExitStack()  # namespaces: they outlive the target
        self._stack = ExitStack()
        self._peers: list[TcpHost | TcpQueue] = []
        self.namespaces: list[Namespace] = []
        try:
            for spec in specs:
                self.namespaces.append(self.open(spec))
            self.target = self._stack.enter_context(Target(runtime, limits=limits))
            self.listener, self.address = self.listen()
            self.subsystem = self.add_subsystem(any_host=any_host, **options)
            for nsid, namespace in enumerate(self.namespaces, 1):
                self.subsystem.attach(namespace, nsid)
        except BaseException:
            self.close()
            raise

    def open(self, spec: str) -> Namespace:
        """A namespace that lives as long as the target."""
        namespace = Namespace(self.runtime, native_options(parse_spec(spec)))
        return self._spaces.enter_context(namespace)

    def listen(self, host: str = LOCALHOST) -> tuple[int, Address]:
        number, port = self.target.listen(host, 0)
        return number, (host, port)

    def add_subsystem(self, *, any_host: bool = True, **options: Any) -> Subsystem:
        number = next(_numbers)
        return Subsystem(
            self.target,
            f"nqn.2026-11.test:s{number}",
            f"serial{number}",
            any_host=any_host,
            **options,
        )

    @property
    def nqn(self) -> str:
        return self.subsystem.nqn

    def allow(self, hostnqn: str, *nsids: int) -> None:
        self.subsystem.allow(HostAccess(hostnqn=hostnqn, nsids=nsids))

    # --- Hosts; closed by `hang_up` and with the target, if not before ---

    def connect(self, *, enable: bool = True, nqn: str = "", **options: Any) -> TcpHost:
        host = TcpHost(self.address, nqn or self.nqn, HostOptions(**options), enable=enable)
        self._peers.append(host)
        return host

    def queue(self, *, entries: int = 32, **options: Any) -> IoQueue:
        """The first I/O queue of a host of its own."""
        return self.connect(**options).create_queue(1, entries)

    def raw(self, timeout: float = 5.0, address: Address | None = None) -> TcpQueue:
        """A connection on which nothing has been said yet."""
        queue = TcpQueue(address or self.address, timeout)
        self._peers.append(queue)
        return queue

    def ready(self, **ic: int) -> TcpQueue:
        """A connection that awaits its Connect."""
        queue = self.raw()
        queue.initialize(**ic)
        return queue

    def data(self, **changes: Any) -> ConnectData:
        """What a good Connect says, with changes."""
        return ConnectData(**({"hostnqn": HOSTNQN, "subnqn": self.nqn} | changes))

    def healthy(self) -> None:
        """It serves a newcomer: what came before has hurt nobody else."""
        with TcpHost(self.address, self.nqn) as host:
            assert host.csts == 1
            host.keep_alive()

    def hang_up(self) -> None:
        """Drops all connections."""
        for peer in self._peers:
            peer.close()
        self._peers.clear()

    def close(self) -> None:
        self.hang_up()
        self._stack.close()
        self._spaces.close()


def failed(completion: Completion, code: int, *, dnr: bool = True) -> Completion:
    """The command failed with this status."""
    assert completion.code == code, f"{completion}, not {code:#x}"
    assert completion.dnr is dnr, f"{completion}: DNR should be {dnr}"
    return completion


def refused_at(completion: Completion, where: int) -> None:
    """Connect failed with Invalid Parameters, and IPO and IATTR name the field."""
    failed(completion, FabricsStatus.CONNECT_PARAMETER)
    assert completion.result == where, f"IPO/IATTR {completion.result:#x}, not {where:#x}"


def ended_with(queue: TcpQueue, *fes: int, info: int | None = None) -> C2HTerm:
    """The controller tells why, and closes."""
    term = queue.ended()
    assert term is not None, "no termination request came before the end"
    assert term.fes in fes, f"FES {term.fes}, FEI {term.info:#x}"
    if info is not None:
        assert term.info == info, f"FEI {term.info:#x}, not {info:#x}"
    return term


SEQUENCE_ERROR = Status.COMMAND_SEQUENCE
