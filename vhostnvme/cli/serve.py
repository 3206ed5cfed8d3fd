"""`vhostnvme serve`: a controller, an NVMe/TCP target, or both, until a signal comes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vhostnvme.cli import arguments

if TYPE_CHECKING:
    from vhostnvme.emulation import DeviceOptions
    from vhostnvme.emulation.drive import DriveSetup
    from vhostnvme.fabric.options import TargetOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket",
        type=Path,
        action="append",
        default=[],
        metavar="DIR/cntrl",
        help="the vfio-user socket of a controller; DIR is made (mode 0700) when it is missing;"
        " repeat it for more controllers of the same drive",
    )
    parser.add_argument(
        "--namespace",
        type=arguments.spec,
        action="append",
        default=[],
        metavar="SPEC",
        help="file:PATH[?size=10G], mem:1G or null:1T; repeat it for more namespaces",
    )
    parser.add_argument(
        "--ssd",
        type=arguments.ssd,
        metavar="DIR[?capacity=10G]",
        help="a folder that is a whole SSD: guests may create and delete namespaces"
        " (docs/nvme-ssd.md)",
    )
    parser.add_argument(
        "--persona",
        metavar="FILE|NAME",
        help="look like that drive: see `vhostnvme persona list` and docs/nvme-ssd.md",
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="keep the drive's state there: SMART, saved features, logs",
    )
    _add_target(parser)
    parser.add_argument(
        "--doorbells",
        choices=["auto", "mapped", "trapped"],
        default="auto",
        help="how the guest's doorbells arrive (default: auto)",
    )
    parser.add_argument(
        "--poll-us",
        type=arguments.whole_number(0, 1_000_000),
        metavar="N",
        help="spin at most N microseconds for what is due (default: 100; 0: sleep at once)",
    )
    parser.add_argument(
        "--reactors",
        type=arguments.whole_number(1, 16),
        default=1,
        metavar="N",
        help="threads for I/O (default: 1)",
    )
    parser.add_argument(
        "--sqpoll",
        action="store_true",
        help="let a thread of the kernel submit the I/O; needs a core of its own for each reactor",
    )
    parser.add_argument(
        "--pin-memory",
        action="store_true",
        help="pin the guest's memory, which saves CPU time; no balloon or hot-unplug in the guest",
    )
    parser.add_argument(
        "--queues",
        type=arguments.whole_number(1, 128),
        default=0,
        metavar="N",
        help="I/O queue pairs of a controller at most (default: 64; over TCP 128)",
    )
    arguments.add_limits(parser)
    parser.add_argument("--serial", help="serial number, up to 20 characters")
    parser.add_argument("--model", help="model name, up to 40 characters")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object when ready, in place of text"
    )
    parser.add_argument(
        "--ready-fd",
        type=arguments.whole_number(0, 1 << 20),
        metavar="N",
        help="write a line to this file descriptor when connections are taken, and close it",
    )
    parser.add_argument(
        "--control",
        type=Path,
        metavar="PATH",
        help="the control socket for `vhostnvme status` and `limit`",
    )


def _add_target(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("NVMe/TCP (docs/fabric.md)")
    group.add_argument(
        "--tcp",
        type=arguments.listen_address,
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="listen there; [IPV6]:PORT too; port 0: any; repeat it for more",
    )
    group.add_argument("--subnqn", type=arguments.subsystem_nqn, metavar="NQN", help="its name")
    group.add_argument(
        "--allow-host",
        type=arguments.nqn,
        action="append",
        default=[],
        metavar="NQN",
        help="a host that may connect (default: none); repeat it for more",
    )
    group.add_argument("--allow-any-host", action="store_true", help="whoever comes may connect")
    group.add_argument("--tls", action="store_true", help="TLS 1.3 only; with --tls-psk-file")
    for name, line in (
        ("tls-psk", "the pre-shared key of the allowed hosts, as `nvme gen-tls-key` writes it"),
        ("dhchap-key", "the allowed hosts prove with DH-HMAC-CHAP that they know this key"),
        ("dhchap-ctrl-key", "and we prove that we know this one"),
    ):
        group.add_argument(f"--{name}-file", type=Path, metavar="FILE", help=line)
    group.add_argument(
        "--referral",
        type=arguments.address,
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="another discovery service that hosts are told of; repeat it for more",
    )
    group.add_argument(
        "--config", type=Path, metavar="FILE", help="several subsystems, keys for each host, …"
    )


def run(args: argparse.Namespace) -> int:
    import asyncio
    from dataclasses import replace

    from vhostnvme.emulation.announcement import Announcement
    from vhostnvme.emulation.service import ServeOptions, serve
    from vhostnvme.native import RuntimeOptions

    _check(args)
    options = ServeOptions(
        devices=tuple(_device(args, socket) for socket in args.socket),
        drive=_drive(args),
        target=_target(args) if args.tcp or args.config else None,
        control=args.control,
    )
    runtime = RuntimeOptions(reactors=args.reactors, sqpoll=args.sqpoll, pin_memory=args.pin_memory)
    if args.poll_us is not None:
        runtime = replace(runtime, poll_us=args.poll_us)
    asyncio.run(serve(options, runtime, Announcement(as_json=args.json, ready_fd=args.ready_fd)))
    return 0


# What --config says itself.
_OF_ONE_SUBSYSTEM = ("subnqn", "allow_host", "allow_any_host", "tls", "tls_psk_file",
                     "dhchap_key_file", "dhchap_ctrl_key_file", "referral")  # fmt: skip
_IN_CONFIG = ("socket", "namespace", "ssd", "state", "persona", "tcp", "serial", "model", "queues",
              *_OF_ONE_SUBSYSTEM)  # fmt: skip


def _check(args: argparse.Namespace) -> None:
    from vhostnvme.errors import ConfigError

    def refuse(names: tuple[str, ...], sentence: str) -> None:
        for name in names:
            if getattr(args, name):
                raise ConfigError(f"--{name.replace('_', '-')} {sentence}")

    if args.config:
        refuse(_IN_CONFIG, "does not go with --config: the file says it all")
    elif not args.socket and not args.tcp:
        raise ConfigError("give --socket DIR/cntrl for VMs, --tcp HOST:PORT for NVMe/TCP, or both")
    elif args.ssd:
        refuse(("namespace",), "does not go with --ssd, which has its own: make one or the other")
        refuse(("tcp",), "does not go with --ssd yet: give --socket DIR/cntrl")
        refuse(("state",), "does not go with --ssd, whose folder has it")
    elif not args.namespace:
        raise ConfigError("give at least one --namespace SPEC, or --ssd DIR")
    if not args.config and not args.tcp:
        refuse(_OF_ONE_SUBSYSTEM, "says nothing without --tcp HOST:PORT")
    if not args.socket:
        refuse(("state", "persona"), "goes with --socket DIR/cntrl")
    if len(set(args.socket)) < len(args.socket):
        raise ConfigError("the same --socket is there twice: each controller has one of its own")
    if not args.socket and arguments.given_limits(args):
        raise ConfigError(
            "limits of all namespaces together go with --socket: put a namespace's own into its"
            " SPEC, as in mem:1G?iops=1000"
        )


def _drive(args: argparse.Namespace) -> DriveSetup:
    from vhostnvme.emulation.drive import DriveSetup
    from vhostnvme.emulation.ssd_opening import SsdSetup
    from vhostnvme.personas import load_persona

    controllers = len(args.socket) or 1
    persona = load_persona(args.persona) if args.persona else None
    if not args.ssd:
        return DriveSetup(
            namespaces=tuple(args.namespace),
            state=args.state,
            controllers=controllers,
            persona=persona,
        )
    return SsdSetup(
        ssd=args.ssd,
        serial=args.serial,
        model=args.model,
        controllers=controllers,
        persona=persona,
    )


def _device(args: argparse.Namespace, socket: Path) -> DeviceOptions:
    from vhostnvme.emulation import DeviceOptions
    from vhostnvme.limits import Limits
    from vhostnvme.native import Doorbells

    return DeviceOptions(
        socket=socket,
        namespaces=(),
        grows=True,
        doorbells=Doorbells[args.doorbells.upper()],
        queues=args.queues,
        serial=args.serial,
        model=args.model,
        limits=Limits(**arguments.given_limits(args)),
    )


def _target(args: argparse.Namespace) -> TargetOptions:
    from vhostnvme.emulation.sockets import serial_of_socket
    from vhostnvme.fabric.config import load_config
    from vhostnvme.fabric.single import Keys, SingleOptions, single_target

    if args.config:
        return load_config(args.config)
    return single_target(
        SingleOptions(
            listen=args.tcp,
            disks=args.namespace,
            tls=args.tls,
            subnqn=args.subnqn,
            serial=args.serial or (serial_of_socket(args.socket[0]) if args.socket else None),
            model=args.model,
            any_host=args.allow_any_host,
            hosts=args.allow_host,
            keys=Keys(
                dhchap=args.dhchap_key_file,
                dhchap_ctrl=args.dhchap_ctrl_key_file,
                tls_psk=args.tls_psk_file,
            ),
            referrals=args.referral,
            queues=args.queues,
        )
    )
