"""What a card gives to others: a subsystem for each namespace, with one host at one epoch.

The host's NQN names the card, the namespace and the epoch, so the target itself lets in nobody of
another epoch. Before a newer one is let in the old one is denied, and its commands have ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from vhostnvme.cluster.messages import Export, Unexport
from vhostnvme.cluster.records import EXPORTED_NSID, host_nqn_of, serial_of, subsystem_nqn_of
from vhostnvme.native import HostAccess, Namespace, Runtime, Subsystem, Target
from vhostnvme.storage.common import DiskSpec
from vhostnvme.storage.disk import open_disk_async


@dataclass(slots=True)
class Exported:
    """`host` None: nobody is let in; `attached`: the subsystem has the namespace."""

    namespace: Namespace
    subsystem: Subsystem
    host: str | None = None
    attached: bool = False


class Exports:
    """Of one card's target.

    Args:
        disk: what the data path opens of a namespace of this card.
    """

    def __init__(
        self, runtime: Runtime, target: Target, disk: Callable[[Export], Awaitable[DiskSpec]]
    ) -> None:
        self._runtime = runtime
        self._target = target
        self._disk = disk
        self._exported: dict[str, Exported] = {}

    def namespace(self, uuid: str) -> Namespace | None:
        """The open namespace, for a new size."""
        exported = self._exported.get(uuid)
        return exported.namespace if exported else None

    async def export(self, effect: Export) -> None:
        """Lets this owner at this epoch in, and nobody else.

        Raises:
            NativeError: EBUSY, EAGAIN: commands of the host before are under way still, and nobody
                is let in; anything else: the namespace cannot be opened.
        """
        host = host_nqn_of(effect.owner, effect.uuid, effect.epoch)
        exported = self._exported.get(effect.uuid)
        if exported is None:
            spec = await self._disk(effect)
            exported = await self._open(effect.uuid, spec)
        if exported.host == host:
            return
        self._fence(exported)
        exported.subsystem.attach(exported.namespace, EXPORTED_NSID)
        exported.attached = True
        exported.subsystem.allow(HostAccess(hostnqn=host))
        exported.host = host

    async def _open(self, uuid: str, spec: DiskSpec) -> Exported:
        namespace = await open_disk_async(self._runtime, spec)
        try:
            subsystem = Subsystem(self._target, subsystem_nqn_of(uuid), serial_of(uuid))
        except BaseException:
            namespace.close()
            raise
        self._exported[uuid] = Exported(namespace, subsystem)
        return self._exported[uuid]

    def _fence(self, exported: Exported) -> None:
        """Nobody is in it afterwards, and nothing is under way."""
        if exported.host is not None:
            exported.subsystem.deny(exported.host)
            exported.host = None
        if exported.attached:
            exported.subsystem.detach(EXPORTED_NSID, wait_ms=0)
            exported.attached = False

    async def unexport(self, effect: Unexport) -> None:
        """Ends it, and closes the namespace; raises as `export`."""
        exported = self._exported.get(effect.uuid)
        if exported is None:
            return
        self._fence(exported)
        exported.subsystem.close()
        exported.namespace.close()
        del self._exported[effect.uuid]

    def close(self) -> None:
        """When the target has ended."""
        for exported in self._exported.values():
            exported.namespace.close()
        self._exported.clear()
