"""What a card gives to others, on a real target: one host at one epoch, and nothing else."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from vhostnvme.cluster.messages import Export, Unexport
from vhostnvme.cluster.records import host_nqn_of, subsystem_nqn_of
from vhostnvme.errors import NativeError
from vhostnvme.native import Namespace, NamespaceOptions, RemoteOptions, Runtime, Target
from vhostnvme.storage.common import DiskSpec
from vhostnvme.storage.spec import FileSpec
from vhostnvme.works.exports import Exports

UUID = "0d0cf5a1-6a43-4a44-9d07-3f2a2e0a3f11"
SIZE = 1 << 20


class Giver:
    """A target with exports of files in one folder."""

    def __init__(self, runtime: Runtime, folder: Path) -> None:
        self.runtime = runtime
        self.folder = folder
        self.target = Target(runtime)
        _, self.port = self.target.listen("127.0.0.1", 0)
        self.exports = Exports(runtime, self.target, self._disk)

    async def _disk(self, effect: Export) -> DiskSpec:
        path = self.folder / effect.uuid
        return FileSpec(path=str(path), size=effect.size, create=True, uuid=uuid.UUID(effect.uuid))

    async def export(self, owner: str, epoch: int) -> None:
        await self.exports.export(Export(1, UUID, "ssd0", SIZE, 512, owner, epoch))

    def connect(self, owner: str, epoch: int) -> Namespace:
        hostnqn = host_nqn_of(owner, UUID, epoch)
        remote = RemoteOptions(
            paths=(("127.0.0.1", self.port),),
            subnqn=subsystem_nqn_of(UUID),
            nsid=1,
            hostnqn=hostnqn,
            hostid=uuid.uuid5(uuid.NAMESPACE_URL, hostnqn),
            connect_ms=500,
        )
        options = NamespaceOptions(
            backend="forward", remote=remote, block_size=0, uuid=uuid.UUID(UUID)
        )
        return Namespace(self.runtime, options)


@pytest.fixture
async def giver(tmp_path: Path) -> AsyncIterator[Giver]:
    with Runtime() as runtime:
        giver = Giver(runtime, tmp_path)
        yield giver
        await giver.target.aclose()
        giver.exports.close()


async def test_only_this_owner_at_this_epoch_is_let_in(giver: Giver) -> None:
    await giver.export("b", 3)
    with giver.connect("b", 3) as namespace:
        assert namespace.info().size == SIZE
    for owner, epoch in (("b", 2), ("b", 4), ("c", 3)):
        with pytest.raises(NativeError):
            giver.connect(owner, epoch)


async def test_a_newer_epoch_takes_the_place_of_the_older(giver: Giver) -> None:
    await giver.export("b", 1)
    giver.connect("b", 1).close()
    await giver.export("c", 2)
    giver.connect("c", 2).close()
    with pytest.raises(NativeError):
        giver.connect("b", 1)


async def test_the_same_again_changes_nothing(giver: Giver) -> None:
    await giver.export("b", 1)
    namespace = giver.exports.namespace(UUID)
    await giver.export("b", 1)
    assert giver.exports.namespace(UUID) is namespace
    giver.connect("b", 1).close()


async def test_after_its_end_nobody_is_let_in_and_the_file_is_free(giver: Giver) -> None:
    await giver.export("b", 1)
    await giver.exports.unexport(Unexport(2, UUID))
    await giver.exports.unexport(Unexport(3, UUID))
    with pytest.raises(NativeError):
        giver.connect("b", 1)
    assert giver.exports.namespace(UUID) is None
    options = NamespaceOptions(backend="file", path=str(giver.folder / UUID))
    Namespace(giver.runtime, options).close()


async def test_what_cannot_be_opened_leaves_no_subsystem(giver: Giver) -> None:
    (giver.folder / UUID).mkdir()
    with pytest.raises(NativeError):
        await giver.export("b", 1)
    assert not giver.target.subsystems
    (giver.folder / UUID).rmdir()
    await giver.export("b", 1)
