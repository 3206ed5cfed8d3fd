"""`vhostnvme vm`: the VMs that have something by a card, and the end of one."""

from __future__ import annotations

import argparse

from vhostnvme.cli.verbs import add_verb, add_verbs, ask, run_verb, tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = add_verbs(parser)
    add_verb(verbs, "list", _list, "show the VMs that have something by this card", "vm list")
    line = "delete all devices and namespaces of a VM, safe to repeat"
    delete = add_verb(verbs, "delete", _delete, line, "vm delete vm1")
    delete.add_argument("vm", metavar="VM")


run = run_verb


def _list(args: argparse.Namespace) -> int:
    from vhostnvme.control.card import VM_LIST, VmInfo
    from vhostnvme.control.device import NoParams
    from vhostnvme.inspect.show_card import show_vms

    return tell(args, ask(args, VM_LIST, NoParams(), list[VmInfo]), show_vms)


def _delete(args: argparse.Namespace) -> int:
    from functools import partial

    from vhostnvme.control.card import DELETE_S, VM_DELETE, ReleasedInfo, VmParams
    from vhostnvme.inspect.show_card import show_released

    released = ask(args, VM_DELETE, VmParams(vm=args.vm), ReleasedInfo, DELETE_S)
    return tell(args, released, partial(show_released, f"VM {args.vm}"))
