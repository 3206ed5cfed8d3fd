"""What a negative code of the host or the load generator means, as an exception."""

from __future__ import annotations

import errno
import os

from vhostnvme.errors import NativeError, PeerError, ProtocolError
from vhostnvme.native.library import lib, text_of

__all__ = ["PeerTimeout", "check"]

_GONE = {errno.ENOTCONN, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE}


class PeerTimeout(PeerError, TimeoutError):
    """The server or controller did not do in time what it was asked for."""


def check(code: int) -> None:
    """Raises what a negative code means.

    Raises:
        PeerTimeout: something did not happen in time.
        PeerError: the server is not there or has gone.
        ProtocolError: the server broke the protocol.
        NativeError: everything else, with its errno; also what the server itself answered.
    """
    if code >= 0:
        return
    sentence = text_of(lib.vn_host_error()) or os.strerror(-code)
    if -code == errno.ETIMEDOUT:
        raise PeerTimeout(sentence)
    if -code in _GONE:
        raise PeerError(sentence)
    if -code == errno.EPROTO:
        raise ProtocolError(sentence)
    raise NativeError(-code, sentence)
