"""What the tests of the client share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from broker.client import follow
from tests.unit.client.script import Act, Script

Play = Callable[..., Awaitable[Script]]


@pytest.fixture
async def play() -> AsyncIterator[Play]:
    """Starts a server that plays the acts given to it."""
    runners: list[web.AppRunner] = []

    async def start(*acts: Act) -> Script:
        script = Script(acts)
        app = web.Application()
        app.router.add_get("/v1/ws", script.handle)
        app.router.add_get("/v1/ws/{session}", script.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        script.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return script

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reconnection need not take half a second here."""
    monkeypatch.setattr(follow, "FIRST_BACKOFF_S", 0.01)
