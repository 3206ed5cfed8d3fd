"""One real card on loopback, for tests and tools: its folder, its process, and its commands."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from vhostnvme.control import card as methods
from vhostnvme.control.card import (
    AdoptDeviceParams,
    CardStatus,
    ClusterCard,
    CreatedDevice,
    CreateDeviceParams,
    DeviceInfo,
    DeviceParams,
    DrainInfo,
    DrainParams,
    ListParams,
    MovedInfo,
    MoveNamespaceParams,
    NamespaceInfo,
    PartParams,
    ReleasedInfo,
    ResizeNamespaceParams,
    SsdInfo,
    VmParams,
)
from vhostnvme.control.client import TIMEOUT_S, call
from vhostnvme.control.device import NoParams
from vhostnvme.control.paths import CARD_VARIABLE, CONTROL_NAME, SOCKET_NAME
from vhostnvme.errors import PeerError, VhostNvmeError

__all__ = ["PORT", "CardPlan", "CardProcess"]

READY_S = 30.0
STOP_S = 30.0
PORT = 4420

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CardPlan:
    """What each card is like. Sizes in bytes, times in seconds.

    Attributes:
        store: a URL; None: a SQLite file of these cards alone.
        contention_s: None: as cards have it by themselves.
        program: what runs a card, before its file and `--ready-fd N`.
        devices: block devices that cards, by their names, have in place of folders.
        health: of its SSDs, as in the section of that name: `{"clear": "2s"}`.
    """

    ssds: int = 1
    ssd_bytes: int = 256 << 20
    thin: bool = False
    reserve: int = 0
    ttl_s: float = 10.0
    contention_s: float | None = None
    store: str | None = None
    replace_after_s: float | None = None
    program: Sequence[str] = ("-m", "vhostnvme", "card", "run")
    devices: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    health: Mapping[str, str] = field(default_factory=dict)


class CardProcess:
    """One card: its folder, and its process when it runs. Methods of commands raise as `call`."""

    def __init__(
        self, name: str, folder: Path, run_dir: Path, address: str, plan: CardPlan
    ) -> None:
        self.name = name
        self.folder = folder
        self.address = address
        folder.mkdir(parents=True, exist_ok=True)
        self.config = folder / "card.toml"
        self.log = folder / "card.log"
        self.state = folder / "state"
        folders = 0 if name in plan.devices else plan.ssds
        self.ssd_folders = [folder / f"ssd{number}" for number in range(folders)]
        self.control = run_dir / name / CONTROL_NAME
        self._plan = plan
        self._ready = -1
        self.process: subprocess.Popen[bytes] | None = None
        for each in self.ssd_folders:
            each.mkdir()
        self.config.write_text(self._config_text(run_dir), encoding="utf-8")

    def _config_text(self, run_dir: Path) -> str:
        plan = self._plan
        lines = ["[card]", _line("name", self.name), _line("run_dir", run_dir)]
        lines += [_line("state_dir", self.state), _line("reserve", plan.reserve)]
        for number, device in enumerate(plan.devices.get(self.name, ())):
            lines += ["[[ssd]]", _line("name", f"ssd{number}"), _line("path", device)]
        for path in self.ssd_folders:
            lines += ["[[ssd]]", _line("name", path.name), _line("path", path)]
            lines += [_line("capacity", plan.ssd_bytes), f"thin = {str(plan.thin).lower()}"]
        lines += ["[health]", *(_line(key, value) for key, value in plan.health.items())]
        lines += ["[target]", f"listen = [{json.dumps(f'{self.address}:{PORT}')}]"]
        lines += ["[cluster]", _line("store", plan.store)]
        lines += [_line("ttl", f"{round(plan.ttl_s * 1000)}ms")]
        if plan.contention_s is not None:
            lines.append(_line("contention", f"{round(plan.contention_s * 1000)}ms"))
        if plan.replace_after_s is not None:
            after = f"{round(plan.replace_after_s * 1000)}ms"
            lines += ["[recovery]", _line("replace_after", after)]
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

    def tell(self, text: str) -> None:
        """On its standard input; BrokenPipeError: it has ended."""
        assert self.process is not None, f"card {self.name} has never been started"
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

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
            with contextlib.suppress(BrokenPipeError):
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

    def cpu_s(self) -> float:
        """Seconds of processor time that it has had, with the kernel's for it."""
        stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii")
        times = stat.rpartition(")")[2].split()[11:13]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

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
        copies: int = 1,
    ) -> CreatedDevice:
        """A device with a namespace of each size; `placements`: of each, in their stead."""
        where = placements or [placement] * len(sizes)
        parts = [
            PartParams(size, place, copies=copies) for size, place in zip(sizes, where, strict=True)
        ]
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

    def show_device(self, device: str) -> DeviceInfo:
        return self.call(methods.DEVICE_SHOW, DeviceParams(device), DeviceInfo)

    def move_namespace(self, uuid: str, to: str | None, source: str | None = None) -> MovedInfo:
        params = MoveNamespaceParams(uuid, to, source)
        return self.call(methods.NAMESPACE_MOVE, params, MovedInfo)

    def drain(self, on: bool = True) -> DrainInfo:
        return self.call(methods.CARD_DRAIN, DrainParams(on), DrainInfo)

    def adopt_device(self, device: str, owner: str, force: bool = False) -> CreatedDevice:
        params = AdoptDeviceParams(device, owner, force)
        return self.call(methods.DEVICE_ADOPT, params, CreatedDevice, methods.SLOW_S)

    def delete_device(self, device: str) -> ReleasedInfo:
        params = DeviceParams(device)
        return self.call(methods.DEVICE_DELETE, params, ReleasedInfo, methods.DELETE_S)

    def delete_vm(self, vm: str) -> ReleasedInfo:
        return self.call(methods.VM_DELETE, VmParams(vm), ReleasedInfo, methods.DELETE_S)

    def resize_namespace(self, uuid: str, size: int) -> NamespaceInfo:
        params = ResizeNamespaceParams(uuid, size)
        return self.call(methods.NAMESPACE_RESIZE, params, NamespaceInfo, methods.SLOW_S)

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

    def device_socket(self, device: str) -> Path:
        """Where the device's vfio-user socket is."""
        return self.control.parent / device / SOCKET_NAME

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


def _line(key: str, value: object) -> str:
    return f"{key} = {json.dumps(str(value))}"
