"""A broker that asks who is there, for the files that say how it is set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.store.embedded import EmbeddedServer
from tests.harness.servers import BrokerServer


@pytest.fixture(scope="module")
def guarded_broker(
    request: pytest.FixtureRequest,
    shared_redis: EmbeddedServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[BrokerServer]:
    """A broker with the settings in ``GUARDED`` of the file, for all its tests."""
    settings: dict[str, object] = dict(request.module.GUARDED)
    directory = tmp_path_factory.mktemp("broker")
    server = BrokerServer(shared_redis.url, directory, settings).start()
    yield server
    server.stop()


@pytest.fixture
def guarded(guarded_broker: BrokerServer) -> Iterator[BrokerServer]:
    """The same; the test fails if it makes the broker log an error."""
    yield guarded_broker
    guarded_broker.check_log()
