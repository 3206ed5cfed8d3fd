"""The loaded library, and the way from its return codes to exceptions."""

from __future__ import annotations

import os
from typing import Any

from vhostnvme._native import ffi, lib
from vhostnvme.errors import NativeError

__all__ = ["check", "ffi", "lib", "library_version", "native_text", "text_of"]


def text_of(pointer: Any) -> str:
    """A C string as text; "" for NULL."""
    if pointer == ffi.NULL:
        return ""
    raw: bytes = ffi.string(pointer)
    return raw.decode("utf-8", "replace")


def native_text(text: str | None) -> Any:
    """A C string, which lives as long as the answer is kept; NULL for None."""
    return ffi.NULL if text is None else ffi.new("char[]", text.encode("ascii", "replace"))


def check(code: int) -> int:
    """Passes a result of 0 or more through.

    Raises:
        NativeError: `code` is negative: an errno, described by vn_last_error().
    """
    if code >= 0:
        return code
    sentence = text_of(lib.vn_last_error())
    raise NativeError(-code, sentence or os.strerror(-code))


def library_version() -> str:
    return text_of(lib.vn_version())
