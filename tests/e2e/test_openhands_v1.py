"""The events socket of OpenHands V1, on a broker as users run it."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import websockets
from redis.asyncio import Redis

from broker.store.embedded import EmbeddedServer
from tests.conftest import RedisAt, StartBroker, StartRedis
from tests.harness import http, wire
from tests.harness.client import ConnectionEnded, Ended, Refused, WebSocketClient
from tests.harness.conversations import (
    STATE,
    Conversation,
    is_message,
    listen,
    messages,
    read_until,
    rest,
    says,
    snapshot,
    states,
    time_of,
)
from tests.harness.proxy import FaultProxy
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET, token

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


@pytest.fixture(scope="module")
def guarded_broker(
    shared_redis: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerServer]:
    """A broker that asks for keys and lets each user have one session."""
    settings: dict[str, object] = {
        "auth": "jwt",
        "jwt_secret": SECRET,
        "auth_timeout_s": 1,
        "jwt_leeway_s": 0,
        "max_sessions_per_user": 1,
        "max_connections_per_session": 2,
        "command_rate_per_s": 2,
        "origins": "https://app.example",
        "admin_token": "operator",
    }
    directory = tmp_path_factory.mktemp("broker")
    server = BrokerServer(shared_redis.url, directory, settings).start()
    yield server
    server.stop()


@pytest.fixture
def guarded(guarded_broker: BrokerServer) -> Iterator[BrokerServer]:
    """The same; the test fails if it makes the broker log an error."""
    yield guarded_broker
    guarded_broker.check_log()


def key_header(text: str) -> list[tuple[str, str]]:
    return [(KEY_HEADER, text)]


def auth(text: object, **more: object) -> dict[str, object]:
    return {"type": "auth", "session_api_key": text, **more}


async def refused(
    at: BrokerServer, path: str, query: str = "", **options: Any
) -> Refused:
    with pytest.raises(Refused) as caught:
        await listen(at, path, query, **options)
    return caught.value


# Who comes in.


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


# What comes first.


async def test_without_a_snapshot_it_is_idle(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """Clients are ready when they have been told a state."""
    client = await listen(broker, f"events/{conversation.session}", "resend_mode=all")
    first = await client.frame()
    await conversation.say()
    second = await client.frame()
    client.cut()

    assert first["kind"] == STATE
    assert (first["key"], first["value"]) == ("execution_status", "idle")
    assert first.keys() == {"id", "timestamp", "source", "key", "value", "kind"}
    assert second["id"] == "m1"


async def test_the_newest_snapshot_comes_first(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """Before anything that is replayed, as it was published."""
    await conversation.show(title="old")
    await conversation.say(3)
    await conversation.show(title="new")
    await conversation.say(2)
    client = await listen(broker, f"events/{conversation.session}", "resend_all=true")
    frames = await read_until(client, is_message(5))
    client.cut()

    assert frames[0] == snapshot(title="new")
    assert messages(frames[1:]) == [1, 2, 3, 4, 5]
    assert len(frames) == 6


async def test_a_newer_status_is_told_where_it_does_not_follow(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """Else a conversation that runs would seem to have finished."""
    await conversation.show(execution_status="finished")
    await conversation.turn("running")
    await conversation.say()
    path = f"events/{conversation.session}"
    live = await listen(broker, path)
    told = [await live.frame(), await live.frame()]
    replayed = await listen(broker, path, "resend_mode=all")
    frames = await read_until(replayed, is_message(1))
    live.cut()
    replayed.cut()

    assert states(told) == [{"execution_status": "finished"}, "running"]
    assert states(frames) == [{"execution_status": "finished"}, "running"]
    assert len(frames) == 3


# What follows.


@pytest.mark.parametrize("dashes", [True, False])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", []),
        ("resend_mode=all", [1, 2, 3, 4, 5]),
        ("resend_mode=since", []),
        (f"resend_mode=since&after_timestamp={time_of(3)}", [3, 4, 5]),
        ("resend_mode=since&after_timestamp=2026-01-01T12:00:04%2B02:00", [4, 5]),
        ("resend_mode=since&after_timestamp=2020-01-01", [1, 2, 3, 4, 5]),
        ("resend_mode=since&after_timestamp=2030-01-01", []),
    ],
)
async def test_what_is_resent_is_what_was_asked_for(
    broker: BrokerServer,
    conversation: Conversation,
    query: str,
    expected: list[int],
    dashes: bool,
) -> None:
    """Then come live events; both forms of the UUID are one conversation."""
    await conversation.say(5)
    name = conversation.session if dashes else conversation.session.replace("-", "")
    client = await listen(broker, f"events/{name}", query)
    frames = [await client.frame()]
    await conversation.say()
    frames += await read_until(client, is_message(6))
    client.cut()

    assert states(frames) == ["idle"]
    assert messages(frames) == [*expected, 6]


async def test_only_events_of_the_conversation_are_sent(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """Deltas only live; entries for other clients never."""
    note = {"event": "note", "data": "{}"}
    await conversation.stammer(1)
    await conversation.redis.xadd(conversation.key, note)
    await conversation.say()
    client = await listen(broker, f"events/{conversation.session}", "resend_mode=all")
    frames = await read_until(client, is_message(1))
    await conversation.say()
    frames += await read_until(client, is_message(2))
    await conversation.redis.xadd(conversation.key, note)
    await conversation.stammer(1)
    await conversation.say()
    frames += await read_until(client, is_message(3))
    client.cut()

    assert [frame["kind"].removesuffix("Event") for frame in frames] == [
        *("ConversationStateUpdate", "Message"),
        *("Message", "StreamingDelta", "Message"),
    ]


async def test_500_events_while_clients_connect_come_once_and_in_order(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """However the replay and what is live meet."""
    await conversation.say(300)
    path = f"events/{conversation.session}"
    publishing = asyncio.create_task(conversation.stream(500))
    clients = []
    while not publishing.done():
        clients.append(await listen(broker, path, "resend_mode=all"))
    await publishing
    everybody = [await read_until(client, is_message(800)) for client in clients]
    for client in clients:
        client.cut()

    assert len(clients) > 10
    for frames in everybody:
        assert states(frames[:1]) == ["idle"]
        assert messages(frames[1:]) == list(range(1, 801))


async def test_live_clients_miss_nothing_from_their_first_frame_on(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """Who is told a state is told all that is published after it."""
    path = f"events/{conversation.session}"
    publishing = asyncio.create_task(conversation.stream(300))
    clients: list[tuple[int, WebSocketClient]] = []
    while not publishing.done():
        client = await listen(broker, path)
        await client.frame()
        clients.append((conversation.said, client))
    await publishing
    everybody = [
        (said, messages(await read_until(client, is_message(300))))
        for said, client in clients
        if said < 300
    ]
    for _said, client in clients:
        client.cut()

    assert len(everybody) > 10
    for said, numbers in everybody:
        # The one that was being published may be in either.
        assert numbers == list(range(numbers[0], 301))
        assert numbers[0] <= said + 1


async def test_snapshots_are_not_missed_while_connecting(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """A state that is not replayed is told when the client has caught up."""
    await conversation.show(number=-1)
    await conversation.say(200)
    path = f"events/{conversation.session}"

    async def publish() -> None:
        for number in range(100):
            await conversation.show(number=number)
            await conversation.say()

    publishing = asyncio.create_task(publish())
    clients = []
    while not publishing.done():
        clients.append(await listen(broker, path, "resend_mode=all"))
    await conversation.show(number=100)
    last = [await read_until(client, says(value={"number": 100})) for client in clients]
    for client in clients:
        client.cut()

    for frames in last:
        # The first is the newest there is, which may be ahead of what is live yet.
        shown = [state["number"] for state in states(frames[1:])]  # type: ignore[index]
        assert shown == sorted(shown)


async def test_a_client_that_lags_is_told_the_state_at_the_end(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """What it could not take came without snapshots; the newest one follows."""
    client = await listen(
        broker, f"events/{conversation.session}", receive_buffer_bytes=4096
    )
    await client.frame()
    client.pause()
    for number in range(40):
        await conversation.say(10, pad=10_000)
        await conversation.show(number=number)
    await conversation.turn("finished")
    await conversation.say()
    watcher = await listen(broker, f"events/{conversation.session}")
    await conversation.say()
    await read_until(watcher, is_message(402))
    client.resume()
    frames = await read_until(client, says(value={"number": 39}), 20)
    frames += await read_until(client, says(value="finished"))
    watcher.cut()
    client.cut()
    numbers = messages(frames)

    assert numbers == list(range(1, numbers[-1] + 1))
    assert states(frames)[-2:] == [{"number": 39}, "finished"]


async def test_what_was_trimmed_is_told(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """How much is missing, before what is left."""
    await conversation.say(50)
    await conversation.redis.xtrim(conversation.key, maxlen=10, approximate=False)
    client = await listen(broker, f"events/{conversation.session}", "resend_mode=all")
    frames = await read_until(client, is_message(50))
    client.cut()

    assert frames[1]["kind"] == "ServerErrorEvent"
    assert frames[1]["code"] == "EventsLost"
    assert frames[1]["detail"].startswith("40 entries")
    assert messages(frames) == list(range(41, 51))


@pytest.mark.parametrize(
    "query", ["", f"resend_mode=since&after_timestamp={time_of(9)}"]
)
async def test_a_conversation_of_which_nothing_is_left_goes_on(
    broker: BrokerServer, conversation: Conversation, query: str
) -> None:
    """Who asked for nothing of it has lost nothing; a time may be one that is gone."""
    await conversation.say(3)
    await conversation.redis.xtrim(conversation.key, maxlen=0, approximate=False)
    client = await listen(broker, f"events/{conversation.session}", query)
    first = await client.frame()
    await conversation.say()
    frames = await read_until(client, is_message(4))
    client.cut()

    assert states([first]) == ["idle"]
    assert messages(frames) == [4]
    assert [frame.get("code") for frame in frames[:-1]] == ["EventsLost"] * bool(query)


async def test_another_history_is_told(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """And sent from its beginning."""
    await conversation.say(3)
    client = await listen(broker, f"events/{conversation.session}")
    await client.frame()
    await conversation.redis.delete(conversation.key)
    await read_until(client, says(code="HistoryReset"))
    await conversation.say()
    frames = await read_until(client, is_message(4))
    client.cut()

    assert messages(frames) == [4]


async def test_entries_that_break_the_contract_are_told(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """A replay tells the same with the same id, so a client shows it once."""
    client = await listen(broker, f"events/{conversation.session}")
    await client.frame()
    broken = {"event": "oh_event", "data": "{"}
    await conversation.redis.xadd(conversation.key, broken)
    live = await client.frame()
    again = await listen(broker, f"events/{conversation.session}", "resend_mode=all")
    replayed = await read_until(again, says(code="EventSkipped"))
    client.cut()
    again.cut()

    assert live == replayed[-1]


async def test_frames_stay_small_enough_for_python_clients(
    start_broker: StartBroker, shared_redis: EmbeddedServer, conversation: Conversation
) -> None:
    """A larger one would end the connection, and again after each reconnect."""
    broker = start_broker(
        shared_redis.url, max_event_bytes="4MiB", ring_bytes="64MiB", workers=1
    )
    await conversation.show(execution_status="paused", pad="x" * 1_100_000)
    url = f"ws://{broker.public[0]}:{broker.public[1]}/sockets/events"
    async with websockets.connect(f"{url}/{conversation.session}") as client:
        first = orjson.loads(await client.recv())
        await conversation.publish({"id": "big", "pad": "x" * 1_100_000})
        await conversation.say()
        second = orjson.loads(await client.recv())
        third = orjson.loads(await client.recv())
    path = f"{url}/{conversation.session}?resend_mode=all"
    async with websockets.connect(path) as client:
        replayed = [orjson.loads(await client.recv()) for _ in range(3)]

    assert (first["key"], first["value"]) == ("execution_status", "paused")
    assert second["code"] == "EventTooLarge"
    assert third["id"] == "m1"
    assert replayed[1:] == [second, third]


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


# The Python library that most programs use.


async def test_a_python_client_comes_back_and_resumes(
    start_broker: StartBroker, shared_redis: EmbeddedServer, conversation: Conversation
) -> None:
    """With the time of the last event that it has, which comes again."""
    old, new = start_broker(shared_redis.url), start_broker(shared_redis.url)
    await conversation.say(20)
    async with FaultProxy(old.public) as proxy:
        url = f"ws://{proxy.address[0]}:{proxy.address[1]}/sockets/events"
        path = f"{url}/{conversation.session}?resend_mode"
        async with websockets.connect(f"{path}=all") as client:
            first = [orjson.loads(await client.recv()) for _ in range(21)]
            proxy.upstream = new.public
            old.signal(signal.SIGTERM)
            with pytest.raises(websockets.ConnectionClosedError):
                await client.recv()
        await conversation.say(20)
        since = f"since&after_timestamp={first[-1]['timestamp']}"
        async with websockets.connect(f"{path}={since}") as client:
            second = [orjson.loads(await client.recv()) for _ in range(22)]

    assert messages(first) == list(range(1, 21))
    assert messages(second) == list(range(20, 41))


async def test_a_python_client_is_given_what_is_published_while_it_connects(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """Once and in order, and with its own limits of size and time."""
    await conversation.say(100)
    url = f"ws://{broker.public[0]}:{broker.public[1]}/sockets/events"
    path = f"{url}/{conversation.session}?resend_all=true"
    publishing = asyncio.create_task(conversation.stream(500))
    clients = [await websockets.connect(path) for _ in range(5)]
    await publishing
    everybody = [[await client.recv() for _ in range(601)] for client in clients]
    for client in clients:
        await client.close()

    for frames in everybody:
        events = [orjson.loads(frame) for frame in frames]
        assert states(events[:1]) == ["idle"]
        assert messages(events[1:]) == list(range(1, 601))
