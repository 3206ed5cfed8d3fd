"""What comes before a lab is made: is it possible here, what will there be, is there room."""

from __future__ import annotations

import os
import shutil

from vhostnvme.errors import LabError
from vhostnvme.lab import hosts
from vhostnvme.lab.names import is_store
from vhostnvme.lab.network import Network
from vhostnvme.lab.plan import LabPlan, Layout
from vhostnvme.lab.removal import remove_lab
from vhostnvme.lab.state import VERSION, LabState, boot_name, load


def planned_state(layout: Layout, plan: LabPlan) -> LabState:
    """What will be there.

    Raises:
        ConfigError: the plan is no good.
    """
    plan.check()
    planned = plan.hosts(layout.lab)
    stores = [host for host in planned if is_store(host.name)]
    commands: dict[str, list[str]] = {}
    for host in planned:
        if is_store(host.name):
            commands[host.name] = hosts.etcd_command(layout, host, stores)
        else:
            commands[host.name] = [*plan.card_command(layout.config(host.name))]
    return LabState(
        version=VERSION,
        boot=boot_name(),
        made_directory=False,
        store=plan.store,
        store_uri=hosts.store_uri(layout, plan, stores),
        ssds=plan.ssds,
        hosts=planned,
        commands=commands,
        devices={name: [*map(str, paths)] for name, paths in plan.devices.items()},
    )


def check_root() -> None:
    """Raises:
    LabError: this user may not have a lab.
    """
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces, and this needs root: use sudo")


def check_machine(plan: LabPlan) -> None:
    """Raises:
    LabError: this user or this machine cannot have such a lab.
    """
    check_root()
    if shutil.which("nsenter") is None:
        raise LabError("the lab needs the program nsenter: install the package util-linux")
    if plan.store == "etcd" and shutil.which(hosts.ETCD) is None:
        raise LabError("etcd is not installed: install etcd-server, or say --store sqlite")


def make_room(layout: Layout) -> None:
    """Removes what is left of an earlier lab; under its lock.

    Raises:
        LabError: one is up, or what is left cannot be removed.
    """
    state = load(layout)
    if state is not None and state.complete and state.boot == boot_name():
        network = Network(layout.lab, state.hosts)
        if network.exists():
            raise LabError(
                f"a lab of {len(state.cards())} cards is up in {layout.directory}:"
                " `vhostnvme lab down` first, or give another --dir"
            )
    remove_lab(layout)
