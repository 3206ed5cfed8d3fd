"""A folder that is an SSD: its texts, its record, and what is wrong with either."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from vhostnvme.errors import ConfigError
from vhostnvme.storage.ssd_folder import NamespaceRecord, SsdFolder, SsdSpec, parse_ssd

MIB = 1 << 20


def spec(folder: Path, query: str = "?capacity=8M") -> SsdSpec:
    return parse_ssd(f"{folder / 'ssd'}{query}")


def with_one(folder: Path) -> SsdFolder:
    """An SSD with one namespace, whose file is there."""
    ssd = SsdFolder(spec(folder))
    one = NamespaceRecord(1, uuid.uuid4(), 4 * MIB, 512)
    ssd.make_image(one.uuid, one.size)
    ssd.record.namespaces.append(one)
    ssd.save()
    return ssd


def test_what_a_text_says() -> None:
    assert parse_ssd("a/b") == SsdSpec(folder=Path("a/b"))
    text = "d%3F?capacity=1G&namespaces=0&block=4096&preallocate=on&max-namespaces=16"
    assert parse_ssd(text) == SsdSpec(
        folder=Path("d?"),
        capacity=1 << 30,
        namespaces=0,
        block_size=4096,
        preallocate=True,
        max_namespaces=16,
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "the folder is missing"),
        ("d?capacity=1", "multiple of 4K"),
        ("d?capacity=x", "no size"),
        ("d?namespaces=2", "up to 1"),
        ("d?block=513", "no block size"),
        ("d?max-namespaces=0", "one namespace at least"),
        ("d?max-namespaces=257", "up to 256"),
        ("d?capacitiy=1G", "did you mean 'capacity'"),
    ],
)
def test_texts_that_say_nothing(text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        parse_ssd(text)


def test_it_is_found_again(tmp_path: Path) -> None:
    with_one(tmp_path).close()
    again = SsdFolder(spec(tmp_path, ""))
    assert [each.size for each in again.record.namespaces] == [4 * MIB]
    assert again.record.unallocated == 4 * MIB
    assert again.free_nsid() == 2
    again.close()


def test_one_process_has_it(tmp_path: Path) -> None:
    ssd = with_one(tmp_path)
    with pytest.raises(ConfigError, match="in use by another process"):
        SsdFolder(spec(tmp_path))
    ssd.close()
    SsdFolder(spec(tmp_path)).close()


def test_what_it_does_not_name_goes(tmp_path: Path) -> None:
    ssd = with_one(tmp_path)
    ssd.make_image(uuid.uuid4(), MIB)
    ssd.close()
    for name in (f"ns-{uuid.uuid4()}.img.state", "ssd.json.new", "mine.img", "ns-1.img"):
        (tmp_path / "ssd" / name).touch()
    SsdFolder(spec(tmp_path)).close()
    names = sorted(path.name for path in (tmp_path / "ssd").iterdir())
    kept = [f"ns-{ssd.record.namespaces[0].uuid}.img", "mine.img", "ns-1.img", "ssd.json"]
    assert names == sorted(kept)


def test_a_file_gets_the_size_that_it_should_have(tmp_path: Path) -> None:
    ssd = with_one(tmp_path)
    one = ssd.record.namespaces[0]
    for size in (MIB, 5 * MIB):
        with ssd.image(one.uuid).open("r+b") as file:
            file.truncate(size)
        ssd.fit_image(one)
        assert ssd.image(one.uuid).stat().st_size == 4 * MIB
    ssd.image(one.uuid).unlink()
    with pytest.raises(ConfigError, match="is missing: put it back"):
        ssd.fit_image(one)
    ssd.close()


def with_text(text: str) -> Callable[[dict[str, object]], str]:
    return lambda _: text


def with_fields(**fields: object) -> Callable[[dict[str, object]], str]:
    return lambda record: json.dumps(record | fields)


def with_namespaces(*changes: dict[str, object]) -> Callable[[dict[str, object]], str]:
    def change(record: dict[str, object]) -> str:
        namespaces = record["namespaces"]
        assert isinstance(namespaces, list)
        return json.dumps(record | {"namespaces": [namespaces[0] | each for each in changes]})

    return change


@pytest.mark.parametrize(
    "damage",
    [
        with_text(""),
        with_text("{"),
        with_text("[]"),
        with_text("\x00\xff"),
        with_text("[" * 100_000),
        with_fields(version=2),
        with_fields(capacity="much"),
        with_fields(more=1),
        with_namespaces({"nsid": 0}),
        with_namespaces({"nsid": 257}),
        with_namespaces({}, {}),
        with_namespaces({"size": 1}),
        with_namespaces({"block_size": 1000}),
        with_namespaces({"group": 33}),
    ],
)
def test_a_damaged_record_is_told_with_a_way_out(
    tmp_path: Path, damage: Callable[[dict[str, object]], str]
) -> None:
    with_one(tmp_path).close()
    path = tmp_path / "ssd" / "ssd.json"
    path.write_text(damage(json.loads(path.read_text())), "latin-1")
    before = sorted((tmp_path / "ssd").iterdir())
    with pytest.raises(ConfigError, match=r"is damaged .*: mend it") as caught:
        SsdFolder(spec(tmp_path))
    assert "\n" not in str(caught.value)
    assert sorted((tmp_path / "ssd").iterdir()) == before  # nothing was removed


def test_a_missing_record_is_told_with_a_way_out(tmp_path: Path) -> None:
    ssd = with_one(tmp_path)
    ssd.close()
    (tmp_path / "ssd" / "ssd.json").unlink()
    with pytest.raises(ConfigError, match=r"is missing, though .*: put it back"):
        SsdFolder(spec(tmp_path))
    assert ssd.image(ssd.record.namespaces[0].uuid).exists()


def test_a_capacity_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with_one(tmp_path).close()
    with pytest.raises(ConfigError, match="its namespaces have 4M"):
        SsdFolder(spec(tmp_path, "?capacity=2M"))
    larger = SsdFolder(spec(tmp_path, "?capacity=16M"))
    assert larger.record.unallocated == 12 * MIB
    larger.close()


def test_an_id_beyond_the_last_is_refused(tmp_path: Path) -> None:
    ssd = with_one(tmp_path)
    ssd.record.namespaces[0].nsid = 9
    ssd.save()
    ssd.close()
    with pytest.raises(ConfigError, match="take max-namespaces=9 or more"):
        SsdFolder(spec(tmp_path, "?max-namespaces=8"))


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist: make it first"):
        SsdFolder(SsdSpec(folder=tmp_path / "no" / "ssd"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot use"):
        SsdFolder(SsdSpec(folder=tmp_path / "file"))
