"""A card's control socket: what is asked reaches the managers, and what they know is told."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from vhostnvme.cluster import commands
from vhostnvme.cluster.cluster_manager import PeerView
from vhostnvme.cluster.commands import Command, Part, Released
from vhostnvme.cluster.mirror_messages import MirrorSeen
from vhostnvme.cluster.records import (
    OfferRecord,
    SpaceRecord,
    SpaceState,
    SsdOffer,
    UsesRecord,
    VmUse,
)
from vhostnvme.cluster.rows import (
    DeviceRow,
    HoldingRow,
    HoldingState,
    MirrorRow,
    RowState,
    SpaceRow,
)
from vhostnvme.config import CardConfig, ClusterConfig, SsdConfig
from vhostnvme.control import card as methods
from vhostnvme.control import client
from vhostnvme.control.card import (
    AddNamespaceParams,
    AdoptDeviceParams,
    AttachNamespaceParams,
    CardParams,
    CardStatus,
    CloneNamespaceParams,
    ClusterCard,
    CreatedDevice,
    CreateDeviceParams,
    CreateNamespaceParams,
    DeviceInfo,
    DeviceParams,
    ForgottenCard,
    ListParams,
    NamespaceInfo,
    NamespaceParams,
    PartParams,
    ReleasedInfo,
    ResizeNamespaceParams,
    SsdInfo,
    VmInfo,
    VmParams,
)
from vhostnvme.control.device import NoParams
from vhostnvme.control.server import ControlServer
from vhostnvme.emulation.card_control import register
from vhostnvme.errors import ClusterError, ConfigError, NoSpace, PeerError, StoreUnavailable

T = TypeVar("T")

LOCAL = "aaaa0000-0000-4000-8000-000000000001"
REMOTE = "aaaa0000-0000-4000-8000-000000000002"
LOOSE = "cccc0000-0000-4000-8000-000000000003"
GIVEN = "dddd0000-0000-4000-8000-000000000004"


def holding(uuid: str, **more: Any) -> HoldingRow:
    known = {"vm": "vm1", "device": "d1", "nsid": 1, "size": 4096, "block_size": 512}
    return HoldingRow(uuid=uuid, **{**known, "giver": "a", "state": HoldingState.HELD, **more})


def space(uuid: str, **more: Any) -> SpaceRow:
    known = {"ssd": "ssd0", "size": 4096, "block_size": 512, "owner": "a", "vm": "vm1"}
    return SpaceRow(uuid=uuid, **{**known, "state": RowState.READY, **more})


def offer(name: str) -> OfferRecord:
    ssd = SsdOffer(
        name="ssd0",
        kind="directory",
        capacity=100,
        local=20,
        remote=10,
        reserved=5,
        free=65,
        largest=60,
    )
    return OfferRecord(name=name, ssds=(ssd,), tenants=1)


@dataclass
class ScriptedPool:
    """Rows that a test has written down."""

    member: bool = True
    clustered: bool = True
    devices: Mapping[str, DeviceRow] = field(
        default_factory=lambda: {
            "d1": DeviceRow(name="d1", vm="vm1", serial="S1", state=RowState.READY),
            "d2": DeviceRow(name="d2", vm="vm2", serial="S2"),
        }
    )
    holdings: Mapping[str, HoldingRow] = field(
        default_factory=lambda: {
            LOCAL: holding(LOCAL),
            REMOTE: holding(REMOTE, nsid=2, giver="b", ssd="ssd9", size=8192, epoch=3),
            LOOSE: holding(LOOSE, device="", nsid=0, read_only=True),
        }
    )
    spaces: Mapping[str, SpaceRow] = field(
        default_factory=lambda: {
            LOCAL: space(LOCAL, device="d1"),
            LOOSE: space(LOOSE, read_only=True),
            GIVEN: space(GIVEN, owner="b", vm="vm7", device="d7", epoch=2),
        }
    )

    def offer(self) -> OfferRecord:
        return offer("a")

    def uses(self) -> UsesRecord:
        return UsesRecord("a", {"vm1": VmUse(2, 20)})

    def peers(self) -> Sequence[PeerView]:
        return [
            PeerView("b", "u", "online", ("127.0.0.1:2",), offer("b")),
            PeerView("c", "u", "lost", (), None),
        ]

    @property
    def mirrors(self) -> Mapping[str, MirrorRow]:
        return {}

    @property
    def draining(self) -> bool:
        return False

    def mirror_seen(self, uuid: str) -> MirrorSeen | None:
        return None

    def mirror_failure(self, uuid: str) -> str:
        return ""

    def copy_is_wanted(self, row: HoldingRow) -> bool:
        return True

    def device_failure(self, name: str) -> str:
        return "card b does not answer" if name == "d1" else ""


class ScriptedCard:
    """Answers every command with `value`, or raises it; `asked` is what came."""

    def __init__(self, config: CardConfig) -> None:
        self.config = config
        self.pool = ScriptedPool()
        self.addresses = ["127.0.0.1:1"]
        self.value: Any = None
        self.asked: list[Command] = []
        self.store: Exception | None = None

    async def run(self, make: Callable[[int], Command]) -> Any:
        self.asked.append(make(1))
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def device_socket(self, name: str) -> Path:
        return self.config.folder / name / "cntrl"

    def device_state(self, name: str) -> str:
        return "listening"

    async def heartbeat_ages(self) -> dict[str, float | None]:
        if self.store is not None:
            raise self.store
        return {"a": 0.12345, "b": 1.0, "c": None}

    async def held(self) -> list[SpaceRecord]:
        record = SpaceRecord(
            uuid=REMOTE, giver="b", owner="a", vm="vm1", device="d1", size=8192, block_size=512,
            state=SpaceState.GRANTED, epoch=3, ssd="ssd9",
        )  # fmt: skip
        return [record]

    async def uses(self) -> list[UsesRecord]:
        return [UsesRecord("b", {"vm1": VmUse(2, 20)})]


@pytest.fixture
def config() -> Iterator[CardConfig]:
    with tempfile.TemporaryDirectory(prefix="vn-") as name:
        config = CardConfig(
            name="a",
            run_dir=Path(name),
            state_dir=Path("/state"),
            ssds=(SsdConfig(name="ssd0", path=Path("/srv/ssd0")),),
            cluster=ClusterConfig(store="sqlite:///x"),
        )
        config.folder.mkdir()
        yield config


@asynccontextmanager
async def asking(config: CardConfig) -> AsyncIterator[tuple[ScriptedCard, Any]]:
    card = ScriptedCard(config)
    server = ControlServer(config.control)
    register(server, card)

    async def ask(method: str, params: object, result: type[T]) -> T:
        return await asyncio.to_thread(client.call, config.control, method, params, result)

    async with server:
        yield card, ask


COMMANDS: list[tuple[str, object, Command]] = [
    (
        methods.NAMESPACE_CREATE,
        CreateNamespaceParams(vm="v", size=1, block_size=4096, ssd="ssd0", priority=7),
        commands.CreateNamespace(1, "v", 1, 4096, "ssd0", 7),
    ),
    (
        methods.NAMESPACE_CLONE,
        CloneNamespaceParams(uuid="cccc", read_only=True),
        commands.CloneNamespace(1, LOOSE, "vm1", True),
    ),
    (
        methods.NAMESPACE_CLONE,
        CloneNamespaceParams(uuid=LOOSE, vm="v"),
        commands.CloneNamespace(1, LOOSE, "v", False),
    ),
    (
        methods.NAMESPACE_ADD,
        AddNamespaceParams(device="d1", part=PartParams(1, "b", 4096), priority=9, wait_s=2.0),
        commands.AddNamespace(1, "d1", Part(1, "b", 4096), 9, 2.0),
    ),
    (
        methods.NAMESPACE_ATTACH,
        AttachNamespaceParams(uuid=LOOSE.upper(), device="d1"),
        commands.AttachNamespace(1, LOOSE, "d1"),
    ),
    (
        methods.NAMESPACE_RESIZE,
        ResizeNamespaceParams(uuid="cccc0", size=5),
        commands.ResizeNamespace(1, LOOSE, 5),
    ),
]


@pytest.mark.parametrize(("method", "params", "command"), COMMANDS)
async def test_commands_that_answer_with_a_namespace(
    config: CardConfig, method: str, params: object, command: Command
) -> None:
    async with asking(config) as (card, ask):
        card.value = LOOSE
        answer = await ask(method, params, NamespaceInfo)
        assert answer.uuid == LOOSE
        assert card.asked == [command]


async def test_a_device_is_created(config: CardConfig) -> None:
    async with asking(config) as (card, ask):
        card.value = "d1"
        params = CreateDeviceParams(
            vm="vm1", parts=[PartParams(4096), PartParams(8192, "b")], name="d1", wait_s=1.0
        )
        made = await ask(methods.DEVICE_CREATE, params, dict)
        assert card.asked == [
            commands.CreateDevice(1, "vm1", (Part(4096), Part(8192, "b")), name="d1", wait_s=1.0)
        ]
    socket = f"{config.folder}/d1/cntrl"
    assert list(made) == ["device", "vm", "card", "socket", "qemu_args", "namespaces"]
    assert (made["device"], made["vm"], made["card"], made["socket"]) == ("d1", "vm1", "a", socket)
    assert made["qemu_args"][0] == "-device"
    assert socket in made["qemu_args"][1]
    assert made["namespaces"] == [
        {"nsid": 1, "uuid": LOCAL, "size": 4096, "card": "a", "ssd": "ssd0", "placement": "local"},
        {"nsid": 2, "uuid": REMOTE, "size": 8192, "card": "b", "ssd": "ssd9",
         "placement": "remote"},
    ]  # fmt: skip


async def test_adopting_and_forgetting(config: CardConfig) -> None:
    async with asking(config) as (card, ask):
        card.value = "d1"
        adopted = await ask(methods.DEVICE_ADOPT, AdoptDeviceParams("d1", "c"), CreatedDevice)
        card.value = 4
        forgotten = await ask(methods.CLUSTER_FORGET, CardParams("c"), ForgottenCard)
        assert card.asked == [commands.AdoptDevice(1, "d1", "c"), commands.ForgetCard(1, "c")]
    assert adopted.device == "d1"
    assert forgotten == ForgottenCard("c", 4)


@pytest.mark.parametrize(
    ("method", "params", "command"),
    [
        (methods.DEVICE_DELETE, DeviceParams("gone"), commands.DeleteDevice(1, "gone")),
        (methods.VM_DELETE, VmParams("v"), commands.DeleteVm(1, "v")),
        (methods.NAMESPACE_DELETE, NamespaceParams("dddd"), commands.DeleteNamespace(1, GIVEN)),
    ],
)
async def test_deletions(config: CardConfig, method: str, params: object, command: Command) -> None:
    async with asking(config) as (card, ask):
        card.value = Released(devices=("d",), namespaces=("n",), pending=("n",))
        answer = await ask(method, params, ReleasedInfo)
        assert answer == ReleasedInfo(["d"], ["n"], ["n"], False)
        assert card.asked == [command]


@pytest.mark.parametrize("error", [ConfigError("no"), NoSpace("no"), ClusterError("no")])
async def test_what_the_managers_refuse_reaches_who_has_asked(
    config: CardConfig, error: Exception
) -> None:
    kind = PeerError if type(error) is ClusterError else type(error)
    async with asking(config) as (card, ask):
        card.value = error
        with pytest.raises(kind, match=r"^no$"):
            await ask(methods.VM_DELETE, VmParams("v"), ReleasedInfo)


@pytest.mark.parametrize(
    ("method", "params", "sentence"),
    [
        (methods.DEVICE_SHOW, DeviceParams("d9"), "no device 'd9'"),
        (methods.NAMESPACE_ATTACH, AttachNamespaceParams(LOOSE, "d9"), "no device 'd9'"),
        (methods.NAMESPACE_RESIZE, ResizeNamespaceParams("ffff", 1), "no namespace 'ffff'"),
        (methods.NAMESPACE_RESIZE, ResizeNamespaceParams("cc", 1), "no namespace 'cc'"),
        (methods.NAMESPACE_RESIZE, ResizeNamespaceParams("dddd", 1), "holds no namespace"),
        (methods.NAMESPACE_RESIZE, ResizeNamespaceParams("aaaa", 1), "2 namespaces begin"),
        (methods.DEVICE_CREATE, CreateDeviceParams("v", [], wait_s=-1.0), "waits from 0"),
        (methods.DEVICE_CREATE, CreateDeviceParams("v", [], name="control"), "'control'"),
        (methods.DEVICE_CREATE, CreateDeviceParams("v", [], name="a/b"), "no name of a device"),
    ],
)
async def test_what_cannot_be(
    config: CardConfig, method: str, params: object, sentence: str
) -> None:
    async with asking(config) as (card, ask):
        with pytest.raises(ConfigError, match=sentence):
            await ask(method, params, dict)
        assert card.asked == []


async def test_lists(config: CardConfig) -> None:
    async with asking(config) as (_, ask):
        (ssd,) = await ask(methods.SSD_LIST, NoParams(), list[SsdInfo])
        assert (ssd.card, ssd.ssd, ssd.path, ssd.used) == ("a", "ssd0", "/srv/ssd0", 30)
        known = await ask(methods.NAMESPACE_LIST, ListParams(), list[NamespaceInfo])
        assert [each.uuid for each in known] == [LOOSE, LOCAL, REMOTE, GIVEN]
        loose, local, remote, given = known
        assert (loose.nsid, loose.device, loose.read_only) == (None, "", True)
        assert (local.card, local.ssd, local.placement, local.state) == (
            "a",
            "ssd0",
            "local",
            "held",
        )
        assert (remote.card, remote.ssd, remote.placement, remote.epoch) == (
            "b",
            "ssd9",
            "remote",
            3,
        )
        assert (given.owner, given.card, given.placement, given.nsid) == ("b", "a", "remote", None)
        some = await ask(methods.NAMESPACE_LIST, ListParams(device="d7"), list[NamespaceInfo])
        assert [each.uuid for each in some] == [GIVEN]
        first, second = await ask(methods.DEVICE_LIST, ListParams(), list[DeviceInfo])
        assert (first.device, first.state, first.size) == ("d1", "listening", 12288)
        assert (first.serial, first.reason) == ("S1", "card b does not answer")
        assert (second.device, second.state, second.namespaces) == ("d2", "making", [])
        assert await ask(methods.DEVICE_LIST, ListParams(vm="vm9"), list[DeviceInfo]) == []
        assert await ask(methods.VM_LIST, NoParams(), list[VmInfo]) == [
            VmInfo(vm="vm1", card="a", devices=1, namespaces=3, local=8192, remote=8192),
            VmInfo(vm="vm2", card="a", devices=1, namespaces=0, local=0, remote=0),
        ]
        status = await ask(methods.CARD_STATUS, NoParams(), CardStatus)
        assert (status.card, status.store, status.member) == ("a", "sqlite:///x", True)
        assert (status.devices, status.namespaces, status.given) == (2, 3, 1)


async def test_the_cluster(config: CardConfig) -> None:
    async with asking(config) as (card, ask):
        a, b, c = await ask(methods.CLUSTER_STATUS, NoParams(), list[ClusterCard])
        assert [(each.card, each.self, each.health) for each in (a, b, c)] == [
            ("a", True, "online"),
            ("b", False, "online"),
            ("c", False, "lost"),
        ]
        assert [each.heartbeat_age_s for each in (a, b, c)] == [0.123, 1.0, None]
        assert (b.capacity, b.local, b.remote, b.reserved, b.free) == (100, 20, 10, 5, 65)
        assert (b.tenants, b.vms, b.addresses) == (1, {"vm1": 20}, ["127.0.0.1:2"])
        assert (c.ssds, c.capacity, c.tenants) == ([], 0, 0)
        (held,) = a.holds
        assert (held.uuid, held.card, held.ssd, held.state) == (REMOTE, "b", "ssd9", "granted")
        assert b.holds == c.holds == []
        card.store = StoreUnavailable("away")
        card.pool.member = False
        a, b, _ = await ask(methods.CLUSTER_STATUS, NoParams(), list[ClusterCard])
        assert (a.health, a.holds, a.heartbeat_age_s) == ("lost", None, None)
        assert b.holds is None
        card.pool.clustered = False
        a = (await ask(methods.CLUSTER_STATUS, NoParams(), list[ClusterCard]))[0]
        assert (a.health, a.holds) == ("online", [])
