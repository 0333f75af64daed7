"""The network between broker and Redis, and between clients and broker."""

from __future__ import annotations

import asyncio

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness.load import SECONDS, load
from tests.harness.proxy import FaultProxy

EXPECTED = "redis_unavailable|probe|reader_lost"


async def test_connections_to_redis_that_are_cut_lose_nothing(
    start_broker: StartBroker, own_redis: EmbeddedServer
) -> None:
    """A reset of every connection, five times."""
    async with FaultProxy(("127.0.0.1", own_redis.port)) as proxy:
        # In a thread: the proxy needs this loop until the broker is ready.
        url = f"redis://127.0.0.1:{proxy.address[1]}/0"
        broker = await asyncio.to_thread(start_broker, url)
        broker.allowed.append(EXPECTED)
        async with load(broker, own_redis.url) as running:
            for _ in range(5):
                await asyncio.sleep(SECONDS / 8)
                proxy.cut()
        await asyncio.to_thread(broker.stop)

    assert running.lost == 0


async def test_connections_to_redis_that_fall_silent_lose_nothing(
    start_broker: StartBroker, own_redis: EmbeddedServer
) -> None:
    """Nobody says that the connection is gone; a deadline must notice."""
    async with FaultProxy(("127.0.0.1", own_redis.port)) as proxy:
        # In a thread: the proxy needs this loop until the broker is ready.
        url = f"redis://127.0.0.1:{proxy.address[1]}/0"
        broker = await asyncio.to_thread(start_broker, url)
        broker.allowed.append(EXPECTED)
        async with load(broker, own_redis.url) as running:
            await asyncio.sleep(SECONDS / 8)
            proxy.pause()
            await asyncio.sleep(8)
            proxy.resume()
        await asyncio.to_thread(broker.stop)

    assert running.lost == 0


async def test_slow_redis_loses_nothing(
    start_broker: StartBroker, own_redis: EmbeddedServer
) -> None:
    """A store in another region: 40 ms for each packet."""
    async with FaultProxy(("127.0.0.1", own_redis.port)) as proxy:
        proxy.delay_s = 0.02
        # In a thread: the proxy needs this loop until the broker is ready.
        url = f"redis://127.0.0.1:{proxy.address[1]}/0"
        broker = await asyncio.to_thread(start_broker, url)
        async with load(broker, own_redis.url, seconds=SECONDS / 2) as running:
            pass
        await asyncio.to_thread(broker.stop)

    assert running.lost == 0


async def test_thin_lines_to_clients_lose_nothing(
    start_broker: StartBroker, own_redis: EmbeddedServer
) -> None:
    """Clients that cannot take the rate lag, and have everything in the end."""
    broker = start_broker(own_redis.url)
    public = broker.public
    async with FaultProxy(public) as proxy:
        proxy.bytes_per_s = 20_000
        broker.public = proxy.address
        async with load(broker, own_redis.url, clients=60) as running:
            await asyncio.sleep(SECONDS * 0.9)
            proxy.bytes_per_s = 0
        broker.public = public

    assert running.lost == 0
