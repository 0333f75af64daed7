"""What a process counts of its connections, for the metrics."""

from __future__ import annotations

import asyncio

from broker.store.connection import Connection, traffic
from broker.store.embedded import EmbeddedServer
from broker.store.standing import StandingConnection


async def test_each_command_counts_on_whatever_connection(
    shared_redis: EmbeddedServer,
) -> None:
    """Also those that were encoded before and those of a log-in."""
    before = traffic.commands
    one = await Connection.open(shared_redis.url, client_name="test-one")
    two = await Connection.open(shared_redis.url, client_name="test-two")
    opened = traffic.commands
    await one.call_all(("PING",), ("ECHO", "x"))
    await two.send(b"*1\r\n$4\r\nPING\r\n")
    counted = traffic.commands
    one.close()
    two.close()

    assert opened - before >= 2
    assert counted - opened == 3


async def test_a_connection_that_is_lost_and_opened_again_counts_once(
    shared_redis: EmbeddedServer,
) -> None:
    """The first one does not count: it was not opened again."""
    standing = StandingConnection(shared_redis.url, "test-standing")
    before = StandingConnection.retries
    running = asyncio.create_task(standing.run())
    await standing.wait_up()
    first = standing.use()
    counted_first = StandingConnection.retries - before
    standing.drop()
    async with asyncio.timeout(10):
        # It tells nobody but those who wait for the next one.
        while not standing.up or standing.use() is first:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    counted = StandingConnection.retries - before
    running.cancel()
    await asyncio.wait([running])

    assert (counted_first, counted) == (0, 1)
