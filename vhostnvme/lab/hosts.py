"""What is on the hosts of a lab: configuration files, SSDs and store, and whether they answer."""

from __future__ import annotations

import http.client
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from vhostnvme.control.card import CARD_STATUS, CLUSTER_STATUS, CardStatus, ClusterCard
from vhostnvme.control.client import call
from vhostnvme.control.device import NoParams
from vhostnvme.errors import LabError, VhostNvmeError
from vhostnvme.lab import namespaces
from vhostnvme.lab.names import Host, is_store
from vhostnvme.lab.plan import CARD_PORT, DIRECTORY_VARIABLE, LabPlan, Layout
from vhostnvme.lab.processes import MARK, mark_of
from vhostnvme.units import format_duration_us, format_size

ETCD = "etcd"
CARD_VARIABLE = "VHOSTNVME_CARD"
_CLIENT_PORT = 2379
_PEER_PORT = 2380
_ANSWER_S = 5.0
_HEARTBEAT_MS = 50
_ELECTION_MS = 500


def store_uri(layout: Layout, plan: LabPlan, stores: Sequence[Host]) -> str:
    """Where the cards find their store."""
    if plan.store == "sqlite":
        return f"sqlite://{layout.store_directory / 'cluster.db'}"
    return "etcd://" + ",".join(f"{host.address}:{_CLIENT_PORT}" for host in stores)


def make_card(layout: Layout, plan: LabPlan, host: Host, uri: str) -> None:
    """The folder of a card: its SSDs and its configuration file.

    Raises:
        LabError: it cannot be made.
    """
    try:
        layout.host_directory(host.name).mkdir(mode=0o700)
        if host.name not in plan.devices:
            for ssd in layout.ssds(host.name, plan.ssds, {}):
                ssd.mkdir(mode=0o700)
        layout.config(host.name).write_text(_card_config(layout, plan, host, uri))
    except OSError as error:
        raise LabError(f"cannot make the folder of card {host.name}: {error}") from None


def _card_config(layout: Layout, plan: LabPlan, host: Host, uri: str) -> str:
    lines = [
        "[card]",
        f"name = {_text(host.name)}",
        f"run_dir = {_text(layout.run_directory)}",
        f"state_dir = {_text(layout.host_directory(host.name) / 'state')}",
    ]
    if plan.reserve is not None:
        lines.append(f"reserve = {_text(format_size(plan.reserve))}")
    for number, ssd in enumerate(layout.ssds(host.name, plan.ssds, plan.devices)):
        lines += ["", "[[ssd]]", f'name = "ssd{number}"', f"path = {_text(ssd)}"]
        if host.name not in plan.devices:
            lines.append(f"capacity = {_text(format_size(plan.ssd_size))}")
    lines += ["", "[target]", f"listen = [{_text(f'{host.address}:{CARD_PORT}')}]"]
    lines += ["", "[cluster]", f"store = {_text(uri)}"]
    if plan.ttl_us is not None:
        lines.append(f"ttl = {_text(format_duration_us(plan.ttl_us))}")
    if plan.replace_after_us is not None:
        after = _text(format_duration_us(plan.replace_after_us))
        lines += ["", "[recovery]", f"replace_after = {after}"]
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    """A TOML string: JSON's escapes are among TOML's."""
    return json.dumps(str(value), ensure_ascii=False)


def etcd_command(layout: Layout, host: Host, stores: Sequence[Host]) -> list[str]:
    """The command line of one etcd server, which is also how it starts again."""
    client = f"http://{host.address}:{_CLIENT_PORT}"
    peer = f"http://{host.address}:{_PEER_PORT}"
    members = ",".join(f"{one.name}=http://{one.address}:{_PEER_PORT}" for one in stores)
    return [
        ETCD,
        f"--name={host.name}",
        f"--data-dir={layout.host_directory(host.name) / 'data'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={members}",
        # A lease is one and a half of these at least.
        f"--heartbeat-interval={_HEARTBEAT_MS}",
        f"--election-timeout={_ELECTION_MS}",
        f"--initial-cluster-token={layout.lab}",
    ]


def environment(layout: Layout, host: Host) -> dict[str, str]:
    """Of what runs on a host: its card is the default one, and our programs come first."""
    folder = str(Path(sys.executable).parent)
    search = os.environ.get("PATH", os.defpath)
    made = {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{search}",
        DIRECTORY_VARIABLE: str(layout.directory),
        MARK: mark_of(layout.lab, host.name),
    }
    if not is_store(host.name):
        made[CARD_VARIABLE] = str(layout.control(host.name))
    return made


def card_answers(layout: Layout, host: Host) -> bool:
    """Whether the card takes commands, be it a member of the cluster or not."""
    try:
        call(layout.control(host.name), CARD_STATUS, NoParams(), CardStatus, _ANSWER_S)
    except VhostNvmeError:
        return False
    return True


def card_sees(layout: Layout, host: Host, names: Collection[str]) -> bool:
    """Whether the card is a member, and sees that all of these are."""
    control = layout.control(host.name)
    try:
        status = call(control, CARD_STATUS, NoParams(), CardStatus, _ANSWER_S)
        cards = call(control, CLUSTER_STATUS, NoParams(), list[ClusterCard], _ANSWER_S)
    except VhostNvmeError:
        return False
    online = {card.card for card in cards if card.health == "online"}
    return status.member and online.issuperset(names)


def store_answers(host: Host) -> bool:
    """Whether an etcd server has a leader."""
    try:
        with namespaces.connect(host.namespace, host.address, _CLIENT_PORT, _ANSWER_S) as connected:
            connection = http.client.HTTPConnection(host.address, _CLIENT_PORT)
            connection.sock = connected
            connection.request("GET", "/health")
            answer: Mapping[str, object] = json.loads(connection.getresponse().read(4096))
    except (OSError, http.client.HTTPException, ValueError):
        return False
    return answer.get("health") == "true"


def last_words(log: Path) -> str:
    """The last line of a log, for a message."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return "it has no log"
    words = [line.strip() for line in lines if line.strip()]
    return words[-1][:500] if words else "its log is empty"
