"""What is told of a guest's last words."""

from __future__ import annotations

import pytest

from vhostnvme.guest.vm import is_lost_trap


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[    1.049254] Oops: int3: 0000 [#1] SMP NOPTI", True),
        ("[    1.049254] int3: 0000 [#1] PREEMPT SMP", True),
        ("[    1.049254] Oops: general protection fault: 0000 [#1] SMP", False),
        ("[    9.1] nvme nvme0: I/O 3 QID 1 timeout, aborting", False),
        ("[    1.0] BUG: kernel NULL pointer dereference in hint3: 0000 [#1]", False),
    ],
)
def test_a_lost_breakpoint_is_told_from_other_panics(line: str, expected: bool) -> None:
    assert is_lost_trap(f"booting\n{line}\nKernel panic - not syncing") is expected
