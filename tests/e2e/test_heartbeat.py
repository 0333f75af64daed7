"""The server asks, and a peer that does not answer is let go."""

from __future__ import annotations

import asyncio

import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import NewWatcher, StartBroker
from tests.harness.client import WebSocketClient
from tests.harness.publisher import Author
from tests.harness.servers import BrokerServer
from tests.harness.sse import SseClient

HEARTBEAT_S = 0.5


@pytest.fixture
def beating(start_broker: StartBroker, shared_redis: EmbeddedServer) -> BrokerServer:
    """A broker with short heartbeats."""
    return start_broker(shared_redis.url, heartbeat_s=HEARTBEAT_S)


async def test_heartbeats_come_at_their_interval(
    beating: BrokerServer, watch: NewWatcher, session: str
) -> None:
    """Each is a ping and a text frame, so both kinds of client can watch for it."""
    watcher = await watch(beating, session).open()
    await watcher.next("heartbeat", timeout_s=3 * HEARTBEAT_S)
    loop = asyncio.get_running_loop()
    start = loop.time()
    for _ in range(4):
        await watcher.next("heartbeat", timeout_s=3 * HEARTBEAT_S)
    took = loop.time() - start

    assert took == pytest.approx(4 * HEARTBEAT_S, rel=0.5)
    assert watcher.websocket.pings >= 4
    assert next(f for f in watcher.seen if f["event"] == "heartbeat") == {
        "event": "heartbeat"
    }


async def test_first_heartbeats_are_spread(beating: BrokerServer, session: str) -> None:
    """Clients that connect together are not asked together."""
    loop = asyncio.get_running_loop()
    clients = [
        await WebSocketClient.connect(beating.public, f"/v1/ws/{session}")
        for _ in range(30)
    ]

    async def first(client: WebSocketClient) -> float:
        await client.until("heartbeat")
        return loop.time()

    times = await asyncio.gather(*(first(client) for client in clients))
    for client in clients:
        client.cut()

    assert max(times) - min(times) > HEARTBEAT_S / 4


async def test_sse_heartbeats_are_comments(
    beating: BrokerServer, watch: NewWatcher, author: Author, session: str
) -> None:
    """A comment keeps proxies awake and no handler sees it."""
    watcher = await watch(beating, session, "sse").open()
    await asyncio.sleep(3 * HEARTBEAT_S)
    await author.publish(session)
    await watcher.next("tick")

    assert isinstance(watcher.socket, SseClient)
    assert watcher.socket.comments.count("heartbeat") >= 2
    assert "heartbeat" not in [frame["event"] for frame in watcher.seen]


async def test_peer_that_answers_no_ping_is_let_go(
    beating: BrokerServer, session: str
) -> None:
    """Silence for a few heartbeats is the end, and the code means resume."""
    client = await WebSocketClient.connect(beating.public, f"/v1/ws/{session}")
    client.answers_pings = False
    ended = await client.wait_ended(8 * HEARTBEAT_S)

    assert ended.code in (4003, None)
    assert client.pings >= 1


async def test_peer_that_answers_stays(
    beating: BrokerServer, watch: NewWatcher, author: Author, session: str
) -> None:
    """Pongs alone keep a connection that never says anything else."""
    watcher = await watch(beating, session).open()
    await asyncio.sleep(8 * HEARTBEAT_S)
    await author.publish(session)
    await watcher.next("tick")

    assert watcher.websocket.pings >= 6


async def test_peer_that_stops_reading_is_let_go(
    beating: BrokerServer, session: str
) -> None:
    """A frozen client answers no ping either."""
    client = await WebSocketClient.connect(beating.public, f"/v1/ws/{session}")
    client.pause()
    await asyncio.sleep(8 * HEARTBEAT_S)
    client.resume()
    ended = await client.wait_ended(2.0)

    assert ended.code in (4003, None)
