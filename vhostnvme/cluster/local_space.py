"""The local unit: what this card's SSDs hold, exactly, and what still fits. Sizes in bytes.

Rows are the truth: space counts as used from the row on, before it is carved, until it has been
destroyed. What the medium reports bounds it: others may write to the same file system.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vhostnvme.cluster.board import Board
from vhostnvme.cluster.messages import SsdReport
from vhostnvme.cluster.records import OfferRecord, SsdOffer, UsesRecord, VmUse
from vhostnvme.cluster.rows import SpaceRow
from vhostnvme.errors import ConfigError

SIZE_STEP = 4096


class LocalSpace:
    """The accounts of one card."""

    def __init__(self, board: Board, ssds: Sequence[SsdReport]) -> None:
        self._board = board
        self.ssds: dict[str, SsdReport] = {}
        self._as_of = -1  # of what is worked out once for each change
        self._used: dict[str, int] = {}  # by SSD
        self._offer: OfferRecord | None = None
        self._uses: UsesRecord | None = None
        self.see(ssds)

    def see(self, ssds: Sequence[SsdReport]) -> None:
        self.ssds = {each.name: each for each in ssds}
        self._as_of = -1

    def _forget_what_has_changed(self) -> None:
        if self._as_of != self._board.space_changes:
            self._as_of = self._board.space_changes
            self._used, self._offer, self._uses = {}, None, None

    def footprint(self, size: int, ssd: SsdReport) -> int:
        """What a namespace of this size takes there."""
        return -(-size // ssd.granule) * ssd.granule

    def used(self, name: str) -> int:
        self._forget_what_has_changed()
        if name not in self._used:
            self._used[name] = sum(self._taken(row) for row in self._rows(name))
        return self._used[name]

    def free(self, ssd: SsdReport) -> int:
        """The reserve included. A failing SSD has nothing for anybody new."""
        usable = ssd.healthy and not ssd.failing
        return max(ssd.capacity - self.used(ssd.name), 0) if usable else 0

    def largest(self, ssd: SsdReport) -> int:
        """The largest single namespace that fits, the reserve included."""
        unseen = max(self.used(ssd.name) - ssd.promised, 0)  # not there yet when it was measured
        return max(min(self.free(ssd), ssd.largest - unseen), 0)

    def best(
        self,
        size: int,
        *,
        with_reserve: bool,
        only: str | None = None,
        without: Collection[str] = (),
    ) -> SsdReport | None:
        """The SSD for a new namespace: of those that hold it the one with the most free space.

        Args:
            with_reserve: whether the reserve may be used up.
            only: this SSD or none.
            without: not these, where other copies of it are.
        """
        if self._board.draining:
            return None
        room = sum(self.free(ssd) for ssd in self.ssds.values())
        if not with_reserve:
            room -= self._board.options.reserve
        fitting = [
            ssd
            for ssd in self.ssds.values()
            if only in (None, ssd.name)
            and ssd.name not in without
            and not ssd.failing
            and self.largest(ssd) >= self.footprint(size, ssd) <= room
        ]
        return max(fitting, key=lambda ssd: (self.free(ssd), ssd.name), default=None)

    def fits_again(self, size: int, ssd: SsdReport, *, with_reserve: bool) -> bool:
        """Whether there would be room for one more such namespace after one on that SSD."""
        need = self.footprint(size, ssd)
        room = sum(self.free(each) for each in self.ssds.values()) - need
        if not with_reserve:
            room -= self._board.options.reserve
        return any(
            self.largest(each) - (need if each is ssd else 0) >= self.footprint(size, each) <= room
            for each in self.ssds.values()
            if not each.failing
        )

    def ssds_with_copies(self, mirror: str) -> set[str]:
        """The own SSDs that have a copy of this namespace, or are to have one."""
        copies = [row.uuid for row in self._board.copies_of(mirror)]
        return {self._board.spaces[uuid].ssd for uuid in copies if uuid in self._board.spaces}

    def can_grow(self, row: SpaceRow, size: int, *, with_reserve: bool) -> bool:
        """Whether the account allows it; the medium may still refuse."""
        ssd = self.ssds.get(row.ssd)
        if ssd is None or not ssd.healthy:
            return False
        more = self.footprint(size, ssd) - self._taken(row)
        room = sum(self.free(each) for each in self.ssds.values())
        if not with_reserve:
            room -= self._board.options.reserve
        return more <= min(self.free(ssd), room)

    def offer(self) -> OfferRecord:
        """What the others may know: the reserve is taken from the SSDs in their order."""
        self._forget_what_has_changed()
        if self._offer is None:
            self._offer = self._make_offer()
        return self._offer

    def _make_offer(self) -> OfferRecord:
        me, left = self._board.me, self._board.options.reserve
        offers = []
        for ssd in self.ssds.values():
            free = self.free(ssd)
            reserved = min(free, left)
            left -= reserved
            rows = self._rows(ssd.name)
            local = sum(self._taken(row) for row in rows if row.owner == me)
            offers.append(
                SsdOffer(
                    name=ssd.name,
                    kind=ssd.kind,
                    capacity=ssd.capacity,
                    local=local,
                    remote=sum(self._taken(row) for row in rows) - local,
                    reserved=reserved,
                    free=free - reserved,
                    largest=min(self.largest(ssd), free - reserved),
                    healthy=ssd.healthy,
                    reason=ssd.reason,
                    failing=ssd.failing,
                )
            )
        tenants = {row.owner for row in self._board.spaces.values()} - {me}
        return OfferRecord(
            name=me, ssds=tuple(offers), tenants=len(tenants), draining=self._board.draining
        )

    def uses(self) -> UsesRecord:
        """What own VMs have of own SSDs."""
        self._forget_what_has_changed()
        if self._uses is None:
            self._uses = self._make_uses()
        return self._uses

    def _make_uses(self) -> UsesRecord:
        me = self._board.me
        vms: dict[str, VmUse] = {}
        for row in self._board.spaces.values():
            if row.owner == me:
                old = vms.get(row.vm, VmUse(0, 0))
                vms[row.vm] = VmUse(old.namespaces + 1, old.bytes + row.size)
        return UsesRecord(name=me, vms=dict(sorted(vms.items())))

    def _rows(self, name: str) -> list[SpaceRow]:
        return [row for row in self._board.spaces.values() if row.ssd == name]

    def _taken(self, row: SpaceRow) -> int:
        ssd = self.ssds.get(row.ssd)
        size = max(row.size, row.wanted)
        return self.footprint(size, ssd) if ssd else size


def check_size(size: int, block_size: int) -> None:
    """
    Raises:
        ConfigError: no namespace can have this size.
    """
    step = max(SIZE_STEP, block_size)
    if size <= 0:
        raise ConfigError(f"a namespace of {size} bytes cannot be: write a size such as 1G")
    if size % step:
        raise ConfigError(f"the size, {size} bytes, is no multiple of {step}")
