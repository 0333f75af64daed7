"""The publisher must know exactly what the stream has."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from broker.model import parse_stream_id
from tests.harness.ledger import Ledger
from tests.harness.proxy import FaultProxy
from tests.harness.publisher import RatePublisher, connect, key_of
from tests.harness.redis_server import new_server


async def stored(url: str, session: str) -> list[tuple[int, int]]:
    client: Any = connect(url)
    entries = await client.xrange(key_of(session))
    await client.aclose()
    return [parse_stream_id(entry[0]) for entry in entries]


async def test_ledger_equals_the_streams(tmp_path: Path) -> None:
    """At an even rate over several sessions."""
    ledger = Ledger()
    with new_server(tmp_path) as server:
        publisher = RatePublisher(server.url, ledger, ["a", "b", "c"], 1000)
        await publisher.run(0.5)

        assert 400 < publisher.published <= 500
        for session in ("a", "b", "c"):
            assert ledger.current(session).ids == await stored(server.url, session)


async def test_ledger_equals_the_streams_after_cuts(tmp_path: Path) -> None:
    """Entries whose answer was cut off are found by reading them back."""
    ledger = Ledger()
    with new_server(tmp_path) as server:
        async with FaultProxy(("127.0.0.1", server.port)) as proxy:
            url = f"redis://127.0.0.1:{proxy.address[1]}/0"
            publisher = RatePublisher(url, ledger, ["a", "b"], 2000)
            publishing = asyncio.create_task(publisher.run(1.0))
            while not publishing.done():
                await asyncio.wait([publishing], timeout=0.05)
                proxy.cut()
            await publishing

        assert proxy.accepted > 5
        for session in ("a", "b"):
            assert ledger.current(session).ids == await stored(server.url, session)


async def test_ledger_equals_the_streams_after_a_restart(tmp_path: Path) -> None:
    """A server that was killed has everything that it acknowledged."""
    ledger = Ledger()
    server = new_server(tmp_path, appendonly=True)
    with server:
        publisher = RatePublisher(server.url, ledger, ["a", "b"], 1000)
        publishing = asyncio.create_task(publisher.run(1.5))
        await asyncio.sleep(0.5)
        server.kill()
        await asyncio.sleep(0.2)
        await asyncio.to_thread(server.start)
        await publishing

        assert publisher.published > 500
        for session in ("a", "b"):
            assert ledger.current(session).ids == await stored(server.url, session)
