"""What every C handle has in common: it is open until it is closed, and closes with its context."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from vhostnvme.closable import Closable
from vhostnvme.errors import NativeError

if TYPE_CHECKING:
    from vhostnvme.native.runtime import Runtime

EBADF = 9
DETACH_WAIT_MS = 100  # for commands in flight, when a namespace is taken away


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


class ReactorHandle(Handle):
    """Lives on a reactor: asked for its end it drains first, and an event tells when it is gone."""

    id: int  # by which events name it

    def __init__(self, runtime: Runtime, what: str) -> None:
        super().__init__(what)
        self._runtime = runtime
        self._closing = False

    @property
    def handle(self) -> Any:
        """The C handle.

        Raises:
            NativeError: it has been closed.
        """
        if self._closing:
            raise NativeError(EBADF, f"the {self._what} has been closed")
        return super().handle

    @property
    def gone(self) -> bool:
        """True when the library has freed it."""
        return self._handle is None

    def close(self) -> None:
        """Drains and frees; blocks for a few seconds at worst."""
        if self._begin_close():
            self._runtime.block_until_destroyed(self)

    async def aclose(self) -> None:
        """The same without blocking the event loop."""
        if self._begin_close():
            await self._runtime.wait_destroyed(self)

    def _begin_close(self) -> bool:
        """Asks for the end, once; False when there is nothing left to wait for."""
        if self._handle is None:
            return False
        if not self._closing:
            self._destroy()
            self._closing = True
        return True

    @abstractmethod
    def _destroy(self) -> None:
        """Asks the library for its end."""

    def forget(self) -> None:
        """The library has freed the handle."""
        self._handle = None

    def __str__(self) -> str:
        return f"{self._what} {self.id}"
