"""Format NVM (Base 5.14): what may be asked for, what it does to the data, and what outlives it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from tests_protocol import Serve, dice, pattern, refused, until

from vhostnvme.errors import NativeError
from vhostnvme.native import Runtime
from vhostnvme.testing import NvmeHost, nvme
from vhostnvme.testing.nvme import Completion, Status
from vhostnvme.testing.protection import FORMATS, Format, Protected, format_namespace
from vhostnvme.testing.server import ServerProcess

MIB = 1 << 20
FPI, PERCENT = 32, 0x7F


def asks_for(host: NvmeHost, cdw10: int, nsid: int = 1) -> Completion:
    return host.admin(nvme.format_nvm(nsid, 0).with_fields(cdw10=cdw10))


def geometry(host: NvmeHost, nsid: int = 1) -> tuple[int, int]:
    """Blocks, and bytes of one."""
    identity = host.identify_namespace(nsid)
    return identity.nr_blocks, identity.block_bytes


def progress(host: NvmeHost) -> int:
    """Percent that remain."""
    return host.identify(0, 1)[FPI] & PERCENT


@pytest.mark.parametrize("index", range(len(FORMATS)))
def test_every_format_has_its_size(serve: Serve, index: int) -> None:
    host = serve("mem:4M").connect()
    size, ms = FORMATS[index]
    assert format_namespace(host, Format(index)).ok
    blocks, block_bytes = geometry(host)
    most = 4 * MIB // (size + ms)
    assert block_bytes == size and most - 24 <= blocks <= most
    raw = host.identify(0, 1)
    assert raw[25] == len(FORMATS) - 1 and raw[26] == index
    assert [raw[128 + 4 * i : 131 + 4 * i] for i in range(len(FORMATS))] == [
        bytes([ms, 0, size.bit_length() - 1]) for size, ms in FORMATS
    ]
    assert raw[27] == 3 and raw[28] == 0x1F and raw[FPI] == 0x80  # MC, DPC, FPI
    assert host.identify(5, 1) == bytes(4096)  # 16b guards, no storage tags


def test_flbas_and_dps_say_what_was_asked_for(serve: Serve) -> None:
    host = serve("mem:4M").connect()
    form = Format(2, extended=True, pi_type=2, first=True)
    assert format_namespace(host, form).ok
    raw = host.identify(0, 1)
    assert raw[26] == 0x12 and raw[29] == 0xA
    assert format_namespace(host, Format(3)).ok
    raw = host.identify(0, 1)
    assert raw[26] == 0x03 and raw[29] == 0


@pytest.mark.parametrize(
    ("cdw10", "status"),
    [
        (6, Status.INVALID_FORMAT),
        (15, Status.INVALID_FORMAT),
        (1 << 12, Status.INVALID_FORMAT),  # LBAFU: format 16
        (1 << 5, Status.INVALID_FORMAT),  # protection without metadata
        (1 | 4 << 5, Status.INVALID_FORMAT),  # there is no such type
        (3 << 9, Status.INVALID_FIELD),  # SES
    ],
)
def test_what_cannot_be_is_refused(serve: Serve, cdw10: int, status: Status) -> None:
    host = serve("mem:4M").connect()
    queue = host.create_queue_pair()
    queue.write(0, pattern(1, 4096))
    refused(asks_for(host, cdw10), status)
    assert queue.read(0, 8) == pattern(1, 4096)


@pytest.mark.parametrize("nsid", [0, 2, 257, 0xFFFFFFFE])
def test_a_namespace_that_is_not_there(serve: Serve, nsid: int) -> None:
    host = serve("mem:4M").connect()
    refused(asks_for(host, 0, nsid), Status.INVALID_NAMESPACE)


@pytest.mark.parametrize("ses", [0, 1, 2])
@pytest.mark.parametrize("direct", ["on", "off"])
def test_every_byte_of_the_file_is_erased(
    serve: Serve, tmp_path: Path, ses: int, direct: str
) -> None:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(40 * MIB))
    host = serve(f"file:{path}?direct={direct}").connect()
    queue = host.create_queue_pair()
    queue.write(5, pattern(1, MIB))
    assert format_namespace(host, Format(1, pi_type=1), ses=ses).ok
    assert path.read_bytes() == bytes(40 * MIB)
    assert Protected(queue, Format(1, pi_type=1)).read(5, 100, 7, (5, 0, 0xFFFF))[0].ok


def test_the_broadcast_formats_all(serve: Serve) -> None:
    host = serve("mem:2M", "mem:4M?block=4096").connect()
    queue = host.create_queue_pair()
    for nsid in (1, 2):
        queue.write(0, pattern(nsid, 8192), nsid=nsid)
    assert asks_for(host, 1 | 1 << 5, nvme.BROADCAST_NSID).ok
    for nsid in (1, 2):
        host.identify_namespace(nsid)
        assert host.identify(0, nsid)[26] == 1 and host.identify(0, nsid)[29] == 1
        queue.nsid = nsid
        assert Protected(queue, Format(1, pi_type=1)).read(0, 16)[1] == bytes(8192)


def test_a_read_only_namespace_is_not_formatted(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(pattern(1, MIB))
    host = serve(f"file:{path}?readonly=on").connect()
    refused(asks_for(host, 0), Status.WRITE_PROTECTED)
    refused(asks_for(host, 0, nvme.BROADCAST_NSID), Status.WRITE_PROTECTED)
    assert path.read_bytes() == pattern(1, MIB)


def test_io_is_refused_meanwhile_and_may_be_tried_again(serve: Serve) -> None:
    """A backend that takes 50 ms for each step of 16 MiB."""
    host = serve("mem:160M?delay=50ms").connect()
    queue = host.create_queue_pair()
    cid = host.submit(0, nvme.format_nvm(1, 3))
    until(lambda: progress(host) in range(1, 100), "the format has begun")
    seen = [progress(host)]
    refused(queue.command(nvme.flush(1)), Status.FORMAT_IN_PROGRESS, dnr=False)
    with host.alloc(4096) as buffer:
        got = queue.command(nvme.read(1, 0, 1), buffer)
        refused(got, Status.FORMAT_IN_PROGRESS, dnr=False)
    refused(asks_for(host, 0), Status.FORMAT_IN_PROGRESS, dnr=False)
    while seen[-1]:
        time.sleep(0.01)
        seen.append(progress(host))
    assert seen == sorted(seen, reverse=True) and len(set(seen)) > 3, seen
    assert host.wait(0, cid).ok
    assert geometry(host) == (160 * MIB // 4096, 4096)
    queue.write(0, pattern(2, 4096))
    assert queue.read(0, 1) == pattern(2, 4096)


def test_commands_in_flight_come_first(serve: Serve) -> None:
    host = serve("mem:4M?delay=20ms").connect()
    queue = host.create_queue_pair()
    with host.alloc(64 << 10) as buffer:
        buffer.put(b"\x5a" * (64 << 10))
        cids = [queue.submit(nvme.write(1, 128 * i, 128), buffer) for i in range(20)]
        assert format_namespace(host, Format(0)).ok
        done = [queue.wait(cid) for cid in cids]
        assert all(got.ok or got.code == Status.FORMAT_IN_PROGRESS for got in done)
    assert queue.read(0, 2048) == bytes(MIB)
    assert queue.read(2048, 2048) == bytes(MIB)


def test_a_reset_ends_the_command_but_not_the_format(serve: Serve) -> None:
    host = serve("mem:160M?delay=20ms").connect()
    host.submit(0, nvme.format_nvm(1, 4, settings=1 << 5))
    until(lambda: progress(host) in range(1, 100), "the format has begun")
    begun = time.monotonic()
    host.disable()
    host.enable()
    assert time.monotonic() - begun < 1.5  # no drain has to time out
    until(lambda: progress(host) == 0, "the format has ended", 10.0)
    raw = host.identify(0, 1)
    assert raw[26] == 4 and raw[29] == 1
    assert Protected(host.create_queue_pair(), Format(4, pi_type=1)).read(0, 4)[0].ok


def test_detaching_while_it_runs(serve: Serve) -> None:
    served = serve("mem:160M?delay=20ms")
    host = served.connect()
    cid = host.submit(0, nvme.format_nvm(1, 3))
    until(lambda: progress(host) in range(1, 100), "the format has begun")
    served.controller.detach(1)
    assert host.wait(0, cid).code == Status.ABORT_REQUESTED
    served.controller.attach(served.namespaces[0], 1)
    until(lambda: progress(host) == 0, "the format has ended", 10.0)
    assert geometry(host) == (160 * MIB // 4096, 4096)


def test_who_shares_a_namespace_keeps_its_format(serve: Serve, runtime: Runtime) -> None:
    served, other = serve("mem:4M"), serve("mem:1M")
    other.controller.attach(served.namespaces[0], 7)
    host = served.connect()
    refused(asks_for(host, 0), Status.OPERATION_DENIED)
    other.controller.detach(7)
    assert asks_for(host, 1).ok
    with pytest.raises(NativeError, match="metadata"):
        other.controller.attach(served.namespaces[0], 7)
    with pytest.raises(NativeError, match="metadata"):
        served.namespaces[0].resize(2 * MIB)
    assert asks_for(host, 0).ok
    served.namespaces[0].resize(2 * MIB)
    assert geometry(host) == (4096, 512)


def test_limits_count_data_alone(serve: Serve) -> None:
    served = serve("mem:4M")
    host = served.connect()
    assert format_namespace(host, Format(1)).ok
    blocks_of = Protected(host.create_queue_pair(), Format(1))
    assert blocks_of.write(3, bytes(2048), bytes(32)).ok
    assert blocks_of.read(3, 4)[0].ok
    info = served.namespaces[0].info()
    assert (info.reads, info.read_bytes) == (1, 2048)
    assert (info.writes, info.write_bytes) == (1, 2048)


def run_server(folder: Path, spec: str) -> ServerProcess:
    return ServerProcess([spec], directory=folder)


def host_of(server: ServerProcess) -> NvmeHost:
    host = NvmeHost.connect(server.socket, memory_bytes=16 << 20)
    host.enable()
    return host


def test_the_format_outlives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(16 * MIB))
    rng = dice("kill")
    form = Format(5, extended=True, pi_type=2, first=True)
    data = rng.randbytes(4096 * 9)
    meta = form.protect(data, rng.randbytes(64 * 9), 500, 7)
    with run_server(tmp_path, f"file:{path}") as server:
        with host_of(server) as host:
            assert format_namespace(host, form).ok
            blocks_of = Protected(host.create_queue_pair(), form)
            assert blocks_of.write(3, data, meta, 7, (500, 7, 0xFFFF)).ok
            before = geometry(host)
        server.kill()
        server.restart()
        with host_of(server) as host:
            assert geometry(host) == before and host.identify(0, 1)[29] == 0xA
            blocks_of = Protected(host.create_queue_pair(), form)
            completion, *got = blocks_of.read(3, 9, 7, (500, 7, 0xFFFF))
            assert completion.ok and got == [data, meta]


def test_a_kill_in_the_middle_is_made_good(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(64 * MIB))
    with run_server(tmp_path, f"file:{path}?delay=30ms") as server:
        with host_of(server) as host:
            host.submit(0, nvme.format_nvm(1, 4, settings=1 << 5))
            until(lambda: progress(host) in range(1, 99), "the format has begun")
            server.kill()
        server.restart()
        with host_of(server) as host:
            until(lambda: progress(host) == 0, "the format has ended", 10.0)
            assert host.identify(0, 1)[26] == 4
            blocks_of = Protected(host.create_queue_pair(), Format(4, pi_type=1))
            assert blocks_of.read(0, 200, 7, (0, 0, 0xFFFF))[1] == bytes(200 * 4096)
        server.stop()
    assert path.read_bytes() == bytes(64 * MIB)


def test_a_file_that_has_shrunk_is_refused(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(4 * MIB))
    served = serve(f"file:{path}")
    host = served.connect()
    form = Format(1, pi_type=1)
    assert format_namespace(host, form).ok
    blocks, _ = geometry(host)
    made = form.protect(b"\x77" * 512, bytes(8), blocks - 1, 0)
    last = Protected(host.create_queue_pair(), form)
    assert last.write(blocks - 1, b"\x77" * 512, made).ok
    served.close()
    os.truncate(path, 3 * MIB)
    with pytest.raises(NativeError, match="give it its size back"):
        serve(f"file:{path}")
    os.truncate(path, 6 * MIB)  # it may be longer: metadata stays where it was
    host = serve(f"file:{path}").connect()
    assert geometry(host) == (blocks, 512)
    last = Protected(host.create_queue_pair(), form)
    completion, data, _ = last.read(blocks - 1, 1)
    assert completion.ok and data == bytes(512)  # the file was cut there


def test_writers_and_readers_of_the_same_blocks(serve: Serve) -> None:
    """Each block's metadata goes with its data, whoever wins; the backend ends commands late."""
    form = Format(1, pi_type=2)
    served = serve("mem:1M?delay=200us", max_entries=256)
    host = served.connect()
    rng = dice("same blocks")
    assert format_namespace(host, form).ok
    queue = host.create_queue_pair(depth=128)
    with host.alloc(1 << 20) as buffer:
        for i in range(64):  # place i: 8 blocks of data, then their metadata
            data = rng.randbytes(512 * 8)
            buffer.put(data, i * 8192)
            buffer.put(form.protect(data, bytes(64), 1, i), i * 8192 + 4096)
        for _ in range(40):
            cids = []
            for i in range(64):
                lba, nr, place = rng.randrange(100), rng.randrange(1, 9), buffer.iova + i * 8192
                make = nvme.read if rng.random() < 0.4 else nvme.write
                target = place if make is nvme.write else place + (512 << 10)
                sqe = make(1, lba, nr, control=5 << 26)  # guards and reference tags
                fields = {"mptr": target + 4096, "cdw14": 1}
                if make is nvme.read:
                    fields = {"mptr": target + 4096}
                    sqe = nvme.read(1, lba, nr, control=4 << 26)
                cids.append(queue.submit(sqe.with_fields(prp1=target, **fields)))
            assert {queue.wait(cid).code for cid in cids} == {Status.SUCCESS}


def test_memory_that_goes_away_is_not_held_up(serve: Serve) -> None:
    """More commands than have room for their metadata, and a limit that lets few through."""
    served = serve("mem:1M?iops=2")
    host = served.connect()
    assert format_namespace(host, Format(1)).ok
    queue = host.create_queue_pair(depth=64)
    buffer = host.alloc(8192)
    fields = {"prp1": buffer.iova, "mptr": buffer.iova + 4096}
    cids = [queue.submit(nvme.read(1, i, 1).with_fields(**fields)) for i in range(50)]
    until(lambda: served.controller.info().inflight >= 49, "all but the first wait")
    assert served.namespaces[0].info().limited.waiting > 0
    started = time.monotonic()
    host.handle.dma_unmap(host.info.iova_base, 16 << 20)
    assert time.monotonic() - started < 1
    host.handle.dma_map(0, host.info.iova_base, 16 << 20)
    assert all(queue.wait(cid).ok for cid in cids)


def test_a_format_that_would_be_forgotten_is_refused(serve: Serve, tmp_path: Path) -> None:
    """Blocks that stay in a format that is forgotten would be read at the wrong places."""
    disk = tmp_path / "disk"
    disk.write_bytes(b"x" * MIB)
    host = serve(f"file:{disk}?state=none").connect()
    raw = host.identify(0, 1)
    assert [raw[128 + 4 * i : 131 + 4 * i] for i in range(len(FORMATS))] == [
        bytes([0, 0, 9]), *[bytes(3)] * (len(FORMATS) - 1)
    ]
    assert raw[27] == 0 and raw[28] == 0  # MC, DPC
    for index in range(1, len(FORMATS)):
        refused(asks_for(host, index), Status.INVALID_FORMAT)
    assert disk.read_bytes() == b"x" * MIB
    assert asks_for(host, 0).ok  # it may be erased
    assert disk.read_bytes() == bytes(MIB)
