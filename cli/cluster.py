"""`qwenserve ps --cluster`: every process that the store knows, on whichever machine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError

from qwenserve.cli.errors import CommandError
from qwenserve.cli.state import StateDirectory
from qwenserve.cluster.v1 import announcement_pb2
from qwenserve.runtime.config import StoreConfig
from qwenserve.runtime.secret import Secret
from qwenserve.store.opening import open_store

_NO_STORE = (
    "--cluster asks the store: set store.url, in the configuration or with --set store.url=…, or start a deployment "
    "with one of its own (`up --store`)"
)
_GROUPS = ("routers", "tokenizers", "workers")
_HEADER = ("ADDRESS(RPC)", "ADDRESS(HTTP)", "TIER", "NAME", "HOST", "PID", "STATE", "MODEL", "ENGINE")


def cluster_table(config: StoreConfig) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Returns header and rows, one row a process. Raises CommandError without a store, or without an answer of it."""
    return _HEADER, rows_of(_announcements(config))


def router_addresses(config: StoreConfig) -> list[str]:
    """Returns the URL of every router that the store knows. Raises CommandError like `cluster_table`."""
    said = [one for one in map(_read, _announcements(config)) if one is not None]
    return sorted({_url(one) for one in said if one.http_address})


def rows_of(values: Sequence[bytes]) -> list[Sequence[str]]:
    """Returns a row for each announcement, by tier and name."""
    said = [one for one in map(_read, values) if one is not None]
    said.sort(key=lambda one: (-one.tier, one.name, one.address))
    return [
        (
            one.address,
            (_url(one) if one.tls else one.http_address) or "-",
            announcement_pb2.Tier.Name(one.tier).removeprefix("TIER_").lower(),
            one.name,
            one.host,
            str(one.pid),
            announcement_pb2.State.Name(one.state).removeprefix("STATE_").lower().replace("_", " "),
            one.model,
            one.worker.engine or "-",
        )
        for one in said
    ]


def _url(router: announcement_pb2.Announcement) -> str:
    return f"{'https' if router.tls else 'http'}://{router.http_address}"


def _read(value: bytes) -> announcement_pb2.Announcement | None:
    try:
        return announcement_pb2.Announcement.FromString(value)
    except DecodeError:
        return None


def _announcements(config: StoreConfig) -> list[bytes]:
    stores = [config] if config.url else own_stores(config, StateDirectory())
    if not stores:
        raise CommandError(_NO_STORE)
    return [value for store in stores for value in asyncio.run(_members(store))]


def own_stores(config: StoreConfig, state: StateDirectory) -> list[StoreConfig]:
    """Returns how to reach the stores that deployments of this machine have started for themselves."""
    found = []
    for record in state.records():
        for process in record.processes:
            if process.tier == "store" and process.running:
                password = Secret(state.deployment(record.name).token("store-password"))
                found.append(
                    config.model_copy(update={"url": Secret(f"redis://{process.address}"), "password": password})
                )
    return found


async def _members(config: StoreConfig) -> list[bytes]:
    # A user waits here, not a request: a longer limit will do.
    store = open_store(config.model_copy(update={"timeout_s": 5.0}))
    try:
        groups: list[Mapping[str, bytes] | None] = [await store.members(group) for group in _GROUPS]
    finally:
        await store.close()
    found = [group for group in groups if group is not None]
    if len(found) < len(groups):
        raise CommandError("the store does not answer; check store.url, its password, and that it runs")
    return [value for group in found for value in group.values()]
