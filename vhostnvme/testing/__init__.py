"""What tests and users share: a vfio-user NVMe host that brings a controller up and drives it."""

from vhostnvme.testing.host import HostFlags, Identity, NvmeHost
from vhostnvme.testing.nvme import CommandFailed, Completion, Sqe, Status
from vhostnvme.testing.queues import Buffer, QueuePair

__all__ = [
    "Buffer",
    "CommandFailed",
    "Completion",
    "HostFlags",
    "Identity",
    "NvmeHost",
    "QueuePair",
    "Sqe",
    "Status",
]
