"""In the place of a card: reads the same file, answers on the same socket, keeps no space.

    python standin_card.py CARD.toml

Who has a socket in the same folder is online to it. On SIGTERM it says goodbye and ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tomllib
from pathlib import Path

from vhostnvme.control.card import CARD_STATUS, CLUSTER_STATUS, CardStatus, ClusterCard
from vhostnvme.control.device import NoParams
from vhostnvme.control.server import ControlServer


def status_of(name: str, run_dir: Path) -> CardStatus:
    return CardStatus(
        card=name,
        pid=os.getpid(),
        version="",
        run_dir=str(run_dir),
        state_dir="",
        store=None,
        clustered=True,
        member=True,
        addresses=[],
        ssds=0,
        devices=0,
        namespaces=0,
        given=0,
        remarks=[],
    )


def seen(name: str, me: str) -> ClusterCard:
    return ClusterCard(
        card=name,
        self=name == me,
        health="online",
        heartbeat_age_s=0.0,
        addresses=[],
        ssds=[],
        capacity=0,
        local=0,
        remote=0,
        reserved=0,
        free=0,
        tenants=0,
        vms={},
        holds=None,
    )


async def main(config: Path) -> None:
    card = tomllib.loads(config.read_text())["card"]
    name, run_dir = card["name"], Path(card["run_dir"])
    (run_dir / name).mkdir(mode=0o700, exist_ok=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = ControlServer(run_dir / name / "control")
    server.register(CARD_STATUS, NoParams, lambda _: status_of(name, run_dir))
    server.register(
        CLUSTER_STATUS,
        NoParams,
        lambda _: [seen(path.parent.name, name) for path in run_dir.glob("*/control")],
    )
    async with server:
        await stopped.wait()
    sys.stdout.write("goodbye\n")


asyncio.run(main(Path(sys.argv[1])))
