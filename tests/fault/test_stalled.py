"""Many sockets that nobody reads."""

from __future__ import annotations

import asyncio

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import processes
from tests.harness.client import WebSocketClient
from tests.harness.load import SECONDS, SESSIONS, load
from tests.harness.recorder import Recorder
from tests.harness.servers import BrokerServer

SOCKETS, STALLED = 1000, 200
STEADY = (3600.0, 3600.0)
MIB = 1 << 20


async def test_stalled_sockets_cost_no_memory_and_lose_nothing(
    start_broker: StartBroker, own_redis: EmbeddedServer
) -> None:
    """Memory is flat once the kernel's buffers are full; later all is delivered."""
    broker = start_broker(own_redis.url, heartbeat_s=600)
    running = load(
        broker,
        own_redis.url,
        rate_per_s=1000,
        clients=SOCKETS - STALLED,
        stay_s=STEADY,
        payload_bytes=1000,
    )
    async with running as healthy:
        before = processes.kernel_tcp_bytes()
        stalled = await stall(broker, healthy.recorder)
        await asyncio.sleep(SECONDS * 0.5)
        early = [processes.rss_bytes(pid) for pid in broker.workers]
        await asyncio.sleep(SECONDS * 0.45)
        late = [processes.rss_bytes(pid) for pid in broker.workers]
        kernel = processes.kernel_tcp_bytes() - before
        for client in stalled:
            client.resume()
    for client in stalled:
        client.cut()

    assert [client.fault for client in stalled] == [None] * STALLED
    assert all(b - a < 12 * MIB for a, b in zip(early, late, strict=True)), (
        early,
        late,
    )
    assert kernel / STALLED < 0.6 * MIB
    assert healthy.lost == 0
    assert len(healthy.sums) == SOCKETS


async def stall(broker: BrokerServer, recorder: Recorder) -> list[WebSocketClient]:
    """Clients that subscribe and then read nothing more."""
    clients = []
    for i in range(STALLED):
        session = SESSIONS[i % len(SESSIONS)]
        account = recorder.account(f"stalled-{i}", session)
        account.connecting()
        client = await WebSocketClient.connect(
            broker.public, f"/v1/ws/{session}", on_frame=account.frame
        )
        async with asyncio.timeout(10):
            while account.epoch.start is None:
                await account.changed()
        client.pause()
        clients.append(client)
    return clients
