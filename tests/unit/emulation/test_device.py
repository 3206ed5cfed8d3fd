"""Devices: the order of start and stop, and one sentence for what cannot be."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vhostnvme.emulation import DeviceOptions, serving
from vhostnvme.errors import ConfigError, NativeError, VhostNvmeError
from vhostnvme.native import Operation
from vhostnvme.storage.disk import native_options
from vhostnvme.storage.spec import parse_spec


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="vn-") as name:
        yield Path(name)


def options(path: Path, *specs: str, **more: object) -> DeviceOptions:
    return DeviceOptions(
        socket=path,
        namespaces=tuple(parse_spec(text) for text in specs or ("mem:1M",)),
        **more,  # type: ignore[arg-type]
    )


async def refused(device: DeviceOptions, kind: type[VhostNvmeError]) -> str:
    with pytest.raises(kind) as caught:
        async with serving([device]):
            pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_a_device_listens_and_leaves_nothing(folder: Path) -> None:
    path = folder / "run" / "cntrl"
    async with serving([options(path, "mem:1M", "null:1T?block=4096")]) as (device,):
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
        first, second = device.namespaces()
        assert (first.nsid, first.size, first.block_size, first.spec) == (1, 1 << 20, 512, "mem:1M")
        assert (second.nsid, second.size, second.block_size) == (2, 1 << 40, 4096)
    assert list(folder.iterdir()) == []


async def test_a_folder_that_was_there_stays(folder: Path) -> None:
    async with serving([options(folder / "cntrl")]):
        pass
    assert folder.is_dir()
    assert list(folder.iterdir()) == []


async def test_several_devices_share_a_runtime(folder: Path) -> None:
    async with serving([options(folder / "a"), options(folder / "b")]) as (first, second):
        assert first.id != second.id
        assert first.serial != second.serial


async def test_the_serial_number_stays_the_same(folder: Path) -> None:
    serials = []
    for _ in range(2):
        async with serving([options(folder / "cntrl")]) as (device,):
            serials.append(device.serial)
    assert serials[0] == serials[1]
    assert len(serials[0]) <= 20


async def test_the_qemu_option_names_the_socket(folder: Path) -> None:
    async with serving([options(folder / "cntrl")]) as (device,):
        option, text = device.qemu_arguments()
    assert option == "-device"
    assert json.loads(text) == {
        "driver": "vfio-user-pci",
        "socket": {"type": "unix", "path": str(folder / "cntrl")},
    }


async def test_an_exception_of_the_user_comes_out_as_it_is(folder: Path) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with serving([options(folder / "cntrl")]):
            raise KeyError("mine")
    assert list(folder.iterdir()) == []


async def test_a_socket_path_may_be_107_bytes_long(folder: Path) -> None:
    path = folder / ("x" * (107 - len(os.fsencode(folder)) - 1))
    async with serving([options(path)]):
        assert path.exists()
    sentence = await refused(options(folder / (path.name + "x")), ConfigError)
    assert "108 bytes" in sentence
    assert "107" in sentence


async def test_a_live_socket_is_not_replaced(folder: Path) -> None:
    async with serving([options(folder / "cntrl")]):
        sentence = await refused(options(folder / "cntrl"), NativeError)
        assert str(folder / "cntrl") in sentence
        assert (folder / "cntrl").exists()


async def test_a_stale_socket_is_replaced(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "cntrl"))
    async with serving([options(folder / "cntrl")]):
        pass


async def test_a_file_in_the_place_of_the_socket_is_left_alone(folder: Path) -> None:
    (folder / "cntrl").write_text("precious")
    assert "no socket" in await refused(options(folder / "cntrl"), ConfigError)
    assert (folder / "cntrl").read_text() == "precious"


async def test_only_one_folder_is_made(folder: Path) -> None:
    sentence = await refused(options(folder / "a" / "b" / "cntrl"), ConfigError)
    assert f"{folder / 'a'} does not exist" in sentence


async def test_a_path_through_a_file_is_refused(folder: Path) -> None:
    (folder / "file").touch()
    assert "is not a folder" in await refused(options(folder / "file" / "cntrl"), ConfigError)


async def test_a_read_only_folder_is_refused(folder: Path) -> None:
    assert "/proc" in await refused(options(Path("/proc/cntrl")), NativeError)
    assert "/proc" in await refused(options(Path("/proc/vn/cntrl")), ConfigError)


async def test_a_missing_file_is_named(folder: Path) -> None:
    sentence = await refused(options(folder / "cntrl", f"file:{folder}/none"), NativeError)
    assert f"{folder}/none" in sentence


async def test_an_unreadable_file_is_named(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (folder / "d").write_bytes(bytes(4096))
    (folder / "d").chmod(0)
    assert f"{folder}/d" in await refused(options(folder / "s", f"file:{folder}/d"), NativeError)


async def test_a_folder_is_no_disk(folder: Path) -> None:
    assert str(folder) in await refused(options(folder / "s", f"file:{folder}"), NativeError)


async def test_a_size_that_is_no_multiple_of_the_block_is_refused(folder: Path) -> None:
    (folder / "d").write_bytes(bytes(1000))
    sentence = await refused(options(folder / "s", f"file:{folder}/d"), NativeError)
    assert "1000" in sentence
    assert "512" in sentence


async def test_an_empty_file_is_refused(folder: Path) -> None:
    (folder / "d").touch()
    assert f"{folder}/d" in await refused(options(folder / "s", f"file:{folder}/d"), NativeError)


async def test_a_file_serves_one_device_only(folder: Path) -> None:
    spec = f"file:{folder}/d?size=1M"
    async with serving([options(folder / "a", spec)]):
        assert f"{folder}/d" in await refused(options(folder / "b", spec), NativeError)


async def test_parts_of_a_file_serve_several_devices(folder: Path) -> None:
    (folder / "d").write_bytes(bytes(1 << 20))
    low, high = f"file:{folder}/d?size=512K&offset=0", f"file:{folder}/d?size=256K&offset=512K"
    async with serving([options(folder / "a", low), options(folder / "b", high)]) as devices:
        assert [device.namespaces()[0].size for device in devices] == [512 << 10, 256 << 10]
        assert len({device.namespaces()[0].uuid for device in devices}) == 2
        taken = f"file:{folder}/d?size=8K&offset=508K"
        assert "another namespace" in await refused(options(folder / "c", taken), NativeError)
        beyond = f"file:{folder}/d?size=1M&offset=768K"
        assert "ends at 1048576" in await refused(options(folder / "c", beyond), NativeError)
        whole = f"file:{folder}/d"
        assert "has it open" in await refused(options(folder / "c", whole), NativeError)


async def test_a_file_locked_by_another_process_is_refused(folder: Path) -> None:
    command = ["-m", "vhostnvme", "serve", "--socket", f"{folder}/a"]
    import sys

    server = subprocess.Popen(
        [sys.executable, *command, "--namespace", f"file:{folder}/d?size=1M", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline()
        sentence = await refused(options(folder / "b", f"file:{folder}/d"), NativeError)
        assert f"{folder}/d" in sentence
    finally:
        server.terminate()
        assert server.wait(20) == 0
        server.stdout.close()


async def test_a_failed_start_leaves_nothing(folder: Path) -> None:
    await refused(options(folder / "run" / "cntrl", "mem:1M", f"file:{folder}/none"), NativeError)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"serial": "x" * 21}, "serial"),
        ({"serial": ""}, "serial"),
        ({"model": "modèle"}, "model"),
        ({"queues": 65}, "queues"),
    ],
)
def test_impossible_controllers_are_refused(more: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        options(Path("/tmp/cntrl"), **more)  # type: ignore[arg-type]


def test_a_controller_without_namespaces_is_refused() -> None:
    with pytest.raises(ConfigError, match="namespaces"):
        DeviceOptions(socket=Path("/tmp/cntrl"), namespaces=())


def test_a_spec_reaches_the_library_whole() -> None:
    native = native_options(
        parse_spec("null:1G?delay=5ms&error=1%&error-ops=write-zeroes,read&error-after=7&block=4K")
    )
    assert native.backend == "null"
    assert native.delay_us == 5000
    assert native.error_ppm == 10_000
    assert native.error_operations == Operation.READ | Operation.WRITE_ZEROES
    assert native.error_after == 7
    assert native.block_size == 4096


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert native_options(parse_spec("file:d")).path == str(tmp_path / "d")


async def test_namespaces_come_and_go_while_it_runs(folder: Path) -> None:
    async with serving([options(folder / "cntrl", "mem:1M", "mem:2M", "mem:3M")]) as (device,):
        device.remove_namespace(2)
        assert [one.nsid for one in device.namespaces()] == [1, 3]
        assert device.add_namespace(parse_spec("mem:4M")) == 2
        assert device.add_namespace(parse_spec("mem:5M")) == 4
        assert [one.size >> 20 for one in device.namespaces()] == [1, 4, 3, 5]
        with pytest.raises(NativeError, match="no namespace 9"):
            device.remove_namespace(9)
        with pytest.raises(NativeError):
            device.add_namespace(parse_spec(f"file:{folder}/missing"))
        assert len(device.namespaces()) == 4


async def test_a_namespace_gets_another_size_while_it_runs(folder: Path) -> None:
    async with serving([options(folder / "a", f"file:{folder}/d?size=1M", "null:1G")]) as (device,):
        assert device.resize_namespace(1, 3 << 20) == 3 << 20
        assert device.namespaces()[0].size == (folder / "d").stat().st_size == 3 << 20
        assert device.namespaces()[0].spec.endswith("d?size=3M")
        with pytest.raises(NativeError, match="keeps its size"):
            device.resize_namespace(1, 1000)
        with pytest.raises(ConfigError, match="no namespace 3"):
            device.resize_namespace(3, 1 << 20)
        assert [status.size for status in device.namespaces()] == [3 << 20, 1 << 30]


async def test_a_file_keeps_its_uuid(folder: Path) -> None:
    specs = [f"file:{folder}/{name}?size=1M" for name in "ab"]
    seen = []
    for _ in range(2):
        async with serving([options(folder / "cntrl", *specs, "mem:1M")]) as (device,):
            seen.append([one.uuid for one in device.namespaces()])
    (a, b, memory), again = seen
    assert len({a, b, memory}) == 3
    assert again[:2] == [a, b]
    assert again[2] != memory
    given = "4ad7cb2c-a6ed-4e42-a8f3-1d4cdd4b3b53"
    async with serving([options(folder / "cntrl", f"{specs[0]}&uuid={given}")]) as (device,):
        assert str(device.namespaces()[0].uuid) == given
