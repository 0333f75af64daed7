"""Who may open the sockets of OpenHands V1."""

from __future__ import annotations

import uuid

import pytest
from redis.asyncio import Redis

from tests.harness import http, wire
from tests.harness.client import Ended, Refused
from tests.harness.conversations import (
    GUARDED,  # noqa: F401 - `guarded_broker` looks for it here
    STATE,
    Conversation,
    auth,
    is_message,
    listen,
    read_until,
    refused,
    rest,
)
from tests.harness.servers import BrokerServer
from tests.harness.tokens import token

AUTHENTICATION_FAILED = Ended(4001, "Authentication failed")
KEY_HEADER = "X-Session-API-Key"
BOTH = pytest.mark.parametrize("socket", ["events", "session"])
MESSAGE = b'{"role":"user","content":[{"type":"text","text":"hi"}], "run": true}'


@pytest.fixture
def name() -> str:
    """A conversation of the test's own."""
    return str(uuid.uuid4())


@pytest.fixture
def conversation(redis: Redis, name: str) -> Conversation:
    return Conversation(redis, name)


def key_header(text: str) -> list[tuple[str, str]]:
    return [(KEY_HEADER, text)]


@BOTH
@pytest.mark.parametrize("way", ["query", "header", "first frame"])
async def test_a_key_comes_in_three_ways(
    guarded: BrokerServer, conversation: Conversation, socket: str, way: str
) -> None:
    """Each lets its client read what is published."""
    key = token(conversation.session)
    client = await listen(
        guarded,
        f"{socket}/{conversation.session}",
        f"session_api_key={key}" if way == "query" else "",
        headers=key_header(key) if way == "header" else [],
    )
    if way == "first frame":
        client.send(auth(key))
    await read_until(client, lambda frame: STATE in str(frame))
    await conversation.say()
    await read_until(client, is_message(1))

    assert (await client.close()).code == 1000


@BOTH
@pytest.mark.parametrize("key", ["wrong", ""])
@pytest.mark.parametrize("way", ["query", "header"])
async def test_a_wrong_key_is_refused_before_the_upgrade(
    guarded: BrokerServer, name: str, socket: str, way: str, key: str
) -> None:
    """As the agent-server does it."""
    refusal = await refused(
        guarded,
        f"{socket}/{name}",
        f"session_api_key={key}" if way == "query" else "",
        headers=key_header(key) if way == "header" else [],
    )

    assert refusal.status == 403


async def test_the_query_beats_the_header(guarded: BrokerServer, name: str) -> None:
    """Whichever of them is right."""
    key = token(name)
    client = await listen(
        guarded,
        f"events/{name}",
        f"session_api_key={key}",
        headers=key_header("wrong"),
    )
    refusal = await refused(
        guarded,
        f"events/{name}",
        "session_api_key=wrong",
        headers=key_header(key),
    )
    client.cut()

    assert refusal.status == 403


@BOTH
@pytest.mark.parametrize(
    "first",
    [
        b"hello",
        b"[]",
        b'{"role":"user","content":"hi"}',
        b'{"type":"auth"}',
        b'{"type":"auth","session_api_key":""}',
        b'{"type":"auth","session_api_key":"wrong"}',
    ],
)
async def test_any_other_first_frame_closes_with_4001(
    guarded: BrokerServer, name: str, socket: str, first: bytes
) -> None:
    """A Python client stops for good then."""
    client = await listen(guarded, f"{socket}/{name}")
    client.send_frame(wire.TEXT, first)

    assert await rest(client) == ([], AUTHENTICATION_FAILED)


async def test_silence_closes_with_4001(guarded: BrokerServer, name: str) -> None:
    """Nothing is sent to who has not said who it is."""
    client = await listen(guarded, f"events/{name}")

    assert await rest(client) == ([], AUTHENTICATION_FAILED)


async def test_a_key_that_may_not_read_it_closes_with_4004(
    guarded: BrokerServer, name: str
) -> None:
    """Another conversation's key is a good key for nothing here."""
    other = token(name, sessions=[str(uuid.uuid4())])
    client = await listen(guarded, f"events/{name}")
    client.send(auth(other))
    refusal = await refused(guarded, f"events/{name}", f"session_api_key={other}")

    assert (await rest(client))[1].code == 4004
    assert refusal.status == 403


async def test_more_auth_frames_are_ignored(
    guarded: BrokerServer, conversation: Conversation
) -> None:
    """Clients show their key twice; a frame with more in it is no such frame."""
    key = token(conversation.session)
    client = await listen(
        guarded, f"events/{conversation.session}", f"session_api_key={key}"
    )
    await client.frame()
    client.send(auth(key))
    client.send(auth("another"))
    client.send({"type": "auth"})
    client.send(auth(key, more=1))
    client.send_frame(wire.TEXT, MESSAGE)
    answer = await client.frame()
    (said,) = await conversation.commands(1)
    client.cut()

    assert answer["code"] == "ValidationError"
    assert said["data"] == MESSAGE.decode()


async def test_a_message_right_behind_the_key_is_heard(
    guarded: BrokerServer, conversation: Conversation
) -> None:
    """Clients are not told that they are in, so they do not wait for it."""
    client = await listen(guarded, f"events/{conversation.session}")
    client.send(auth(token(conversation.session)))
    client.send_frame(wire.TEXT, MESSAGE)
    first = await client.frame()
    (said,) = await conversation.commands(1)
    client.cut()

    assert first["kind"] == STATE
    assert said["data"] == MESSAGE.decode()


async def test_where_nobody_is_asked_an_auth_frame_is_ignored(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """The client cannot know."""
    client = await listen(broker, f"events/{conversation.session}")
    client.send(auth("anything"))
    await client.frame()
    client.send_frame(wire.TEXT, MESSAGE)
    (said,) = await conversation.commands(1)
    client.cut()

    assert said["data"] == MESSAGE.decode()


async def test_keys_appear_in_no_output(guarded: BrokerServer, name: str) -> None:
    """Not those of URLs either, which proxies may log all the same."""
    good, wrong = token(name), "a-wrong-key-to-be-found"
    client = await listen(guarded, f"events/{name}", f"session_api_key={good}")
    await client.frame()
    client.cut()
    await refused(guarded, f"events/{name}", f"session_api_key={wrong}")
    await refused(guarded, f"events/{name}", f"session_api_key={wrong}&resend_mode=x")
    first = await listen(guarded, f"events/{name}")
    first.send(auth(wrong))
    await rest(first)

    assert good not in guarded.log.text
    assert wrong not in guarded.log.text


async def test_pages_of_other_origins_stay_out(
    guarded: BrokerServer, name: str
) -> None:
    """Unlike the agent-server; BROKER_ORIGINS lets them in."""
    query = f"session_api_key={token(name)}"
    foreign = [("Origin", "https://evil.example")]
    known = [("Origin", "https://app.example")]
    refusal = await refused(guarded, f"events/{name}", query, headers=foreign)
    client = await listen(guarded, f"events/{name}", query, headers=known)
    client.cut()

    assert refusal.status == 403


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("events/s1", ""),
        ("events/", ""),
        ("events/{name}/more", ""),
        ("bash-events/{name}", ""),
        ("events/{name}", "resend_mode=some"),
        ("events/{name}", "resend_all=perhaps"),
        ("events/{name}", "resend_mode=since&after_timestamp=yesterday"),
        ("session/{name}", "after_seq=x"),
        ("session/zz", ""),
    ],
)
async def test_what_cannot_be_understood_is_refused_before_the_upgrade(
    broker: BrokerServer, name: str, path: str, query: str
) -> None:
    """With 403, whatever it is."""
    refusal = await refused(broker, path.format(name=name), query)

    assert refusal.status == 403


async def test_a_plain_request_is_no_socket(broker: BrokerServer, name: str) -> None:
    """It is told what is missing."""
    answer = await http.get(broker.public, f"/sockets/events/{name}")

    assert answer.status in (400, 426)


async def test_a_key_that_is_no_stream_is_no_conversation(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """Nothing can be read there."""
    await conversation.redis.set(conversation.key, "text")
    refusal = await refused(broker, f"events/{conversation.session}")
    await conversation.redis.delete(conversation.key)

    assert refusal.status == 403


async def test_too_many_connections_are_refused_before_the_upgrade(
    guarded: BrokerServer, name: str
) -> None:
    """Who is accepted and closed would come back without a pause."""
    query = f"session_api_key={token(name)}"
    refusals = []
    clients = []
    for _ in range(20):
        try:
            clients.append(await listen(guarded, f"events/{name}", query))
        except Refused as refusal:
            refusals.append(refusal)
    for client in clients:
        client.cut()

    assert refusals
    assert {refusal.status for refusal in refusals} == {503}
    assert all("retry-after" in refusal.headers for refusal in refusals)
