"""The exceptions of vhostnvme.

::

    VhostNvmeError             everything this package raises on purpose
    ├── ConfigError            what the user wrote is wrong: a SPEC, an option, a file (exit code 2)
    ├── NativeError (OSError)  the C library refused; carries errno
    ├── ProtocolError          a peer spoke NVMe, vfio-user or the agent's protocol wrongly
    ├── PeerError              a peer is not there, went away or said no
    ├── GuestError             a guest did not boot, died, or did not answer in time
    ├── ProvisionError         QEMU, the kernel or the guest image could not be had
    ├── LabError               hosts in network namespaces could not be made, changed or removed
    └── ClusterError           the pool refused
        ├── StaleEpoch
        ├── LeaseLost
        ├── NoSpace
        └── StoreError         the cluster store is of another version, damaged, or refuses
            ├── Compacted      the changes since a revision are not kept any more
            └── StoreUnavailable  it cannot be reached now: the caller tries again
                └── Disconnected  a watch has ended: the caller watches again

A message is one sentence: what failed, on what, what to do.
"""

from __future__ import annotations


class VhostNvmeError(Exception):
    """Base of all errors that are meant to be read by a person."""


class ConfigError(VhostNvmeError):
    """Wrong input by the user; the command line exits with 2."""


class NativeError(VhostNvmeError, OSError):
    """A call into the C library failed.

    Args:
        errno: the positive errno.
        message: one sentence from the library.
    """

    def __init__(self, errno: int, message: str) -> None:
        OSError.__init__(self, errno, message)

    def __str__(self) -> str:
        return str(self.strerror)


class ProtocolError(VhostNvmeError):
    """A peer broke a protocol."""


class PeerError(VhostNvmeError):
    """A peer could not be reached, went away or refused."""


class GuestError(VhostNvmeError):
    """A guest did not boot, died or did not answer in time."""


class ProvisionError(VhostNvmeError):
    """Something that a guest needs could not be fetched or built."""


class LabError(VhostNvmeError):
    """A lab of hosts in network namespaces could not be made, changed or removed."""


class ClusterError(VhostNvmeError):
    """The pool of cards refused or could not answer."""


class StaleEpoch(ClusterError):
    """An owner acted on an ownership that has moved on."""


class LeaseLost(ClusterError):
    """This card's membership has run out."""


class NoSpace(ClusterError):
    """No card has the space that was asked for."""


class StoreError(ClusterError):
    """The cluster store is not what it should be, or refuses; trying again does not help."""


class StoreUnavailable(StoreError):
    """The store cannot be reached for now; the caller tries again.

    Args:
        message: one sentence.
        unknown: whether what was asked for may have been done, or may be done yet.
    """

    def __init__(self, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown


class Disconnected(StoreUnavailable):
    """A watch has ended; the caller watches again, from the last revision that it has heard of."""


class Compacted(StoreError):
    """A watch asks for changes that the store does not keep any more; the caller lists anew.

    Args:
        revision: the watch asked for the changes after this one.
    """

    def __init__(self, revision: int) -> None:
        super().__init__(
            f"the store does not keep the changes after revision {revision} any more: list anew"
        )
        self.revision = revision
