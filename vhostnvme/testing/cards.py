"""Real cards on this machine's loopback, for tests and tools; no root is needed.

::

    with Cards(3, CardPlan(ssd_bytes=256 << 20)) as cards:
        made = cards["a"].create_device("vm1", 64 << 20, placement="remote")
        with NvmeHost.connect(made.socket) as host: ...
        cards["b"].kill()
        cards["b"].start()

Each card is a process of its own (`vhostnvme card run`), with a folder for its state and its SSDs,
and an address of its own in 127.0.0.0/8. They share a store: a SQLite file, or what a URL names.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from vhostnvme.closable import Closable
from vhostnvme.cluster.store import open_store
from vhostnvme.cluster.store.base import Entry
from vhostnvme.control import card as methods
from vhostnvme.control.card import (
    AdoptDeviceParams,
    CardStatus,
    ClusterCard,
    CreatedDevice,
    CreateDeviceParams,
    DeviceInfo,
    DeviceParams,
    ListParams,
    NamespaceInfo,
    PartParams,
    ReleasedInfo,
    SsdInfo,
    VmParams,
)
from vhostnvme.control.client import TIMEOUT_S, call
from vhostnvme.control.device import NoParams
from vhostnvme.control.paths import CARD_VARIABLE, CONTROL_NAME
from vhostnvme.errors import PeerError, VhostNvmeError

__all__ = ["CardPlan", "CardProcess", "Cards", "card_name"]

READY_S = 30.0
TOGETHER_S = 30.0
STOP_S = 30.0
PORT = 4420
_STEP_S = 0.02

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPlan:
    """What each card is like. Sizes in bytes, times in seconds.

    Attributes:
        store: a URL; None: a SQLite file of these cards alone.
        contention_s: None: as cards have it by themselves.
        program: what runs a card, before its file and `--ready-fd N`.
    """

    ssds: int = 1
    ssd_bytes: int = 256 << 20
    thin: bool = False
    reserve: int = 0
    ttl_s: float = 10.0
    contention_s: float | None = None
    store: str | None = None
    program: Sequence[str] = ("-m", "vhostnvme", "card", "run")


class CardProcess:
    """One card: its folder, and its process when it runs. Methods of commands raise as `call`."""

    def __init__(
        self, name: str, folder: Path, run_dir: Path, address: str, plan: CardPlan
    ) -> None:
        self.name = name
        self.folder = folder
        self.address = address
        self.config = folder / "card.toml"
        self.log = folder / "card.log"
        self.state = folder / "state"
        self.ssd_folders = [folder / f"ssd{number}" for number in range(plan.ssds)]
        self.control = run_dir / name / CONTROL_NAME
        self._plan = plan
        self._ready = -1
        self.process: subprocess.Popen[bytes] | None = None
        for each in self.ssd_folders:
            each.mkdir(parents=True)
        self.config.write_text(self._config_text(run_dir), encoding="utf-8")

    def _config_text(self, run_dir: Path) -> str:
        plan = self._plan
        lines = ["[card]", _line("name", self.name), _line("run_dir", run_dir)]
        lines += [_line("state_dir", self.state), _line("reserve", plan.reserve)]
        for path in self.ssd_folders:
            lines += ["[[ssd]]", _line("name", path.name), _line("path", path)]
            lines += [_line("capacity", plan.ssd_bytes), f"thin = {str(plan.thin).lower()}"]
        lines += ["[target]", f"listen = [{json.dumps(f'{self.address}:{PORT}')}]"]
        lines += ["[cluster]", _line("store", plan.store)]
        lines += [_line("ttl", f"{round(plan.ttl_s * 1000)}ms")]
        if plan.contention_s is not None:
            lines.append(_line("contention", f"{round(plan.contention_s * 1000)}ms"))
        return "\n".join(lines) + "\n"

    # --- The process ---

    def begin(self) -> None:
        """Starts it; `wait_ready` waits until it takes commands."""
        ready, told = os.pipe()
        command = [sys.executable, *self._plan.program, str(self.config), "--ready-fd", str(told)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=(told,)
            )
        os.close(told)
        self._ready = ready

    def wait_ready(self) -> None:
        """
        Raises:
            PeerError: it has ended, or is not ready within READY_S; with the end of its log.
        """
        ready, self._ready = self._ready, -1
        try:
            readable, _, _ = select.select([ready], [], [], READY_S)
            if readable and os.read(ready, 64):
                return
        finally:
            os.close(ready)
        self.kill()
        raise PeerError(f"card {self.name} did not start: {self.log_text()[-2000:]}")

    def start(self) -> None:
        """Starts it, and waits until it takes commands; raises as `wait_ready`."""
        self.begin()
        self.wait_ready()

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None, f"card {self.name} has never been started"
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """To a card that runs."""
        assert self.process is not None, f"card {self.name} has never been started"
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL. One that has ended, or never was, is no mistake."""
        if self.process is not None:
            self.process.kill()
            self._reap(STOP_S)

    def stop(self) -> int:
        """Ends it in order; returns its exit code."""
        assert self.process is not None, f"card {self.name} has never been started"
        if self.alive:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            return self._reap(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise PeerError(f"card {self.name} did not end within {STOP_S:g} s") from None

    def wait_end(self, timeout_s: float) -> int:
        """Its exit code, when it ends by itself; subprocess.TimeoutExpired: it does not."""
        return self._reap(timeout_s)

    def _reap(self, timeout_s: float) -> int:
        assert self.process is not None
        code = self.process.wait(timeout_s)
        if self.process.stdin is not None:
            self.process.stdin.close()
        return code

    def restart(self) -> None:
        """Ends it in order, and starts it again."""
        self.stop()
        self.start()

    def log_text(self) -> str:
        """All that it has written, in all of its lives."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def rss_bytes(self) -> int:
        """What it has in memory now."""
        pages = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * resource.getpagesize()

    def descriptors(self) -> list[str]:
        """What its open file descriptors stand for."""
        found = []
        for each in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found.append(str(each.readlink()))
            except OSError:
                continue  # closed meanwhile
        return found

    # --- Commands ---

    def call(self, method: str, params: object, result: type[T], timeout_s: float = TIMEOUT_S) -> T:
        """One request to the control socket; raises as `vhostnvme.control.client.call`."""
        return call(self.control, method, params, result, timeout_s)

    def cli(self, *words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """`vhostnvme WORDS` in a process of its own, with this card as its default."""
        return subprocess.run(
            [sys.executable, "-m", "vhostnvme", *words],
            env={**os.environ, CARD_VARIABLE: str(self.control)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def create_device(
        self,
        vm: str,
        *sizes: int,
        placement: str = "auto",
        placements: Sequence[str] = (),
        name: str | None = None,
        priority: int = 50,
        wait_s: float = 0.0,
        release_on_disconnect: bool = False,
    ) -> CreatedDevice:
        """A device with a namespace of each size; `placements`: of each, in their stead."""
        where = placements or [placement] * len(sizes)
        parts = [PartParams(size, place) for size, place in zip(sizes, where, strict=True)]
        params = CreateDeviceParams(
            vm=vm,
            parts=parts,
            name=name,
            priority=priority,
            wait_s=wait_s,
            release_on_disconnect=release_on_disconnect,
        )
        timeout_s = methods.SLOW_S + wait_s
        return self.call(methods.DEVICE_CREATE, params, CreatedDevice, timeout_s)

    def adopt_device(self, device: str, owner: str) -> CreatedDevice:
        params = AdoptDeviceParams(device, owner)
        return self.call(methods.DEVICE_ADOPT, params, CreatedDevice, methods.SLOW_S)

    def delete_device(self, device: str) -> ReleasedInfo:
        params = DeviceParams(device)
        return self.call(methods.DEVICE_DELETE, params, ReleasedInfo, methods.DELETE_S)

    def delete_vm(self, vm: str) -> ReleasedInfo:
        return self.call(methods.VM_DELETE, VmParams(vm), ReleasedInfo, methods.DELETE_S)

    def status(self) -> CardStatus:
        return self.call(methods.CARD_STATUS, NoParams(), CardStatus)

    def ssds(self) -> list[SsdInfo]:
        return self.call(methods.SSD_LIST, NoParams(), list[SsdInfo])

    def namespaces(self) -> list[NamespaceInfo]:
        return self.call(methods.NAMESPACE_LIST, ListParams(), list[NamespaceInfo])

    def devices(self) -> list[DeviceInfo]:
        return self.call(methods.DEVICE_LIST, ListParams(), list[DeviceInfo])

    def cluster(self) -> list[ClusterCard]:
        return self.call(methods.CLUSTER_STATUS, NoParams(), list[ClusterCard])

    def sees(self, names: Sequence[str]) -> bool:
        """Whether it is a member, and sees that all of these are."""
        try:
            online = {each.card for each in self.cluster() if each.health == "online"}
            return self.status().member and online.issuperset(names)
        except VhostNvmeError:
            return False

    def namespace_files(self) -> list[Path]:
        """The files of namespaces on its SSDs, also of those that are not whole."""
        return sorted(
            path
            for folder in self.ssd_folders
            for path in folder.iterdir()
            if path.suffix in (".ns", ".making", ".deleting")
        )


class Cards(Closable):
    """Cards `a`, `b`, … that run, and see each other; a context manager that ends them.

    Args:
        folder: for all that they write; by default a temporary one, which goes with them.

    Raises:
        PeerError: one did not start, or they do not find together.
    """

    def __init__(
        self, count: int, plan: CardPlan | None = None, folder: Path | None = None
    ) -> None:
        plan = plan or CardPlan()
        self._temporary = tempfile.TemporaryDirectory(prefix="vn-")  # socket paths are short
        self.folder = folder or Path(self._temporary.name)
        self.store = plan.store or f"sqlite://{self.folder}/cluster.db"
        run_dir = Path(self._temporary.name) / "run"
        run_dir.mkdir(mode=0o700)
        plan = replace(plan, store=self.store)
        network = _free_network(count)
        self._cards: dict[str, CardProcess] = {}
        for number in range(count):
            name, address = card_name(number), f"{network}.{number + 1}"
            folder_of = self.folder / name
            self._cards[name] = CardProcess(name, folder_of, run_dir, address, plan)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> CardProcess:
        return self._cards[name]

    def __iter__(self) -> Iterator[CardProcess]:
        return iter(self._cards.values())

    def __len__(self) -> int:
        return len(self._cards)

    def start(self) -> None:
        """Starts those that do not run, and waits until all see all."""
        starting = [each for each in self if not each.alive]
        for each in starting:
            each.begin()
        for each in starting:
            each.wait_ready()
        self.wait_together()

    def wait_together(self) -> None:
        """
        Raises:
            PeerError: they do not all see each other within TOGETHER_S.
        """
        names = list(self._cards)
        for each in self:
            self.wait(lambda each=each: each.sees(names), f"card {each.name} sees {names}")  # type: ignore[misc]

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float = TOGETHER_S) -> None:
        """For what comes true by itself.

        Raises:
            PeerError: not within the time.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise PeerError(f"not within {timeout_s:g} s: {what}")
            time.sleep(_STEP_S)

    def store_entries(self, *prefixes: str) -> list[Entry]:
        """What lies in the store below these."""

        async def listed() -> list[Entry]:
            async with open_store(self.store) as store:
                return list((await store.list(*prefixes)).entries)

        return asyncio.run(listed())

    def close(self) -> None:
        """Ends all, in order. A second call is free."""
        running = [each for each in self if each.alive]
        for each in running:
            each.signal(signal.SIGCONT)
            each.signal(signal.SIGTERM)
        for each in running:
            try:
                each.stop()
            except PeerError:
                continue  # it has been killed
        self._temporary.cleanup()


def card_name(number: int) -> str:
    """a, b, … z, a1, b1, …"""
    rounds, letter = divmod(number, 26)
    return chr(ord("a") + letter) + (str(rounds) if rounds else "")


def _line(key: str, value: object) -> str:
    return f"{key} = {json.dumps(str(value))}"


def _free_network(count: int) -> str:
    """Three bytes of 127.0.0.0/8 whose first addresses nobody listens on.

    A port of the usual range would be taken by outgoing connections while its card is down.
    """
    dice = random.SystemRandom()
    for _ in range(100):
        network = f"127.{dice.randrange(1, 255)}.{dice.randrange(1, 255)}"
        if all(_is_free(f"{network}.{number + 1}") for number in range(count)):
            return network
    raise PeerError(f"no addresses of loopback are free at port {PORT}")


def _is_free(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, PORT))
        except OSError:
            return False
    return True
