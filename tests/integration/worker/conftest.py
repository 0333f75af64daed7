"""What the tests of a worker's parts on a real server share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from broker.metrics.slots import Slots
from broker.store.embedded import EmbeddedServer
from broker.store.keys import event_key_pattern
from broker.worker.archive import Archive


@pytest.fixture
async def archive(shared_redis: EmbeddedServer) -> AsyncIterator[Archive]:
    """Reads the shared server as a worker does."""
    pattern = event_key_pattern("broker:events:{session}")
    slots = Slots.create(1)
    made = Archive(shared_redis.url, "test-archive", pattern, slots.row(1), lambda: 0)
    running = asyncio.create_task(made.run())
    async with asyncio.timeout(10):
        await made._standing.wait_up()
    yield made
    running.cancel()
    await asyncio.wait([running])
    slots.close()
