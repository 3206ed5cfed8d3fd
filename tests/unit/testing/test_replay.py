"""The checker of promise 1 is itself checked: good logs pass, each kind of bad one is found."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from vhostnvme.errors import ProtocolError
from vhostnvme.testing import replay
from vhostnvme.testing.replay import Kind, Op, Promise

SECTOR = 512
DISK_BYTES = 64 * SECTOR


def block(value: int, sectors: int = 1) -> bytes:
    return bytes([value]) * (SECTOR * sectors)


class LogWriter:
    """Writes a log as the filter does; the tests choose what happens when."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = replay.HEAD.pack(replay.MAGIC, replay.VERSION, SECTOR, DISK_BYTES)
        self.next_ident = 0
        self.shapes: dict[int, tuple[Op, int, int, int]] = {}

    def record(self, kind: Kind, ident: int, status: int = 0, data: bytes = b"") -> None:
        op, offset, length, flags = self.shapes[ident]
        self.content += replay.RECORD.pack(
            replay.RECORD_MAGIC, kind, op, status, ident, offset, length, flags, len(data)
        )
        self.content += data

    def submit(self, op: Op, sector: int = 0, data: bytes = b"", *, fua: bool = False) -> int:
        ident = self.next_ident
        self.next_ident += 1
        self.shapes[ident] = (op, sector * SECTOR, len(data), replay.FLAG_FUA if fua else 0)
        self.record(Kind.SUBMIT, ident, data=data if op is Op.WRITE else b"")
        return ident

    def complete(self, ident: int, status: int = 0) -> None:
        self.record(Kind.COMPLETE, ident, status)

    def retract(self, ident: int) -> None:
        self.record(Kind.RETRACT, ident)

    def write(self, sector: int, data: bytes, *, fua: bool = False) -> int:
        ident = self.submit(Op.WRITE, sector, data, fua=fua)
        self.complete(ident)
        return ident

    def flush(self, status: int = 0) -> None:
        self.complete(self.submit(Op.FLUSH), status)

    def promise(self, sector: int, data: bytes) -> Promise:
        """The guest is told now."""
        return Promise(len(self.content), sector * SECTOR, data)

    def history(self) -> replay.History:
        self.path.write_bytes(self.content)
        return replay.history_of(replay.read_log(self.path))

    def broken(self, *promises: Promise) -> list[str]:
        return [violation.text for violation in replay.check_promises(self.history(), promises)]

    def disordered(self) -> list[str]:
        self.path.write_bytes(self.content)
        return [violation.text for violation in replay.check_order(replay.read_log(self.path))]


@pytest.fixture
def log(tmp_path: Path) -> LogWriter:
    return LogWriter(tmp_path / "log")


def random_log(log: LogWriter, seed: int) -> None:
    """Several requests in flight, some failing, some retracted, completing in any order."""
    random = Random(seed)
    running: list[int] = []
    for step in range(300):
        if running and random.random() < 0.5:
            ident = running.pop(random.randrange(len(running)))
            is_flush = log.shapes[ident][0] is Op.FLUSH
            log.complete(ident, 0x280 if not is_flush and random.random() < 0.1 else 0)
            continue
        op = random.choice([Op.WRITE, Op.WRITE, Op.WRITE, Op.FLUSH, Op.WRITE_ZEROES, Op.DEALLOCATE])
        sectors = random.randint(1, 4)
        data = b"" if op is Op.FLUSH else block(step % 251 + 1, sectors)
        fua = op in (Op.WRITE, Op.WRITE_ZEROES) and random.random() < 0.2
        ident = log.submit(op, random.randrange(16), data, fua=fua)
        if random.random() < 0.05:
            log.retract(ident)
        else:
            running.append(ident)


# --- Good logs ---


@pytest.mark.parametrize("seed", range(20))
def test_correct_histories_have_no_violation(log: LogWriter, seed: int) -> None:
    random_log(log, seed)
    log.path.write_bytes(log.content)
    assert replay.check(log.path) == []
    assert len(list(replay.promises_of(replay.read_log(log.path)))) > 10


@pytest.mark.parametrize("seed", range(5))
def test_every_drawn_crash_image_is_a_possible_one(
    log: LogWriter, tmp_path: Path, seed: int
) -> None:
    random_log(log, seed)
    history = log.history()
    random = Random(seed)
    for _ in range(20):
        image = replay.crash_image(history, len(history.log.events), random)
        disk = bytearray(DISK_BYTES)
        for sector, data in image.items():
            disk[sector * SECTOR : (sector + 1) * SECTOR] = data
        (tmp_path / "disk").write_bytes(disk)
        assert replay.check_image(history, tmp_path / "disk", power=True) == []


def test_fua_is_durable_without_a_flush(log: LogWriter) -> None:
    log.write(3, block(1), fua=True)
    assert log.broken(log.promise(3, block(1))) == []


def test_flush_covers_what_completed_before_it(log: LogWriter) -> None:
    log.write(0, block(1, 4))
    log.write(2, block(2))
    log.flush()
    assert log.broken(log.promise(0, block(1, 2)), log.promise(2, block(2))) == []


def test_newer_write_in_flight_may_replace_a_promised_one(log: LogWriter) -> None:
    log.write(0, block(1), fua=True)
    promise = log.promise(0, block(1))
    log.submit(Op.WRITE, 0, block(2))
    assert log.broken(promise, log.promise(0, block(1))) == []


def test_unflushed_writes_come_out_dropped_torn_and_reordered(log: LogWriter) -> None:
    log.write(0, block(1, 2), fua=True)
    log.write(0, block(2, 2))
    log.write(0, block(3, 2))
    history = log.history()
    random = Random(1)
    seen = {
        (image[0][0], image[1][0])
        for image in (replay.crash_image(history, 6, random) for _ in range(200))
    }
    assert seen == {(a, b) for a in (1, 2, 3) for b in (1, 2, 3)}


def test_concurrent_writes_may_land_in_either_order(log: LogWriter) -> None:
    first = log.submit(Op.WRITE, 0, block(1))
    second = log.submit(Op.WRITE, 0, block(2))
    log.complete(second)
    log.complete(first)
    log.flush()
    history = log.history()
    assert {c and c.event.ident for c in history.possible(0, 6)} == {first, second}


def test_cut_off_record_is_left_out(log: LogWriter) -> None:
    log.write(0, block(1), fua=True)
    log.submit(Op.WRITE, 1, block(2))
    log.content = log.content[:-10]
    assert len(log.history().log.events) == 2


# --- Bad logs: what a guest was told and the disk did not do ---


def test_finds_a_lost_flush(log: LogWriter) -> None:
    log.write(0, block(1))
    # the controller answers the guest's flush, and none has come to the disk
    assert log.broken(log.promise(0, block(1))) == ["offset 0: no write to it is durable"]


def test_finds_a_lost_fua(log: LogWriter) -> None:
    log.write(0, block(1), fua=True)
    log.write(0, block(2), fua=False)
    assert log.broken(log.promise(0, block(2))) == ["offset 0: may still hold the older WRITE 0"]


def test_finds_a_flush_sent_too_early(log: LogWriter) -> None:
    write = log.submit(Op.WRITE, 0, block(1))
    flush = log.submit(Op.FLUSH)
    log.complete(write)
    log.complete(flush)
    assert log.broken(log.promise(0, block(1))) == ["offset 0: no write to it is durable"]


def test_finds_a_flush_answered_too_early(log: LogWriter) -> None:
    log.write(0, block(1))
    flush = log.submit(Op.FLUSH)
    promise = log.promise(0, block(1))
    log.complete(flush)
    assert log.broken(promise) == ["offset 0: no write to it is durable"]


def test_finds_a_failed_flush_answered_with_success(log: LogWriter) -> None:
    log.write(0, block(1))
    log.flush(status=0x280)
    assert log.broken(log.promise(0, block(1))) == ["offset 0: no write to it is durable"]


def test_finds_a_failed_write_answered_with_success(log: LogWriter) -> None:
    log.complete(log.submit(Op.WRITE, 0, block(1), fua=True), status=0x280)
    log.flush()
    assert log.broken(log.promise(0, block(1))) == ["offset 0: no write to it is durable"]


def test_finds_a_write_that_was_only_offered(log: LogWriter) -> None:
    log.retract(log.submit(Op.WRITE, 0, block(1), fua=True))
    log.flush()
    assert log.broken(log.promise(0, block(1))) == ["offset 0: the data never came to the disk"]


def test_finds_a_write_that_went_elsewhere(log: LogWriter) -> None:
    log.write(1, block(1), fua=True)
    assert log.broken(log.promise(0, block(1))) == ["offset 0: the data never came to the disk"]


def test_finds_the_torn_half_of_a_write(log: LogWriter) -> None:
    log.write(0, block(1), fua=True)
    log.write(1, block(1))
    assert log.broken(log.promise(0, block(1, 2))) == [
        f"offset {SECTOR}: no write to it is durable"
    ]


def test_deallocate_promises_no_zeros(log: LogWriter) -> None:
    log.write(0, block(1), fua=True)
    log.complete(log.submit(Op.DEALLOCATE, 0, block(0)))
    log.flush()
    assert log.broken(log.promise(0, block(1))) == []
    assert log.broken(log.promise(0, block(0))) == ["offset 0: may still hold the older WRITE 0"]


# --- Bad logs: what shows by itself ---


def test_finds_success_after_a_failed_flush(log: LogWriter) -> None:
    log.flush(status=0x280)
    assert log.disordered() == []
    log.flush()
    log.write(0, block(1))
    assert log.disordered() == [
        "FLUSH 1 succeeds after a flush has failed",
        "WRITE 2 succeeds after a flush has failed",
    ]


def test_finds_completions_that_do_not_match(log: LogWriter) -> None:
    ident = log.write(0, block(1))
    log.complete(ident)
    assert log.disordered() == ["WRITE 0 ends, but is not in flight"]


def test_finds_requests_outside_the_disk(log: LogWriter) -> None:
    log.write(63, block(1, 2))
    assert log.disordered() == ["WRITE 0 ends behind the disk"]


def test_finds_parts_of_sectors(log: LogWriter) -> None:
    log.write(0, bytes(100))
    assert log.disordered() == ["WRITE 0 is not made of whole sectors"]


# --- Real disks ---


def test_disk_after_a_kill_must_hold_what_completed(log: LogWriter, tmp_path: Path) -> None:
    log.write(0, block(1))
    log.write(0, block(2))
    log.submit(Op.WRITE, 1, block(3))
    history = log.history()
    disk = tmp_path / "disk"
    for first, second, is_possible in [(2, 0, True), (2, 3, True), (1, 0, False), (2, 9, False)]:
        disk.write_bytes(block(first) + block(second))
        assert (replay.check_image(history, disk) == []) is is_possible
    disk.write_bytes(block(1) + block(0))
    assert replay.check_image(history, disk, power=True) == []  # nothing was flushed


def test_disk_before_the_log_counts(log: LogWriter, tmp_path: Path) -> None:
    log.submit(Op.WRITE, 0, block(1))
    history = log.history()
    (tmp_path / "disk").write_bytes(block(7))
    (tmp_path / "before").write_bytes(block(7))
    assert replay.check_image(history, tmp_path / "disk")
    assert not replay.check_image(history, tmp_path / "disk", before=tmp_path / "before")


# --- Files that are no logs, and the command ---


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is not a log"),
        (b"something else entirely, and long enough", "is not a log"),
        (replay.HEAD.pack(replay.MAGIC, 9, SECTOR, 0), "version 9"),
        (replay.HEAD.pack(replay.MAGIC, 1, 0, 0), "no bytes"),
        (replay.HEAD.pack(replay.MAGIC, 1, SECTOR, 0) + bytes(40), "damaged at byte 24"),
    ],
)
def test_damaged_logs_are_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(ProtocolError, match=sentence):
        replay.read_log(tmp_path / "log")


def test_command_reports_and_exits(
    log: LogWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write(0, block(1))
    log.history()
    (tmp_path / "disk").write_bytes(block(1))
    assert replay.main([str(log.path), "--image", str(tmp_path / "disk")]) == 0
    (tmp_path / "disk").write_bytes(block(0))
    assert replay.main([str(log.path), "--image", str(tmp_path / "disk")]) == 1
    assert "2 records, 1 violations" in capsys.readouterr().out
