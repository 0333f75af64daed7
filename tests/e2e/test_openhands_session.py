"""The session socket of OpenHands V1: events with their places in the log."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Iterable

import pytest
from redis.asyncio import Redis

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import wire
from tests.harness.client import ConnectionEnded, Frame, Refused, WebSocketClient
from tests.harness.conversations import (
    Conversation,
    is_message,
    listen,
    messages,
    read_until,
    rest,
    says,
    snapshot,
    states,
)
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET, token


@pytest.fixture
def conversation(redis: Redis) -> Conversation:
    """A conversation of the test's own."""
    return Conversation(redis, str(uuid.uuid4()))


async def enter(
    at: BrokerServer, conversation: Conversation, after_seq: int | None
) -> WebSocketClient:
    query = "" if after_seq is None else f"after_seq={after_seq}"
    return await listen(at, f"session/{conversation.session}", query)


def seqs(frames: Iterable[Frame]) -> list[int]:
    return [frame["seq"] for frame in frames if frame["type"] == "durable"]


async def until_state(client: WebSocketClient) -> list[Frame]:
    """All frames up to the state, which ends a replay."""
    return await read_until(client, says(type="transient"))


@pytest.mark.parametrize(
    ("after_seq", "sync", "expected"),
    [
        (None, {"through_seq": 4}, []),
        (-1, {"from_seq": -1, "through_seq": 4}, [0, 1, 2, 3, 4]),
        (0, {"from_seq": 0, "through_seq": 4}, [1, 2, 3, 4]),
        (3, {"from_seq": 3, "through_seq": 4}, [4]),
        (4, {"from_seq": 4, "through_seq": 4}, []),
        (99, {"from_seq": 99, "through_seq": 4}, []),
    ],
)
async def test_a_place_resumes_behind_it(
    broker: BrokerServer,
    conversation: Conversation,
    after_seq: int | None,
    sync: dict[str, int],
    expected: list[int],
) -> None:
    """First what is coming, then events, then the state, then live events."""
    await conversation.say(5)
    client = await enter(broker, conversation, after_seq)
    frames = await until_state(client)
    await conversation.say()
    live = await client.frame()
    client.cut()

    assert frames[0] == {"type": "sync", **sync}
    assert seqs(frames) == expected
    assert messages(frames) == [seq + 1 for seq in expected]
    assert states(frames) == ["idle"]
    assert (live["type"], live["seq"], live["event"]["id"]) == ("durable", 5, "m6")


async def test_an_empty_log_has_no_last_place(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """Its first event is at 0."""
    client = await enter(broker, conversation, -1)
    frames = await until_state(client)
    await conversation.say()
    first = await client.frame()
    client.cut()

    assert frames[0] == {"type": "sync", "from_seq": -1}
    assert first["seq"] == 0


async def test_what_is_not_kept_leaves_holes(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """The places of what is kept rise strictly, live as in a replay."""
    live = await enter(broker, conversation, None)
    await until_state(live)
    await conversation.say()
    await conversation.show(title="new")
    await conversation.stammer(3)
    await conversation.say()
    frames = await read_until(live, is_message(2))
    again = await enter(broker, conversation, -1)
    replayed = await until_state(again)
    live.cut()
    again.cut()

    assert [frame["type"] for frame in frames] == ["durable", "transient", "durable"]
    assert frames[1]["event"] == snapshot(title="new")
    assert seqs(frames) == seqs(replayed) == [0, 5]
    assert replayed[-1] == frames[1]
    assert len(replayed) == 4


async def test_a_newer_status_follows_the_snapshot(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """The snapshot comes behind events that say more."""
    await conversation.show(execution_status="finished")
    await conversation.turn("running")
    client = await enter(broker, conversation, -1)
    frames = await read_until(client, lambda frame: "idle" not in str(frame))
    frames += [await client.frame() for _ in range(3)]
    client.cut()

    assert states(frames) == ["running", {"execution_status": "finished"}, "running"]
    assert [frame["type"] for frame in frames] == [
        *("sync", "durable", "transient", "transient")
    ]


async def test_an_event_without_a_known_place_moves_none(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """Entries were deleted in between: nobody knows which place is whose."""
    ids = await conversation.say(400, pad=2_000)
    gone = f"{ids[390][0]}-{ids[390][1]}"
    await conversation.redis.xdel(conversation.key, gone)
    client = await enter(broker, conversation, 100)
    frames = await read_until(client, lambda frame: states([frame]) != [])
    await conversation.say()
    live = await read_until(client, is_message(401))
    client.cut()
    numbers = messages(frames)

    assert numbers == [n for n in range(numbers[0], 401) if n != 391]
    assert numbers[0] <= 102
    assert {frame["type"] for frame in frames[1:-1]} <= {
        "transient",
        "error",
        "durable",
    }
    assert any(frame["type"] == "transient" for frame in frames[1:-1])
    assert live[-1]["seq"] == 400


async def test_what_was_trimmed_is_told_exactly(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """From the place of the client on."""
    await conversation.say(50)
    await conversation.redis.xtrim(conversation.key, maxlen=10, approximate=False)
    client = await enter(broker, conversation, 14)
    frames = await until_state(client)
    client.cut()

    assert frames[0] == {"type": "sync", "from_seq": 14, "through_seq": 49}
    assert frames[1]["type"] == "error"
    assert frames[1]["code"] == "EventsLost"
    assert frames[1]["detail"].startswith("25 entries")
    assert seqs(frames) == list(range(40, 50))


async def test_another_history_begins_its_places_anew(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """The client is told, and so is where it stands now."""
    await conversation.say(3)
    client = await enter(broker, conversation, 2)
    await until_state(client)
    await conversation.redis.delete(conversation.key)
    error, sync = await client.frame(), await client.frame()
    await conversation.say()
    event = await client.frame()
    client.cut()

    assert (error["type"], error["code"]) == ("error", "HistoryReset")
    assert sync == {"type": "sync", "from_seq": -1}
    assert (event["seq"], event["event"]["id"]) == (0, "m4")


async def test_500_events_while_clients_connect_come_once_and_in_order(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """However the replay and what is live meet, and wherever it begins."""
    await conversation.say(300)
    publishing = asyncio.create_task(conversation.stream(500))
    clients = []
    while not publishing.done():
        after_seq = conversation.said - 40
        clients.append((after_seq, await enter(broker, conversation, after_seq)))
    await publishing
    everybody = [
        (after_seq, await read_until(client, is_message(800)))
        for after_seq, client in clients
    ]
    for _after_seq, client in clients:
        client.cut()

    assert len(clients) > 10
    for after_seq, frames in everybody:
        assert frames[0]["type"] == "sync"
        assert frames[0]["from_seq"] == after_seq
        assert seqs(frames) == list(range(after_seq + 1, 800))
        assert messages(frames) == list(range(after_seq + 2, 801))


async def test_a_client_that_lags_is_told_the_state_at_the_end(
    broker: BrokerServer, conversation: Conversation
) -> None:
    """Without a place, behind all events."""
    client = await listen(
        broker, f"session/{conversation.session}", receive_buffer_bytes=4096
    )
    await until_state(client)
    client.pause()
    watcher = await enter(broker, conversation, None)
    for number in range(40):
        await conversation.say(10, pad=10_000)
        await conversation.show(number=number)
    await conversation.say()
    await read_until(watcher, is_message(401))
    client.resume()
    frames = await read_until(client, is_message(401), 20)
    frames += await read_until(client, lambda frame: {"number": 39} in states([frame]))
    watcher.cut()
    client.cut()

    assert messages(frames) == list(range(1, 402))
    assert states(frames)[-1] == {"number": 39}


@pytest.mark.parametrize(
    ("opcode", "payload", "code"),
    [
        (wire.TEXT, b"hello", "JSONDecodeError"),
        (wire.TEXT, b"[]", "ValidationError"),
        (wire.BINARY, b"\x00", "KeyError"),
    ],
)
async def test_bad_input_is_answered_by_an_error_frame(
    broker: BrokerServer,
    conversation: Conversation,
    opcode: int,
    payload: bytes,
    code: str,
) -> None:
    """And the connection stays."""
    client = await enter(broker, conversation, None)
    await until_state(client)
    client.send_frame(opcode, payload)
    answer = await client.frame()
    await conversation.say()
    after = await client.frame()
    client.cut()

    assert answer.keys() == {"type", "code", "detail"}
    assert (answer["type"], answer["code"]) == ("error", code)
    assert after["seq"] == 0


async def test_an_evicted_conversation_is_told_by_an_error_frame(
    start_broker: StartBroker, shared_redis: EmbeddedServer, conversation: Conversation
) -> None:
    """Also to a program that comes back."""
    broker = start_broker(
        shared_redis.url,
        workers=1,
        auth="jwt",
        jwt_secret=SECRET,
        max_sessions_per_user=1,
    )
    key = f"session_api_key={token(conversation.session)}"
    client = await listen(broker, f"session/{conversation.session}", key)
    await until_state(client)
    other = await listen(broker, f"session/{uuid.uuid4()}", key)
    told, end = await rest(client)
    again = await listen(broker, f"session/{conversation.session}", key)
    told_again, end_again = await rest(again)
    other.cut()

    assert told == told_again
    assert (told[0]["type"], told[0]["code"]) == ("error", "SessionEvicted")
    assert end.code == end_again.code == 4004


async def test_a_client_resumes_after_a_worker_was_killed(
    start_broker: StartBroker, shared_redis: EmbeddedServer, conversation: Conversation
) -> None:
    """From its place, without one event twice."""
    broker = start_broker(shared_redis.url, workers=1)
    broker.allowed.append("child_died|killed|error")
    await conversation.say(20)
    client = await enter(broker, conversation, -1)
    before = await until_state(client)
    os.kill(broker.workers[0], signal.SIGKILL)
    await client.wait_ended()
    await conversation.say(20)
    again = await come_back(broker, conversation, seqs(before)[-1])
    after = await until_state(again)
    again.cut()

    assert seqs(before) + seqs(after) == list(range(40))


async def come_back(
    broker: BrokerServer, conversation: Conversation, after_seq: int
) -> WebSocketClient:
    """Connect as soon as that can be."""
    while True:
        try:
            return await enter(broker, conversation, after_seq)
        except (Refused, OSError, ConnectionEnded):
            await asyncio.sleep(0.05)
