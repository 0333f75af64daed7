"""What the tests of the control plane's parts share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from broker.control import jwks
from broker.control.jwks import KeySet
from broker.control.tokens import Tokens
from tests.fakes import FakeClock
from tests.unit.control.issuer import KeyServer

CACHE_S = 300


@pytest.fixture
async def key_server() -> AsyncIterator[KeyServer]:
    """An issuer's key set, empty at first, on a real server."""
    server = KeyServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def key_clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The clock by which keys grow old."""
    clock = FakeClock()
    monkeypatch.setattr(jwks, "time", clock)
    return clock


@pytest.fixture
async def keys(key_clock: FakeClock, key_server: KeyServer) -> AsyncIterator[KeySet]:
    """The keys that the server shows."""
    del key_clock
    made = KeySet(key_server.url, CACHE_S)
    yield made
    await made.close()


@pytest.fixture
def tokens(keys: KeySet) -> Tokens:
    """Judges tokens by the keys that the server shows."""
    return Tokens(keys)
