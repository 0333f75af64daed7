"""A ring that is too small for a worker that stalls."""

from __future__ import annotations

import asyncio
import re

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import http, processes
from tests.harness.load import SECONDS, load
from tests.harness.servers import BrokerServer


async def test_lapped_worker_loses_nothing(
    start_broker: StartBroker, own_redis: EmbeddedServer
) -> None:
    """What the ring overwrote is read again from Redis, once and in order."""
    broker = start_broker(
        own_redis.url, ring_bytes="1MiB", max_event_bytes="64KiB", hang_s=30
    )
    broker.allowed.append("probe")
    async with load(broker, own_redis.url, payload_bytes=1000) as running:
        for worker in broker.workers:
            await asyncio.sleep(SECONDS / 10)
            with processes.stopped(worker):
                await asyncio.sleep(5)
    lapped = await counter(broker, "lapped")

    assert running.lost == 0
    assert lapped > 0


async def counter(broker: BrokerServer, name: str) -> float:
    """The sum of all metrics with *name* in theirs."""
    text = (await http.get(broker.admin, "/metrics")).body.decode()
    found = re.findall(
        rf"^broker_\w*{name}\w*_total(?:{{.*}})? (\S+)$", text, re.MULTILINE
    )
    assert found, f"no metric {name}"
    return sum(map(float, found))
