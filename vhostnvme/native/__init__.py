"""The only package that touches the C library.

Handles are opened by Python and closed by Python, once; a second close does nothing. Whatever is
still open when a runtime is closed, or when the interpreter ends, is closed then, in the right
order. All of it belongs to one thread. A failed call raises `NativeError` with the library's own
sentence.
"""

from vhostnvme.native.controller import Controller
from vhostnvme.native.drive import Decision, DecisionKind, Drive, DriveOptions, PersonaOptions
from vhostnvme.native.library import library_version
from vhostnvme.native.medium import Medium, MediumInfo
from vhostnvme.native.mirror import LegInfo, Mirror, MirrorInfo
from vhostnvme.native.namespace import Namespace
from vhostnvme.native.runtime import Runtime
from vhostnvme.native.target import Subsystem, Target
from vhostnvme.native.types import (
    AnaState,
    ControllerInfo,
    ControllerOptions,
    Doorbells,
    Event,
    EventType,
    HostAccess,
    LegState,
    LimitInfo,
    MirrorOptions,
    NamespaceInfo,
    NamespaceOptions,
    Operation,
    ReactorStats,
    RemoteOptions,
    RuntimeOptions,
    TargetHost,
    TargetInfo,
    TargetLimits,
    ZonedOptions,
)

__all__ = [
    "AnaState",
    "Controller",
    "ControllerInfo",
    "ControllerOptions",
    "Decision",
    "DecisionKind",
    "Doorbells",
    "Drive",
    "DriveOptions",
    "Event",
    "EventType",
    "HostAccess",
    "LegInfo",
    "LegState",
    "LimitInfo",
    "Medium",
    "MediumInfo",
    "Mirror",
    "MirrorInfo",
    "MirrorOptions",
    "Namespace",
    "NamespaceInfo",
    "NamespaceOptions",
    "Operation",
    "PersonaOptions",
    "ReactorStats",
    "RemoteOptions",
    "Runtime",
    "RuntimeOptions",
    "Subsystem",
    "Target",
    "TargetHost",
    "TargetInfo",
    "TargetLimits",
    "ZonedOptions",
    "library_version",
]
