"""Retention that is faster than the readers."""

from __future__ import annotations

import asyncio

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import processes
from tests.harness.load import SECONDS, load


async def test_bursts_beyond_retention_are_announced_exactly(
    start_broker: StartBroker, own_redis: EmbeddedServer
) -> None:
    """Each burst adds 100 entries to a stream that keeps 20."""
    broker = start_broker(own_redis.url)
    async with load(broker, own_redis.url, maxlen=20, burst=2000) as running:
        pass

    assert running.lost > 0


async def test_trimming_while_the_reader_is_held_is_announced_exactly(
    start_broker: StartBroker, own_redis: EmbeddedServer
) -> None:
    """Two seconds of 100 events per session are far more than it keeps."""
    broker = start_broker(own_redis.url)
    async with load(broker, own_redis.url, maxlen=50) as running:
        for _ in range(3):
            await asyncio.sleep(SECONDS / 10)
            with processes.stopped(broker.reader):
                await asyncio.sleep(2)

    assert running.lost > 0
