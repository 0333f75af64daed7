"""Consoles of a test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from broker.store.connection import Connection
from broker.store.embedded import EmbeddedServer
from tests.harness.tokens import SECRET
from tests.integration.worker.console.front import Front

StartFront = Callable[..., Awaitable[Front]]


@pytest.fixture
async def start_front(shared_redis: EmbeddedServer) -> AsyncIterator[StartFront]:
    """Start consoles; keywords are settings in lower case."""
    connection = await Connection.open(shared_redis.url, client_name="console-test")
    fronts: list[Front] = []

    async def start(**settings: str) -> Front:
        fronts.append(Front(connection, **settings))
        await fronts[-1].start()
        return fronts[-1]

    yield start
    for front in fronts:
        await front.stop()
    connection.close()


@pytest.fixture
async def console(start_front: StartFront) -> Front:
    """A console where nobody is asked for a token."""
    return await start_front()


@pytest.fixture
async def guarded(start_front: StartFront) -> Front:
    """A console of a broker that asks for tokens."""
    return await start_front(auth="jwt", jwt_secret=SECRET)
