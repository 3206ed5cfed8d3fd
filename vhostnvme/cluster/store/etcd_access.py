"""What opens the door of an etcd: the files of a TLS connection, and a user with a password."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vhostnvme.errors import ConfigError
from vhostnvme.secret_files import read_small

__all__ = ["EtcdAccess", "Secrets"]

_FILE_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdAccess:
    """Names of files; TLS is used when there is a `ca`.

    Attributes:
        ca: certificates of the authorities that the server's is signed by, in PEM, as all here.
        cert, key: what this client shows; none, or both.
        credentials: a file with USER:PASSWORD; with `user`, of the password alone.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    user: str | None = None
    credentials: Path | None = None

    def read(self) -> Secrets:
        """What is in the files, read once.

        Raises:
            ConfigError: one cannot be read, others may read a secret one too, or one is missing.
        """
        if (self.cert is None) != (self.key is None):
            raise ConfigError("a client's certificate and its key go together: give both files")
        if self.cert is not None and self.ca is None:
            raise ConfigError("a certificate is shown over TLS alone: give the authority's file")
        if self.user is not None and self.credentials is None:
            raise ConfigError(f"user {self.user} of the store has no password: give its file")
        return Secrets(
            ca=_read(self.ca),
            cert=_read(self.cert),
            key=_read(self.key, secret=True),
            user=self._user(),
        )

    def _user(self) -> tuple[str, str] | None:
        data = _read(self.credentials, secret=True)
        if data is None:
            return None
        text = data.decode(errors="replace").rstrip("\r\n")
        if self.user is not None:
            return self.user, text
        user, separator, password = text.partition(":")
        if not separator or not user or "\n" in text:
            raise ConfigError(f"{self.credentials} does not hold one line with USER:PASSWORD")
        return user, password


class Secrets:
    """What the files held; nothing of it is in a representation."""

    def __init__(
        self,
        *,
        ca: bytes | None,
        cert: bytes | None,
        key: bytes | None,
        user: tuple[str, str] | None,
    ) -> None:
        self.ca, self.cert, self.key, self.user = ca, cert, key, user


def _read(path: Path | None, *, secret: bool = False) -> bytes | None:
    return None if path is None else read_small(path, _FILE_BYTES_MAX, secret=secret)
