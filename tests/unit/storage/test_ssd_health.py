"""When an SSD is failing, and when it is not any more: each rule at both sides of its bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vhostnvme.native import MediumInfo
from vhostnvme.storage.ssd_health import HealthOptions, SsdHealth

NONE = MediumInfo(commands=0, errors=0, slow=0, slow_ns=0, inflight=0, oldest_ns=0)
OPTIONS = HealthOptions(window_s=60, hang_s=5, clear_s=300)


class Story:
    """An SSD second by second."""

    def __init__(self, options: HealthOptions = OPTIONS) -> None:
        self.now = 1000.0
        self.info = NONE
        self.health = SsdHealth(options, self.now)

    def second(
        self,
        commands: int = 0,
        *,
        errors: int = 0,
        slow: int = 0,
        slow_s: float = 0.0,
        oldest_s: float = 0.0,
        looking_s: float = 0.0,
        times: int = 1,
    ) -> str:
        """So many more in each of so many seconds. Answers the reason."""
        for _ in range(times):
            self.now += 1
            before = self.info
            self.info = replace(
                before,
                commands=before.commands + commands,
                errors=before.errors + errors,
                slow=before.slow + slow,
                slow_ns=before.slow_ns + round(slow * slow_s * 1e9),
                inflight=1 if oldest_s else 0,
                oldest_ns=round(oldest_s * 1e9),
            )
            self.health.see(self.now, self.info, looking_s)
        return self.health.reason


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_healthy_one_is_not_marked(story: Story) -> None:
    assert story.second(5000, times=600) == ""
    assert story.second(0, times=600) == ""
    assert not story.health.failing


def test_a_single_error_does_not_mark(story: Story) -> None:
    assert story.second(1, errors=1) == ""
    assert story.second(100, times=30) == ""


def test_errors_of_a_busy_one(story: Story) -> None:
    assert story.second(20, times=58) == ""
    assert story.second(20, errors=9) == ""
    assert story.second(20, errors=3) == "12 of 1,200 commands within 60 s ended with an error"
    assert story.health.failing


def test_fewer_than_the_share_do_not_mark(story: Story) -> None:
    assert story.second(1000, errors=9, times=60) == ""
    assert story.second(1000, errors=10, times=59) == ""
    assert story.second(1000, errors=70) == "660 of 60,000 commands within 60 s ended with an error"


def test_errors_of_one_that_is_little_used(story: Story) -> None:
    assert story.second(1, errors=1) == ""
    assert story.second(1, errors=0) == ""
    assert story.second(1, errors=0) == ""
    assert story.second(1, errors=1) == ""
    assert story.second(1, errors=1) == "3 of 5 commands within 5 s ended with an error"


def test_errors_are_forgotten_with_the_window(story: Story) -> None:
    for _ in range(10):
        assert story.second(1, errors=1) == ""
        assert story.second(times=30) == ""
        assert story.second(1, errors=1) == ""
        assert story.second(times=60) == ""


def test_slow_commands(story: Story) -> None:
    assert story.second(1, slow=1, slow_s=2.0, times=4) == ""
    assert story.second(1, slow=1, slow_s=3.5) == (
        "5 of 5 commands within 5 s took 2.3 s on average"
    )


def test_a_busy_one_may_be_slow(story: Story) -> None:
    """Its queues are long, and it gets on."""
    assert story.second(32, slow=32, slow_s=4.0, times=120) == ""
    assert "took 4.0 s on average" in story.second(10, slow=10, slow_s=4.0, times=30)


def test_a_few_slow_ones_among_many_do_not_mark(story: Story) -> None:
    assert story.second(10, times=10) == ""
    assert story.second(1, slow=1, slow_s=1.5, times=9) == ""


def test_a_silent_one_hangs(story: Story) -> None:
    story.second(100)
    assert story.second(oldest_s=1.0) == ""
    assert story.second(oldest_s=2.0) == ""
    assert story.second(oldest_s=3.0) == ""
    assert story.second(oldest_s=4.0) == ""
    assert story.second(oldest_s=5.0) == "commands are under way, and none has ended for 5.0 s"


def test_one_command_that_hangs_among_others_has_more_time(story: Story) -> None:
    for second in range(1, 15):
        assert story.second(100, oldest_s=float(second)) == ""
    assert story.second(100, oldest_s=15.0) == "a command has not ended after 15.0 s"


def test_an_idle_second_is_no_silence(story: Story) -> None:
    assert story.second(times=100) == ""
    assert story.second(oldest_s=0.5) == ""
    assert story.second(oldest_s=1.5) == ""


def test_a_look_that_hangs(story: Story) -> None:
    assert story.second(looking_s=14.9) == ""
    assert story.second(looking_s=15.0) == "a read of its label has not ended after 15.0 s"


def test_looks_that_fail(story: Story) -> None:
    story.health.looked(story.now, "cannot look at what is on SSD ssd0: Input/output error")
    assert story.second(times=61) == ""
    story.health.looked(story.now, "cannot look at what is on SSD ssd0: Input/output error")
    assert story.second(times=5) == ""
    story.health.looked(story.now)
    story.health.looked(story.now, "cannot look at what is on SSD ssd0: Input/output error")
    assert story.second() == "cannot look at what is on SSD ssd0: Input/output error"


def test_it_stays_marked_until_it_was_fine_for_long(story: Story) -> None:
    reason = story.second(10, errors=10)
    assert reason == "10 of 10 commands within 1 s ended with an error"
    assert story.second(100, times=250) == reason
    assert story.second(100, errors=1) == reason  # not enough to mark, but enough to stay
    assert story.second(100, times=299) == reason
    assert story.second(100) == ""
    assert not story.health.failing


def test_what_marked_it_once_does_not_mark_it_again(story: Story) -> None:
    short = Story(replace(OPTIONS, clear_s=10))
    assert short.second(10, errors=10) != ""
    assert short.second(times=9) != ""
    assert short.second() == ""
    assert short.second(times=50) == ""
    assert short.second(3, errors=3) == "3 of 3 commands within 51 s ended with an error"


def test_a_hang_is_not_cleared_while_it_lasts(story: Story) -> None:
    for second in range(1, 400):
        story.second(oldest_s=float(second))
    assert story.health.failing
    assert story.second(5, slow=5, slow_s=400.0) != ""
    assert story.second(times=59) != ""  # the slow ones are in the window still
    assert story.second(times=299) != ""
    assert story.second() == ""


def test_looks_that_fail_hold_the_mark(story: Story) -> None:
    assert story.second(10, errors=10) != ""
    for _ in range(100):
        assert story.second(times=5) != ""
        story.health.looked(story.now, "it cannot be read")
    assert "10 of 10" in story.second(times=299)
    assert story.second(times=2) == ""
