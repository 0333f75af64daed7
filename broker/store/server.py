"""Which server this is, whether it suits, and whether its doorbell rings."""

from __future__ import annotations

import asyncio
import secrets
from hashlib import blake2b
from typing import Any

import msgspec

from broker.errors import ServerUnsuitable, StoreError, StoreRefused, StoreUnavailable
from broker.store.connection import Connection
from broker.store.keys import SELF_TEST_PREFIX

MIN_VERSIONS = {"redis": (7, 0), "valkey": (7, 2)}
SELF_TEST_S = 1.0
"""How long a ring may take in the self-test."""
SELF_TEST_EXPIRY_MS = 10_000
"""The self-test's key goes away by itself if the process dies in between."""
WRITES_REFUSED = frozenset({"OOM", "MISCONF", "NOREPLICAS"})
"""Errors of a server that takes no writes at the moment, but may be read."""
DEFAULT_TRACKING_LIMIT = 1_000_000
"""Redis' own default, assumed where ``CONFIG GET`` is refused."""


class TrackingUnavailable(StoreError):
    """``CLIENT TRACKING`` is refused here, or its invalidations do not arrive."""


class ServerIdentity(msgspec.Struct, frozen=True):
    """What tells one server, and one history of its data, from another.

    Attributes:
        run_id: Changes with every start of the server process.
        replid: Changes when a replica is promoted: its history is another one.
        version: Such as ``7.0.15``.
        flavor: ``redis`` or ``valkey``.
    """

    run_id: str
    replid: str
    version: str
    flavor: str

    @property
    def number(self) -> int:
        """A number that differs, as good as surely, for another server or history."""
        text = f"{self.run_id} {self.replid}".encode()
        return int.from_bytes(blake2b(text, digest_size=7).digest(), "big") + 1


class TrackingLoad(msgspec.Struct, frozen=True):
    """How full the server's tracking table is; all clients share it.

    Attributes:
        keys: Keys in the table.
        items: Pairs of key and client: clients that are gone are still counted.
        limit: How many keys fit; 0 means that there is no limit.
    """

    keys: int
    items: int
    limit: int


async def identify(
    connection: Connection, *, in_cluster: bool = False
) -> ServerIdentity:
    """Find out which server this is.

    Args:
        connection: To it.
        in_cluster: Whether it should be a node of a cluster.

    Raises:
        ServerUnsuitable: It is too old, or a node of a cluster and should not be one.
        StoreUnavailable: It is a replica (of which another server knows the primary).
        StoreRefused: ``INFO`` is not allowed.
    """
    info = await _info(connection, "server", "replication", "cluster")
    flavor = "valkey" if info.get("server_name") == "valkey" else "redis"
    version = info.get(f"{flavor}_version", "")
    if _version(version) < MIN_VERSIONS[flavor]:
        raise ServerUnsuitable(
            f"{flavor} {version or 'of unknown version'} is too old:"
            " Redis 7.0 or Valkey 7.2 is needed to count lost entries"
        )
    if info.get("cluster_enabled") == "1" and not in_cluster:
        raise ServerUnsuitable(
            "the server is a node of a Redis Cluster: BROKER_REDIS_URL must name some,"
            " as redis+cluster://host:port,host:port"
        )
    if info.get("role") != "master":
        raise StoreUnavailable("the server is a replica, not the primary")
    return ServerIdentity(
        run_id=info.get("run_id", ""),
        replid=info.get("master_replid", ""),
        version=version,
        flavor=flavor,
    )


async def is_master(connection: Connection) -> bool:
    """Whether the server is (still) the primary.

    Raises:
        StoreUnavailable: No connection, or the server is not ready.
        StoreRefused: Neither ``ROLE`` nor ``INFO`` is allowed.
    """
    try:
        role = await connection.call("ROLE")
    except StoreRefused:
        return (await _info(connection, "replication")).get("role") == "master"
    return bool(role[0] == b"master")


def self_test_key() -> bytes:
    """A key for one self-test of a doorbell."""
    return SELF_TEST_PREFIX + secrets.token_hex(8).encode()


async def start_tracking(
    connection: Connection, second: Connection, key: bytes | None = None
) -> None:
    """Turn on the doorbell of *connection* and prove that it rings.

    A server or a proxy may accept the command and swallow the pushes, so a key is
    read on *connection*, written by *second*, and must ring.

    Args:
        connection: Of the reader.
        second: Another one to the same server.
        key: One that only this test uses, default any; empty where there can be none:
            then nothing is proved.

    Raises:
        TrackingUnavailable: The server refuses, or the ring did not come.
        StoreUnavailable: A connection was lost, or the server is not ready.
    """
    key = self_test_key() if key is None else key
    rang = asyncio.Event()
    owners = connection.on_push

    def listen(push: list[Any]) -> None:
        if push[0] == b"invalidate" and push[1] == [key]:
            rang.set()
        else:
            owners(push)

    connection.on_push = listen
    try:
        await _ring(connection, second, key)
        if not key:
            return
        async with asyncio.timeout(SELF_TEST_S):
            await rang.wait()
    except TimeoutError:
        raise TrackingUnavailable(f"no ring within {SELF_TEST_S} s") from None
    except StoreRefused as error:
        if error.kind in WRITES_REFUSED:
            return  # Not proved and not refuted: the sweep counts what does not ring.
        raise TrackingUnavailable(f"refused: {error}") from None
    finally:
        if not connection.closed:
            connection.on_push = owners
    await second.send(("DEL", key))


async def _ring(connection: Connection, second: Connection, key: bytes) -> None:
    await connection.call("CLIENT", "TRACKING", "ON")
    # Redis would rather close the largest client than run out of memory. Refused by
    # servers where only an administrator may say so; nothing depends on it.
    await connection.send(("CLIENT", "NO-EVICT", "ON"))
    if not key:
        return
    await connection.call("XREAD", "COUNT", 1, "STREAMS", key, "0-0")
    # Together in one write, so the expiry cannot ring a second time.
    await second.call_all(
        ("XADD", key, "*", "event", "selftest"),
        ("PEXPIRE", key, SELF_TEST_EXPIRY_MS),
    )


async def tracking_load(connection: Connection) -> TrackingLoad:
    """How full the tracking table is.

    Raises:
        StoreUnavailable: No connection, or the server is not ready.
        StoreRefused: ``INFO`` is not allowed.
    """
    info = await _info(connection, "stats")
    try:
        answer = await connection.call("CONFIG", "GET", "tracking-table-max-keys")
    except StoreRefused:
        answer = {}
    limit = int(answer.get(b"tracking-table-max-keys", DEFAULT_TRACKING_LIMIT))
    return TrackingLoad(
        keys=int(info.get("tracking_total_keys", 0)),
        items=int(info.get("tracking_total_items", 0)),
        limit=limit,
    )


async def _info(connection: Connection, *sections: str) -> dict[str, str]:
    text: bytes = await connection.call("INFO", *sections)
    lines = (line.partition(":") for line in text.decode().splitlines())
    return {name: value for name, colon, value in lines if colon}


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")
    return tuple(int(part) for part in parts if part.isdigit())
