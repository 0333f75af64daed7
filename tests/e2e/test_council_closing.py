"""How clients of the hub are let go of, and how its front end comes back.

`MeetingRoom` keeps the rules by which the front end does so.
"""

from __future__ import annotations

import asyncio
import signal

import orjson
import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import http, hub, wire
from tests.harness.client import Refused
from tests.harness.council import MeetingRoom
from tests.harness.ledger import Ledger
from tests.harness.proxy import FaultProxy
from tests.harness.publisher import RatePublisher
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET, bearer, token


async def test_a_drain_closes_in_order_one_after_the_other(
    start_broker: StartBroker, shared_redis: EmbeddedServer, session: str
) -> None:
    """The page comes back without a pause, so the pauses are made here."""
    server = start_broker(shared_redis.url, workers=1, drain_s=2)
    clients = [await hub.enter(server, f"session={session}") for _ in range(5)]
    server.signal(signal.SIGTERM)
    first, others = await asyncio.wait(
        [asyncio.create_task(client.wait_ended()) for client in clients],
        return_when=asyncio.FIRST_COMPLETED,
    )
    ended = await asyncio.gather(*first, *others)

    assert len(others) >= 3
    assert [one.code for one in ended] == [1012] * 5
    assert await asyncio.to_thread(server.wait) == 0


async def test_a_page_moves_to_another_server_at_a_drain(
    start_broker: StartBroker, shared_redis: EmbeddedServer, redis: Redis, session: str
) -> None:
    """With one upgrade, at once, and without a try of its store."""
    old = start_broker(shared_redis.url)
    new = start_broker(shared_redis.url)
    async with (
        FaultProxy(old.public) as proxy,
        MeetingRoom(proxy.address, f"?session={session}") as room,
    ):
        await room.until_opened(1)
        proxy.upstream = new.public
        old.signal(signal.SIGTERM)
        await room.until_opened(2)
        await hub.publish(redis, session, "token_usage")
        await room.until_frames(1)

        assert (room.upgrades, room.closes, room.waits) == (2, [1012], [])
        assert await asyncio.to_thread(old.wait) == 0


async def test_a_page_comes_back_after_its_server_was_killed(
    start_broker: StartBroker, shared_redis: EmbeddedServer, redis: Redis, session: str
) -> None:
    """The store waits longer from try to try until one succeeds."""
    old = start_broker(shared_redis.url)
    new = start_broker(shared_redis.url)
    async with (
        FaultProxy(old.public) as proxy,
        MeetingRoom(proxy.address, f"?session={session}") as room,
    ):
        await room.until_opened(1)
        old.destroy()
        await room.until_upgrades(3)
        proxy.upstream = new.public
        await room.until_opened(2)
        await hub.publish(redis, session, "token_usage")
        await room.until_frames(1)

        assert room.closes == [None]
        assert room.waits == list(range(1, room.upgrades))


async def test_a_page_comes_back_after_its_network_was_cut(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """After one delay; what it says then is heard again."""
    async with (
        FaultProxy(broker.public) as proxy,
        MeetingRoom(proxy.address, f"?session={session}") as room,
    ):
        await room.until_opened(1)
        proxy.cut()
        await room.until_opened(2)
        await room.say("user_input", session_id=session)
        await room.say("user_input", session_id="a b")
        await room.until_frames(1)

        assert (room.upgrades, room.closes, room.waits) == (2, [None], [1])
        assert len(await hub.said(redis, session)) == 1


async def test_python_websockets_comes_back_after_a_restart(
    start_broker: StartBroker, shared_redis: EmbeddedServer, redis: Redis, session: str
) -> None:
    """With the position of the last event it gets those in between, once each."""
    old = start_broker(shared_redis.url)
    new = start_broker(shared_redis.url)
    where = f"session={session}&last_event_id=0"
    async with connect(f"ws://{old.public[0]}:{old.public[1]}/ws?{where}") as client:
        entry_id = await hub.publish(redis, session, "token_usage", i=1)
        first = orjson.loads(await client.recv())
        old.destroy()
        with pytest.raises(ConnectionClosedError) as end:
            await client.recv()
    await hub.publish(redis, session, "token_usage", i=2)
    where = f"session={session}&last_event_id={entry_id}"
    async with connect(f"ws://{new.public[0]}:{new.public[1]}/ws?{where}") as client:
        second = orjson.loads(await client.recv())

    assert end.value.rcvd is None
    assert [first["data"]["i"], second["data"]["i"]] == [1, 2]


async def test_the_close_of_a_client_is_answered(
    broker: BrokerServer, session: str
) -> None:
    """Without an answer the store would take its own disconnect for a failure."""
    client = await hub.enter(broker, f"session={session}")
    ended = await client.close(4000)

    assert ended.code == 4000


async def test_a_full_server_refuses_before_the_upgrade(
    start_broker: StartBroker, shared_redis: EmbeddedServer, session: str
) -> None:
    """The store waits and tries again, and gets in when there is room."""
    server = start_broker(shared_redis.url, workers=1, max_connections=1)
    there = await hub.enter(server, f"session={session}")
    async with MeetingRoom(server.public, f"?session={session}") as room:
        await room.until_upgrades(3)
        assert room.opened == 0
        await there.close()
        await room.until_opened(1)

        assert room.closes == []
        assert room.waits == list(range(1, room.upgrades))


async def test_a_token_that_ends_cuts_the_connection(
    start_broker: StartBroker, shared_redis: EmbeddedServer, session: str
) -> None:
    """And coming back with it is refused: the store counts that as failures."""
    server = start_broker(
        shared_redis.url, auth="jwt", jwt_secret=SECRET, jwt_leeway_s=0
    )
    text = bearer(token(session, lives_s=1.5))
    client = await hub.enter(server, f"session={session}", headers=text)
    ended = await client.wait_ended()
    with pytest.raises(Refused) as refused:
        await hub.enter(server, f"session={session}", headers=text)

    assert ended.code is None
    assert refused.value.status == 401


async def test_a_client_that_reads_nothing_is_cut(
    start_broker: StartBroker, shared_redis: EmbeddedServer, session: str
) -> None:
    """Without a close frame, so that it comes back after a delay."""
    server = start_broker(shared_redis.url, lag_timeout_s=1)
    client = await hub.enter(server, f"session={session}", receive_buffer_bytes=4096)
    client.pause()
    publisher = RatePublisher(
        shared_redis.url, Ledger(), [session], 500, payload_bytes=8000
    )
    await publisher.run(1)
    while '{protocol="council"} 0.0' not in await open_connections(server):
        pass
    client.resume()

    assert (await client.wait_ended()).code is None


async def open_connections(server: BrokerServer) -> str:
    text = (await http.get(server.admin, "/metrics")).body.decode()
    lines = [one for one in text.splitlines() if "broker_connections_open{" in one]
    return "\n".join(lines)


async def test_too_many_errors_cut_the_connection(
    broker: BrokerServer, session: str
) -> None:
    """A program that talks nonsense does not do so for ever."""
    client = await hub.enter(broker, f"session={session}")
    for _ in range(100):
        client.send_frame(wire.TEXT, b"nonsense")
    ended = await client.wait_ended()

    assert ended.code is None


async def test_a_frame_that_is_too_large_is_closed_as_rfc_6455_says(
    broker: BrokerServer, session: str
) -> None:
    """That is a fault of the connection, and no business of the store's."""
    client = await hub.enter(broker, f"session={session}")
    client.send_frame(wire.TEXT, b" " * 70_000)

    assert (await client.wait_ended()).code == 1009


async def test_an_idle_client_is_kept_by_pings(
    start_broker: StartBroker, shared_redis: EmbeddedServer, redis: Redis, session: str
) -> None:
    """Its own pings come each 30 seconds and prove nothing to it."""
    server = start_broker(shared_redis.url, heartbeat_s=1)
    client = await hub.enter(server, f"session={session}")
    while client.pings < 3:
        await http.get(server.admin, "/healthz")
    await hub.publish(redis, session, "token_usage")

    assert hub.session_of(await client.frame()) == session
    client.cut()


async def test_a_dead_client_is_cut(
    start_broker: StartBroker, shared_redis: EmbeddedServer, session: str
) -> None:
    """It answers no ping."""
    server = start_broker(shared_redis.url, heartbeat_s=1)
    client = await hub.enter(server, f"session={session}")
    client.answers_pings = False

    assert (await client.wait_ended()).code is None
