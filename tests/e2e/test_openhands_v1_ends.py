"""What clients of OpenHands V1 say, and how their sockets end."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid

import pytest
import websockets
from redis.asyncio import Redis

from broker.store.embedded import EmbeddedServer
from tests.conftest import RedisAt, StartBroker, StartRedis
from tests.harness import http, wire
from tests.harness.client import ConnectionEnded, Ended, Refused, WebSocketClient
from tests.harness.conversations import (
    GUARDED,  # noqa: F401 - `guarded_broker` looks for it here
    STATE,
    Conversation,
    auth,
    is_message,
    listen,
    messages,
    read_until,
    refused,
    rest,
    snapshot,
    time_of,
)
from tests.harness.servers import BrokerServer
from tests.harness.tokens import token

AUTHENTICATION_FAILED = Ended(4001, "Authentication failed")
BOTH = pytest.mark.parametrize("socket", ["events", "session"])
MESSAGE = b'{"role":"user","content":[{"type":"text","text":"hi"}], "run": true}'


@pytest.fixture
def name() -> str:
    """A conversation of the test's own."""
    return str(uuid.uuid4())


@pytest.fixture
def conversation(redis: Redis, name: str) -> Conversation:
    return Conversation(redis, name)


# What clients say.


@BOTH
async def test_a_message_goes_to_the_services_as_it_came(
    broker: BrokerServer, conversation: Conversation, socket: str
) -> None:
    """Nothing is answered: success is seen as the event that comes of it."""
    client = await listen(broker, f"{socket}/{conversation.session}")
    await read_until(client, lambda frame: STATE in str(frame))
    client.send_frame(wire.TEXT, MESSAGE)
    client.send_frame(wire.TEXT, b'{"role":"user","content":"text"}')
    client.send_frame(wire.TEXT, b"{}")
    answer = await client.frame()
    client.cut()
    said = await conversation.commands(2)

    assert answer["code"] == "ValidationError"
    assert [(one["cmd"], one["data"]) for one in said] == [
        ("message", MESSAGE.decode()),
        ("message", '{"role":"user","content":"text"}'),
    ]


@pytest.mark.parametrize(
    ("opcode", "payload", "code"),
    [
        (wire.TEXT, b"hello", "JSONDecodeError"),
        (wire.TEXT, b'{"content":"hi"}', "ValidationError"),
        (wire.BINARY, b"\x00\x01", "KeyError"),
    ],
)
async def test_bad_input_is_answered_to_its_sender_alone(
    broker: BrokerServer,
    conversation: Conversation,
    opcode: int,
    payload: bytes,
    code: str,
) -> None:
    """And never closes a socket."""
    path = f"events/{conversation.session}"
    sender, other = await listen(broker, path), await listen(broker, path)
    await sender.frame()
    await other.frame()
    sender.send_frame(opcode, payload)
    answer = await sender.frame()
    await conversation.say()
    after = [await sender.frame(), await other.frame()]
    sender.cut()
    other.cut()

    assert answer["kind"] == "ServerErrorEvent"
    assert answer["source"] == "environment"
    assert answer["code"] == code
    assert messages(after) == [1, 1]
    assert code != "KeyError" or answer["detail"] == "'text'"


async def test_messages_too_fast_or_without_the_right_are_answered(
    guarded: BrokerServer, conversation: Conversation
) -> None:
    """The client learns that nobody will read them."""
    name = conversation.session
    for rights, code in (
        (["subscribe", "command"], "RateLimited"),
        (["subscribe"], "PermissionDenied"),
    ):
        key = token(name, rights=rights)
        client = await listen(guarded, f"events/{name}", f"session_api_key={key}")
        await client.frame()
        for _ in range(8):
            client.send_frame(wire.TEXT, MESSAGE)
        answer = await client.frame()
        client.cut()

        assert answer["code"] == code


async def test_a_message_that_is_not_stored_is_answered(
    start_broker: StartBroker, start_redis: StartRedis, name: str
) -> None:
    """Redis is away: nobody can say whether it was stored."""
    redis = start_redis()
    broker = start_broker(redis.url, workers=1, command_timeout_s=0.5)
    broker.allowed.append("error|refused|Connection")
    client = await listen(broker, f"events/{name}")
    await client.frame()
    redis.stop()
    client.send_frame(wire.TEXT, MESSAGE)
    answer = await client.frame()
    client.cut()

    assert answer["code"] == "ServiceUnavailable"


# How it ends.


async def test_an_evicted_conversation_says_why_and_closes_for_good(
    guarded: BrokerServer, name: str
) -> None:
    """Who comes back is told by a code if it is a program, by HTTP if it is a page."""
    user, newer = name, str(uuid.uuid4())
    query = f"session_api_key={token(user)}"
    origin = [("Origin", "https://app.example")]
    client = await listen(guarded, f"events/{name}", query)
    await client.frame()
    other = await listen(guarded, f"events/{newer}", query)
    told, end = await rest(client)
    program = await listen(guarded, f"events/{name}", query)
    told_again, end_again = await rest(program)
    page = await refused(guarded, f"events/{name}", query, headers=origin)
    waiting = await listen(guarded, f"events/{name}")
    waiting.send(auth(token(user)))
    told_later, end_later = await rest(waiting)
    other.cut()

    for frames, close in (
        (told, end),
        (told_again, end_again),
        (told_later, end_later),
    ):
        assert [frame["code"] for frame in frames] == ["SessionEvicted"]
        assert newer in frames[0]["detail"]
        assert close.code == 4004
    assert page.status == 403


async def test_an_operator_who_disconnects_lets_clients_come_back(
    guarded: BrokerServer, name: str
) -> None:
    """With a code after which they wait a moment; a revoked user is told to stop."""
    query = f"session_api_key={token(name)}"
    operator = {"Authorization": "Bearer operator"}
    codes = []
    for path, body in (
        (f"/v1/users/{name}/disconnect", {}),
        ("/v1/revocations", {"user": name}),
    ):
        client = await listen(guarded, f"events/{name}", query)
        await client.frame()
        answer = await http.post(guarded.admin, path, body, operator)
        assert answer.status < 300, answer.body
        codes.append((await rest(client))[1].code)

    assert codes == [1012, 4001]


async def test_a_key_that_expires_closes_with_4001(
    guarded: BrokerServer, name: str
) -> None:
    """A new one is needed."""
    query = f"session_api_key={token(name, lives_s=1.2)}"
    client = await listen(guarded, f"events/{name}", query)

    assert (await rest(client))[1] == AUTHENTICATION_FAILED


async def test_heartbeats_are_pings_only(
    start_broker: StartBroker, shared_redis: EmbeddedServer, conversation: Conversation
) -> None:
    """Any text would be taken for an event."""
    broker = start_broker(shared_redis.url, workers=1, heartbeat_s=0.2)
    client = await listen(broker, f"events/{conversation.session}")
    frames = [await client.frame()]
    while client.pings < 3:
        await conversation.say()
        frames.append(await client.frame())
    client.cut()

    assert messages(frames) == list(range(1, len(frames)))


async def test_a_broker_that_leaves_closes_with_1012(
    start_broker: StartBroker, shared_redis: EmbeddedServer, conversation: Conversation
) -> None:
    """A Python client waits a second then; after 1000 or 1001 it would not."""
    broker = start_broker(shared_redis.url, workers=1)
    url = f"ws://{broker.public[0]}:{broker.public[1]}/sockets/events"
    async with websockets.connect(f"{url}/{conversation.session}") as client:
        await client.recv()
        broker.signal(signal.SIGTERM)
        with pytest.raises(websockets.ConnectionClosedError) as closed:
            await client.recv()

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012


async def test_a_client_resumes_after_a_worker_was_killed(
    start_broker: StartBroker, shared_redis: EmbeddedServer, conversation: Conversation
) -> None:
    """From the time of the last event it has, which comes again, and nothing else."""
    broker = start_broker(shared_redis.url, workers=1)
    broker.allowed.append("child_died|killed|error")
    path = f"events/{conversation.session}"
    await conversation.say(20)
    client = await listen(broker, path, "resend_mode=all")
    before = await read_until(client, is_message(20))
    os.kill(broker.workers[0], signal.SIGKILL)
    await client.wait_ended()
    await conversation.say(20)
    again = await come_back(
        broker, path, f"resend_mode=since&after_timestamp={time_of(20)}"
    )
    after = await read_until(again, is_message(40))
    again.cut()

    assert messages(before) == list(range(1, 21))
    assert messages(after) == list(range(20, 41))


async def come_back(broker: BrokerServer, path: str, query: str) -> WebSocketClient:
    """Connect as soon as that can be."""
    while True:
        try:
            return await listen(broker, path, query)
        except (Refused, OSError, ConnectionEnded):
            await asyncio.sleep(0.05)


async def test_a_client_continues_on_another_broker(
    start_broker: StartBroker,
    start_redis: StartRedis,
    redis_at: RedisAt,
    name: str,
) -> None:
    """Both read the same streams, and the state is found there, too."""
    redis = start_redis()
    conversation = Conversation(redis_at(redis.url), name)
    first = start_broker(redis.url, workers=1)
    await conversation.show(title="kept")
    await conversation.say(5)
    client = await listen(first, f"events/{name}", "resend_mode=all")
    await read_until(client, is_message(5))
    first.stop()
    await client.wait_ended()
    second = start_broker(redis.url, workers=1)
    again = await listen(
        second, f"events/{name}", f"resend_mode=since&after_timestamp={time_of(5)}"
    )
    await conversation.say()
    frames = await read_until(again, is_message(6))
    again.cut()

    assert frames[0] == snapshot(title="kept")
    assert messages(frames) == [5, 6]
