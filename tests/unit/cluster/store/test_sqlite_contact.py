"""Who may say that a lease has ended, and when; times in made-up nanoseconds."""

from __future__ import annotations

import pytest

from vhostnvme.cluster.store.sqlite_contact import Contact
from vhostnvme.cluster.store.sqlite_rows import LeaseRow

S = 1_000_000_000
LEASE = LeaseRow(id=1, ttl_ns=10 * S, ends_ns=100 * S, boot="now")


def in_touch(begin_s: float, end_s: float, step_s: float = 0.1) -> Contact:
    contact = Contact()
    touch(contact, begin_s, end_s, step_s)
    return contact


def touch(contact: Contact, begin_s: float, end_s: float, step_s: float = 0.1) -> None:
    for step in range(round((end_s - begin_s) / step_s) + 1):
        contact.made(round((begin_s + step * step_s) * S))


def ended(contact: Contact, now_s: float, lease: LeaseRow = LEASE) -> bool:
    return contact.has_ended(lease, round(now_s * S), "now")


def test_the_clock_and_a_whole_time_of_contact() -> None:
    assert not ended(in_touch(80, 99.9), 99.9)
    assert ended(in_touch(80, 100), 100)
    assert not ended(in_touch(95, 100), 100)
    assert not ended(in_touch(95, 104.9), 104.9)
    assert ended(in_touch(95, 105), 105)
    assert not ended(Contact(), 1000)


def test_after_the_store_was_away_it_begins_anew() -> None:
    contact = in_touch(80, 99)
    contact.lost()
    assert not ended(contact, 100)
    touch(contact, 200, 209)
    assert not ended(contact, 209)
    touch(contact, 209, 210)
    assert ended(contact, 210)


@pytest.mark.parametrize("pause_s", [3, 30, 3000])
def test_after_a_long_pause_too(pause_s: float) -> None:
    """The client was stopped, or its host asleep, and the file may have been away as well."""
    contact = in_touch(80, 95)
    back_s = 95 + pause_s
    touch(contact, back_s, back_s + 9.8)
    assert not ended(contact, max(100, back_s + 9.8))
    touch(contact, back_s + 9.8, back_s + 10)
    assert ended(contact, max(100, back_s + 10))


def test_short_pauses_do_not_matter_however_many() -> None:
    assert ended(in_touch(50, 100, step_s=1), 100)
    assert ended(in_touch(50, 100, step_s=2.5), 100)
    assert not ended(in_touch(50, 101, step_s=3), 101)


def test_a_short_lease_bears_the_time_between_two_looks() -> None:
    lease = LeaseRow(id=1, ttl_ns=S // 2, ends_ns=100 * S, boot="now")
    assert ended(in_touch(90, 100, step_s=1), 100, lease)
    assert not ended(in_touch(90, 100.8, step_s=1.2), 100.8, lease)


def test_pauses_that_get_shorter_and_shorter_have_a_bound() -> None:
    contact, now_s = in_touch(80, 90), 90.0
    for number in range(300):
        now_s += 1 + (300 - number) / 1000
        contact.made(round(now_s * S))
    assert len(contact._pauses) <= 64
    assert ended(contact, now_s)


def test_a_lease_of_another_start_of_the_host_goes_by_contact_alone() -> None:
    lease = LeaseRow(id=1, ttl_ns=10 * S, ends_ns=10**9 * S, boot="before")
    assert not ended(in_touch(5, 14), 14, lease)
    assert ended(in_touch(5, 15), 15, lease)


def test_a_clock_that_goes_back_is_another_clock() -> None:
    contact = in_touch(200, 250)
    touch(contact, 100, 109)
    assert not ended(contact, 109)
    touch(contact, 109, 110)
    assert ended(contact, 110)
