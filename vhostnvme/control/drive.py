"""The methods of a drive's control socket, as both ends see them. Sizes in bytes."""

from __future__ import annotations

import msgspec

DRIVE_NAMESPACES = "drive.namespaces"
DRIVE_ADD = "drive.add"
DRIVE_REMOVE = "drive.remove"
DRIVE_RESIZE = "drive.resize"
DRIVE_ATTACH = "drive.attach"
DRIVE_DETACH = "drive.detach"
DRIVE_ANA = "drive.ana"
# Opening a namespace elsewhere, and waiting for commands in flight.
SLOW_S = 60.0


class SpaceInfo(msgspec.Struct):
    """A namespace of the drive, and the numbers of the controllers that have it attached."""

    nsid: int
    uuid: str
    size: int
    block_size: int
    shared: bool
    group: int
    controllers: list[int]
    spec: str


class DriveInfo(msgspec.Struct):
    """`capacity` and `unallocated`: of an SSD in a folder; None: of no other drive."""

    controllers: list[int]
    namespaces: list[SpaceInfo]
    capacity: int | None = None
    unallocated: int | None = None


class AddSpace(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A namespace of `spec`; of an SSD in a folder: of `size`. `controllers`: None: all.

    The answer is its SpaceInfo, as of all methods but drive.remove.
    """

    spec: str | None = None
    size: int | None = None
    block_size: int = 512
    private: bool = False
    group: int = 1
    controllers: list[int] | None = None


class RemoveSpace(msgspec.Struct, forbid_unknown_fields=True):
    """Detaches it everywhere; of an SSD in a folder all of its data go. The answer: DriveInfo."""

    nsid: int


class ResizeSpace(msgspec.Struct, forbid_unknown_fields=True):
    nsid: int
    size: int


class AttachSpace(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Of drive.attach and drive.detach."""

    nsid: int
    controllers: list[int] | None = None


class SetAna(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """`state`: `optimized`, `non-optimized`, `inaccessible`, … The answer: DriveInfo."""

    state: str
    group: int = 1
    controllers: list[int] | None = None
