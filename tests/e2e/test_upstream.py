"""Commands of clients: stored once, in order, and read by services."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from broker.client import CommandConsumer, Publisher
from broker.store.embedded import EmbeddedServer
from tests.conftest import RedisAt, StartBroker, StartRedis
from tests.harness.client import Frame, WebSocketClient
from tests.harness.servers import BrokerServer


async def enter(server: BrokerServer, session: str, user: str = "") -> WebSocketClient:
    query = {"user": user} if user else {}
    client = await WebSocketClient.connect(server.public, f"/v1/ws/{session}", query)
    await client.until("subscribed")
    return client


async def stored(redis: Redis, session: str) -> list[dict[str, str]]:
    """The commands to *session* in the command stream, in their order."""
    entries: Any = await redis.xrange("broker:commands")
    texts = [
        {name.decode(): value.decode() for name, value in fields.items()}
        for _id, fields in entries
    ]
    return [text for text in texts if text["session"] == session]


async def test_a_command_is_stored_with_who_said_it(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """And answered with the id of its entry."""
    client = await enter(broker, session, "ada")
    client.send({"cmd": "user_input", "id": "input-0001", "data": {"text": "häl\n"}})
    ack = await client.until("ack")
    (entry,) = await stored(redis, session)
    there: Any = await redis.xrange("broker:commands", ack["data"]["id"], "+", 1)

    assert ack["data"]["ref"] == "input-0001"
    assert entry["cmd"] == "user_input"
    assert entry["user"] == "ada"
    assert entry["id"] == "input-0001"
    assert len(entry["connection"]) == 16
    assert orjson.loads(entry["data"]) == {"text": "häl\n"}
    assert there[0][0].decode() == ack["data"]["id"]
    client.cut()


async def test_the_same_command_again_gets_the_same_answer(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """Also from another connection of the user, as after a lost answer."""
    command = {"cmd": "user_input", "id": "input-0002", "data": {"text": "stop"}}
    acks = []
    for _ in range(2):
        client = await enter(broker, session, "ada")
        client.send(command)
        acks.append((await client.until("ack"))["data"]["id"])
        client.cut()
    client = await enter(broker, session, "ada")
    client.send(command | {"data": {"text": "go on"}})
    error = await client.until("error")

    assert acks[0] == acks[1]
    assert len(await stored(redis, session)) == 1
    assert error["data"]["code"] == "id_reused"
    client.cut()


async def test_commands_of_a_connection_keep_their_order(
    start_broker: StartBroker, shared_redis: EmbeddedServer, redis: Redis, session: str
) -> None:
    """However fast they are said."""
    broker = start_broker(shared_redis.url, command_rate_per_s=1000)
    client = await enter(broker, session)
    for number in range(500):
        client.send({"cmd": "n", "data": {"n": number}})
    for _ in range(500):
        await client.until("ack")
    numbers = [orjson.loads(e["data"])["n"] for e in await stored(redis, session)]

    assert numbers == list(range(500))
    client.cut()


async def test_who_talks_too_much_is_told_so(
    start_broker: StartBroker, shared_redis: EmbeddedServer, session: str
) -> None:
    """The connection stays, and later commands are taken again."""
    broker = start_broker(shared_redis.url, command_rate_per_s=2)
    client = await enter(broker, session)
    for number in range(6):
        client.send({"cmd": "n", "id": str(number)})
    answers = [await client.frame() for _ in range(6)]
    refused = [a["data"] for a in answers if a["event"] == "error"]

    assert len(refused) == 2
    assert {data["code"] for data in refused} == {"rate_limited"}
    assert all(data["retry"] for data in refused)
    client.cut()


async def test_the_session_of_a_command_may_be_named(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """On a connection without a path, or to another session than the path's."""
    client = await WebSocketClient.connect(broker.public, "/v1/ws")
    client.send({"cmd": "go", "session": session})
    await client.until("ack")
    client.send({"cmd": "go"})
    error = await client.until("error")
    client.send({"cmd": "go", "session": "../x"})
    other = await client.until("error")

    assert [e["cmd"] for e in await stored(redis, session)] == ["go"]
    assert error["data"]["code"] == other["data"]["code"] == "bad_session"
    client.cut()


async def test_without_redis_nothing_is_acknowledged(
    start_broker: StartBroker, start_redis: StartRedis, redis_at: RedisAt, session: str
) -> None:
    """The answer is unavailable, in bounded time; said again it is stored once."""
    server = start_redis("--appendfsync", "always", appendonly=True)
    broker = start_broker(server.url, command_timeout_s=1)
    client = await enter(broker, session, "ada")
    server.stop()
    client.send({"cmd": "go", "id": "go-00001"})
    async with asyncio.timeout(10):
        error = await client.until("error")
    server.start()
    command = {"cmd": "go", "id": "go-00001"}
    ack = None
    async with asyncio.timeout(20):
        while ack is None:
            client.send(command)
            answer = await client.frame()
            ack = answer if answer["event"] == "ack" else None

    assert error["data"]["code"] == "unavailable"
    assert error["data"]["retry"] is True
    assert len(await stored(redis_at(server.url), session)) == 1
    broker.allowed.append(".")
    client.cut()


async def say_until(client: WebSocketClient, event: str) -> tuple[Frame, int]:
    """Say commands until one is answered so; the answer, and how many were not."""
    others = 0
    async with asyncio.timeout(20):
        while True:
            client.send({"cmd": "go"})
            answer = await client.frame()
            if answer["event"] == event:
                return answer, others
            others += 1


async def test_a_full_command_stream_refuses_and_empties_when_read(
    start_broker: StartBroker, start_redis: StartRedis, session: str
) -> None:
    """Nothing unread is ever trimmed; what every group has read is."""
    server = start_redis()
    broker = start_broker(server.url, command_backlog=10, command_rate_per_s=1000)
    client = await enter(broker, session)
    refused, unread = await say_until(client, "error")
    async with CommandConsumer(server.url, group="g") as commands:
        async for command in commands:
            await command.done()
            unread -= 1
            if not unread:
                break
    taken, _ = await say_until(client, "ack")

    assert refused["data"]["code"] == "overloaded"
    assert taken["data"]["id"]
    client.cut()


async def test_a_service_answers_a_command_with_an_event(
    broker: BrokerServer, shared_redis: EmbeddedServer, session: str
) -> None:
    """The whole way: browser, command stream, service, event stream, browser."""
    client = await enter(broker, session, "ada")

    async def serve() -> None:
        async with (
            CommandConsumer(shared_redis.url, group=session) as commands,
            Publisher(shared_redis.url) as publish,
        ):
            async for command in commands:
                if command.session == session:
                    await publish(session, "echo", {"said": command.data["text"]})
                    await command.done()
                    return
                await command.done()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serve())
        client.send({"cmd": "say", "data": {"text": "hello"}})
        echo = await client.until("echo")

    assert echo["data"] == {"said": "hello"}
    client.cut()


@pytest.mark.parametrize("data", ["[]", '"text"', "5", "true"])
async def test_arguments_are_an_object(
    broker: BrokerServer, session: str, data: str
) -> None:
    """Anything else is answered, and nothing is stored."""
    client = await enter(broker, session)
    client.send_frame(1, f'{{"cmd":"go","id":"x","data":{data}}}'.encode())
    error = await client.until("error")

    assert error["data"]["code"] == "bad_frame"
    assert error["data"]["ref"] == "x"
    client.cut()
