"""A namespace that is kept on several legs, and what is decided about them.

The rule of every decision: first it is recorded durably, then it is told to the library here. The
library holds the guest's commands meanwhile.
"""

from __future__ import annotations

import asyncio
import enum
from dataclasses import dataclass

from vhostnvme.native.library import check, ffi, lib
from vhostnvme.native.making import Making
from vhostnvme.native.namespace import Namespace
from vhostnvme.native.types import LegState, NamespaceOptions

LEGS_MAX = lib.VN_MIRROR_MAX_LEGS


class _LegFlag(enum.IntFlag):
    NONE = 0
    FULL = lib.VN_MIRROR_FULL


@dataclass(frozen=True, slots=True, kw_only=True)
class LegInfo:
    """One leg. `why`: the NVMe status (type << 8 | code) by which it failed last; 0: too slow.

    `open`: something is open behind it. `covered`: what it lacks is durably in the bitmap.
    """

    state: LegState
    why: int
    open: bool
    covered: bool
    failures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorInfo:
    """A mirror as it is. `dirty`: regions that may differ; `left`: those still to be copied.

    `held`: commands that wait for `Mirror.leg_out`. `generation`: how often it was opened.
    """

    legs: tuple[LegInfo, ...]
    preferred: int
    attached: bool
    size: int
    generation: int
    region_bytes: int
    regions: int
    dirty: int
    left: int
    copied_bytes: int
    held: int


class Mirror(Namespace):
    """A namespace of the backend "mirror". Legs are numbered from 0.

    All methods raise NativeError: EINVAL: the leg is not in a state for that; EBUSY: try again.
    """

    @property
    def id(self) -> int:
        """By which events name it, in their `controller`; those of its legs' connections too."""
        return int(lib.vn_ns_id(self.handle))

    def leg_out(self, leg: int) -> None:
        """The leg has been recorded as stale: what is held goes on without it."""
        check(lib.vn_mirror_leg_out(self.handle, leg))

    def leg_fail(self, leg: int) -> None:
        """Has a leg fail that counts, for maintenance or to move away from it.

        Raises:
            NativeError: EBUSY: it is the last that is in sync.
        """
        check(lib.vn_mirror_leg_fail(self.handle, leg))

    def leg_in(
        self, leg: int, options: NamespaceOptions | None = None, *, full: bool = False
    ) -> None:
        """Brings a leg up to date that is out, in the background; blocks until it is open.

        `options`: what to open; None: what the leg still has open. `full`: it is new, or lacks more
        than the bitmap knows.

        Raises:
            NativeError: it cannot be opened, or not be a leg of this mirror.
        """
        making = None if options is None else Making(options)
        if making is not None:
            making.run()
        self._enter(leg, making, full)

    async def aleg_in(self, leg: int, options: NamespaceOptions, *, full: bool = False) -> None:
        """The same without blocking the event loop."""
        making = Making(options)
        try:
            await making.arun()
            self._enter(leg, making, full)
        except asyncio.CancelledError:
            making.give_up()
            raise

    def _enter(self, leg: int, making: Making | None, full: bool) -> None:
        made = ffi.NULL if making is None else making.take()
        flags = int(_LegFlag.FULL if full else _LegFlag.NONE)
        try:
            check(lib.vn_mirror_leg_in(self.handle, leg, made, flags))
        except BaseException:
            if made != ffi.NULL:
                lib.vn_ns_close(made)
            raise

    def leg_counts(self, leg: int) -> None:
        """The leg is ready, and has been recorded as in sync: it is read, and counts.

        Raises:
            NativeError: ESTALE: it has failed since it was ready.
        """
        check(lib.vn_mirror_leg_counts(self.handle, leg))

    def leg_close(self, leg: int) -> None:
        """Closes what a leg that is out has open, so that it can be opened anew."""
        check(lib.vn_mirror_leg_close(self.handle, leg))

    def leg_drop(self, leg: int) -> None:
        """The same, and from then on there is no such leg."""
        check(lib.vn_mirror_leg_drop(self.handle, leg))

    def prefer(self, leg: int) -> None:
        """Reads go to this leg, if it counts."""
        check(lib.vn_mirror_prefer(self.handle, leg))

    def mirror_info(self) -> MirrorInfo:
        """The legs, and what is still to be done."""
        out = ffi.new("struct vn_mirror_info *")
        check(lib.vn_mirror_get_info(self.handle, out))
        legs = tuple(
            LegInfo(
                state=LegState(leg.state),
                why=leg.why,
                open=bool(leg.open),
                covered=bool(leg.covered),
                failures=leg.failures,
            )
            for leg in out.legs
        )
        return MirrorInfo(
            legs=legs,
            preferred=out.preferred,
            attached=bool(out.attached),
            size=out.size,
            generation=out.generation,
            region_bytes=out.region_bytes,
            regions=out.nr_regions,
            dirty=out.nr_dirty,
            left=out.nr_left,
            copied_bytes=out.copied_bytes,
            held=out.held,
        )
