"""What the demo of the cluster takes for shown, and its tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from rich.table import Table

from vhostnvme.control.card import CreatedDevice, DeviceNamespace, NamespaceInfo, SsdInfo
from vhostnvme.emulation import demo_cluster
from vhostnvme.emulation.demo_cards import Moment
from vhostnvme.emulation.demo_cluster import (
    VM_BYTES,
    check_empty,
    check_given_back,
    check_room,
    namespace_table,
    remote_disk,
    space_table,
)
from vhostnvme.errors import ClusterError, NoSpace

GIB = 1 << 30


def ssd(card: str, used: int, capacity: int = 2 * GIB) -> SsdInfo:
    return SsdInfo(
        card=card,
        ssd="ssd0",
        kind="directory",
        path=f"/srv/{card}",
        capacity=capacity,
        used=used,
        local=used,
        remote=0,
        reserved=0,
        free=capacity - used,
        largest=capacity - used,
        healthy=True,
        reason="",
    )


def namespace(uuid: str, vm: str, card: str, owner: str) -> NamespaceInfo:
    return NamespaceInfo(
        card=card,
        ssd="ssd0",
        vm=vm,
        device=f"{vm}-0",
        nsid=1,
        uuid=uuid,
        size=GIB,
        block_size=512,
        placement="local" if card == owner else "remote",
        owner=owner,
        state="held",
        epoch=1,
    )


OTHER = namespace("11111111-0", "vm2", "b", "b")
OURS = namespace("22222222-0", "vm1", "a", "b")
BEFORE = Moment(
    ssds={"a": ssd("a", 0), "b": ssd("b", 2 * GIB)},
    namespaces={OTHER.uuid: OTHER},
    files={"a": [], "b": ["11111111-0.ns"]},
)
DURING = Moment(
    ssds={"a": ssd("a", GIB), "b": ssd("b", 2 * GIB)},
    namespaces={OTHER.uuid: OTHER, OURS.uuid: OURS},
    files={"a": ["22222222-0.ns"], "b": ["11111111-0.ns"]},
)


def device(card: str, placement: str, size: int = VM_BYTES) -> CreatedDevice:
    one = DeviceNamespace(nsid=1, uuid="u", size=size, card=card, ssd="ssd0", placement=placement)
    return CreatedDevice(
        device="d", vm="vm1", card="b", socket="/s", qemu_args=[], namespaces=[one]
    )


def text_of(table: Table) -> list[str]:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_only_a_namespace_of_another_card_will_do() -> None:
    assert remote_disk(device("a", "remote")).card == "a"
    with pytest.raises(ClusterError, match="was to be on another card than the full b"):
        remote_disk(device("b", "local"))
    with pytest.raises(ClusterError, match="has 512 bytes and not 1073741824"):
        remote_disk(device("a", "remote", size=512))


def test_as_before_is_to_the_byte_and_to_the_file() -> None:
    check_given_back(BEFORE, BEFORE)
    less = replace(BEFORE, ssds={**BEFORE.ssds, "a": ssd("a", 1)})
    with pytest.raises(ClusterError, match=r"card a had 0 bytes in use .* and has 1 and"):
        check_given_back(BEFORE, less)
    left = replace(BEFORE, files={**BEFORE.files, "a": ["22222222-0.deleting"]})
    with pytest.raises(ClusterError, match=r"22222222-0\.deleting"):
        check_given_back(BEFORE, left)
    other = msgspec.structs.replace(OTHER, epoch=2)
    with pytest.raises(ClusterError, match="not have the same namespaces"):
        check_given_back(BEFORE, replace(BEFORE, namespaces={OTHER.uuid: other}))


def test_empty_is_without_use_and_without_files() -> None:
    empty = Moment(ssds={"a": ssd("a", 0)}, namespaces={}, files={"a": []})
    check_empty(empty)
    with pytest.raises(ClusterError, match="card a still has 0 bytes in use, and files"):
        check_empty(replace(empty, files={"a": ["x.ns"]}))
    with pytest.raises(ClusterError, match="card b still has 2147483648 bytes in use"):
        check_empty(BEFORE)


def test_the_tables_tell_where_everything_is_in_80_columns() -> None:
    moments = {"before": BEFORE, "with vm1": DURING, "after": BEFORE}
    lines = text_of(namespace_table(moments))
    assert lines[4].replace("│", " ").split() == [
        *("22222222", "1G", "vm1", "b", "-", "a/ssd0", "(remote)", "-"),
    ]
    assert lines[5].replace("│", " ").split() == [
        *("11111111", "1G", "vm2", "b", "b/ssd0", "b/ssd0", "b/ssd0"),
    ]
    lines = text_of(space_table(moments))
    assert lines[4].replace("│", " ").split() == ["a", "ssd0", "2G", "2G", "1G", "2G"]
    assert lines[5].replace("│", " ").split() == ["b", "ssd0", "2G", "0", "0", "0"]


def test_a_disk_without_room_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    check_room(folder)
    monkeypatch.setattr(demo_cluster, "DISK_BYTES", 1 << 60)
    with pytest.raises(NoSpace, match=f"takes 1048576T of {tmp_path}, which has"):
        check_room(folder)
