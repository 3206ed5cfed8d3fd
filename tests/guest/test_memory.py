"""Guest memory that a vfio-user server cannot reach: one clear sentence, and nothing worse."""

from __future__ import annotations

import pytest
from tests_guest import GuestRig

MEMORY = "512M"
# QEMU takes the last memory-backend that it is given.
NOT_SHARED = {
    "plain": ["-object", f"memory-backend-ram,id=plain,size={MEMORY}"],
    "private": ["-object", f"memory-backend-memfd,id=private,share=off,size={MEMORY}"],
}


@pytest.mark.parametrize("kind", NOT_SHARED)
def test_it_is_told_and_how_to_share_it(kind: str) -> None:
    arguments = [*NOT_SHARED[kind], "-machine", f"memory-backend={kind}"]
    # The driver waits a minute for an answer that cannot come, and the boot for the driver.
    patience = ["nvme_core.admin_timeout=2"]
    disks = {"LOST": ["mem:16M"]}
    with GuestRig(disks, memory=MEMORY, extra_args=arguments, kernel_args=patience) as rig:
        sentence = rig.wait_sentence("LOST", "not shared")
        assert "-object memory-backend-memfd,id=mem,share=on" in sentence
        assert "memory-backend=mem" in sentence
        assert sentence.count("memory-backend-memfd") == 1
        assert rig.sentences.count(sentence) == 1
        # The guest itself is up, without that disk; the server is as it was.
        assert rig.output("ls /dev/nvme*n1 2>/dev/null || echo none") == "none"
        assert rig.call(rig.device("LOST").info).attached
