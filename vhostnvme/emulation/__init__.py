"""Devices for VMs: a controller, its namespaces, its socket; started and stopped in one place."""

from vhostnvme.emulation.device import Device, DeviceOptions, NamespaceStatus
from vhostnvme.emulation.server import serving

__all__ = ["Device", "DeviceOptions", "NamespaceStatus", "serving"]
