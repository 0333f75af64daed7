"""The events socket of OpenHands V1: what its clients are sent."""

from __future__ import annotations

import asyncio
import signal
import uuid

import orjson
import pytest
import websockets
from redis.asyncio import Redis

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness.client import WebSocketClient
from tests.harness.conversations import (
    STATE,
    Conversation,
    is_message,
    listen,
    messages,
    read_until,
    says,
    snapshot,
    states,
    time_of,
)
from tests.harness.proxy import FaultProxy
from tests.harness.servers import BrokerServer


@pytest.fixture
def name() -> str:
    """A conversation of the test's own."""
    return str(uuid.uuid4())


@pytest.fixture
def conversation(redis: Redis, name: str) -> Conversation:
    return Conversation(redis, name)


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
