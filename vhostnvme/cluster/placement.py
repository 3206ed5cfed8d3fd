"""Where a namespace goes: the whole rule. Sizes in bytes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vhostnvme.cluster.cluster_manager import PeerView
from vhostnvme.errors import ConfigError
from vhostnvme.units import format_size, rounded_size

AUTO = "auto"
LOCAL = "local"
REMOTE = "remote"


def uses_reserve(placement: str, me: str) -> bool:
    """Only who asks for this card by name may use up what it keeps back."""
    return placement in (LOCAL, me)


def check_placement(placement: str, me: str, peers: Sequence[PeerView]) -> None:
    """
    Raises:
        ConfigError: it names no card.
    """
    known = [me, *(peer.name for peer in peers)]
    if placement not in (AUTO, LOCAL, REMOTE, *known):
        raise ConfigError(
            f"there is no card {placement!r} in this cluster: there are {', '.join(sorted(known))}"
        )


def placement_of_copy(placement: str, number: int) -> str:
    """Where the copies after the first go, when the first goes as `placement` says."""
    return placement if number == 0 or placement in (AUTO, LOCAL, REMOTE) else AUTO


def candidates(
    placement: str,
    size: int,
    me: str,
    *,
    fits_here: bool,
    peers: Sequence[PeerView],
    taken: Collection[str] = (),
) -> list[str]:
    """The cards to ask for a namespace, the best first.

    This card, if its SSDs hold it and stay above the reserve; then the peers that are healthy and
    say that they hold it: the most free space first, then the fewest tenants, then by name. A card
    that was named is asked whatever it has said, while it is healthy. A card that is being emptied
    is not asked. A copy goes to no card that has another one (`taken`); to this one, onto another
    SSD, when there is no other way.
    """
    if placement in (LOCAL, me):
        return [me]
    peers = [
        peer
        for peer in peers
        if peer.health == "online"
        and peer.name not in taken
        and not (peer.offer is not None and peer.offer.draining)
    ]
    if placement not in (AUTO, REMOTE):
        return [peer.name for peer in peers if peer.name == placement]
    able = [
        peer
        for peer in peers
        if peer.addresses and peer.offer is not None and peer.offer.largest >= size
    ]
    able.sort(key=_rank)
    here = [me] if placement == AUTO and fits_here else []
    others = [peer.name for peer in able]
    return [*others, *here] if me in taken else [*here, *others]


def _rank(peer: PeerView) -> tuple[int, int, str]:
    assert peer.offer is not None
    return (-peer.offer.free, peer.offer.tenants, peer.name)


def why_no_copy(size: int, taken: Collection[str], peers: Sequence[PeerView]) -> str:
    """A sentence for people: why there is no place for one more copy."""
    lost = sorted(peer.name for peer in peers if peer.health != "online")
    away = f" ({', '.join(lost)} cannot be asked now)" if lost else ""
    return (
        f"no space for a copy of {format_size(size)} beside {', '.join(sorted(taken))}: each copy"
        f" needs another card, or another SSD of this one{away}; ask for fewer copies, or free some"
    )


def why_not(
    placement: str, size: int, me: str, largest_here: int, peers: Sequence[PeerView]
) -> str:
    """A sentence for people: why nobody gives a namespace of this size."""
    room = {me: largest_here} if placement in (AUTO, LOCAL, me) else {}
    for peer in peers:
        if placement in (AUTO, REMOTE, peer.name) and peer.offer is not None:
            room[peer.name] = peer.offer.largest if peer.health == "online" else 0
    lost = sorted(
        peer.name
        for peer in peers
        if peer.health != "online" and placement in (AUTO, REMOTE, peer.name)
    )
    words = [f"no space for a namespace of {format_size(size)}"]
    best = max(room, key=lambda name: (room[name], name), default=None)
    if best is not None and room[best]:
        words.append(f": the most in one piece is {rounded_size(room[best])} on card {best!r}")
    elif room:
        words.append(f": {'all cards are' if len(room) > 1 else f'card {best!r} is'} full")
    if lost:
        words.append(f" ({', '.join(lost)} cannot be asked now)")
    return "".join(words) + "; free some, or ask for less"
