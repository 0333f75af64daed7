"""Who is connected to a session, as subscribers are told who ask for it."""

from __future__ import annotations

import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness.client import WebSocketClient
from tests.harness.servers import BrokerServer


async def enter(
    server: BrokerServer, session: str, user: str, **query: str
) -> WebSocketClient:
    client = await WebSocketClient.connect(
        server.public, f"/v1/ws/{session}", {"user": user, **query}
    )
    await client.until("subscribed")
    return client


@pytest.fixture
def quick(shared_redis: EmbeddedServer, start_broker: StartBroker) -> BrokerServer:
    """A broker with short leases, so that leaving is noticed soon."""
    return start_broker(shared_redis.url, session_lease_s=4, session_linger_s=1)


async def test_who_asks_is_told_who_comes_and_who_goes(
    quick: BrokerServer, session: str
) -> None:
    """First who is there, then each change, also on the other worker."""
    watcher = await enter(quick, session, "ada", presence="1")
    present = await watcher.until("present")
    guest = await enter(quick, session, "bob")
    joined = await watcher.until("joined")
    await guest.close()
    left = await watcher.until("left")

    assert present["session"] == session
    assert present["data"] == {"users": ["ada"], "count": 1}
    assert joined["data"] == {"users": ["bob"], "count": 2}
    assert left["data"] == {"users": ["bob"], "count": 1}
    watcher.cut()


async def test_a_reconnect_within_the_linger_is_silent(
    quick: BrokerServer, session: str
) -> None:
    """Nobody is told that somebody reloaded a page."""
    watcher = await enter(quick, session, "ada", presence="1")
    await watcher.until("present")
    guest = await enter(quick, session, "bob")
    await watcher.until("joined")
    await guest.close()
    again = await enter(quick, session, "bob")
    with pytest.raises(TimeoutError):
        await watcher.until("left", timeout_s=4)
    again.cut()
    watcher.cut()


async def test_a_killed_pod_s_users_disappear(
    quick: BrokerServer,
    shared_redis: EmbeddedServer,
    start_broker: StartBroker,
    session: str,
) -> None:
    """Its leases run out, and nobody has to clean up."""
    doomed = start_broker(shared_redis.url, session_lease_s=4, session_linger_s=1)
    watcher = await enter(quick, session, "ada", presence="1")
    await watcher.until("present")
    guest = await enter(doomed, session, "bob")
    joined = await watcher.until("joined")
    doomed.destroy()
    left = await watcher.until("left", timeout_s=15)
    await guest.wait_ended()

    assert joined["data"]["users"] == left["data"]["users"] == ["bob"]
    watcher.cut()


async def test_who_does_not_ask_is_told_nothing(
    quick: BrokerServer, session: str
) -> None:
    """Presence is for those who want it."""
    quiet = await enter(quick, session, "ada")
    watcher = await enter(quick, session, "bob", presence="1")
    await watcher.until("present")
    quiet.send({"cmd": "ping"})

    seen = [await quiet.frame()]
    while seen[-1]["event"] != "pong":
        seen.append(await quiet.frame())

    assert {frame["event"] for frame in seen} <= {"pong", "heartbeat"}
    quiet.cut()
    watcher.cut()
