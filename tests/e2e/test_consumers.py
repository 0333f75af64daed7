"""Committed positions: what a consumer acknowledged it does not get again."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness.client import Frame, Refused, WebSocketClient
from tests.harness.load import until
from tests.harness.publisher import Author
from tests.harness.servers import BrokerServer


async def enter(server: BrokerServer, session: str, **query: str) -> WebSocketClient:
    client = await WebSocketClient.connect(
        server.public, f"/v1/ws/{session}", {"consumer": "c", **query}
    )
    await client.until("subscribed")
    return client


async def events(client: WebSocketClient, count: int) -> list[Frame]:
    """The next *count* published events."""
    found: list[Frame] = []
    while len(found) < count:
        frame = await client.frame()
        if "id" in frame:
            found.append(frame)
    return found


async def acknowledge(client: WebSocketClient, frame: Frame) -> Frame:
    client.send({"cmd": "ack", "id": "a1", "data": {"position": frame["id"]}})
    return await client.until("ack")


async def test_a_consumer_goes_on_behind_what_it_acknowledged(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """Without last_event_id, on a connection that knows nothing of the former one."""
    client = await enter(broker, session)
    await author.publish(session, 5)
    frames = await events(client, 5)
    answer = await acknowledge(client, frames[2])
    client.cut()
    again = await enter(broker, session)
    rest = await events(again, 2)

    assert answer["data"] == {"position": frames[2]["id"], "ref": "a1"}
    assert [frame["id"] for frame in rest] == [f["id"] for f in frames[3:]]
    again.cut()


async def test_a_consumer_that_never_acknowledged_begins_where_it_began(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """A crash before the first ack skips nothing, also nothing published meanwhile."""
    await author.publish(session, 3)
    client = await enter(broker, session)
    await author.publish(session, 2)
    first = await events(client, 2)
    client.cut()
    await author.publish(session, 1)
    again = await enter(broker, session)
    frames = await events(again, 3)

    assert [frame["seq"] for frame in first] == [4, 5]
    assert [frame["seq"] for frame in frames] == [4, 5, 6]
    again.cut()


async def test_a_lower_commit_moves_nothing_back(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """The answer is the same; the stored position stays."""
    client = await enter(broker, session)
    await author.publish(session, 3)
    frames = await events(client, 3)
    await acknowledge(client, frames[2])
    await acknowledge(client, frames[0])
    client.cut()
    again = await enter(broker, session)
    await author.publish(session, event="next")

    assert (await events(again, 1))[0]["event"] == "next"
    again.cut()


async def test_nothing_can_be_acknowledged_that_was_not_delivered(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """A client cannot skip what lies between."""
    client = await enter(broker, session)
    await author.publish(session, 1)
    (frame,) = await events(client, 1)
    ms = int(frame["id"].partition("-")[0])
    codes = []
    for position in (f"{ms + 10_000}-0", "soon", None):
        client.send({"cmd": "ack", "data": {"position": position}})
        codes.append((await client.until("error"))["data"]["code"])

    assert codes == ["not_delivered", "bad_position", "bad_position"]
    client.cut()


async def test_acknowledging_needs_a_consumer(
    broker: BrokerServer, session: str
) -> None:
    """Without a name there is nothing to keep it under."""
    client = await WebSocketClient.connect(broker.public, f"/v1/ws/{session}")
    await client.until("subscribed")
    client.send({"cmd": "ack", "id": "a", "data": {"position": "1-0"}})

    assert (await client.until("error"))["data"]["code"] == "no_consumer"
    client.cut()


async def test_automatic_commits_follow_what_was_sent(
    broker: BrokerServer, author: Author, session: str, redis: Redis
) -> None:
    """A client that never acknowledges goes on where its socket had come to."""
    client = await enter(broker, session, ack="auto")
    await author.publish(session, 4)
    frames = await events(client, 4)

    async def is_committed() -> bool:
        stored = await redis.hget(f"broker:offsets:{session}", "c")
        return bool(stored == frames[-1]["id"].encode())

    await until(is_committed, 5, "commit")
    client.cut()
    again = await enter(broker, session)
    await author.publish(session, event="next")

    assert (await events(again, 1))[0]["event"] == "next"
    again.cut()


async def test_each_user_and_each_name_has_a_position_of_its_own(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """What one acknowledges is not acknowledged for another."""
    client = await enter(broker, session, user="ada")
    other = await enter(broker, session, user="bob")
    await author.publish(session, 2)
    frames = await events(client, 2)
    await events(other, 2)
    await acknowledge(client, frames[1])
    client.cut()
    other.cut()
    again = await enter(broker, session, user="bob")
    named = await enter(broker, session, user="ada", last_event_id="0", consumer="d")

    assert len(await events(again, 2)) == 2
    assert len(await events(named, 2)) == 2
    again.cut()
    named.cut()


async def test_positions_survive_worker_and_redis_restarts(
    start_redis: Any, start_broker: StartBroker, redis_at: Any, session: str
) -> None:
    """As far as Redis kept them: here it wrote every command to disk."""
    server: EmbeddedServer = start_redis("--appendfsync", "always", appendonly=True)
    broker = start_broker(server.url)
    publisher = redis_at(server.url)
    client = await enter(broker, session)
    for number in range(4):
        await publisher.xadd(f"broker:events:{session}", {"event": f"e{number}"})
    frames = await events(client, 4)
    await acknowledge(client, frames[1])
    broker.destroy()
    server.restart()
    second = start_broker(server.url)
    again = await enter(second, session)

    assert [f["event"] for f in await events(again, 2)] == ["e2", "e3"]
    again.cut()


async def test_after_a_reset_the_new_history_is_committed(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """The position of the former history does not stand in the way of lower ones."""
    client = await enter(broker, session)
    await author.publish(session, 3)
    await acknowledge(client, (await events(client, 3))[2])
    await author.delete(session)
    await author.publish(session, 3)
    await client.until("reset")
    frames = await events(client, 3)
    await acknowledge(client, frames[0])
    client.cut()
    again = await enter(broker, session)

    assert [f["id"] for f in await events(again, 2)] == [f["id"] for f in frames[1:]]
    again.cut()


async def test_only_so_many_consumers_fit_into_a_session(
    broker: BrokerServer, session: str
) -> None:
    """A client that invents names fills nothing but its own list."""
    for number in range(32):
        client = await enter(broker, session, consumer=f"c{number}")
        client.cut()
    with pytest.raises(Refused) as refused:
        await WebSocketClient.connect(
            broker.public,
            f"/v1/ws/{session}",
            {"consumer": "one-more"},
            subprotocols=(),
        )

    assert refused.value.status == 409
    assert refused.value.json()["error"]["code"] == "too_many_consumers"


async def test_what_a_cut_socket_never_took_is_not_committed(
    broker: BrokerServer, author: Author, session: str, redis: Redis
) -> None:
    """With automatic commits a client that hung skips nothing when it is back."""
    client = await WebSocketClient.connect(
        broker.public,
        f"/v1/ws/{session}",
        {"consumer": "c", "ack": "auto", "last_event_id": "0"},
        receive_buffer_bytes=4096,
    )
    await client.until("subscribed")
    client.pause()
    await author.publish(session, 300, pad_bytes=4000)
    seen = client.received_bytes
    await asyncio.sleep(2.5)  # Two rounds of automatic commits.
    client.cut()
    again = await enter(broker, session)
    first = (await events(again, 1))[0]

    assert first["seq"] <= 2 + seen // 4000 + 64
    again.cut()


async def test_since_with_a_consumer_begins_at_an_entry(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """What is stored for a time is the position of an entry: the next one resumes."""
    await author.publish(session, 3)
    first = await enter(broker, session, since="2020-01-01T00:00:00Z")
    await events(first, 3)
    first.cut()
    later = await enter(broker, session, since="2030-01-01T00:00:00Z", consumer="d")
    later.cut()
    again = await WebSocketClient.connect(
        broker.public, f"/v1/ws/{session}", {"consumer": "d"}
    )
    resumed = await again.until("subscribed")

    assert resumed["data"]["resume"] == "complete"
    again.cut()


async def test_a_wrong_position_leaves_the_stored_one_alone(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """A client that asks for nonsense once is told so, and its place is kept."""
    client = await enter(broker, session)
    await author.publish(session, 3)
    frames = await events(client, 3)
    await acknowledge(client, frames[1])
    client.cut()
    wrong = int(frames[0]["id"].partition("-")[0]) - 5
    lost = await WebSocketClient.connect(
        broker.public,
        f"/v1/ws/{session}",
        {"consumer": "c", "last_event_id": f"{wrong}-0"},
    )
    told = await lost.until("subscribed")
    await events(lost, 3)
    lost.cut()
    again = await enter(broker, session)

    assert told["data"]["resume"] == "reset"
    assert (await events(again, 1))[0]["id"] == frames[2]["id"]
    again.cut()


async def test_a_position_that_redis_lost_is_stored_again(
    start_redis: Any, start_broker: StartBroker, redis_at: Any, session: str
) -> None:
    """While the consumer is connected, as it last acknowledged: nothing is skipped."""
    server: EmbeddedServer = start_redis()
    broker = start_broker(server.url)
    publisher = redis_at(server.url)
    client = await enter(broker, session)
    for number in range(3):
        await publisher.xadd(f"broker:events:{session}", {"event": f"e{number}"})
    frames = await events(client, 3)
    await acknowledge(client, frames[0])
    await publisher.delete(f"broker:offsets:{session}")
    await publisher.client_kill_filter(skipme=True)

    async def is_stored() -> bool:
        stored = await publisher.hget(f"broker:offsets:{session}", "c")
        return bool(stored == frames[0]["id"].encode())

    await until(is_stored, 10, "commit")
    client.cut()
    again = await enter(broker, session)

    assert [f["event"] for f in await events(again, 2)] == ["e1", "e2"]
    again.cut()


async def test_a_closing_connection_commits_nothing_more(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    author: Author,
    session: str,
) -> None:
    """What comes after the closing notice goes nowhere, and is not taken for sent."""
    broker = start_broker(shared_redis.url, drain_s=0.1)
    client = await enter(broker, session, ack="auto")
    await author.publish(session, 2)
    seen = await events(client, 2)
    client.pause()
    broker.signal(signal.SIGTERM)
    await until(lambda: "draining" in broker.log.text, 5, "drain")
    await author.publish(session, 3)
    await asyncio.to_thread(broker.wait)
    client.cut()
    second = start_broker(shared_redis.url)
    again = await enter(second, session)
    first = (await events(again, 1))[0]

    assert first["seq"] <= seen[-1]["seq"] + 1
    again.cut()


async def test_a_refused_consumer_evicts_no_session(
    start_broker: StartBroker, shared_redis: EmbeddedServer, session: str, redis: Redis
) -> None:
    """Nothing is refused after another session had to go."""
    broker = start_broker(shared_redis.url, max_sessions_per_user=1)
    for number in range(32):
        await redis.hset(f"broker:offsets:{session}/ada", f"c{number}", "1-0")
    kept = await WebSocketClient.connect(
        broker.public, f"/v1/ws/{session}.kept", {"user": "ada"}
    )
    await kept.until("subscribed")
    with pytest.raises(Refused):
        await WebSocketClient.connect(
            broker.public,
            f"/v1/ws/{session}",
            {"user": "ada", "consumer": "new"},
            subprotocols=(),
        )
    kept.send({"cmd": "ping"})
    await kept.until("pong")
    kept.cut()
