"""What the tests of the services' library share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.client import CommandConsumer
from broker.store.embedded import EmbeddedServer
from tests.integration.client.service import GROUP, STREAM, NewConsumer


@pytest.fixture
async def redis(redis: Redis) -> AsyncIterator[Any]:
    """The shared server without commands, before and after."""
    await redis.delete(STREAM, "broker:dead")
    yield redis
    await redis.delete(STREAM, "broker:dead")


@pytest.fixture
def consumer(shared_redis: EmbeddedServer) -> NewConsumer:
    """Makes consumers of the shared server."""

    def make(name: str = "one", **options: Any) -> CommandConsumer:
        return CommandConsumer(shared_redis.url, group=GROUP, name=name, **options)

    return make
