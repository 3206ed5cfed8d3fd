"""The `vhostnvme` command: finds the subcommand's file, and turns errors into one sentence."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from vhostnvme import __version__
from vhostnvme.cli.verbs import add_card
from vhostnvme.errors import ConfigError, VhostNvmeError

EXIT_FAILED = 1
EXIT_USAGE = 2

# Name, the module with add_arguments(parser) and run(args) -> int, and one line of help.
# Only the module of the command that is asked for is imported.
COMMANDS = (
    ("serve", "vhostnvme.cli.serve", "serve namespaces to a VM, over NVMe/TCP, or both"),
    ("status", "vhostnvme.cli.status", "show what a running server does"),
    ("limit", "vhostnvme.cli.limit", "limit a running server, or one of its namespaces"),
    ("drive", "vhostnvme.cli.drive", "change the namespaces of a server while its guests run"),
    ("persona", "vhostnvme.cli.persona", "list and check the drives that ours can look like"),
    ("discover", "vhostnvme.cli.discover", "list what an NVMe/TCP discovery service offers"),
    ("identify", "vhostnvme.cli.identify", "show what a controller says of itself"),
    ("card", "vhostnvme.cli.card", "run a card of the cluster, check its file, show how it is"),
    ("ssd", "vhostnvme.cli.ssd", "show the SSDs of a card"),
    ("namespace", "vhostnvme.cli.namespace", "list, create, copy, resize, delete namespaces"),
    ("device", "vhostnvme.cli.device", "list, create, delete, adopt the devices of VMs"),
    ("vm", "vhostnvme.cli.vm", "list the VMs of a card, delete all that one has"),
    ("cluster", "vhostnvme.cli.cluster", "show the cards of the cluster, or forget one"),
    ("boot", "vhostnvme.cli.boot", "boot a guest with emulated SSDs, for a command or a console"),
    ("demo", "vhostnvme.cli.demo", "boot a guest, run fio with verification, print a table"),
    ("demo-cluster", "vhostnvme.cli.demo_cluster", "give a VM a disk on another card, and back"),
    ("perf", "vhostnvme.cli.perf", "put load on NVMe servers, by vfio-user or NVMe/TCP"),
    ("lab", "vhostnvme.cli.lab", "make several hosts on this machine, each with a card"),
    ("simulate", "vhostnvme.cli.simulate", "run seeded histories of a cluster, with faults"),
    ("firmware", "vhostnvme.cli.firmware", "make a firmware image for an emulated SSD"),
    ("bench", "vhostnvme.cli.bench", "compare with QEMU's own devices in one guest"),
)


def make_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser; of the subcommands only `command` gets its arguments."""
    parser = argparse.ArgumentParser(
        prog="vhostnvme",
        description="NVMe SSDs for VMs, from a program.",
        epilog="Exit codes: 0, 1 (failed), 2 (usage). VHOSTNVME_DEBUG=1 shows tracebacks.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vhostnvme {__version__}")
    add_card(parser)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module, line in COMMANDS:
        subparser = subparsers.add_parser(name, help=line, description=line, allow_abbrev=False)
        if name == command:
            importlib.import_module(module).add_arguments(subparser)
    return parser


def command_of(arguments: Sequence[str]) -> str | None:
    """The first word that is no option, nor what belongs to `--card`."""
    words = iter(arguments)
    for word in words:
        if word == "--card":
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def run(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit code."""
    modules = {name: module for name, module, _ in COMMANDS}
    command = command_of(arguments)
    debug = bool(os.environ.get("VHOSTNVME_DEBUG"))
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if debug else logging.INFO,
        format="vhostnvme: %(message)s",
    )
    try:
        args = make_parser(command).parse_args(arguments)
        code: int = importlib.import_module(modules[args.command]).run(args)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_FAILED
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter's own flush must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (VhostNvmeError, OSError) as error:
        if debug:
            raise
        sys.stderr.write(f"vhostnvme: {error}\n")
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
    return code
