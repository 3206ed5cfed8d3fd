"""`vhostnvme drive`: the namespaces of a running server, which its guests find by themselves."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhostnvme.cli import arguments
from vhostnvme.errors import ConfigError

if TYPE_CHECKING:
    from vhostnvme.control.drive import DriveInfo, SpaceInfo

ANA_STATES = ("optimized", "non-optimized", "inaccessible", "persistent-loss", "change")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _add_verb(verbs, "show", "show its namespaces, and which controllers have them")
    add = _add_verb(verbs, "add", "one more namespace")
    add.add_argument(
        "what",
        metavar="SPEC|SIZE",
        help="mem:1G, file:PATH?size=10G, …; of an SSD in a folder (serve --ssd): its size, 10G",
    )
    add.add_argument(
        "--block", type=int, choices=[512, 4096], default=512, help="block size, with SIZE"
    )
    add.add_argument(
        "--private", action="store_true", help="one controller has it at a time (default: shared)"
    )
    add.add_argument(
        "--group",
        type=arguments.whole_number(1, 32),
        default=1,
        metavar="N",
        help="its ANA group (default: 1)",
    )
    _add_controllers(add)
    remove = _add_verb(verbs, "remove", "take a namespace away; of an SSD in a folder: delete it")
    resize = _add_verb(verbs, "resize", "another size for a namespace")
    attach = _add_verb(verbs, "attach", "give a namespace to controllers")
    detach = _add_verb(verbs, "detach", "take a namespace from controllers")
    for each in (remove, resize, attach, detach):
        each.add_argument(
            "nsid", type=arguments.whole_number(1, 256), metavar="NSID", help="the namespace's id"
        )
    resize.add_argument("size", type=arguments.size, metavar="SIZE", help="such as 20G")
    for each in (attach, detach):
        _add_controllers(each)
    ana = _add_verb(verbs, "ana", "how well controllers reach a group of namespaces")
    ana.add_argument("state", choices=ANA_STATES, metavar="STATE", help=", ".join(ANA_STATES))
    ana.add_argument(
        "--group",
        type=arguments.whole_number(1, 32),
        default=1,
        metavar="N",
        help="the ANA group (default: 1)",
    )
    _add_controllers(ana)


def _add_verb(verbs: Any, name: str, line: str) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, help=line, description=line, allow_abbrev=False
    )
    verb.add_argument(
        "target", type=Path, metavar="SOCKET|DIR", help="the server's socket, or its folder"
    )
    verb.add_argument("--json", action="store_true", help="print one JSON object")
    return verb


def _add_controllers(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--controller",
        type=arguments.whole_number(1, 16),
        action="append",
        metavar="N",
        help="only this one; repeat it for more (default: all)",
    )


def run(args: argparse.Namespace) -> int:
    import msgspec

    from vhostnvme.control.client import call
    from vhostnvme.control.drive import SLOW_S, DriveInfo, SpaceInfo
    from vhostnvme.control.paths import find_control

    method, params, kind = _request(args)
    path = find_control(args.target)
    told: DriveInfo | SpaceInfo
    if kind is DriveInfo:
        told = call(path, method, params, DriveInfo, SLOW_S)
    else:
        told = call(path, method, params, SpaceInfo, SLOW_S)
    text = msgspec.json.encode(told).decode() if args.json else "\n".join(_for_people(told))
    sys.stdout.write(text + "\n")
    return 0


def _request(args: argparse.Namespace) -> tuple[str, object, type]:
    """Method, parameters, and what is answered."""
    from vhostnvme.control import drive as methods
    from vhostnvme.control.device import NoParams

    match args.verb:
        case "add":
            return methods.DRIVE_ADD, _added(args), methods.SpaceInfo
        case "remove":
            return methods.DRIVE_REMOVE, methods.RemoveSpace(args.nsid), methods.DriveInfo
        case "resize":
            resized = methods.ResizeSpace(args.nsid, args.size)
            return methods.DRIVE_RESIZE, resized, methods.SpaceInfo
        case "attach" | "detach":
            method = methods.DRIVE_ATTACH if args.verb == "attach" else methods.DRIVE_DETACH
            params = methods.AttachSpace(args.nsid, args.controller)
            return method, params, methods.SpaceInfo
        case "ana":
            state = methods.SetAna(args.state, args.group, args.controller)
            return methods.DRIVE_ANA, state, methods.DriveInfo
        case _:
            return methods.DRIVE_NAMESPACES, NoParams(), methods.DriveInfo


def _added(args: argparse.Namespace) -> object:
    from vhostnvme.control.drive import AddSpace
    from vhostnvme.units import parse_size

    params = AddSpace(private=args.private, group=args.group, controllers=args.controller)
    if ":" in args.what:
        if args.block != 512:
            raise ConfigError("--block goes with a SIZE: a SPEC has block=4096")
        params.spec = args.what
    else:
        params.size, params.block_size = parse_size(args.what), args.block
    return params


def _for_people(told: DriveInfo | SpaceInfo) -> list[str]:
    from vhostnvme.control.drive import DriveInfo
    from vhostnvme.units import format_size

    if not isinstance(told, DriveInfo):
        return [_line(told)]
    lines = [_line(each) for each in told.namespaces] or ["it has no namespace"]
    if told.capacity is not None and told.unallocated is not None:
        left = format_size(told.unallocated) if told.unallocated else "nothing"
        lines.append(f"capacity {format_size(told.capacity)}, {left} of it unallocated")
    return lines


def _line(space: SpaceInfo) -> str:
    from vhostnvme.units import format_size

    where = ", ".join(map(str, space.controllers))
    return (
        f"namespace {space.nsid}: {format_size(space.size)}, blocks of {space.block_size} bytes,"
        f" {'shared' if space.shared else 'private'}, ANA group {space.group},"
        f" {f'attached to {where}' if where else 'not attached'}; {space.spec}"
    )
