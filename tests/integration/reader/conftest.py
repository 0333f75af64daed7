"""A reader without its process, on every real server that is installed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from broker.store.embedded import EmbeddedServer
from tests.integration.reader.publisher import Publisher
from tests.integration.reader.rig import Rig
from tests.integration.store.conftest import (  # noqa: F401 - fixtures
    flavor,
    server,
    shared_server,
    start_server,
)

NewRig = Callable[..., Rig]


@pytest.fixture
async def rig(server: EmbeddedServer) -> AsyncIterator[Rig]:  # noqa: F811
    """A reader of the shared server, with long times: nothing but rings wake it."""
    async with Rig(server.url) as made:
        yield made


@pytest.fixture
async def publisher(
    server: EmbeddedServer,  # noqa: F811
) -> AsyncIterator[Publisher]:
    """Publishes to the shared server."""
    made = await Publisher.connect(server.url)
    yield made
    made.close()


@pytest.fixture
async def publishers(
    server: EmbeddedServer,  # noqa: F811
) -> AsyncIterator[list[Publisher]]:
    """Four of them, for load."""
    async with AsyncExitStack() as stack:
        made = [await Publisher.connect(server.url) for _ in range(4)]
        for one in made:
            stack.callback(one.close)
        yield made
