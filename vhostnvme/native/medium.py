"""What becomes of the commands of all namespaces that lie on one medium, such as an SSD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vhostnvme.native.library import check, ffi, lib

STEP_S = lib.VN_MEDIUM_STEP_MS / 1000  # what is told is so old at most, and times are known to it
SLOW_S = lib.VN_MEDIUM_SLOW_MS / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class MediumInfo:
    """Commands since the start, but `inflight`: those that are under way now.

    `errors`: failed, by no fault of the host's and not for want of space. `slow`: took longer than
    SLOW_S, `slow_ns` all of them together. `oldest_ns`: how long the oldest one is under way; 0: a
    step at most.
    """

    commands: int
    errors: int
    slow: int
    slow_ns: int
    inflight: int
    oldest_ns: int


class Medium:
    """Counts for the namespaces whose options name it. It goes when nobody needs it any more."""

    def __init__(self) -> None:
        out = ffi.new("vn_medium **")
        check(lib.vn_medium_create(out))
        self.handle: Any = ffi.gc(out[0], lib.vn_medium_close)

    def info(self) -> MediumInfo:
        """Any thread may ask; nobody is waited for."""
        out = ffi.new("struct vn_medium_info *")
        lib.vn_medium_get_info(self.handle, out)
        return MediumInfo(
            commands=out.commands,
            errors=out.errors,
            slow=out.slow,
            slow_ns=out.slow_ns,
            inflight=out.inflight,
            oldest_ns=out.oldest_ns,
        )
