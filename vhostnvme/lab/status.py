"""What there is in a lab and how it is: its cards, and the state of each host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from vhostnvme.lab.names import Host, is_store
from vhostnvme.lab.network import Network
from vhostnvme.lab.plan import Layout
from vhostnvme.lab.processes import state_of
from vhostnvme.lab.state import LabState


@dataclass(frozen=True, slots=True)
class Card:
    """Where the parts of one card are. `control` is its socket."""

    name: str
    address: str
    namespace: str
    control: Path
    config: Path
    log: Path
    ssds: tuple[Path, ...]


class HostStatus(msgspec.Struct, frozen=True):
    """One host: `state` is running, frozen or ended, of the process that it is there for.

    `cut_off`: nothing passes; `loses_to`: what it sends to these is lost; `rate_bits` a second.
    `socket` and `ssds` are a card's.
    """

    name: str
    kind: Literal["card", "store"]
    address: str
    namespace: str
    pid: int | None
    state: str
    cut_off: bool
    loses_to: list[str]
    rate_bits: int | None
    socket: str | None
    ssds: list[str]
    log: str


def card_of(layout: Layout, state: LabState, host: Host) -> Card:
    """The card on this host."""
    return Card(
        name=host.name,
        address=host.address,
        namespace=host.namespace,
        control=layout.control(host.name),
        config=layout.config(host.name),
        log=layout.log(host.name),
        ssds=tuple(layout.ssds(host.name, state.ssds, state.devices)),
    )


def read_status(layout: Layout, state: LabState, network: Network) -> list[HostStatus]:
    """How all hosts are now: the cards first.

    Raises:
        LabError: the network is not there.
    """
    links = network.states()
    found = []
    for host in [*state.cards(), *state.stores()]:
        process = state.processes.get(host.name)
        is_card = not is_store(host.name)
        link = links[host.name]
        found.append(
            HostStatus(
                name=host.name,
                kind="card" if is_card else "store",
                address=host.address,
                namespace=host.namespace,
                pid=process.pid if process else None,
                state=state_of(process) if process else "ended",
                cut_off=link.cut_off,
                loses_to=list(link.loses_to),
                rate_bits=link.rate_bits,
                socket=str(layout.control(host.name)) if is_card else None,
                ssds=[*map(str, card_of(layout, state, host).ssds)] if is_card else [],
                log=str(layout.log(host.name)),
            )
        )
    return found
