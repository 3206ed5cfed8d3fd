"""The methods of a card's control socket, as both ends see them. Sizes in bytes.

The answers are what the command line prints with `--json`, key by key (docs/cluster.md).
"""

from __future__ import annotations

import msgspec

from vhostnvme.cluster.records import PRIORITY_DEFAULT

CARD_STATUS = "card.status"
CARD_DRAIN = "card.drain"
SSD_LIST = "ssd.list"
NAMESPACE_LIST = "namespace.list"
NAMESPACE_CREATE = "namespace.create"
NAMESPACE_CLONE = "namespace.clone"
NAMESPACE_ATTACH = "namespace.attach"
NAMESPACE_ADD = "namespace.add"
NAMESPACE_RESIZE = "namespace.resize"
NAMESPACE_DELETE = "namespace.delete"
NAMESPACE_MOVE = "namespace.move"
NAMESPACE_PROMOTE = "namespace.promote"
DEVICE_CREATE = "device.create"
DEVICE_LIST = "device.list"
DEVICE_SHOW = "device.show"
DEVICE_DELETE = "device.delete"
DEVICE_ADOPT = "device.adopt"
VM_LIST = "vm.list"
VM_DELETE = "vm.delete"
CLUSTER_STATUS = "cluster.status"
CLUSTER_FORGET = "cluster.forget"

# How long these may take, in seconds; a client waits so long, and `wait_s` of the command as well.
SLOW_S = 120.0
DELETE_S = 60.0

# --- What is asked ----------------------------------------------------------------------------


class _Params(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Unknown keys are mistakes."""


class PartParams(_Params):
    """One namespace. `placement`: `auto`, `local`, `remote` or a card's name."""

    size: int
    placement: str = "auto"
    block_size: int = 512
    copies: int = 1
    scratch: bool = False  # what is lost is replaced by something empty
    degraded: bool = False  # it may begin with fewer copies


class CreateDeviceParams(_Params):
    """All of the parts or nothing. `wait_s`: wait so long for space."""

    vm: str
    parts: list[PartParams]
    name: str | None = None
    priority: int = PRIORITY_DEFAULT
    wait_s: float = 0.0
    release_on_disconnect: bool = False


class AddNamespaceParams(_Params):
    """One more namespace for a device."""

    device: str
    part: PartParams
    priority: int = PRIORITY_DEFAULT
    wait_s: float = 0.0


class CreateNamespaceParams(_Params):
    """A namespace of an own SSD that no device has yet. `ssd` None: any."""

    vm: str
    size: int
    block_size: int = 512
    ssd: str | None = None
    priority: int = PRIORITY_DEFAULT


class CloneNamespaceParams(_Params):
    """`uuid` or the beginning of one; `vm` None: that of the source."""

    uuid: str
    vm: str | None = None
    read_only: bool = False


class AttachNamespaceParams(_Params):
    uuid: str
    device: str


class ResizeNamespaceParams(_Params):
    uuid: str
    size: int


class NamespaceParams(_Params):
    uuid: str


class MoveNamespaceParams(_Params):
    """`to`: a card or an SSD of this one; None: what moves stays. `source`: whose copy moves."""

    uuid: str
    to: str | None = None
    source: str | None = None


class PromoteCopyParams(_Params):
    """`copy`: the UUID of a copy, or the beginning of it, that is to be trusted again."""

    uuid: str
    copy: str


class DrainParams(_Params):
    """`on` False: the card is emptied no more."""

    on: bool = True


class ListParams(_Params):
    """None: all."""

    vm: str | None = None
    device: str | None = None


class DeviceParams(_Params):
    device: str


class AdoptDeviceParams(_Params):
    """`owner`: the card that had the device, and is no member any more.

    `force`: take also a copy that lacks something.
    """

    device: str
    owner: str
    force: bool = False


class VmParams(_Params):
    vm: str


class CardParams(_Params):
    card: str


# --- What is answered -------------------------------------------------------------------------


class CardStatus(msgspec.Struct):
    """`member`: it may ask and give now; always true of a card without a cluster.

    `given`: namespaces on its SSDs that other cards have.
    """

    card: str
    pid: int
    version: str
    run_dir: str
    state_dir: str
    store: str | None
    clustered: bool
    member: bool
    addresses: list[str]
    ssds: int
    devices: int
    namespaces: int
    given: int
    remarks: list[str]
    draining: bool = False
    spaces: int = 0  # namespaces and copies on its SSDs


class SsdInfo(msgspec.Struct):
    """`used` is `local` (of this card's VMs) and `remote` (of other cards) together.

    `free` is what others may have, the reserve left out; `largest` one namespace. `state`: `ok`,
    `failing` (it gets nothing new) or `missing` (it cannot be used); `reason` says why.
    """

    card: str
    ssd: str
    kind: str
    path: str
    capacity: int
    used: int
    local: int
    remote: int
    reserved: int
    free: int
    largest: int
    healthy: bool
    reason: str
    state: str = "ok"


class CopyInfo(msgspec.Struct):
    """A copy of a namespace; `uuid` names its space on the SSD.

    `standing`: `in-sync` (it counts), `stale` (it lacks what was written since) or `new` (it lacks
    everything). `state`: as it runs now: `in-sync`, `rebuilding`, `out`, `failed`, or `none`.
    `moving`: it is to go elsewhere.
    """

    uuid: str
    card: str
    ssd: str
    standing: str
    state: str
    moving: bool


class NamespaceInfo(msgspec.Struct):
    """`card` and `ssd`: where its space is; `owner`: the card whose VM has it.

    `placement`: as its owner sees it. `nsid` None: no device has it, or only its owner knows. With
    `copies` it is what these make, which are listed as well, each as a `copy_of` it.
    """

    card: str
    ssd: str
    vm: str
    device: str
    nsid: int | None
    uuid: str
    size: int
    block_size: int
    placement: str
    owner: str
    state: str
    epoch: int
    read_only: bool = False
    copies: list[CopyInfo] = []
    copy_of: str = ""


class DeviceNamespace(msgspec.Struct, omit_defaults=True):
    """A namespace of a device. `card`, `ssd`: where it is read from.

    What follows `placement` is there for one that is kept as copies, or moves. `safety`: `safe`,
    `at risk` (one more failure, and it is lost or waits), `waiting` (no copy that counts can be
    reached) or `lost`; `words` say why, and what is being done. `progress`: of the copy that is
    being brought up to date, from 0 to 1; None: there is none.
    """

    nsid: int
    uuid: str
    size: int
    card: str
    ssd: str
    placement: str
    copies: list[CopyInfo] = []
    safety: str = ""
    words: str = ""
    progress: float | None = None


class CreatedDevice(msgspec.Struct):
    """`qemu_args`: what attaches it to a VM with shared memory."""

    device: str
    vm: str
    card: str
    socket: str
    qemu_args: list[str]
    namespaces: list[DeviceNamespace]


class DeviceInfo(CreatedDevice):
    """`state`: `making`, `waiting` (a namespace cannot be reached), `listening`, `connected`,
    `running` (enabled by a driver), `failed` or `deleting`.

    `reason`: why it is not whole, "" when nothing is wrong.
    """

    state: str
    reason: str
    serial: str
    size: int
    release_on_disconnect: bool


class VmInfo(msgspec.Struct):
    """What a VM has by this card. `local` and `remote`: bytes on its own SSDs and elsewhere."""

    vm: str
    card: str
    devices: int
    namespaces: int
    local: int
    remote: int


class ReleasedInfo(msgspec.Struct):
    """What a deletion has come to. `pending`: devices and namespaces that are not gone yet.

    `already`: there was nothing left to delete.
    """

    devices: list[str]
    namespaces: list[str]
    pending: list[str]
    already: bool


class HeldSpace(msgspec.Struct):
    """A namespace that a card has, or asks for, on the SSDs of another (`card`)."""

    uuid: str
    card: str
    ssd: str
    vm: str
    device: str
    size: int
    state: str
    epoch: int


class ClusterCard(msgspec.Struct):
    """A card as this one sees it. `health`: `online`, `lost` or `unknown`.

    `heartbeat_age_s` and `holds` are None when the store does not tell. `vms`: bytes that its
    own VMs have of its own SSDs, by VM.
    """

    card: str
    self: bool
    health: str
    heartbeat_age_s: float | None
    addresses: list[str]
    ssds: list[SsdInfo]
    capacity: int
    local: int
    remote: int
    reserved: int
    free: int
    tenants: int
    vms: dict[str, int]
    holds: list[HeldSpace] | None


class MovedInfo(msgspec.Struct):
    """`begun`: something moves now, or does not any more; False: there was nothing to do."""

    begun: bool
    namespace: NamespaceInfo


class DrainInfo(msgspec.Struct):
    """A card that is being emptied, or is not any more; `left`: namespaces that lie on it."""

    card: str
    draining: bool
    left: int


class ForgottenCard(msgspec.Struct):
    """`records`: how many namespaces that it gave or had are gone from the store."""

    card: str
    records: int
