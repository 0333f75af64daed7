"""One log, several protocols: the same events in the same order, whoever reads them."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from tests.harness.client import WebSocketClient
from tests.harness.dialects import PROTOCOLS, Protocol, read, read_sse
from tests.harness.publisher import key_of
from tests.harness.servers import BrokerServer

COUNT = 10_000
SLICE = 500
TIMEOUT_S = 40


@pytest.fixture
def conversation() -> str:
    """A session whose name every protocol can carry."""
    return str(uuid.uuid4())


def event(number: int) -> dict[str, Any]:
    """What is an event to every protocol; a client knows it by its number."""
    return {
        "id": number,
        "timestamp": "2026-01-01T00:00:00.000000",
        "source": "agent",
        "action": "message",
        "kind": "MessageEvent",
        "args": {"content": f'\u2028 {number} "\\'},
    }


async def publish(redis: Redis, session: str, first: int, count: int) -> None:
    for start in range(first, first + count, SLICE):
        async with redis.pipeline(transaction=False) as pipe:
            for number in range(start, min(start + SLICE, first + count)):
                data = orjson.dumps(event(number))
                _ = pipe.xadd(key_of(session), {"event": "oh_event", "data": data})
            await pipe.execute()


async def take(
    protocol: Protocol, broker: BrokerServer, session: str, count: int
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    # Closed here: left to the collector, its socket may outlive the test.
    async with contextlib.aclosing(read(protocol, broker.public, session)) as events:
        async for data in events:
            found.append(data)
            if len(found) == count:
                break
    return found


def plain(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what a hub adds to the data of its events."""
    return [{k: v for k, v in one.items() if k != "session_uuid"} for one in found]


async def test_all_protocols_read_the_same_sequence(
    broker: BrokerServer, redis: Redis, conversation: str
) -> None:
    """Half of it from the past, half of it live: 10 000 events, none twice."""
    await publish(redis, conversation, 0, COUNT // 2)
    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
        readings = {
            protocol.name: group.create_task(
                take(protocol, broker, conversation, COUNT)
            )
            for protocol in PROTOCOLS
        }
        readings["sse"] = group.create_task(
            read_sse(broker.public, conversation, COUNT)
        )
        await publish(redis, conversation, COUNT // 2, COUNT // 2)
    expected = [event(number) for number in range(COUNT)]

    for name, task in readings.items():
        assert plain(task.result()) == expected, name


async def test_a_position_of_one_protocol_is_a_position_of_another(
    broker: BrokerServer, redis: Redis, conversation: str
) -> None:
    """A reader stops in one protocol and goes on in the next where it stopped."""
    await publish(redis, conversation, 0, 40)
    native = await WebSocketClient.connect(
        broker.public, f"/v1/ws/{conversation}", {"last_event_id": "0"}
    )
    frames = [await native.until("oh_event") for _ in range(10)]
    native.cut()
    seq, number = frames[-1]["seq"], frames[-1]["data"]["id"]
    by_seq = PROTOCOLS[3]._replace(
        path=f"/sockets/session/{{session}}?after_seq={seq - 1}"
    )
    by_number = PROTOCOLS[1]._replace(
        path=PROTOCOLS[1].path.replace("_id=-1", f"_id={number}")
    )
    by_id = PROTOCOLS[4]._replace(
        path=f"/ws?session={{session}}&last_event_id={frames[-1]['id']}"
    )
    rest = [event(n) for n in range(10, 40)]

    for protocol in (by_seq, by_number, by_id):
        found = await take(protocol, broker, conversation, 30)
        assert plain(found) == rest, protocol.path
