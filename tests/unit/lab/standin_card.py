"""In the place of a card: reads the same file, answers on the same socket, keeps no space.

    python standin_card.py CARD.toml

On SIGTERM it writes "ended politely" and ends.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tomllib
from pathlib import Path

from vhostnvme.control.device import NoParams
from vhostnvme.control.server import ControlServer


async def main(config: Path) -> None:
    card = tomllib.loads(config.read_text())["card"]
    folder = Path(card["run_dir"]) / card["name"]
    folder.mkdir(mode=0o700, exist_ok=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    server = ControlServer(folder / "control")
    server.register("card.status", NoParams, lambda _: {"name": card["name"]})
    async with server:
        print("ready", flush=True)
        await stopped.wait()
    print("ended politely", flush=True)


asyncio.run(main(Path(sys.argv[1])))
