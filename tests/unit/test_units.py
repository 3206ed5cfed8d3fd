"""Sizes and durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhostnvme.errors import ConfigError
from vhostnvme.units import format_duration_us, format_size, parse_duration_us, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("1", 1), ("4k", 4096), ("3M", 3 << 20), ("1G", 1 << 30), ("2T", 2 << 40)],
)
def test_sizes_are_powers_of_two(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "G", "1.5G", "-1", "1GB", "٣", "0", "9" * 20, " 1G"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_size(text)


@given(st.integers(1, (1 << 63) - 1))
def test_formatted_sizes_parse_to_themselves(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


@given(st.integers(0, 10**11))
def test_formatted_durations_parse_to_themselves(duration_us: int) -> None:
    assert parse_duration_us(format_duration_us(duration_us)) == duration_us
