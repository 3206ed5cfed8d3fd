"""Every event is one sentence."""

from __future__ import annotations

import logging

import pytest

from vhostnvme.emulation.events import LineBound, sentence_of
from vhostnvme.native import Event, EventType


@pytest.mark.parametrize("kind", list(EventType))
def test_every_event_has_a_sentence(kind: EventType) -> None:
    _, sentence = sentence_of(Event(kind, a=5, b=1, text="the library's words"))
    assert sentence
    assert "\n" not in sentence
    if kind not in (EventType.LOST,):
        assert "the library's words" in sentence


def test_memory_that_is_not_shared_says_what_to_do() -> None:
    level, sentence = sentence_of(Event(EventType.MEMORY_NOT_SHARED))
    assert level == logging.ERROR
    assert "share=on" in sentence
    assert "memory-backend-memfd" in sentence
    told = "the guest's memory is not shared: give QEMU -object memory-backend-memfd,share=on"
    assert sentence_of(Event(EventType.MEMORY_NOT_SHARED, text=told))[1] == told


def test_a_lost_client_says_why() -> None:
    assert "Connection reset" in sentence_of(Event(EventType.CLIENT_DETACHED, a=104))[1]


def test_a_failed_storage_is_named_and_a_full_one_told_apart() -> None:
    failed = sentence_of(Event(EventType.BACKEND_ERROR, a=0x280, b=3))[1]
    assert failed == "the storage behind namespace 3 failed"
    full = sentence_of(Event(EventType.BACKEND_ERROR, a=0x081, b=3))[1]
    assert full == "the storage behind namespace 3 is full"


def test_who_knocks_without_end_does_not_fill_the_log() -> None:
    bound = LineBound(3)
    assert [bound.admit(7.5) for _ in range(5)] == [(True, 0)] * 3 + [(False, 0)] * 2
    assert bound.admit(8.1) == (True, 2)
    assert bound.admit(9.0) == (True, 0)
