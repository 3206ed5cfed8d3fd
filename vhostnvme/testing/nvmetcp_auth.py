"""DH-HMAC-CHAP of a scripted host (NVMe Base 8.13.5), written from the specification alone.

::

    proof = HostProof(hostnqn, subnqn, host_key)
    status = authenticate(queue, proof)

A check on the library's own: nothing of it is shared.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from vhostnvme.errors import PeerError, ProtocolError
from vhostnvme.testing.nvme import Completion, Sqe, succeeded
from vhostnvme.testing.nvmetcp_fabrics import Fctype, fabrics
from vhostnvme.testing.nvmetcp_queue import TcpQueue

HASHES = {1: "sha256", 2: "sha384", 3: "sha512"}
NULL_GROUP, FFDHE2048 = 0, 1
NEGOTIATE, CHALLENGE, REPLY, SUCCESS1, SUCCESS2, FAILURE2, FAILURE1 = 0, 1, 2, 3, 4, 0xF0, 0xF1
COMMON, DHCHAP = 0, 1
_CDW10 = 0xE9 << 24 | 1 << 16 | 1 << 8


class Refused(PeerError):
    """The target said Failure1; `reason` is its explanation code."""

    def __init__(self, reason: int) -> None:
        super().__init__(f"the target refused the authentication: reason {reason}")
        self.reason = reason


@cache
def ffdhe2048() -> int:
    """The prime of RFC 7919, A.1, by its formula."""
    bits = 1918 + 64
    term = total = 1 << bits
    for divisor in range(1, 400):
        term //= divisor
        total += term
    return 2**2048 - 2**1984 + ((total >> 64) + 560316) * 2**64 - 1


def transformed(secret: bytes, hash_id: int, nqn: str) -> bytes:
    """A secret as it is used: bound to the NQN of whom it belongs to."""
    if hash_id == 0:
        return secret
    return hmac.digest(secret, nqn.encode() + b"NVMe-over-Fabrics", HASHES[hash_id])


def auth_send(length: int, cdw10: int = _CDW10) -> Sqe:
    return fabrics(Fctype.AUTH_SEND, cdw10=cdw10, cdw11=length)


def auth_receive(length: int, cdw10: int = _CDW10) -> Sqe:
    return fabrics(Fctype.AUTH_RECV, cdw10=cdw10, cdw11=length)


@dataclass
class HostProof:
    """One transaction. Keys are transformed ones; `ctrl_key` asks the target for its proof."""

    hostnqn: str
    subnqn: str
    host_key: bytes
    ctrl_key: bytes = b""
    hashes: tuple[int, ...] = (1, 2, 3)
    groups: tuple[int, ...] = (NULL_GROUP, FFDHE2048)
    t_id: int = 1
    s2: int = 7
    hash_id: int = 0
    group: int = 0
    c2: bytes = b""
    _ks: bytes = field(default=b"", repr=False)

    def head(self, kind: int, message: int) -> bytes:
        return struct.pack("<BBHH", kind, message, 0, self.t_id)

    def negotiate(self) -> bytes:
        return (
            self.head(COMMON, NEGOTIATE)
            + bytes([0, 1, DHCHAP, 0, len(self.hashes), len(self.groups)])
            + bytes(self.hashes).ljust(30, b"\0")
            + bytes(self.groups).ljust(30, b"\0")
        )

    def reply(self, challenge: bytes) -> bytes:
        """Answers a Challenge."""
        hl, _, self.hash_id, self.group, dhvlen, s1 = struct.unpack_from("<BBBBHI", challenge, 6)
        c1, peer = challenge[16 : 16 + hl], challenge[16 + hl : 16 + hl + dhvlen]
        value = b""
        if self.group == FFDHE2048:
            exponent = int.from_bytes(os.urandom(32), "big")
            value = pow(2, exponent, ffdhe2048()).to_bytes(256, "big")
            shared = pow(int.from_bytes(peer, "big"), exponent, ffdhe2048()).to_bytes(256, "big")
            self._ks = hashlib.new(HASHES[self.hash_id], shared).digest()
        elif self.group != NULL_GROUP or dhvlen:
            raise ProtocolError(f"the target chose group {self.group}")
        names = self.hostnqn.encode() + b"\0" + self.subnqn.encode()
        r1 = self._response(self.host_key, c1, s1, b"HostHost" + names)
        self.c2 = os.urandom(hl) if self.ctrl_key else bytes(hl)
        asks = bool(self.ctrl_key)
        return (
            self.head(DHCHAP, REPLY)
            + struct.pack("<BBBBHI", hl, 0, asks, 0, len(value), self.s2 if asks else 0)
            + r1
            + self.c2
            + value
        )

    def check(self, success1: bytes) -> None:
        """The target's proof.

        Raises:
            ProtocolError: it is none.
        """
        hl, _, valid = success1[6:9]
        names = self.subnqn.encode() + b"\0" + self.hostnqn.encode()
        proof = self._response(self.ctrl_key, self.c2, self.s2, b"Controller" + names)
        if not valid or success1[16 : 16 + hl] != proof:
            raise ProtocolError("the target has not proved itself")

    def _response(self, key: bytes, challenge: bytes, sequence: int, text: bytes) -> bytes:
        name = HASHES[self.hash_id]
        if self.group != NULL_GROUP:
            challenge = hmac.digest(self._ks, challenge, name)
        fixed = struct.pack("<IHB", sequence, self.t_id, 0)
        return hmac.digest(key, challenge + fixed + text, name)


Spoil = Callable[[int, bytes], bytes]


def send(queue: TcpQueue, message: bytes) -> Completion:
    return queue.command(auth_send(len(message)), message).completion


def receive(queue: TcpQueue, expected: int, length: int = 4096) -> bytes:
    """What the target says.

    Raises:
        Refused: Failure1.
        ProtocolError: not the expected message.
    """
    message = queue.data("Authentication Receive", auth_receive(length), length)
    if message[:2] == bytes([COMMON, FAILURE1]):
        raise Refused(message[7])
    if message[:2] != bytes([DHCHAP, expected]):
        raise ProtocolError(f"message {message[:2].hex()} came instead of {expected:02x}")
    return message


def authenticate(
    queue: TcpQueue, proof: HostProof, spoil: Spoil = lambda number, message: message
) -> None:
    """The whole transaction; spoil: what to make of each message before it is sent.

    Raises:
        Refused: by the target.
        ProtocolError: it does not play by the rules, or has not proved itself.
    """
    succeeded("Authentication Send", send(queue, spoil(NEGOTIATE, proof.negotiate())))
    challenge = receive(queue, CHALLENGE)
    succeeded("Authentication Send", send(queue, spoil(REPLY, proof.reply(challenge))))
    success1 = receive(queue, SUCCESS1)
    if proof.ctrl_key:
        proof.check(success1)
        message = proof.head(DHCHAP, SUCCESS2) + bytes(10)
        succeeded("Authentication Send", send(queue, spoil(SUCCESS2, message)))
