"""Fault tests take longer than others and provoke errors in the log."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartRedis

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every fault test has three minutes, far more than it needs."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(180))


@pytest.fixture
def own_redis(start_redis: StartRedis) -> EmbeddedServer:
    """A server of the test's own: the load uses the same sessions every time."""
    return start_redis()
