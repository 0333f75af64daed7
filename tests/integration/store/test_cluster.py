"""A cluster behind the interface of one connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from broker.errors import ServerUnsuitable, StoreUnavailable
from broker.store.cluster import HOME_SLOT, ClusterConnection, open_connection
from broker.store.connection import Connection
from broker.store.embedded import EmbeddedServer
from broker.store.scripts import load_scripts, script
from broker.store.slots import slot_of
from tests.harness.load import until
from tests.harness.redis_cluster import RedisCluster, said

KEYS = [f"key{number}" for number in range(30)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three primaries for all tests of this file."""
    running = RedisCluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield running.start()
    finally:
        running.stop()


@pytest.fixture
async def connection(cluster: RedisCluster) -> AsyncIterator[Connection]:
    """To all of it."""
    opened = await open_connection(cluster.url, client_name="test")
    yield opened
    opened.close()


async def test_answers_come_in_the_order_of_the_commands(
    connection: Connection,
) -> None:
    """Whichever nodes they come from."""
    await connection.call_all(*(("SET", key, f"{key}!") for key in KEYS))
    found = await connection.call_all(*(("GET", key) for key in KEYS))

    assert found == [f"{key}!".encode() for key in KEYS]


async def test_transaction_goes_to_one_node_as_a_whole(
    cluster: RedisCluster, connection: Connection
) -> None:
    """With what has no key, such as the time, and its end."""
    home = cluster.owner(HOME_SLOT)
    key = next(key for key in KEYS if owner_of(cluster, key) is not home)
    await connection.call("SET", key, "there")
    replies = await connection.call_all(("MULTI",), ("TIME",), ("GET", key), ("EXEC",))

    assert replies[:3] == [b"OK", b"QUEUED", b"QUEUED"]
    assert replies[3][1] == b"there"


async def test_scripts_are_known_to_nodes_that_are_connected_later(
    connection: Connection,
) -> None:
    """They are loaded once, on whatever is connected."""
    await load_scripts(connection, "commit")
    call = script("commit").call
    replies = await connection.call_all(
        *(call((f"positions:{key}",), "forward", "me", "1-1", 1000, 9) for key in KEYS)
    )

    assert replies == [b"1-1"] * len(KEYS)


@pytest.mark.parametrize("is_script", [False, True])
async def test_order_is_kept_while_a_slot_moves(
    cluster: RedisCluster, connection: Connection, is_script: bool
) -> None:
    """Of what is sent without waiting: plain commands, or scripts with two keys."""
    await load_scripts(connection, "add_once")
    key = f"ordered-{is_script}"
    moving = asyncio.create_task(move_around(cluster, slot_of(key.encode())))
    answers = []
    number = 0
    while not moving.done():
        entry = ("*", "n", number)
        remembered = f"remembered:{{{key}}}:{number}"
        once = script("add_once").call((remembered, key), "d", 60_000, *entry)
        answers.append(connection.send(once if is_script else ("XADD", key, *entry)))
        number += 1
        await asyncio.sleep(0.001)
    await moving
    replies = await asyncio.gather(*answers)
    entries = await connection.call("XRANGE", key, "-", "+")

    assert [reply for (reply,) in replies] == [entry_id for entry_id, _ in entries]
    assert [int(fields[1]) for _, fields in entries] == list(range(number))


async def move_around(cluster: RedisCluster, slot: int) -> None:
    for _ in range(3):
        await cluster.move_on(slot, pause_s=0.1)


async def test_a_node_that_is_gone_fails_what_it_is_asked(
    cluster: RedisCluster, connection: Connection
) -> None:
    """What is asked alone fails; together with others these have their answers.

    Even if it is the home of what has no key.
    """
    gone = cluster.owner(HOME_SLOT)
    lost = next(key for key in KEYS if owner_of(cluster, key) is gone)
    kept = next(key for key in KEYS if owner_of(cluster, key) is not gone)
    said(owner_of(cluster, kept), "SET", kept, "there")
    gone.kill()
    try:
        async with asyncio.timeout(10):
            fresh = await open_connection(cluster.url, client_name="test")
        replies = await fresh.send(("GET", lost), ("GET", kept))
        with pytest.raises(StoreUnavailable):
            await fresh.call("GET", lost)
        fresh.close()
    finally:
        gone.start()
        cluster.wait_until_well()

    assert str(replies[0]).startswith("CLUSTERDOWN")
    assert replies[1] == b"there"


def owner_of(cluster: RedisCluster, key: str) -> EmbeddedServer:
    return cluster.owner(slot_of(key.encode()))


async def test_a_lost_node_ends_the_connection(cluster: RedisCluster) -> None:
    """So its owner starts over, as after the loss of a server."""
    ended = asyncio.get_running_loop().create_future()
    connection = await open_connection(
        cluster.url, client_name="test", on_lost=ended.set_result
    )
    await connection.call_all(*(("GET", key) for key in KEYS))
    said(cluster.primaries[1], "CLIENT", "KILL", "TYPE", "normal")
    async with asyncio.timeout(10):
        await ended

    assert connection.closed
    with pytest.raises(StoreUnavailable):
        await connection.call("GET", "key1")


async def test_a_single_server_is_no_cluster(shared_redis: EmbeddedServer) -> None:
    """And no retry would make it one."""
    with pytest.raises(ServerUnsuitable, match="no node of a cluster"):
        await open_connection(
            f"redis+cluster://127.0.0.1:{shared_redis.port}", client_name="test"
        )


async def test_the_epoch_is_found_out_that_somebody_knows(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads the past asks for what the reader knows already."""
    monkeypatch.setattr("broker.store.cluster.REFRESH_S", 600)
    connection = await open_connection(cluster.url, client_name="test")
    assert isinstance(connection, ClusterConnection)
    before = connection.epoch
    said(cluster.primaries[2], "CLUSTER", "BUMPEPOCH")
    said(cluster.primaries[0], "CLUSTER", "BUMPEPOCH")
    connection.look_again(before + 1)
    await until(lambda: connection.epoch > before, 10, "later epoch")
    connection.close()
