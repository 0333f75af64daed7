"""The demo feed against a real server: plain entries, and no end at an outage."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from broker.demo import SESSION, run_demo
from broker.entry import Event, read_entry
from broker.store import client as store
from broker.store.embedded import EmbeddedServer, find_server

PATTERN = "broker:events:{session}"
KEY = f"broker:events:{SESSION}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(find_server(), tmp_path, appendonly=True) as server:
        yield server


async def entries(
    server: EmbeddedServer, at_least: int, after: str = "0"
) -> list[tuple[bytes, list[bytes]]]:
    """The entries behind *after*, once there are *at_least* so many."""
    found: list[tuple[bytes, list[bytes]]] = []
    async with store.connect(server.url) as client, asyncio.timeout(20):
        while len(found) < at_least:
            last = found[-1][0].decode() if found else after
            (reply,) = await client.call_all(
                ("XREAD", "BLOCK", 1000, "STREAMS", KEY, last)
            )
            found += (reply or {}).get(KEY.encode(), [])
    return found


async def stop(feed: asyncio.Task[None]) -> None:
    feed.cancel()
    await asyncio.wait([feed])


async def test_published_events_keep_the_contract(server: EmbeddedServer):
    """What the feed adds is what the broker reads as events."""
    feed = asyncio.create_task(run_demo(server.url, PATTERN, pace=0))
    found = await entries(server, 60)
    await stop(feed)
    events = [read_entry(fields, 1024 * 1024) for _, fields in found]
    first = events[0]

    assert all(isinstance(event, Event) for event in events)
    assert isinstance(first, Event)
    assert (first.event, orjson.loads(first.data)["run"]) == (b"run_started", 1)


async def test_feed_goes_on_after_redis_was_away(server: EmbeddedServer):
    """A lost Redis interrupts a run; the next ones follow."""
    with capture_logs() as logged:
        feed = asyncio.create_task(run_demo(server.url, PATTERN, pace=0.01))
        last = (await entries(server, 5))[-1][0].decode()
        server.kill()
        async with asyncio.timeout(10):
            while not logged:  # noqa: ASYNC110  a log line rings no bell
                await asyncio.sleep(0.01)
        server.start()
        after = await entries(server, 30, last)
    still_running = not feed.done()
    await stop(feed)

    assert logged[0]["event"] == "demo_interrupted"
    assert still_running
    assert after[-1][0].decode() > last
