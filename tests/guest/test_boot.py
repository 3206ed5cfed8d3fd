"""The guest itself, without a disk of ours: booting, commands, the image's programs, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vhostnvme.errors import GuestError
from vhostnvme.guest.provision import Artifacts
from vhostnvme.guest.vm import Guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]
shared = pytest.mark.asyncio(loop_scope="session")


@shared
async def test_it_boots_and_says_how_long_it_took(guest: Guest) -> None:
    assert 0 < guest.boot_seconds < 180
    result = (await guest.run("uname -s; id -u")).check()
    assert result.stdout == "Linux\n0\n"


@shared
async def test_exit_code_and_both_outputs(guest: Guest) -> None:
    result = await guest.run("echo out; echo err >&2; exit 42")
    assert (result.exit_code, result.stdout, result.stderr) == (42, "out\n", "err\n")
    with pytest.raises(GuestError, match="exit code 42: err"):
        result.check()


@shared
async def test_megabytes_in_and_out(guest: Guest) -> None:
    data = os.urandom(1 << 20)
    await guest.run("cat > /tmp/data", input=data)
    pieces: list[bytes] = []
    code = await guest.stream("cat /tmp/data; rm /tmp/data", lambda _, piece: pieces.append(piece))
    assert code == 0
    assert b"".join(pieces) == data


@shared
async def test_commands_run_at_the_same_time(guest: Guest) -> None:
    wait = "for i in $(seq 100); do test -e /tmp/go && exit 0; sleep 0.1; done; exit 1"
    waiting = asyncio.create_task(guest.run(wait))
    await guest.run("touch /tmp/go")
    assert (await waiting).exit_code == 0


@shared
async def test_a_slow_command_is_killed_at_its_limit(guest: Guest) -> None:
    with pytest.raises(GuestError, match=r"did not end within 0\.5 s"):
        await guest.run("sleep 321", timeout=0.5)
    await asyncio.sleep(0.5)
    assert "sleep 321" not in (await guest.run("ps")).stdout.replace("grep", "")


@shared
@pytest.mark.parametrize(
    "command",
    [
        "nvme list | grep -q /dev/nvme0n1",
        "fio --version",
        "mkfs.ext4 -q -F /dev/nvme0n1 && mount /dev/nvme0n1 /mnt && echo x >/mnt/f && umount /mnt"
        " && fsck.ext4 -fn /dev/nvme0n1",
        "mkfs.xfs -q -f /dev/nvme0n1 && mount /dev/nvme0n1 /mnt && echo x >/mnt/f && umount /mnt"
        " && xfs_repair -n /dev/nvme0n1",
        "blkdiscard -f /dev/nvme0n1 && lsblk && blockdev --getsize64 /dev/nvme0n1",
        "modprobe nvme-tcp && modprobe nvmet && modprobe nvmet-tcp && modprobe null_blk",
        "fio --name=v --filename=/dev/nvme0n1 --rw=randwrite --bs=4k --size=1m --direct=1"
        " --ioengine=libaio --iodepth=4 --verify=crc32c --verify_fatal=1",
        "ip addr show dev eth0 | grep -q 10.0.2.15",
    ],
)
async def test_the_image_can(guest: Guest, command: str) -> None:
    (await guest.run(command, timeout=120)).check()


@shared
async def test_it_reboots_in_the_same_qemu(guest: Guest) -> None:
    before = guest.pid
    await guest.run("touch /tmp/gone-after-reboot")
    await guest.reboot()
    assert (await guest.run("test -e /tmp/gone-after-reboot")).exit_code == 1
    await guest.reboot(hard=True)
    assert (await guest.run("nvme list | grep -c nvme0n1")).stdout == "1\n"
    assert guest.pid == before


async def test_a_missing_disk_is_named(artifacts: Artifacts) -> None:
    with pytest.raises(GuestError, match=r"QEMU ended with exit code 1 .*/nowhere/cntrl"):
        await Guest(["/nowhere/cntrl"], artifacts=artifacts).start()


async def test_a_panic_is_told_with_the_console(artifacts: Artifacts) -> None:
    with pytest.raises(GuestError, match=r"(?s)kernel panicked.*Kernel panic - not syncing"):
        await Guest(artifacts=artifacts, kernel_args=["rdinit=/nowhere"]).start()


async def test_a_boot_has_a_limit(artifacts: Artifacts) -> None:
    guest = Guest(artifacts=artifacts, boot_timeout=0.2)
    with pytest.raises(GuestError, match=r"did not boot within 0\.2 s"):
        await guest.start()
    assert not guest.running


async def test_qemu_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\nfrom vhostnvme.guest.vm import Guest\n"
        "async def main():\n"
        "    guest = Guest()\n"
        "    task = asyncio.create_task(guest.start())\n"
        "    while not guest.running: await asyncio.sleep(0.05)\n"
        "    print(guest.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        qemu = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{qemu}/exe").exists() and is_running(qemu):
        assert time.monotonic() < deadline, "QEMU outlived its parent"
        await asyncio.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
