"""`vhostnvme namespace`: the space that VMs have, one piece at a time."""

from __future__ import annotations

import argparse
from functools import partial

from vhostnvme.cli import arguments
from vhostnvme.cli.device import add_request, part
from vhostnvme.cli.verbs import add_verb, add_verbs, ask, run_verb, tell
from vhostnvme.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "UUID may be the beginning of one, as long as only one begins so."
    verbs = add_verbs(parser)
    line = "show the namespaces that this card holds or has given"
    listed = add_verb(verbs, "list", _list, line, "namespace list --device d1 --json")
    listed.add_argument("--vm", metavar="VM", help="only those of this VM")
    listed.add_argument("--device", metavar="DEVICE", help="only those of this device")
    _add_create(
        add_verb(
            verbs,
            "create",
            _create,
            "create a namespace: one more for a device, or on an own SSD for later",
            "namespace create --device d1 --size 1G",
        )
    )
    for name, act, line in (
        ("clone", partial(_clone, read_only=False), "copy a namespace, sharing its blocks"),
        ("snapshot", partial(_clone, read_only=True), "the same, read-only"),
    ):
        verb = add_verb(verbs, name, act, line, f"namespace {name} 1b9d6bcd")
        verb.add_argument("uuid", metavar="UUID")
        verb.add_argument("--vm", metavar="VM", help="who gets it (default: whose it is)")
    line = "give a device a namespace that none has"
    attach = add_verb(verbs, "attach", _attach, line, "namespace attach 1b9d6bcd --device d1")
    attach.add_argument("uuid", metavar="UUID")
    attach.add_argument("--device", required=True, metavar="DEVICE")
    line = "give a namespace another size; its VM is told"
    resize = add_verb(verbs, "resize", _resize, line, "namespace resize 1b9d6bcd --size 2G")
    resize.add_argument("uuid", metavar="UUID")
    resize.add_argument("--size", required=True, type=arguments.size, metavar="SIZE")
    line = "move a namespace, or a copy of it, to another card or SSD while its VM runs"
    move = add_verb(verbs, "move", _move, line, "namespace move 1b9d6bcd --to b")
    move.add_argument("uuid", metavar="UUID")
    where = move.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", metavar="CARD|SSD", help="a card, or an SSD of this one")
    where.add_argument("--cancel", action="store_true", help="what is moving stays where it is")
    move.add_argument(
        "--from", dest="source", metavar="CARD|SSD", help="of several copies, the one there"
    )
    move.add_argument("--no-wait", action="store_true", help="do not wait until it is there")
    line = "trust a copy again that lacks something, when none that counts will come back"
    promote = add_verb(
        verbs, "promote", _promote, line, "namespace promote 1b9d6bcd --copy 5e7eb39c --force"
    )
    promote.add_argument("uuid", metavar="UUID")
    promote.add_argument("--copy", required=True, metavar="UUID", help="the copy")
    promote.add_argument(
        "--force", action="store_true", help="needed: what the copy lacks is lost for good"
    )
    line = "delete a namespace, safe to repeat"
    delete = add_verb(verbs, "delete", _delete, line, "namespace delete 1b9d6bcd")
    delete.add_argument("uuid", metavar="UUID")


run = run_verb


def _add_create(parser: argparse.ArgumentParser) -> None:
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--vm", metavar="VM", help="who shall have it; no device has it yet")
    whose.add_argument("--device", metavar="DEVICE", help="the device that gets it at once")
    parser.add_argument("--size", required=True, type=arguments.size, metavar="SIZE")
    parser.add_argument("--ssd", metavar="SSD", help="with --vm: of this card's SSDs, this one")
    parser.add_argument(
        "--placement",
        metavar="auto|local|remote|CARD",
        help="with --device: where it lives (default: auto)",
    )
    parser.add_argument(
        "--block", type=int, choices=[512, 4096], default=512, help="block size (default: 512)"
    )
    add_request(parser)


def _list(args: argparse.Namespace) -> int:
    from vhostnvme.control.card import NAMESPACE_LIST, ListParams, NamespaceInfo
    from vhostnvme.inspect.show_card import show_namespaces

    params = ListParams(vm=args.vm, device=args.device)
    return tell(args, ask(args, NAMESPACE_LIST, params, list[NamespaceInfo]), show_namespaces)


def _create(args: argparse.Namespace) -> int:
    if args.device is not None and args.ssd is not None:
        raise ConfigError("--ssd goes with --vm; where a device's namespace lives says --placement")
    if args.vm is not None and (args.placement is not None or args.wait or args.copies > 1):
        raise ConfigError(
            "--placement, --copies and --wait go with --device: with --vm it is made here, now"
        )
    method, params = _create_params(args)
    return _one(args, method, params, args.wait)


def _create_params(args: argparse.Namespace) -> tuple[str, object]:
    from vhostnvme.control import card as methods

    if args.vm is not None:
        return methods.NAMESPACE_CREATE, methods.CreateNamespaceParams(
            vm=args.vm,
            size=args.size,
            block_size=args.block,
            ssd=args.ssd,
            priority=args.priority,
        )
    args.placement = args.placement or "auto"
    return methods.NAMESPACE_ADD, methods.AddNamespaceParams(
        device=args.device,
        part=part(args, (args.size, None)),
        priority=args.priority,
        wait_s=args.wait,
    )


def _clone(args: argparse.Namespace, read_only: bool) -> int:
    from vhostnvme.control.card import NAMESPACE_CLONE, CloneNamespaceParams

    params = CloneNamespaceParams(uuid=args.uuid, vm=args.vm, read_only=read_only)
    return _one(args, NAMESPACE_CLONE, params)


def _attach(args: argparse.Namespace) -> int:
    from vhostnvme.control.card import NAMESPACE_ATTACH, AttachNamespaceParams

    params = AttachNamespaceParams(uuid=args.uuid, device=args.device)
    return _one(args, NAMESPACE_ATTACH, params)


def _resize(args: argparse.Namespace) -> int:
    from vhostnvme.control.card import NAMESPACE_RESIZE, ResizeNamespaceParams

    return _one(args, NAMESPACE_RESIZE, ResizeNamespaceParams(uuid=args.uuid, size=args.size))


def _move(args: argparse.Namespace) -> int:
    from vhostnvme.cli.moving import wait_for_move
    from vhostnvme.control.card import NAMESPACE_MOVE, MovedInfo, MoveNamespaceParams
    from vhostnvme.inspect.show_card import show_moved

    if args.cancel and args.source:
        raise ConfigError("--from goes with --to")
    params = MoveNamespaceParams(uuid=args.uuid, to=args.to, source=args.source)
    moved = ask(args, NAMESPACE_MOVE, params, MovedInfo)
    if moved.begun and args.to and not args.no_wait:
        moved.namespace = wait_for_move(args, moved.namespace)
    return tell(args, moved, show_moved)


def _promote(args: argparse.Namespace) -> int:
    from vhostnvme.control.card import NAMESPACE_PROMOTE, PromoteCopyParams

    if not args.force:
        raise ConfigError(
            "what a copy lacks that was not in sync is lost when it is trusted again: say --force"
        )
    return _one(args, NAMESPACE_PROMOTE, PromoteCopyParams(uuid=args.uuid, copy=args.copy))


def _delete(args: argparse.Namespace) -> int:
    from vhostnvme.control.card import DELETE_S, NAMESPACE_DELETE, NamespaceParams, ReleasedInfo
    from vhostnvme.inspect.show_card import show_released

    params = NamespaceParams(uuid=args.uuid)
    released = ask(args, NAMESPACE_DELETE, params, ReleasedInfo, DELETE_S)
    return tell(args, released, partial(show_released, f"namespace {args.uuid}"))


def _one(args: argparse.Namespace, method: str, params: object, wait_s: float = 0.0) -> int:
    from vhostnvme.control.card import SLOW_S, NamespaceInfo
    from vhostnvme.inspect.show_card import show_namespace

    return tell(args, ask(args, method, params, NamespaceInfo, SLOW_S + wait_s), show_namespace)
