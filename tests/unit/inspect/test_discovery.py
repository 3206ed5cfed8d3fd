"""The discovery log: read in pieces, of one moment, and with a service that lies."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence

import pytest

from vhostnvme.errors import PeerError, ProtocolError
from vhostnvme.inspect.discovery import Entry, parse_entry, read_discovery_log
from vhostnvme.inspect.show import show_discovery
from vhostnvme.native.admin import AdminAnswer
from vhostnvme.testing.nvme import Sqe

NQN = "nqn.2026-11.org.example:a"


def entry(number: int, kind: int = 2, **more: object) -> bytes:
    raw = bytearray(1024)
    fields = {"family": 1, "requirements": 2, "tls": 0, "address": b"10.0.0.1"} | more
    raw[0:12] = struct.pack(
        "<BBBBHHHH", 3, fields["family"], kind, fields["requirements"], number, 0xFFFF, 32, 3
    )
    raw[32:36] = b"4420"
    raw[256 : 256 + len(NQN)] = NQN.encode()
    address = fields["address"]
    assert isinstance(address, bytes)
    raw[512 : 512 + len(address)] = address
    raw[768] = int(str(fields["tls"]))
    return bytes(raw)


def log(entries: Sequence[bytes], generation: int = 1, count: int | None = None) -> bytes:
    head = struct.pack("<QQH", generation, len(entries) if count is None else count, 0)
    return head.ljust(1024, b"\0") + b"".join(entries)


class Service:
    """Answers Get Log Page from what `now` gives; counts connections."""

    def __init__(self, now: Callable[[int], bytes], status: int = 0) -> None:
        self.now, self.status, self.connections = now, status, 0

    def ask(self, commands: Sequence[tuple[Sqe, int]]) -> list[AdminAnswer]:
        self.connections += 1
        answers = []
        for sqe, length in commands:
            assert sqe.cdw10 & 0xFF == 0x70
            assert ((sqe.cdw10 >> 16 | sqe.cdw11 << 16) + 1) * 4 == length <= 4096
            raw = self.now(self.connections)[sqe.cdw12 :][:length]
            answers.append(AdminAnswer(self.status, 0, raw.ljust(length, b"\0")))
        return answers


def test_a_log_of_several_pieces() -> None:
    service = Service(lambda _: log([entry(number) for number in range(9)], 7))
    found = read_discovery_log(service)
    assert found.generation == 7
    assert [each.port_id for each in found.entries] == list(range(9))
    assert service.connections == 2


def test_an_empty_log() -> None:
    assert read_discovery_log(Service(lambda _: log([]))).entries == ()


def test_a_log_that_changes_is_read_again() -> None:
    service = Service(lambda turn: log([entry(turn)], min(turn, 3)))
    assert read_discovery_log(service).generation == 3


def test_a_log_that_never_rests() -> None:
    ticks = iter(range(1000))
    with pytest.raises(PeerError, match="has changed 3 times"):
        read_discovery_log(Service(lambda _: log([entry(1)], next(ticks))))


def test_a_service_that_says_no() -> None:
    with pytest.raises(PeerError, match=r"reading the discovery log failed: .*1/09"):
        read_discovery_log(Service(lambda _: log([]), status=0x109))


@pytest.mark.parametrize("count", [4097, 1 << 63])
def test_a_service_that_claims_too_much(count: int) -> None:
    with pytest.raises(ProtocolError, match="claims"):
        read_discovery_log(Service(lambda _: log([], count=count)))


def test_another_format() -> None:
    raw = struct.pack("<QQH", 1, 1, 1).ljust(2048, b"\0")
    with pytest.raises(ProtocolError, match="format 1"):
        read_discovery_log(Service(lambda _: raw))


def test_an_entry_field_by_field() -> None:
    raw = entry(5, 1, family=2, requirements=1, tls=2, address=b"::1")
    assert parse_entry(raw) == Entry(
        type="referral",
        transport="tcp",
        family="ipv6",
        address="::1",
        port="4420",
        subnqn=NQN,
        port_id=5,
        controller_id=0xFFFF,
        admin_queue_entries=32,
        tls="1.3",
        tls_required=True,
        flags=3,
    )


def test_garbage_is_shown_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = parse_entry(entry(1, 9, family=9, address=b"\x1b[31m[bold]\xff\n"))
    assert (hostile.type, hostile.family) == ("9", "9")
    assert hostile.address.isprintable()
    found = read_discovery_log(Service(lambda _: log([entry(1, address=b"\x1b[2J[bold]x")])))
    show_discovery("h:1", found)
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "?[2J[bold]x:4420" in shown
    assert json.dumps(found.entries[0].address)
