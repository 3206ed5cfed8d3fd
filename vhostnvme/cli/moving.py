"""Waits, with progress for people, until what moves is where it shall be."""

from __future__ import annotations

import argparse
import sys
import time

from vhostnvme.cli.verbs import ask
from vhostnvme.control.card import (
    CARD_STATUS,
    NAMESPACE_LIST,
    CardStatus,
    ListParams,
    NamespaceInfo,
)
from vhostnvme.control.device import NoParams
from vhostnvme.errors import ClusterError

LOOK_S = 0.5


def wait_for_move(args: argparse.Namespace, namespace: NamespaceInfo) -> NamespaceInfo:
    """Until no copy of it is on its way.

    Raises:
        ClusterError: it has been deleted, or cancelled, meanwhile.
    """
    said = ""
    try:
        while any(copy.moving for copy in namespace.copies):
            states = sorted(f"{copy.card}/{copy.ssd} {copy.state}" for copy in namespace.copies)
            if (line := ", ".join(states)) != said:
                sys.stderr.write(f"namespace {namespace.uuid}: {line}\n")
                said = line
            time.sleep(LOOK_S)
            found = ask(args, NAMESPACE_LIST, ListParams(), list[NamespaceInfo])
            now = next((each for each in found if each.uuid == namespace.uuid), None)
            if now is None:
                raise ClusterError(f"namespace {namespace.uuid} has been deleted meanwhile")
            namespace = now
    except KeyboardInterrupt:
        sys.stderr.write("it goes on; --cancel stops it\n")
        raise
    return namespace


def wait_for_drain(args: argparse.Namespace, left: int) -> int:
    """Until nothing lies on the card any more; answers what is left, which --cancel may leave."""
    said = -1
    while left:
        if left != said:
            sys.stderr.write(f"{left} namespaces are still there\n")
            said = left
        time.sleep(LOOK_S)
        status = ask(args, CARD_STATUS, NoParams(), CardStatus)
        left = status.spaces
        if not status.draining:
            break
    return left
