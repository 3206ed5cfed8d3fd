"""Takes a lab down, whatever state it is in: processes, namespaces, folders, in this order."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from vhostnvme.errors import LabError
from vhostnvme.lab import namespaces, processes
from vhostnvme.lab.names import STORE, is_store, namespace_prefix
from vhostnvme.lab.plan import Layout
from vhostnvme.lab.processes import Process
from vhostnvme.lab.state import LabState, boot_name, load, remove_directory


def remove_lab(layout: Layout) -> bool:
    """Leaves nothing of the lab; False when there was nothing. Safe to repeat; under its lock.

    What was started on its hosts is ended, but for those from which this very call comes.

    Raises:
        LabError: something cannot be removed; the rest is still there then, and found again.
    """
    state = load(layout)
    found = state is not None or layout.state.exists() or layout.run_directory.exists()
    found |= bool(namespaces.find(namespace_prefix(layout.lab)))
    # The cards take leave of the store, which has to go nowhere with what it holds.
    processes.end(_finder(layout, state, lambda name: not is_store(name)))
    processes.end(_finder(layout, state, lambda name: True), polite_s=0)
    for name in namespaces.find(namespace_prefix(layout.lab)):
        namespaces.remove(name)
    _remove_folder(layout.run_directory)
    if state is None and layout.state.exists():
        raise LabError(
            f"{layout.state} cannot be read: the lab's processes and network are gone,"
            f" remove {layout.directory} by hand"
        )
    if state is not None:
        for host in state.hosts:
            _remove_folder(layout.host_directory(host.name))
        if not state.stores():
            _remove_folder(layout.directory / STORE)
    remove_directory(layout, made=state is not None and state.made_directory)
    return found


def _finder(
    layout: Layout, state: LabState | None, accept: Callable[[str], bool]
) -> Callable[[], list[Process]]:
    """Finds the processes that live on the hosts with accepted names."""
    prefix = namespace_prefix(layout.lab)
    recorded: dict[str, Process] = {}
    if state is not None and state.boot == boot_name():
        recorded = state.processes

    def find() -> list[Process]:
        ours = processes.own_line()
        names = [name for name in namespaces.find(prefix) if accept(name.removeprefix(prefix))]
        known = [process for name, process in recorded.items() if accept(name)]
        found = {
            *(one for one in known if processes.state_of(one) != "ended"),
            *processes.find_marked(layout.lab, accept),
            *processes.find_in_namespaces(names),
        }
        return [process for process in found if process.pid not in ours]

    return find


def _remove_folder(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise LabError(f"cannot remove {folder}: {error}") from None
