"""The QEMU options that attach a device."""

from __future__ import annotations

import json
from pathlib import Path


def device_arguments(socket: Path) -> list[str]:
    """`-device` in its JSON form: the socket is an object, which the comma form cannot express."""
    device = {"driver": "vfio-user-pci", "socket": {"type": "unix", "path": str(socket)}}
    return ["-device", json.dumps(device)]


def memory_arguments(size: str) -> list[str]:
    """Guest memory of this size (QEMU's notation) that a vfio-user server can reach."""
    return [
        "-m",
        size,
        "-object",
        f"memory-backend-memfd,id=vhostnvme-memory,size={size},share=on",
        "-machine",
        "memory-backend=vhostnvme-memory",
    ]
