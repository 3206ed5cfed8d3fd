"""A card's SSDs: each a directory on a file system, or a block device that is carved whole.

A regular file is taken as a block device too, where there is none at hand.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from vhostnvme.errors import ConfigError
from vhostnvme.storage.ssd_base import Found, Missing, Ssd, SsdOptions, SsdState
from vhostnvme.storage.ssd_block import BlockSsd
from vhostnvme.storage.ssd_directory import DirectorySsd

__all__ = ["Found", "Missing", "Ssd", "SsdOptions", "SsdState", "check_places", "open_ssd"]


def open_ssd(options: SsdOptions, card_uuid: str, known: str = "") -> Ssd:
    """The SSD, for this card alone; a new one gets a label.

    Args:
        card_uuid: whose it is.
        known: the UUID that this SSD had when it was open before. It may be missing then: it is
            opened, is not healthy, and is taken up by `state` when it is there. Nothing else is
            taken in its place.

    Raises:
        ConfigError: missing, neither directory nor device, no rights, another card's, in use.
        NativeError: the file system or the device refused.
    """
    place = f"SSD {options.name} ({options.path})"
    try:
        mode = options.path.stat().st_mode
    except FileNotFoundError:
        if not known:
            raise ConfigError(f"{place} does not exist: make, mount or connect it") from None
        mode = stat.S_IFBLK if _is_below_dev(options.path) else stat.S_IFDIR
    except OSError as error:
        raise ConfigError(f"cannot open {place}: {error.strerror}") from None
    if stat.S_ISDIR(mode):
        return DirectorySsd(options, card_uuid, known)
    if stat.S_ISBLK(mode) or stat.S_ISREG(mode):
        return BlockSsd(options, card_uuid, known)
    raise ConfigError(f"{place} is neither a directory nor a block device: name one")


def check_places(ssds: Sequence[SsdOptions]) -> list[str]:
    """A sentence for every two SSDs of a card that would share their place."""
    sentences = []
    for first, second in combinations(ssds, 2):
        names = f"SSDs {first.name} and {second.name}"
        one, other = (os.path.realpath(ssd.path) for ssd in (first, second))
        if _same(one, other):
            sentences.append(f"{names} are at one place, {first.path}: leave one of them out")
        elif other.startswith(one.rstrip("/") + "/") or one.startswith(other.rstrip("/") + "/"):
            sentences.append(
                f"{names} lie within each other ({first.path}, {second.path}): place them side by"
                " side"
            )
    return sentences


def _is_below_dev(path: Path) -> bool:
    return os.path.realpath(path).startswith("/dev/")


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        first, second = Path(one).stat(), Path(other).stat()
    except OSError:
        return False
    if stat.S_ISBLK(first.st_mode) and stat.S_ISBLK(second.st_mode):
        return first.st_rdev == second.st_rdev
    return os.path.samestat(first, second)
