"""OpenHands V0 as it stands on the wire: replay, resume, live events."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.harness.openhands_v0 import Raw, ids, message, publish, state
from tests.harness.publisher import Author, key_of
from tests.harness.servers import BrokerServer

RACE = 500
LOST = {"status_update": True, "type": "error", "id": "STATUS$EVENTS_LOST"}


async def test_the_handshake_says_what_the_client_may_expect(
    broker: BrokerServer, session: str
) -> None:
    """Pings, the size of what it may send, and that there is nothing to upgrade to."""
    one, _ = await Raw.join(broker.public, session)
    other, _ = await Raw.join(broker.public, session)

    assert one.opened.pop("sid") != other.opened["sid"]
    assert one.opened == {
        "upgrades": [],
        "pingTimeout": 20000,
        "pingInterval": 25000,
        "maxPayload": 65536,
    }
    await one.close()
    await other.close()


async def test_a_replay_ends_with_the_state_of_the_agent_and_then_connects(
    broker: BrokerServer, redis: Redis, session: str, author: Author
) -> None:
    """Null events, recalls, transient entries and other protocols are not in it."""
    await publish(redis, session, [message(0), state(1, "loading"), message(2)])
    await publish(redis, session, [state(3, "running"), message(4)])
    await publish(redis, session, [{"id": 5, "action": "null"}])
    await publish(redis, session, [{"id": 6, "action": "recall"}])
    await publish(redis, session, [{"status_update": True}], transient=1)
    await author.publish(session)
    client, replayed = await Raw.join(broker.public, session)

    assert replayed == [message(0), message(2), message(4), state(3, "running")]
    await client.close()


async def test_live_events_come_as_they_are(
    broker: BrokerServer, redis: Redis, session: str, author: Author
) -> None:
    """Status updates are shown, states keep their order, the rest is filtered."""
    client, _ = await Raw.join(broker.public, session)
    status = {"status_update": True, "type": "info", "id": "STATUS$READY"}
    await publish(redis, session, [state(0, "loading"), {"id": 1, "action": "null"}])
    await author.publish(session)
    await publish(redis, session, [status], transient=1)
    await publish(redis, session, [state(2, "running"), message(3)])

    assert await client.events(4) == [
        state(0, "loading"),
        status,
        state(2, "running"),
        message(3),
    ]
    await client.close()


@pytest.mark.parametrize("latest", ["-1", "null", "undefined", "", "x", None])
async def test_without_a_number_everything_retained_is_replayed(
    broker: BrokerServer, redis: Redis, session: str, latest: str | None
) -> None:
    """Whatever JavaScript made of a number that was not there."""
    await publish(redis, session, map(message, range(3)))
    query = {"conversation_id": session, "session_api_key": "null"}
    query |= {} if latest is None else {"latest_event_id": latest}
    client = await Raw.open(broker.public, query)
    await client.send('40{"token":"undefined"}')

    assert ids(await client.replay()) == [0, 1, 2]
    await client.close()


async def test_a_resume_has_everything_after_its_number(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """The number stands inside the events only; what comes next is live."""
    await publish(redis, session, map(message, range(300)))
    client, replayed = await Raw.join(broker.public, session, 41)
    await publish(redis, session, [message(300)])

    assert ids(replayed) == list(range(42, 300))
    assert ids(await client.events(1)) == [300]
    await client.close()


async def test_a_number_beyond_the_end_is_live_from_the_end(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """Nothing that it may have is sent again."""
    await publish(redis, session, map(message, range(30)))
    client, replayed = await Raw.join(broker.public, session, 99)
    await publish(redis, session, [message(30)])

    assert replayed == []
    assert ids(await client.events(1)) == [30]
    await client.close()


async def test_a_resume_is_told_what_retention_took_away(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """Unless the client has it already."""
    await publish(redis, session, map(message, range(50)))
    await redis.xtrim(key_of(session), maxlen=20, approximate=False)
    late, missed = await Raw.join(broker.public, session, 9)
    complete, nothing_missed = await Raw.join(broker.public, session, 29)
    new, retained = await Raw.join(broker.public, session)

    some = {"message": "Some events were removed before they could be sent"}
    all_of_them = {"message": "30 events were removed before they could be sent"}
    assert missed == [LOST | some, *map(message, range(30, 50))]
    assert nothing_missed == list(map(message, range(30, 50)))
    assert retained == [LOST | all_of_them, *map(message, range(30, 50))]
    for client in (late, complete, new):
        await client.close()


async def test_a_conversation_that_begins_anew_is_told(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """Its old numbers mean nothing any more."""
    await publish(redis, session, [message(0), message(1)])
    client, _ = await Raw.join(broker.public, session)
    await redis.delete(key_of(session))
    told = await client.event()
    await publish(redis, session, [message(0)])

    assert told["id"] == "STATUS$EVENTS_LOST"
    assert await client.event() == message(0)
    await client.close()


@pytest.mark.parametrize("latest", [-1, 9], ids=["new", "resuming"])
async def test_what_is_published_while_clients_join_comes_once_and_in_order(
    broker: BrokerServer, redis: Redis, session: str, latest: int
) -> None:
    """Upstream loses events between replay and join, and repeats some on the first."""
    await publish(redis, session, map(message, range(10)))

    async def join_and_read() -> list[Any]:
        client, events = await Raw.join(broker.public, session, latest)
        while not events or events[-1]["id"] < RACE - 1:
            events.append(await client.event())
        await client.close()
        return ids(events)

    reading = []
    async with asyncio.TaskGroup() as group:
        for start in range(10, RACE, 10):
            reading.append(group.create_task(join_and_read()))
            await publish(redis, session, map(message, range(start, start + 10)))

    for task in reading:
        assert task.result() == list(range(latest + 1, RACE))


async def test_a_client_that_falls_behind_gets_everything_once(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """It reads nothing for a while and catches up; pings come in between."""
    client, _ = await Raw.join(broker.public, session, max_queue=1)
    client.socket.transport.pause_reading()
    await publish(redis, session, (message(n, "x" * 8000) for n in range(2000)))
    client.socket.transport.resume_reading()
    events = await client.events(2000)

    assert ids(events) == list(range(2000))
    assert client.pings > 10
    await client.close()
