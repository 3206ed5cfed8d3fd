"""`vhostnvme serve`: one controller, without a card, until a signal comes."""

from __future__ import annotations

import argparse
from pathlib import Path

from vhostnvme.cli import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--socket",
        type=Path,
        required=True,
        metavar="DIR/cntrl",
        help="the vfio-user socket; DIR is made (mode 0700) when it is missing",
    )
    parser.add_argument(
        "--namespace",
        type=arguments.spec,
        action="append",
        required=True,
        metavar="SPEC",
        help="file:PATH[?size=10G], mem:1G or null:1T; repeat it for more namespaces",
    )
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
        "--queues",
        type=arguments.whole_number(1, 64),
        default=0,
        metavar="N",
        help="I/O queue pairs at most (default: 64)",
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
        help="write a line to this file descriptor when the socket takes connections, and close it",
    )


def run(args: argparse.Namespace) -> int:
    import asyncio
    from dataclasses import replace

    from vhostnvme.emulation import DeviceOptions
    from vhostnvme.emulation.service import Announcement, serve
    from vhostnvme.limits import Limits
    from vhostnvme.native import Doorbells, RuntimeOptions

    device = DeviceOptions(
        socket=args.socket,
        namespaces=tuple(args.namespace),
        doorbells=Doorbells[args.doorbells.upper()],
        queues=args.queues,
        serial=args.serial,
        model=args.model,
        limits=Limits(**arguments.given_limits(args)),
    )
    runtime = RuntimeOptions(reactors=args.reactors, sqpoll=args.sqpoll)
    if args.poll_us is not None:
        runtime = replace(runtime, poll_us=args.poll_us)
    asyncio.run(serve(device, runtime, Announcement(as_json=args.json, ready_fd=args.ready_fd)))
    return 0
