"""The store of a card: how it is opened and left, and what it tells of all cards."""

from __future__ import annotations

import asyncio
import logging
from typing import TypeVar

from vhostnvme.cluster.records import (
    HELD,
    MEMBERS,
    USES,
    MemberRecord,
    SpaceRecord,
    UsesRecord,
    decode,
)
from vhostnvme.cluster.rows import HoldingRow, SpaceRow, StoreRow
from vhostnvme.cluster.store import open_store
from vhostnvme.cluster.store.base import Store
from vhostnvme.config import CardConfig
from vhostnvme.errors import ClusterError, ConfigError, ProtocolError, StoreUnavailable
from vhostnvme.storage.catalog import Catalog

_log = logging.getLogger(__name__)

T = TypeVar("T")

STORE_WAIT_S = 10.0
LEAVE_S = 2.0


async def open_card_store(config: CardConfig, catalog: Catalog) -> Store | None:
    """The store that card.toml names; None: the card is alone.

    A card that has been in its cluster before begins without the store, and waits for it.

    Raises:
        ConfigError: the card has namespaces of another cluster.
        ClusterError: the store cannot be used, or, the first time, not be reached.
    """
    cluster = config.cluster
    if cluster is None:
        return None
    known = catalog.get(StoreRow, "store")
    here = StoreRow(url=cluster.store, prefix=cluster.prefix)
    if known is not None and known != here and _shares(config.name, catalog):
        raise ConfigError(
            f"card {config.name} has namespaces of the cluster in {known.url}, and card.toml names"
            f" {here.url}: name the old one until they are released"
        )
    store = open_store(cluster.store, cluster.prefix, access=cluster.access)
    try:
        async with asyncio.timeout(STORE_WAIT_S):
            await store.open()
    except (StoreUnavailable, TimeoutError) as error:
        if known != here:
            await store.close()
            raise
        _log.warning("%s: this card goes on with what it has", error)
    except BaseException:
        await store.close()
        raise
    if known != here:
        catalog.write(here)
    return store


def _shares(me: str, catalog: Catalog) -> bool:
    """Whether it has something of other cards, or they of it."""
    return any(row.giver != me for row in catalog.all(HoldingRow)) or any(
        row.owner != me for row in catalog.all(SpaceRow)
    )


async def leave(store: Store, lease: int) -> None:
    """Nothing of the card runs any more: the others may know at once. `lease` 0: there is none."""
    try:
        async with asyncio.timeout(LEAVE_S):
            if lease:
                await store.revoke(lease)
    except (ClusterError, TimeoutError) as error:
        _log.debug("the lease is left to run out: %s", error)
    await store.close()


async def heartbeat_ages(store: Store) -> dict[str, float | None]:
    """Seconds since each card was heard of, by name; None: its lease has run out.

    Raises:
        ClusterError: the store does not answer.
    """
    snapshot = await store.list(MEMBERS)
    left = await store.remaining([entry.lease for entry in snapshot.entries])
    ages: dict[str, float | None] = {}
    for entry in snapshot.entries:
        try:
            member = decode(entry.key, entry.value, MemberRecord)
        except ProtocolError:
            continue
        left_s = left.get(entry.lease)
        ages[member.name] = None if left_s is None else max(member.ttl_s - left_s, 0.0)
    return ages


async def uses_of_all(store: Store) -> list[UsesRecord]:
    """What the VMs of all cards have of their own cards' SSDs.

    Raises:
        ClusterError: the store does not answer.
    """
    return await _all(store, USES, UsesRecord)


async def held_by_all(store: Store) -> list[SpaceRecord]:
    """What cards hold of each other, all of it.

    Raises:
        ClusterError: the store does not answer.
    """
    return await _all(store, HELD, SpaceRecord)


async def _all(store: Store, prefix: str, kind: type[T]) -> list[T]:
    found = []
    for entry in (await store.list(prefix)).entries:
        try:
            found.append(decode(entry.key, entry.value, kind))
        except ProtocolError as error:
            _log.warning("%s", error)
    return found
