"""What every C handle has in common: it is open until it is closed, and closes with its context."""

from __future__ import annotations

from typing import Any

from vhostnvme.closable import Closable
from vhostnvme.errors import NativeError

EBADF = 9


class Handle(Closable):
    """A C handle; `what` is its name in messages."""

    def __init__(self, what: str) -> None:
        self._handle: Any = None
        self._what = what

    @property
    def handle(self) -> Any:
        """The C handle.

        Raises:
            NativeError: it has been closed.
        """
        if self._handle is None:
            raise NativeError(EBADF, f"the {self._what} has been closed")
        return self._handle

    @property
    def closed(self) -> bool:
        return self._handle is None
