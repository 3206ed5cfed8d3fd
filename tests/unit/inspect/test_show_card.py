"""What people see of a card."""

from __future__ import annotations

import pytest

from vhostnvme.control.card import (
    ClusterCard,
    CreatedDevice,
    DeviceNamespace,
    HeldSpace,
    ReleasedInfo,
    SsdInfo,
)
from vhostnvme.inspect.show_card import (
    show_cluster,
    show_device,
    show_devices,
    show_released,
    show_ssds,
)

Capture = pytest.CaptureFixture[str]
GIB = 1 << 30
UUID = "c1645456-b787-4727-a6b0-7290b0cb6b91"


def card(name: str, holds: list[HeldSpace] | None, age_s: float | None = 0.5) -> ClusterCard:
    return ClusterCard(
        card=name,
        self=name == "b",
        health="online" if age_s is not None else "lost",
        heartbeat_age_s=age_s,
        addresses=[f"10.0.0.{ord(name) - 96}:4420"],
        ssds=[],
        capacity=4 * GIB,
        local=GIB,
        remote=0,
        reserved=0,
        free=3 * GIB,
        tenants=0,
        vms={},
        holds=holds,
    )


HELD = HeldSpace(
    uuid=UUID, card="a", ssd="ssd0", vm="vm1", device="d1", size=GIB, state="granted", epoch=1
)


def lines(capsys: Capture) -> list[str]:
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_the_cluster_in_90_columns_and_who_holds_what(capsys: Capture) -> None:
    show_cluster([card("a", [], None), card("b", [HELD])])
    said = lines(capsys)
    assert max(map(len, said)) <= 90
    assert said[0] == "2 cards"
    assert said[3].split() == ["a", "lost", "-", "0", "4G", "1G", "0", "0", "3G", "0"]
    assert said[4].startswith("b (this)  online  0.5 s ago")
    assert said[6] == "1 namespace on other cards"
    assert said[9].split() == ["b", "vm1", "d1", "1G", "a/ssd0", UUID, "granted"]


def ssd(name: str, state: str, reason: str = "") -> SsdInfo:
    return SsdInfo(
        card="a",
        ssd=name,
        kind="directory",
        path=f"/srv/{name}",
        capacity=4 * GIB,
        used=GIB,
        local=GIB,
        remote=0,
        reserved=0,
        free=0 if reason else 3 * GIB,
        largest=0 if reason else 3 * GIB,
        healthy=state != "missing",
        reason=reason,
        state=state,
    )


SSDS = [ssd("s0", "ok"), ssd("s1", "failing", "3 of 5 failed"), ssd("s2", "missing", "unplugged")]


def test_how_ssds_are(capsys: Capture) -> None:
    show_ssds(SSDS)
    said = lines(capsys)
    assert said[0] == "3 SSDs"
    assert said[3].split() == ["s0", "directory", "4G", "1G", "1G", "0", "0", "3G", "ok", "/srv/s0"]
    assert said[4].endswith("failing  3 of 5 failed")
    assert said[5].endswith("missing  unplugged")


def test_a_cluster_counts_the_ssds_that_are_ill(capsys: Capture) -> None:
    ill = card("a", [])
    ill.ssds = SSDS
    show_cluster([ill])
    assert "3, 1 failing, 1 missing" in lines(capsys)[3]


def test_a_store_that_does_not_answer_is_told(capsys: Capture) -> None:
    show_cluster([card("b", None, None)])
    assert lines(capsys)[-1] == "the store does not answer: who holds what is not known now"


def test_a_device_says_where_its_namespaces_live_and_what_qemu_needs(capsys: Capture) -> None:
    one = DeviceNamespace(nsid=1, uuid=UUID, size=GIB, card="a", ssd="ssd0", placement="remote")
    device = CreatedDevice(
        device="d1", vm="vm1", card="b", socket="/run/d1/cntrl", qemu_args=["-device", '{"a":1}'],
        namespaces=[one],
    )  # fmt: skip
    show_device(device)
    said = lines(capsys)
    assert said[:2] == [
        "device d1 of VM vm1: /run/d1/cntrl",
        f"  namespace 1: 1G on a/ssd0 (remote), UUID {UUID}",
    ]
    assert "share=on" in said[3]
    assert said[4] == """  -device '{"a":1}'"""


def test_nothing_is_a_line(capsys: Capture) -> None:
    show_devices([])
    assert lines(capsys) == ["0 devices"]


def test_what_is_not_gone_yet_is_told(capsys: Capture) -> None:
    gone = ReleasedInfo(devices=["d1"], namespaces=[UUID], pending=[], already=False)
    show_released("VM vm1", gone)
    assert lines(capsys) == ["VM vm1 is deleted: 1 device and 1 namespace"]
    gone.pending = [UUID]
    show_released("VM vm1", gone)
    assert lines(capsys)[-1] == f"    {UUID}"
    gone.already = True
    show_released("VM vm1", gone)
    assert lines(capsys) == ["VM vm1 has been deleted before: nothing to delete"]
