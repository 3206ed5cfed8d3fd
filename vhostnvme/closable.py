"""What is open until it is closed, and closes with its context."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Closable(ABC):
    """`with` closes it at the end, however that comes."""

    @abstractmethod
    def close(self) -> object:
        """Gives back what it holds; a second call does nothing. `with` ignores the answer."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
