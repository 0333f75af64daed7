"""What the broker asks of a server before it relies on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, closing, nullcontext
from typing import Any

import pytest

from broker.errors import ServerUnsuitable, StoreUnavailable
from broker.store.connection import Connection
from broker.store.embedded import EmbeddedServer, free_port
from broker.store.server import (
    DEFAULT_TRACKING_LIMIT,
    TrackingUnavailable,
    identify,
    is_master,
    start_tracking,
    tracking_load,
)
from tests.integration.store.conftest import Open, StartServer
from tests.integration.store.test_connection_peers import peer, push_after

TOO_OLD = pytest.raises(ServerUnsuitable, match="too old")


async def until(connection: Connection, *, master: bool) -> None:
    async with asyncio.timeout(10):
        while await is_master(connection) is not master:  # noqa: ASYNC110  no event
            await asyncio.sleep(0.02)


async def test_identity_names_flavor_and_version(
    open_connection: Open, flavor: str
) -> None:
    """Both flavors are told apart; ids are those that INFO shows."""
    identity = await identify(await open_connection())

    assert identity.flavor == flavor
    assert int(identity.version.split(".")[0]) >= 7
    assert len(identity.run_id) == len(identity.replid) == 40


async def test_run_id_changes_with_a_restart(
    start_server: StartServer, open_connection: Open
) -> None:
    """A server that was restarted is not the same server."""
    server = start_server()
    before = await identify(await open_connection(server.url))

    server.restart()
    after = await identify(await open_connection(server.url))

    assert after.run_id != before.run_id


async def test_replid_changes_with_a_promotion(
    start_server: StartServer, open_connection: Open
) -> None:
    """A promoted replica has the same run id and another history."""
    primary, replica = start_server(), start_server()
    connection = await open_connection(replica.url)
    await connection.call("REPLICAOF", "127.0.0.1", primary.port)
    await until(connection, master=False)
    with pytest.raises(StoreUnavailable, match="replica"):
        await identify(connection)
    before = await identify(await open_connection(primary.url))

    await connection.call("REPLICAOF", "NO", "ONE")

    assert await is_master(connection)
    assert (await identify(connection)).replid != before.replid


async def test_cluster_is_refused(
    start_server: StartServer, open_connection: Open
) -> None:
    """Cluster is not supported, and the message says so."""
    # By default its second port is 10 000 higher, which need not exist.
    server = start_server(
        *("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    )

    with pytest.raises(ServerUnsuitable, match="Cluster"):
        await identify(await open_connection(server.url))


@pytest.mark.parametrize(
    ("lines", "expectation"),
    [
        ("redis_version:6.2.14", TOO_OLD),
        ("redis_version:7.0.0", nullcontext()),
        ("redis_version:10.1", nullcontext()),
        (
            "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:7.2.5",
            nullcontext(),
        ),
        ("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:7.1.0", TOO_OLD),
        ("nothing:here", TOO_OLD),
    ],
)
async def test_server_that_is_too_old_is_refused(
    open_connection: Open, lines: str, expectation: AbstractContextManager[Any]
) -> None:
    """Before Redis 7.0 and Valkey 7.2 nothing counts what was added."""
    text = f"# Server\r\n{lines}\r\nrole:master\r\n"
    answer = f"${len(text)}\r\n{text}\r\n".encode()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await push_after(reader, writer, answer)

    async with peer(talk) as url:
        connection = await open_connection(url)
        with expectation:
            await identify(connection)


async def test_tracking_rings_once_per_change_from_idle(
    open_connection: Open,
) -> None:
    """After the self-test the doorbell is armed by reads, and the owner hears it."""
    pushes: list[Any] = []
    connection = await open_connection(on_push=pushes.append)
    second = await open_connection()

    await start_tracking(connection, second)
    await connection.call("XREAD", "STREAMS", "a", "b", "0-0", "0-0")
    await second.call("XADD", "a", "*", "event", "x")
    await second.call("XADD", "a", "*", "event", "x")
    await connection.call("PING")

    assert pushes == [[b"invalidate", [b"a"]]]
    assert connection.on_push == pushes.append


async def test_self_test_leaves_nothing_behind(open_connection: Open) -> None:
    """Its key is gone, from the data and from the tracking table."""
    connection = await open_connection()
    second = await open_connection()

    await start_tracking(connection, second)

    assert await second.call("DBSIZE") == 0
    assert (await tracking_load(second)).keys == 0


async def test_rings_during_the_self_test_reach_the_owner(
    open_connection: Open,
) -> None:
    """A connection that is tracking already misses nothing while it is tested."""
    pushes: list[Any] = []
    connection = await open_connection(on_push=pushes.append)
    second = await open_connection()
    await start_tracking(connection, second)
    await connection.call("XREAD", "STREAMS", "a", "0-0")

    ringing = second.send(("XADD", "a", "*", "event", "x"))
    await start_tracking(connection, second)
    await ringing

    assert pushes == [[b"invalidate", [b"a"]]]


async def test_refused_tracking_is_unavailable(open_connection: Open) -> None:
    """A user who may not track is told apart from a broken connection."""
    admin = await open_connection()
    await admin.call(
        *("ACL", "SETUSER", "eve", "on", "nopass", "~*", "&*", "+@all"),
        "-client|tracking",
    )
    connection = await open_connection()
    await connection.call("AUTH", "eve", "")

    with pytest.raises(TrackingUnavailable, match="NOPERM"):
        await start_tracking(connection, admin)

    assert not connection.closed
    await admin.call("ACL", "DELUSER", "eve")


async def test_refused_no_evict_is_ignored(open_connection: Open) -> None:
    """Nothing depends on CLIENT NO-EVICT."""
    admin = await open_connection()
    await admin.call(
        *("ACL", "SETUSER", "eve", "on", "nopass", "~*", "&*", "+@all"),
        "-client|no-evict",
    )
    connection = await open_connection()
    await connection.call("AUTH", "eve", "")

    await start_tracking(connection, admin)

    await admin.call("ACL", "DELUSER", "eve")


async def test_self_test_that_is_refused_is_unavailable(open_connection: Open) -> None:
    """Without the right to write its key the doorbell cannot be proved."""
    admin = await open_connection()
    await admin.call("ACL", "SETUSER", "eve", "on", "nopass", "~app:*", "+@all")
    second = await open_connection()
    await second.call("AUTH", "eve", "")

    with pytest.raises(TrackingUnavailable, match="NOPERM"):
        await start_tracking(await open_connection(), second)

    await admin.call("ACL", "DELUSER", "eve")


async def test_swallowed_pushes_are_found_out(
    open_connection: Open, server: EmbeddedServer
) -> None:
    """A proxy that accepts the command and drops the rings is not believed."""
    pushes: list[Any] = []
    second = await open_connection()
    async with swallow_pushes(server.port) as url:
        connection = await open_connection(url, on_push=pushes.append)
        with pytest.raises(TrackingUnavailable, match="no ring"):
            await start_tracking(connection, second)

    assert pushes == []


@asynccontextmanager
async def swallow_pushes(port: int) -> AsyncIterator[str]:
    """A proxy in front of *port* that drops packets which begin with a push."""
    tasks: set[asyncio.Task[None]] = set()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with closing(target):
            while data := await source.read(65536):
                if not data.startswith(b">"):
                    target.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_connection("127.0.0.1", port)
        for source, target in ((reader, upstream[1]), (upstream[0], writer)):
            tasks.add(asyncio.create_task(copy(source, target)))

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_connection_lost_during_the_self_test_is_unavailable(
    open_connection: Open,
) -> None:
    """A cut is not mistaken for a server that cannot track."""
    connection = await open_connection()
    second = await open_connection()
    second.close()

    with pytest.raises(StoreUnavailable):
        await start_tracking(connection, second)


async def test_tracking_load_counts_keys_and_pairs_of_key_and_client(
    open_connection: Open,
) -> None:
    """Two clients that watch one key are two items; the limit is the server's."""
    first, second = await open_connection(), await open_connection()
    for connection in (first, second):
        await connection.call("CLIENT", "TRACKING", "ON")
        await connection.call("XREAD", "STREAMS", "a", "0-0")

    load = await tracking_load(first)

    assert (load.keys, load.items) == (1, 2)
    assert load.limit == 1_000_000


async def test_tracking_limit_is_the_configured_one(
    start_server: StartServer, open_connection: Open
) -> None:
    """A smaller table is seen as such."""
    server = start_server("--tracking-table-max-keys", "5000")

    load = await tracking_load(await open_connection(server.url))

    assert load.limit == 5000


async def test_tracking_limit_is_assumed_where_config_is_refused(
    start_server: StartServer, open_connection: Open
) -> None:
    """Managed servers forbid CONFIG: Redis' default is assumed."""
    server = start_server("--tracking-table-max-keys", "5000")
    connection = await open_connection(server.url)
    await connection.call("ACL", "SETUSER", "default", "-config")

    load = await tracking_load(connection)

    assert load.limit == DEFAULT_TRACKING_LIMIT
