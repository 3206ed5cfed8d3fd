"""What every C handle has in common: it is open until it is closed, and closes with its context."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

from vhostnvme.errors import NativeError

if TYPE_CHECKING:
    from types import TracebackType

EBADF = 9


class Handle(ABC):
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

    @abstractmethod
    def close(self) -> None:
        """Gives the handle back; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
