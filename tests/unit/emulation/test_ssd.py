"""An SSD in a folder: what was told as done outlives a kill at any step, and nothing leaks."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests_ssd import MIB

from vhostnvme.emulation import DeviceOptions
from vhostnvme.emulation.server import services
from vhostnvme.emulation.ssd import EmulatedSsd
from vhostnvme.emulation.ssd_opening import SsdSetup
from vhostnvme.errors import ConfigError, NativeError, NoSpace
from vhostnvme.native import AnaState
from vhostnvme.storage.spec import parse_spec
from vhostnvme.storage.ssd_folder import SsdSpec, parse_ssd

CAPACITY = "?capacity=64M"
# Dies at the n-th step that the file system would notice; says before what has been done.
CHANGES = """
    import asyncio, os, signal, sys
    from pathlib import Path
    from vhostnvme.emulation import DeviceOptions
    from vhostnvme.emulation.server import services
    from vhostnvme.emulation.ssd_opening import SsdSetup
    from vhostnvme.storage.ssd_folder import parse_ssd

    folder, fatal = Path(sys.argv[1]), int(sys.argv[2])
    steps, armed = 0, False

    def watch(event, details):
        global steps
        of_ours = any(str(folder / "ssd") in str(each) for each in details)
        if armed and event in ("open", "os.rename", "os.remove", "os.truncate") and of_ours:
            steps += 1
            if steps == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    async def main():
        global armed
        async with services() as running:
            device = DeviceOptions(socket=folder / "run" / "cntrl", namespaces=(), grows=True)
            armed = True
            setup = SsdSetup(ssd=parse_ssd(str(folder / "ssd?capacity=64M")))
            drive = await running.add_drive(setup, [device])
            print("started", flush=True)
            await drive.resize(1, 32 << 20)
            print("resized", flush=True)
            nsid = await drive.create(8 << 20, 4096)
            print("created", flush=True)
            await drive.detach(nsid)
            print("detached", flush=True)
            await drive.remove(1)
            print("removed", flush=True)
            await drive.attach(nsid)
            print("attached", flush=True)
            await drive.resize(nsid, 16 << 20)
            print("grown", flush=True)

    sys.addaudithook(watch)
    asyncio.run(main())
"""


def changed(folder: Path, fatal: int) -> tuple[int, list[str]]:
    """Exit code of the changes that die at that step, and what they have said."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHANGES), str(folder), str(fatal)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.split()


def found(folder: Path) -> dict[int, tuple[int, bool]]:
    """The namespaces after a start: size, and whether they are attached; nothing has leaked."""

    async def look() -> dict[int, tuple[int, bool]]:
        async with services() as running:
            drive = await running.add_drive(setup_of(folder, CAPACITY), [device_of(folder, "new")])
            assert isinstance(drive, EmulatedSsd)
            images = {path.stat().st_size for path in (folder / "ssd").glob("ns-*.img")}
            sizes = {space.namespace.info().size for space in drive.spaces.values()}
            assert images == sizes
            assert not (folder / "ssd" / "ssd.json.new").exists()
            record = drive.folder.record
            assert record.unallocated == record.capacity - sum(sizes)
            return {
                nsid: (space.namespace.info().size, drive.has(1, nsid))
                for nsid, space in drive.spaces.items()
            }

    return asyncio.run(look())


def setup_of(folder: Path, query: str = "") -> SsdSetup:
    return SsdSetup(ssd=parse_ssd(f"{folder / 'ssd'}{query}"))


def device_of(folder: Path, name: str = "run") -> DeviceOptions:
    return DeviceOptions(socket=folder / name / "cntrl", namespaces=(), grows=True)


def plausible(said: list[str], spaces: dict[int, tuple[int, bool]]) -> bool:
    """Whether this is what was said, or what the next step would have made of it."""
    states: list[dict[int, tuple[int, bool]]] = [
        {1: (64 * MIB, True)},
        {1: (32 * MIB, True)},
        {1: (32 * MIB, True), 2: (8 * MIB, True)},
        {1: (32 * MIB, True), 2: (8 * MIB, False)},
        {2: (8 * MIB, False)},
        {2: (8 * MIB, True)},
        {2: (16 * MIB, True)},
    ]
    if not said:
        return spaces == states[0]
    if said[-1] == "resized" and spaces == {**states[1], 2: (8 * MIB, False)}:
        return True  # created, and not attached yet
    return spaces in states[len(said) - 1 : len(said) + 1]


@pytest.mark.timeout(300)
def test_a_kill_at_any_step_leaves_what_was_told_and_leaks_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    for fatal in range(1, 200):
        folder = tmp_path / str(fatal)
        folder.mkdir()
        code, said = changed(folder, fatal)
        if code == 0:
            break
        assert code == -9
        spaces = found(folder)
        assert plausible(said, spaces), (fatal, said, spaces)
    assert said[-1] == "grown"
    assert fatal > 20  # the steps were seen


def test_sizes_and_ids_that_cannot_be_are_refused(tmp_path: Path) -> None:
    async def change() -> None:
        async with services() as running:
            ssd = await running.add_drive(setup_of(tmp_path, "?capacity=8M"), [device_of(tmp_path)])
            assert isinstance(ssd, EmulatedSsd)
            with pytest.raises(NoSpace, match="4K are wanted"):
                await ssd.create(4096)
            with pytest.raises(ConfigError, match="no multiple"):
                await ssd.create(4097)
            with pytest.raises(ConfigError, match="no namespace 2"):
                await ssd.remove(2)
            with pytest.raises(ConfigError, match="no controller 7"):
                await ssd.attach(1, [7])
            with pytest.raises(ConfigError, match="give a size, and no SPEC"):
                await ssd.add(parse_spec("mem:1M"))
            with pytest.raises(NoSpace):
                await ssd.resize(1, 16 * MIB)
            with pytest.raises(ConfigError, match="no multiple"):
                await ssd.resize(1, 4097)
            assert await ssd.resize(1, 4 * MIB) == 4 * MIB
            with pytest.raises(NativeError, match="the only one"):
                ssd.set_ana(AnaState.INACCESSIBLE, 1, None)

    asyncio.run(change())


def test_serial_model_and_capacity_are_kept(tmp_path: Path) -> None:
    async def start(setup: SsdSetup, device: DeviceOptions) -> tuple[str, str | None]:
        async with services() as running:
            await running.add_drive(setup, [device])
            return running.devices[0].serial, running.devices[0].options.model

    spec = SsdSpec(folder=tmp_path / "ssd", capacity=8 * MIB)
    first = SsdSetup(ssd=spec, serial="S1", model="M1")
    assert asyncio.run(start(first, device_of(tmp_path))) == ("S1", "M1")
    assert asyncio.run(start(setup_of(tmp_path), device_of(tmp_path))) == ("S1", "M1")
    record = json.loads((tmp_path / "ssd" / "ssd.json").read_text())
    assert (record["serial"], record["model"], record["capacity"]) == ("S1", "M1", 8 * MIB)


def test_a_private_namespace_goes_from_one_controller_to_another(tmp_path: Path) -> None:
    async def change() -> None:
        setup = SsdSetup(ssd=parse_ssd(f"{tmp_path}/ssd?capacity=8M&namespaces=0"), controllers=2)
        async with services() as running:
            devices = [device_of(tmp_path), device_of(tmp_path, "other")]
            ssd = await running.add_drive(setup, devices)
            assert isinstance(ssd, EmulatedSsd)
            with pytest.raises(ConfigError, match="say to which"):
                await ssd.create(MIB, shared=False)
            nsid = await ssd.create(MIB, shared=False, controllers=[1])
            with pytest.raises(ConfigError, match="private"):
                await ssd.attach(nsid, [2])
            await ssd.detach(nsid, [1])
            await ssd.attach(nsid, [2])
            assert [ssd.has(number, nsid) for number in (1, 2)] == [False, True]

    asyncio.run(change())


def test_what_the_library_refuses_leaves_nothing(tmp_path: Path) -> None:
    async def refused() -> None:
        async with services() as running:
            setup = setup_of(tmp_path, CAPACITY + "&namespaces=0")
            drive = await running.add_drive(setup, [device_of(tmp_path)])
            assert isinstance(drive, EmulatedSsd)
            with pytest.raises(NativeError, match="group 33"):
                await drive.create(MIB, group=33)

    asyncio.run(refused())
    assert not list((tmp_path / "ssd").glob("ns-*"))
    assert found(tmp_path) == {}
