"""A lab as a whole: up, down, and all that can be done to its hosts in between.

Every method is bounded in time and blocks; asyncio programs call it with `asyncio.to_thread`.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from vhostnvme.closable import Closable
from vhostnvme.errors import ConfigError, LabError
from vhostnvme.lab import hosts, processes
from vhostnvme.lab.making import check_machine, check_root, make_room, planned_state
from vhostnvme.lab.names import STORE, Host, is_store
from vhostnvme.lab.network import RATE_BITS_MAX, RATE_BITS_MIN, Network
from vhostnvme.lab.plan import LabPlan, Layout, layout_of
from vhostnvme.lab.processes import Process, state_of
from vhostnvme.lab.removal import remove_lab
from vhostnvme.lab.state import LabState, Lock, boot_name, load, make_directory, save
from vhostnvme.lab.status import Card, HostStatus, card_of, read_status

READY_S = 30.0
READY_S_PER_CARD = 2.0  # Python takes a while to start, and all start at once
STOP_S = 20.0
KILL_S = 5.0
RUN_S = 60.0
_STEP_S = 0.05

Way = Literal["in", "out"]


class Lab(Closable):
    """A lab that is up. As a context manager it is taken down at the end."""

    def __init__(self, layout: Layout, state: LabState) -> None:
        """Of `up` and `open`."""
        self.layout = layout
        self._state = state
        self.network = Network(layout.lab, state.hosts)

    @classmethod
    def up(cls, directory: Path | None = None, plan: LabPlan | None = None) -> Self:
        """Makes a lab in this folder and waits until all of its cards answer.

        What an interrupted or restarted machine has left there is removed first; when anything
        fails, all that was made is.

        Raises:
            ConfigError: the plan or the folder is no good.
            LabError: there is one already, this user may not, or a card did not start.
        """
        plan = plan or LabPlan()
        layout = layout_of(directory)
        planned = planned_state(layout, plan)
        check_machine(plan)
        with Lock(layout.lock):
            make_room(layout)
            made = not layout.directory.exists()
            planned = msgspec.structs.replace(planned, made_directory=made)
            try:
                make_directory(layout, planned)
                lab = cls(layout, planned)
                lab._make(plan)
            except BaseException:
                remove_lab(layout)
                raise
        return lab

    @classmethod
    def open(cls, directory: Path | None = None) -> Self:
        """The lab that is up in this folder.

        Raises:
            LabError: there is none, or not a whole one, or this user may not.
        """
        check_root()
        layout = layout_of(directory)
        state = load(layout)
        if state is None:
            raise LabError(f"no lab is up in {layout.directory}: `vhostnvme lab up` makes one")
        if not state.complete or state.boot != boot_name():
            raise LabError(
                f"what is in {layout.directory} is the rest of a lab: `vhostnvme lab down` first"
            )
        return cls(layout, state)

    @staticmethod
    def remove(directory: Path | None = None) -> bool:
        """Takes down whatever lab is in this folder; False when there was none. Safe to repeat.

        Raises:
            LabError: something of it cannot be removed.
        """
        check_root()
        layout = layout_of(directory)
        with Lock(layout.lock):
            return remove_lab(layout)

    def close(self) -> None:
        """Takes it down. Safe to repeat."""
        self.remove(self.layout.directory)

    # --- what there is ---

    @property
    def cards(self) -> list[Card]:
        """All cards, by name."""
        return [card_of(self.layout, self._state, host) for host in self._state.cards()]

    @property
    def store(self) -> str:
        """Where the cards find their store."""
        return self._state.store_uri

    @property
    def store_is_a_file(self) -> bool:
        """Then no network leads to it, and nothing cuts it off."""
        return not self._state.stores()

    def card(self, name: str) -> Card:
        """Raises:
        ConfigError: there is none of this name.
        """
        return card_of(self.layout, self._state, self._host(name, card=True))

    def status(self) -> list[HostStatus]:
        """How all hosts are now: the cards first."""
        return read_status(self.layout, self._load(), self.network)

    # --- commands on a host ---

    def command(self, name: str, words: Sequence[str]) -> list[str]:
        """The command line that runs these words on a host."""
        return processes.command_in(self._host(name).namespace, words)

    def environment(self, name: str) -> dict[str, str]:
        """For what runs on a host: VHOSTNVME_CARD is its card's control socket."""
        return hosts.environment(self.layout, self._host(name))

    def run(
        self, name: str, *words: str, timeout_s: float = RUN_S, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on a host to its end, and captures what it says; subprocess.run's options.

        Raises:
            LabError: it did not end in time.
        """
        settings = {
            "stdin": subprocess.DEVNULL,
            "capture_output": True,
            "text": True,
            "check": False,
            **options,
        }
        try:
            return subprocess.run(
                self.command(name, words),
                env=self.environment(name),
                timeout=timeout_s,
                **settings,
            )
        except subprocess.TimeoutExpired:
            raise LabError(
                f"'{' '.join(words)}' on {name} did not end within {timeout_s:g} s"
            ) from None

    def popen(self, name: str, *words: str, **options: Any) -> subprocess.Popen[Any]:
        """Starts a command on a host; subprocess.Popen's options."""
        return subprocess.Popen(self.command(name, words), env=self.environment(name), **options)

    # --- the network ---

    def partition(self, name: str, other: str | None = None, one_way: Way | None = None) -> None:
        """Cuts a host, or `store`, off from all others or from one; nobody is told.

        With `one_way` only what it sends ("out") or what it is sent ("in") is lost.

        Raises:
            ConfigError: no such hosts.
        """
        ours = [host.name for host in self._hosts(name)]
        theirs = [host.name for host in self._hosts(other)] if other else [*self.network.hosts]
        theirs = [each for each in theirs if each not in ours]
        if not theirs:
            raise ConfigError(f"{name} cannot be cut off from itself")
        with self._locked():
            if other is None and one_way is None:
                for each in ours:
                    self.network.cut_off(each)
                return
            if one_way != "in":
                for each in ours:
                    self.network.lose(each, theirs)
            if one_way != "out":
                for each in theirs:
                    self.network.lose(each, ours)

    def heal(self, name: str | None = None) -> None:
        """Takes back all that `partition` did to a host, to `store`, or to all."""
        names = [host.name for host in self._hosts(name)] if name else [*self.network.hosts]
        with self._locked():
            self.network.heal(names)

    def slow(self, name: str, rate_bits: int | None) -> None:
        """Limits a host, both ways, to so many bits a second; None: no limit any more."""
        if rate_bits is not None and not RATE_BITS_MIN <= rate_bits <= RATE_BITS_MAX:
            raise ConfigError(f"a rate is from {RATE_BITS_MIN} to {RATE_BITS_MAX} bits a second")
        with self._locked():
            for host in self._hosts(name):
                self.network.slow(host.name, rate_bits)

    # --- the processes ---

    def kill(self, name: str) -> None:
        """kill -9 of a card, or of `store`. One that has ended is no mistake."""
        self._end(name, signal.SIGKILL, KILL_S)

    def stop(self, name: str) -> None:
        """Ends a card, or `store`, politely.

        Raises:
            LabError: it does not end within STOP_S.
        """
        self._end(name, signal.SIGTERM, STOP_S)

    def freeze(self, name: str) -> None:
        """Stops a card, or `store`, in its tracks: SIGSTOP.

        Raises:
            LabError: it has ended.
        """
        self._send(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Lets it go on: SIGCONT.

        Raises:
            LabError: it has ended.
        """
        self._send(name, signal.SIGCONT)

    def restart(self, name: str, ready_s: float = READY_S) -> None:
        """Starts a card, or `store`, again; one that runs is stopped before.

        Raises:
            LabError: it ends at once, or does not answer within `ready_s`.
        """
        chosen = self._hosts(name)
        self._end(name, signal.SIGTERM, STOP_S)
        with self._locked():
            for host in chosen:
                self._start(host)
            self._wait_ready(chosen, ready_s)

    # --- inside ---

    def _make(self, plan: LabPlan) -> None:
        self.network.make()
        try:
            self.layout.run_directory.mkdir(mode=0o700)
            if not self._state.stores():
                self.layout.store_directory.mkdir(mode=0o700)
            for host in self._state.stores():
                self.layout.host_directory(host.name).mkdir(mode=0o700)
        except OSError as error:
            raise LabError(f"cannot make the lab's folders: {error}") from None
        for host in self._state.cards():
            hosts.make_card(self.layout, plan, host, self.store)
        for group in (self._state.stores(), self._state.cards()):
            for host in group:
                self._start(host)
            default_s = READY_S + READY_S_PER_CARD * len(group)
            self._wait_ready(group, plan.ready_s or default_s)
        self._wait_together(plan.ready_s or READY_S)
        self._save(msgspec.structs.replace(self._state, complete=True))

    def _start(self, host: Host) -> None:
        process = processes.start(
            self._state.commands[host.name],
            host.namespace,
            hosts.environment(self.layout, host),
            self.layout.log(host.name),
        )
        running = {**self._state.processes, host.name: process}
        self._save(msgspec.structs.replace(self._state, processes=running))

    def _wait_ready(self, waited: Sequence[Host], ready_s: float) -> None:
        deadline = time.monotonic() + ready_s
        missing = list(waited)
        while missing:
            for host in missing:
                if state_of(self._state.processes[host.name]) == "ended":
                    raise LabError(f"{host.name} ended at its start: {self._last_words(host)}")
            missing = [host for host in missing if not self._answers(host)]
            if missing and time.monotonic() > deadline:
                raise LabError(
                    f"{missing[0].name} does not answer within {ready_s:g} s:"
                    f" {self._last_words(missing[0])}"
                )
            time.sleep(_STEP_S if missing else 0)

    def _wait_together(self, ready_s: float) -> None:
        """Until each card sees all of them."""
        names = [host.name for host in self._state.cards()]
        deadline = time.monotonic() + ready_s
        missing = self._state.cards()
        while missing := [h for h in missing if not hosts.card_sees(self.layout, h, names)]:
            if time.monotonic() > deadline:
                raise LabError(
                    f"card {missing[0].name} does not see all others within {ready_s:g} s:"
                    f" {self._last_words(missing[0])}"
                )
            time.sleep(_STEP_S)

    def _answers(self, host: Host) -> bool:
        if is_store(host.name):
            return hosts.store_answers(host)
        return hosts.card_answers(self.layout, host)

    def _last_words(self, host: Host) -> str:
        return hosts.last_words(self.layout.log(host.name))

    def _end(self, name: str, number: signal.Signals, timeout_s: float) -> None:
        with self._locked():
            ending = self._processes(name)
            for process in ending:
                processes.send(process, number)
            if processes.wait_ended(ending, timeout_s):
                raise LabError(f"{name} does not end within {timeout_s:g} s: try `lab kill {name}`")

    def _send(self, name: str, number: signal.Signals) -> None:
        with self._locked():
            sent = [processes.send(process, number) for process in self._processes(name)]
            if not all(sent) or not sent:
                raise LabError(f"{name} does not run: `lab restart {name}` starts it")

    def _processes(self, name: str) -> list[Process]:
        known = self._state.processes
        return [known[host.name] for host in self._hosts(name) if host.name in known]

    def _host(self, name: str, card: bool = False) -> Host:
        known = self._state.cards() if card else self._state.hosts
        for host in known:
            if host.name == name:
                return host
        names = ", ".join(host.name for host in known)
        raise ConfigError(f"there is no {'card' if card else 'host'} {name!r} in this lab: {names}")

    def _hosts(self, name: str) -> list[Host]:
        if name != STORE:
            return [self._host(name)]
        if not self._state.stores():
            raise ConfigError("the store of this lab is a file: there is no host to act on")
        return self._state.stores()

    def _locked(self) -> Lock:
        """For a change, of what is there now."""
        lock = Lock(self.layout.lock)
        try:
            self._load()
        except BaseException:
            lock.close()
            raise
        return lock

    def _load(self) -> LabState:
        self._state = self.open(self.layout.directory)._state
        return self._state

    def _save(self, state: LabState) -> None:
        save(self.layout, state)
        self._state = state
