"""`vhostnvme demo-cluster`: a VM gets its disk from another card, and gives it back."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "As root each card has a host of its own, in a network namespace (docs/lab.md); else they"
        " share this machine's loopback. Takes about a minute, and 2.5G in $TMPDIR or /var/tmp."
    )
    parser.add_argument(
        "--loopback", action="store_true", help="no network namespaces, also when root"
    )


def run(args: argparse.Namespace) -> int:
    from vhostnvme.emulation.demo_cluster import demo_cluster

    return demo_cluster(loopback=args.loopback)
