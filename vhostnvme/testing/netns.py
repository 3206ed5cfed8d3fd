"""Two network namespaces and a cable between them that can be cut: what a network does to tests.

    with Cable() as cable:
        server = ServerProcess(..., prefix=cable.right.prefix)
        cable.drop("right")              # what `right` sends is lost; it still hears `left`
        cable.heal()

The namespaces live as long as the object, or the process that made it, whatever ends it. Uses `ip`,
`unshare` and `nsenter`; whoever is not root gets a user namespace around both.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vhostnvme.closable import Closable
from vhostnvme.errors import PeerError

__all__ = ["Cable", "End"]

Side = Literal["left", "right"]
LINK = "cable"
TIMEOUT_S = 10.0
_NOBODY = "02:00:00:00:00:ff"


@dataclass(frozen=True, slots=True)
class End:
    """One namespace: its addresses, and the words that start a command in it."""

    address: str
    address6: str
    mac: str
    prefix: tuple[str, ...]

    def run(self, *words: str) -> str:
        """Runs a command in the namespace and returns what it wrote.

        Raises:
            PeerError: it is missing, failed, or did not end within TIMEOUT_S.
        """
        return _run([*self.prefix, *words])


class Cable(Closable):
    """The namespaces `left` and `right`, each with a loopback device and its end of a veth pair.

    Packets are lost without a word to either side: a sender is given a wrong hardware address for
    the other end, which then takes no notice of them. Addresses are fixed, so nothing is asked for.

    Raises:
        PeerError: this machine does not let the user make network namespaces.
    """

    def __init__(self) -> None:
        user = ["--user", "--map-root-user"] if os.geteuid() != 0 else []
        self._holders: list[subprocess.Popen[bytes]] = []
        try:
            first = self._hold(["unshare", *user, "--net"])
            self.left = self._end(first, 1, bool(user))
            second = self._hold([*self.left.prefix, "unshare", "--net"])
            self.right = self._end(second, 2, bool(user))
            self._connect(second)
        except BaseException:
            self.close()
            raise

    def _hold(self, words: Sequence[str]) -> int:
        """Starts a process whose namespace is a new one, and which ends with its standard input."""
        command = [*words, "sh", "-c", "echo && exec cat"]
        try:
            holder = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except FileNotFoundError:
            raise PeerError(f"Network namespaces need the program '{words[0]}'.") from None
        self._holders.append(holder)
        assert holder.stdout is not None and holder.stderr is not None
        if not holder.stdout.readline():
            said = holder.stderr.read().decode(errors="replace").strip()
            raise PeerError(f"A network namespace cannot be made here: {said}.")
        return holder.pid

    def _end(self, pid: int, number: int, user: bool) -> End:
        inside = ["--user", "--preserve-credentials"] if user else []
        return End(
            address=f"10.77.0.{number}",
            address6=f"fd77::{number}",
            mac=f"02:00:00:00:00:0{number}",
            prefix=("nsenter", f"--target={pid}", *inside, "--net", "--"),
        )

    def _connect(self, right_pid: int) -> None:
        left, right = self.left, self.right
        left.run(
            *f"ip link add {LINK} address {left.mac} type veth".split(),
            *f"peer name {LINK} address {right.mac} netns {right_pid}".split(),
        )
        for end in (left, right):
            end.run(*"ip link set lo up".split())
            end.run(*f"ip address add {end.address}/24 dev {LINK}".split())
        self.up()

    def drop(self, side: Side) -> None:
        """What this side sends is lost from now on."""
        self._point(side, _NOBODY)

    def cut(self) -> None:
        """What either side sends is lost from now on."""
        self.drop("left")
        self.drop("right")

    def heal(self) -> None:
        """Nothing is lost any more."""
        self._point("left", self.right.mac)
        self._point("right", self.left.mac)

    def down(self) -> None:
        """The cable is pulled: both sides notice, and what they send fails."""
        for end in (self.left, self.right):
            end.run(*f"ip link set {LINK} down".split())

    def up(self) -> None:
        """The cable is in, and whole."""
        for end in (self.left, self.right):
            end.run(*f"ip link set {LINK} up".split())
            # Linux forgets addresses of this family when the cable is pulled.
            end.run(*f"ip address replace {end.address6}/64 dev {LINK} nodad".split())
        self.heal()

    def _point(self, side: Side, mac: str) -> None:
        end, other = (self.left, self.right) if side == "left" else (self.right, self.left)
        for address in (other.address, other.address6):
            end.run(*f"ip neigh replace {address} lladdr {mac} dev {LINK} nud permanent".split())

    def close(self) -> None:
        """The namespaces go when the last process in them has gone. May be called again."""
        for holder in reversed(self._holders):
            holder.kill()
            holder.communicate(timeout=TIMEOUT_S)
        self._holders.clear()


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, text=True, timeout=TIMEOUT_S
        )
    except FileNotFoundError:
        raise PeerError(f"Network namespaces need the program '{command[0]}'.") from None
    except subprocess.TimeoutExpired:
        raise PeerError(f"'{' '.join(command)}' did not end within {TIMEOUT_S:g} s.") from None
    if done.returncode != 0:
        raise PeerError(f"'{' '.join(command)}' failed: {done.stderr.strip()}.")
    return done.stdout
