"""What the guest is told when the SSD fails: a status, an error-log entry; and nothing is lost."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests_protocol import BLOCK, PAGE, Serve, pattern, refused, until

from vhostnvme.errors import NativeError
from vhostnvme.native import EventType
from vhostnvme.testing import NvmeHost, nvme
from vhostnvme.testing.nvme import Status
from vhostnvme.testing.server import ServerProcess

MIB = 1 << 20


def smart_media_errors(host: NvmeHost) -> int:
    return int(struct.unpack_from("<Q", host.log_page(2, 512), 160)[0])


def newest_error(host: NvmeHost) -> tuple[int, int, int]:
    """Count, status code and LBA of the error log's first entry."""
    page = host.log_page(1, 64)
    count, status, lba = struct.unpack_from("<Q4xH2xQ", page)
    return count, status >> 1 & 0x7FF, lba


# --- errors of the disk ---


@pytest.mark.parametrize("operation", ["read", "write", "flush", "write-zeroes", "deallocate"])
def test_an_io_error_is_a_media_error(serve: Serve, operation: str) -> None:
    served = serve(f"mem:1M?error=100%&error-ops={operation}")
    host = served.connect()
    queue = host.create_queue_pair()
    with host.alloc(PAGE) as buffer:
        buffer.put(nvme.dsm_ranges([(8, 8)]))
        sqe = {
            "read": nvme.read(1, 8, 8),
            "write": nvme.write(1, 8, 8),
            "flush": nvme.flush(1),
            "write-zeroes": nvme.write_zeroes(1, 8, 8),
            "deallocate": nvme.dataset_management(1, 1),
        }[operation]
        completion = queue.command(sqe, None if operation == "flush" else buffer)
    expected = Status.UNRECOVERED_READ if operation == "read" else Status.WRITE_FAULT
    refused(completion, expected, dnr=None)
    assert completion.more
    assert smart_media_errors(host) == 1
    assert newest_error(host)[:2] == (1, expected)
    assert served.namespaces[0].info().errors == 1


def test_an_error_in_a_thousand_is_one_in_a_thousand(serve: Serve) -> None:
    served = serve("mem:1M?error=5%&error-ops=read&error-seed=3")
    host = served.connect()
    queue = host.create_queue_pair()
    failed = 0
    with host.alloc(PAGE) as buffer:
        for i in range(400):
            completion = queue.command(nvme.read(1, i, 8), buffer)
            failed += not completion.ok
            assert completion.code in (0, Status.UNRECOVERED_READ)
    assert 5 < failed < 50
    assert smart_media_errors(host) == failed == served.namespaces[0].info().errors


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("ENOSPC", Status.CAPACITY_EXCEEDED),
        ("EIO", Status.WRITE_FAULT),
        ("ENODATA", Status.WRITE_FAULT),
        ("EROFS", Status.WRITE_PROTECTED),
        ("ENOMEM", Status.NAMESPACE_NOT_READY),
    ],
)
def test_what_a_write_error_is_called(serve: Serve, name: str, status: int) -> None:
    host = serve(f"mem:1M?error=100%&error-ops=write&error-errno={name}").connect()
    queue = host.create_queue_pair()
    with host.alloc(PAGE) as buffer:
        completion = queue.command(nvme.write(1, 0, 8), buffer)
    refused(completion, status, dnr=None)
    assert completion.dnr is (name == "EROFS"), "only what cannot get better must not be retried"


def test_backend_errors_are_told_to_the_owner_at_most_once_a_second(serve: Serve) -> None:
    served = serve("mem:1M?error=100%&error-ops=write")
    host = served.connect()
    queue = host.create_queue_pair()
    served.runtime.poll_events()
    with host.alloc(PAGE) as buffer:
        for _ in range(20):
            queue.command(nvme.write(1, 0, 8), buffer)
    events = [e for e in served.runtime.poll_events() if e.type is EventType.BACKEND_ERROR]
    assert 1 <= len(events) <= 2
    assert "namespace 1" in events[0].text and "2/80" in events[0].text


# --- files ---


def test_a_file_that_is_truncated_behind_our_back(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "d"
    host = serve(f"file:{path}?size=4M").connect()
    queue = host.create_queue_pair()
    data = pattern(1, PAGE)
    queue.write(0, data)
    queue.write(6000, data)
    os.truncate(path, MIB)
    with host.alloc(PAGE) as buffer:
        refused(queue.command(nvme.read(1, 6000, 8), buffer), Status.UNRECOVERED_READ, dnr=None)
        refused(queue.command(nvme.read(1, 2044, 8), buffer), Status.UNRECOVERED_READ, dnr=None)
    assert newest_error(host)[1] == Status.UNRECOVERED_READ
    assert smart_media_errors(host) == 2
    assert queue.read(0, 8) == data
    assert host.csts & 3 == 1


def test_a_file_that_is_truncated_under_load(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "d"
    host = serve(f"file:{path}?size=4M").connect()
    queue = host.create_queue_pair(1, depth=64)
    with host.alloc(64 << 10) as buffer:
        for turn in range(30):
            cids = []
            for i in range(20):
                sqe = nvme.read(1, 300 * i, 128) if i % 2 else nvme.write(1, 300 * i, 128)
                cids.append(queue.submit(sqe, buffer))
            os.truncate(path, (turn % 5) * MIB)
            assert all(queue.wait(cid).code in (0, 0x281, 0x280) for cid in cids)
    os.truncate(path, 4 * MIB)
    queue.write(0, pattern(2, PAGE))
    assert queue.read(0, 8) == pattern(2, PAGE)


def test_a_file_that_is_unlinked_goes_on(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "d"
    queue = serve(f"file:{path}?size=1M").connect().create_queue_pair()
    path.unlink()
    queue.write(0, pattern(1, PAGE))
    queue.flush()
    assert queue.read(0, 8) == pattern(1, PAGE)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small tmpfs needs root")
    command = [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let us mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_under_a_write(serve: Serve, small_disk: Path) -> None:
    served = serve(f"file:{small_disk}/d?size=16M")
    host = served.connect()
    queue = host.create_queue_pair()
    written = []
    with host.alloc(64 << 10) as buffer:
        for i in range(128):
            data = pattern(i, 64 << 10)
            buffer.put(data)
            completion = queue.command(nvme.write(1, 128 * i, 128), buffer)
            if completion.ok:
                written.append(i)
                continue
            refused(completion, Status.CAPACITY_EXCEEDED, dnr=False)
            assert completion.more
            assert newest_error(host)[1:] == (Status.CAPACITY_EXCEEDED, 128 * i)
    assert 16 <= len(written) <= 32
    queue.flush()
    for i in written:
        assert queue.read(128 * i, 128) == pattern(i, 64 << 10)
    queue.deallocate([(0, 128 * 16)])  # the guest frees space, and can go on
    queue.write(0, pattern(77, 64 << 10))
    assert queue.read(0, 128) == pattern(77, 64 << 10)
    served.close()


LIMITED = """
    import os, resource, signal, sys
    from vhostnvme.native import Controller, ControllerOptions, Namespace, NamespaceOptions, Runtime
    from vhostnvme.testing import NvmeHost, nvme
    path, socket = sys.argv[1:]
    with open(path, "wb") as file:
        file.truncate(1 << 20)
    with (
        Runtime() as runtime,
        Namespace(runtime, NamespaceOptions(backend="file", path=path, direct=False)) as namespace,
        Controller(runtime, ControllerOptions(serial="x")) as controller,
    ):
        controller.attach(namespace, 1)
        controller.listen(socket)
        with NvmeHost.connect(socket) as host:
            resource.setrlimit(resource.RLIMIT_FSIZE, (512 << 10, 512 << 10))
            host.enable()
            queue = host.create_queue_pair()
            queue.write(0, b"x" * 4096)
            with host.alloc(4096) as buffer:
                completion = queue.command(nvme.write(1, 1536, 8), buffer)
                print(hex(completion.code), completion.more)
            queue.flush()
            assert queue.read(0, 8) == b"x" * 4096
            assert host.csts & 3 == 1
"""


def test_a_file_size_limit_is_no_signal(tmp_path: Path, sockets: Path) -> None:
    """RLIMIT_FSIZE sends SIGXFSZ, which would end the process."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path / "d"), str(sockets / "l")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0x81", "True"]


def test_a_file_of_another_server_is_refused(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "d"
    with ServerProcess([f"file:{path}?size=1M"]) as server:
        with pytest.raises(NativeError) as error:
            serve(f"file:{path}")
        assert f"{path}: another server has it open" in str(error.value)
        with NvmeHost.connect(server.socket) as host:
            host.enable()
            assert host.create_queue_pair().read(0, 1) == bytes(BLOCK)
    serve(f"file:{path}")  # it is free again


def test_a_locked_file_is_free_when_its_server_was_killed(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "d"
    with ServerProcess([f"file:{path}?size=1M"]) as server:
        server.kill()
        serve(f"file:{path}")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("file:{0}/missing", "missing"),
        ("file:{0}/odd", "multiple"),
        ("file:{0}", "(?i)director|folder"),
        ("file:{0}/none/d?size=1M", "none"),
    ],
)
def test_files_that_cannot_be_served(
    serve: Serve, tmp_path: Path, spec: str, sentence: str
) -> None:
    (tmp_path / "odd").write_bytes(b"x" * 1000)
    with pytest.raises(NativeError, match=sentence) as error:
        serve(spec.format(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


# --- a disk that hangs in the kernel ---


@pytest.fixture
def frozen_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that can be frozen: writes then hang in the kernel and cannot be cancelled."""
    tools = [shutil.which(tool) for tool in ("mkfs.ext4", "mount", "umount", "fsfreeze")]
    if os.geteuid() != 0 or not all(tools):
        pytest.skip("freezing a file system needs root, mkfs.ext4 and fsfreeze")
    image, folder = tmp_path / "image", tmp_path / "frozen"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(32 * MIB)
    made = [["mkfs.ext4", "-q", str(image)], ["mount", "-o", "loop", str(image), str(folder)]]
    for command in made:
        if subprocess.run(command, check=False, capture_output=True).returncode != 0:
            pytest.skip("this machine does not let us mount a file system")
    yield folder
    subprocess.run(["fsfreeze", "-u", str(folder)], check=False, capture_output=True)
    until(
        lambda: subprocess.run(["umount", str(folder)], check=False).returncode == 0,
        "unmounted",
    )


def test_a_disk_that_hangs_lets_resets_through(serve: Serve, frozen_disk: Path) -> None:
    served = serve(f"file:{frozen_disk}/d?size=8M", "mem:1M")
    host = served.connect()
    queue = host.create_queue_pair(1, depth=32)
    queue.write(0, pattern(1, PAGE))
    subprocess.run(["fsfreeze", "-f", str(frozen_disk)], check=True)
    try:
        with host.alloc(PAGE) as buffer:
            buffer.put(pattern(2, PAGE))
            for i in range(10):
                queue.submit(nvme.write(1, 8 * i, 8), buffer)
            until(lambda: served.controller.info().inflight == 10, "all fetched")
            started = time.monotonic()
            host.disable()
            assert time.monotonic() - started < 4, "the reset waits 2 s, then gives the rest up"
        host.enable()
        other = host.create_queue_pair(1, nsid=2)
        other.write(0, pattern(3, PAGE))
        assert other.read(0, 8) == pattern(3, PAGE)
        host.close()  # and with commands given up, a client may go and come
        again = served.connect()
        assert again.create_queue_pair(1, nsid=2).read(0, 8) == pattern(3, PAGE)
    finally:
        subprocess.run(["fsfreeze", "-u", str(frozen_disk)], check=True)
    after = served.connect() if again.handle.closed else again
    late = after.create_queue_pair(2, nsid=1)
    late.write(4096, pattern(4, PAGE))
    assert late.read(4096, 8) == pattern(4, PAGE)
    assert late.read(0, 8) in (pattern(1, PAGE), pattern(2, PAGE))
    served.close()


def test_a_killed_server_keeps_its_file_until_its_writes_have_ended(
    serve: Serve, frozen_disk: Path
) -> None:
    """Else a late write of the old server could land on top of the new one's."""
    path = frozen_disk / "d"
    with ServerProcess([f"file:{path}?size=8M"]) as server:
        host = NvmeHost.connect(server.socket)
        host.enable()
        queue = host.create_queue_pair()
        queue.write(0, pattern(1, PAGE))
        subprocess.run(["fsfreeze", "-f", str(frozen_disk)], check=True)
        try:
            with host.alloc(PAGE) as buffer:
                buffer.put(pattern(2, PAGE))
                queue.submit(nvme.write(1, 0, 8), buffer)
                time.sleep(0.1)
                server.process.kill()
                time.sleep(0.3)
                with pytest.raises(NativeError, match="another server has it open"):
                    serve(f"file:{path}")
        finally:
            subprocess.run(["fsfreeze", "-u", str(frozen_disk)], check=True)
        server.process.wait(10)
        host.close()
        served = serve(f"file:{path}")
        again = served.connect().create_queue_pair()
        again.write(0, pattern(3, PAGE))
        time.sleep(0.1)
        assert again.read(0, 8) == pattern(3, PAGE)
        served.close()
