"""`vhostnvme device`: the NVMe controllers that VMs see."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from vhostnvme.cli import arguments
from vhostnvme.cli.verbs import add_verb, add_verbs, ask, run_verb, tell

if TYPE_CHECKING:
    from vhostnvme.control.card import PartParams

PRIORITIES = (0, 100)
COPIES_MAX = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = add_verbs(parser)
    _add_create(
        add_verb(
            verbs,
            "create",
            _create,
            "create a device for a VM, with a namespace for each --size",
            "device create --vm vm1 --size 1G --size 10G@remote",
        )
    )
    listed = add_verb(verbs, "list", _list, "show the card's devices", "device list --vm vm1")
    listed.add_argument("--vm", metavar="VM", help="only those of this VM")
    for name, act, line in (
        ("show", _show, "show a device, and the QEMU options for it"),
        ("delete", _delete, "delete a device with its namespaces, safe to repeat"),
    ):
        verb = add_verb(verbs, name, act, line, f"device {name} d1")
        verb.add_argument("device", metavar="DEVICE")
    line = "take over the remote namespaces of a device whose card is lost"
    adopt = add_verb(verbs, "adopt", _adopt, line, "device adopt d1 --from b")
    adopt.add_argument("device", metavar="DEVICE")
    adopt.add_argument(
        "--from", dest="owner", required=True, metavar="CARD", help="the card that had it"
    )
    adopt.add_argument(
        "--force",
        action="store_true",
        help="take also a copy that is known to lack the last writes, when there is no better one:"
        " what it lacks is lost",
    )


run = run_verb


def _add_create(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vm", required=True, metavar="VM", help="who gets it")
    parser.add_argument(
        "--size",
        required=True,
        type=sized,
        action="append",
        metavar="SIZE[@PLACEMENT]",
        help="of a namespace, with K, M, G or T behind it; repeat it for more namespaces",
    )
    parser.add_argument(
        "--placement",
        default="auto",
        metavar="auto|local|remote|CARD",
        help="where namespaces without a @PLACEMENT of their own live. auto (the default): on this"
        " card if they fit, else on the best other one; local: on this card; remote: on another"
        " one; a card's name: on that one",
    )
    add_request(parser)
    parser.add_argument("--name", metavar="NAME", help="of the device (default: one is made)")
    parser.add_argument(
        "--block", type=int, choices=[512, 4096], default=512, help="block size (default: 512)"
    )
    parser.add_argument(
        "--release-on-disconnect",
        action="store_true",
        help="delete the device when its VM lets go of it",
    )


def add_request(parser: argparse.ArgumentParser) -> None:
    """What requests for space have."""
    parser.add_argument(
        "--copies",
        type=arguments.whole_number(1, COPIES_MAX),
        default=1,
        metavar="N",
        help="2: keep each namespace on two cards, or two SSDs of this one, so that its VM goes on"
        " when one of them fails (default: 1)",
    )
    parser.add_argument(
        "--degraded",
        action="store_true",
        help="with --copies: begin with one when there is no place for the other, which is made"
        " as soon as there is",
    )
    parser.add_argument(
        "--recovery",
        choices=["none", "replace"],
        default="none",
        help="of a single copy that is lost for good. replace: an empty namespace takes its place,"
        " for scratch disks; none (the default): its errors are the VM's",
    )
    parser.add_argument(
        "--priority",
        type=arguments.whole_number(*PRIORITIES),
        default=50,
        metavar="P",
        help="0 to 100: the higher one gets the last space (default: 50)",
    )
    parser.add_argument(
        "--wait",
        type=arguments.seconds,
        default=0.0,
        metavar="S",
        help="wait so many seconds for space (default: not at all)",
    )


def sized(text: str) -> tuple[int, str | None]:
    """`SIZE` or `SIZE@PLACEMENT`."""
    size, at, placement = text.partition("@")
    if at and not placement:
        raise argparse.ArgumentTypeError(f"{text!r} has no placement behind its @")
    return arguments.size(size), placement or None


def part(args: argparse.Namespace, sized: tuple[int, str | None]) -> PartParams:
    """With what was said for all."""
    from vhostnvme.control.card import PartParams

    size, placement = sized
    return PartParams(
        size=size,
        placement=placement or args.placement,
        block_size=args.block,
        copies=args.copies,
        scratch=args.recovery == "replace",
        degraded=args.degraded,
    )


def _create(args: argparse.Namespace) -> int:
    from vhostnvme.control.card import DEVICE_CREATE, SLOW_S, CreatedDevice, CreateDeviceParams
    from vhostnvme.inspect.show_card import show_device

    params = CreateDeviceParams(
        vm=args.vm,
        parts=[part(args, each) for each in args.size],
        name=args.name,
        priority=args.priority,
        wait_s=args.wait,
        release_on_disconnect=args.release_on_disconnect,
    )
    created = ask(args, DEVICE_CREATE, params, CreatedDevice, SLOW_S + args.wait)
    return tell(args, created, show_device)


def _list(args: argparse.Namespace) -> int:
    from vhostnvme.control.card import DEVICE_LIST, DeviceInfo, ListParams
    from vhostnvme.inspect.show_card import show_devices

    devices = ask(args, DEVICE_LIST, ListParams(vm=args.vm), list[DeviceInfo])
    return tell(args, devices, show_devices)


def _show(args: argparse.Namespace) -> int:
    from vhostnvme.control.card import DEVICE_SHOW, DeviceInfo, DeviceParams
    from vhostnvme.inspect.show_card import show_device

    device = ask(args, DEVICE_SHOW, DeviceParams(device=args.device), DeviceInfo)
    return tell(args, device, show_device)


def _delete(args: argparse.Namespace) -> int:
    from vhostnvme.control.card import DELETE_S, DEVICE_DELETE, DeviceParams, ReleasedInfo
    from vhostnvme.inspect.show_card import show_released

    params = DeviceParams(device=args.device)
    released = ask(args, DEVICE_DELETE, params, ReleasedInfo, DELETE_S)
    return tell(args, released, partial(show_released, f"device {args.device}"))


def _adopt(args: argparse.Namespace) -> int:
    from vhostnvme.control.card import DEVICE_ADOPT, SLOW_S, AdoptDeviceParams, CreatedDevice
    from vhostnvme.inspect.show_card import show_device

    params = AdoptDeviceParams(device=args.device, owner=args.owner, force=args.force)
    return tell(args, ask(args, DEVICE_ADOPT, params, CreatedDevice, SLOW_S), show_device)
