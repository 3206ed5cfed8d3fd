"""Events of the library as sentences for the log."""

from __future__ import annotations

import logging
import os

from vhostnvme.guest.qemu import shared_memory
from vhostnvme.native import Event, EventType

CAPACITY_EXCEEDED = 0x081  # NVMe status: the file system under a sparse file has no space
_MEMORY_ADVICE = "start QEMU with " + " ".join(
    [*shared_memory("SIZE"), "-machine", "memory-backend=mem"]
)


HOST_EVENTS = (EventType.HOST_CONNECTED, EventType.HOST_DISCONNECTED, EventType.HOST_REFUSED)
HOST_LINES_MAX = 20  # a second: who knocks without end shall not fill the log
_TAKEN_OUT = 0x07  # Command Abort Requested: the status of a leg that was told to fail


class LineBound:
    """Lets so many lines a second through, and counts those that it holds back."""

    def __init__(self, lines_max: int) -> None:
        self._lines_max = lines_max
        self._second = 0
        self._lines = 0

    def admit(self, now_s: float) -> tuple[bool, int]:
        """Whether another line may go, and how many have been held back before this second."""
        held = 0
        if int(now_s) != self._second:
            held = max(self._lines - self._lines_max, 0)
            self._second, self._lines = int(now_s), 0
        self._lines += 1
        return self._lines <= self._lines_max, held


def sentence_of(event: Event) -> tuple[int, str]:
    """The log level, and one sentence on what happened and what to do about it."""
    level, sentence = _sentence(event)
    if event.text and event.text not in sentence:
        sentence = f"{sentence}: {event.text}"
    return level, sentence


def _sentence(event: Event) -> tuple[int, str]:
    match event.type:
        case EventType.LOST:
            return logging.WARNING, f"{event.a} events were lost: the log has a gap"
        case EventType.CLIENT_ATTACHED:
            return logging.INFO, "a client has connected"
        case EventType.CLIENT_DETACHED if event.a:
            return logging.WARNING, f"the client is gone ({os.strerror(event.a)})"
        case EventType.CLIENT_DETACHED:
            return logging.INFO, "the client has disconnected"
        case EventType.CONTROLLER_ENABLED:
            return logging.INFO, "the guest's driver has enabled the controller"
        case EventType.CONTROLLER_DISABLED:
            return logging.DEBUG, "the guest's driver has disabled the controller"
        case EventType.CONTROLLER_SHUTDOWN:
            return logging.INFO, "the guest has shut the controller down"
        case EventType.CONTROLLER_FATAL:
            return logging.ERROR, "the controller has stopped with a fatal status"
        case EventType.MEMORY_NOT_SHARED if "memory-backend" in event.text:
            return logging.ERROR, event.text
        case EventType.MEMORY_NOT_SHARED:
            return logging.ERROR, f"the guest's memory is not shared: {_MEMORY_ADVICE}"
        case EventType.BACKEND_ERROR:
            what = "is full" if event.a == CAPACITY_EXCEEDED else "failed"
            return logging.ERROR, f"the storage behind namespace {event.b} {what}"
        case EventType.MESSAGE:
            return logging.INFO, event.text or "a message without text"
        case EventType.CONTROLLER_DESTROYED:
            return logging.DEBUG, "the controller is gone"
        case EventType.REMOTE_ATTACHED | EventType.REMOTE_BACK:
            return logging.INFO, event.text
        case EventType.REMOTE_LOST:
            return logging.WARNING, f"a connection to a remote namespace is lost: {event.text}"
        case EventType.REMOTE_ANA | EventType.REMOTE_RESIZED:
            return logging.WARNING, event.text
        case EventType.REMOTE_REFUSED:
            return logging.ERROR, event.text
        case EventType.LEG_FAILED | EventType.LEG_LOST if event.b == _TAKEN_OUT:
            return logging.INFO, f"a mirror was told to leave a leg out: {event.text}"
        case EventType.LEG_FAILED | EventType.LEG_LOST:
            return logging.WARNING, f"a mirror, {event.text}"
        case EventType.LEG_IN_SYNC:
            return logging.INFO, f"a mirror, {event.text}"
        case EventType.DECISION:
            return logging.DEBUG, "the guest asks for another set of namespaces"
        case EventType.TARGET_DESTROYED:
            return logging.DEBUG, "the target is gone"
        case EventType.HOST_CONNECTED:
            return logging.INFO, event.text or "a host has connected"
        case EventType.HOST_DISCONNECTED:
            return logging.INFO, event.text or "a host has disconnected"
        case EventType.HOST_REFUSED:
            return logging.WARNING, event.text or "a host was refused"
