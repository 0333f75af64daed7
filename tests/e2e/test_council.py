"""The hub of "The Council": what its front end is sent."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from itertools import groupby, pairwise
from typing import Any

import orjson
from redis.asyncio import Redis
from websockets.asyncio.client import connect

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import hub
from tests.harness.client import Frame, WebSocketClient
from tests.harness.publisher import key_of
from tests.harness.servers import BrokerServer

# More than the kernel and the broker hold for a socket that nobody reads.
CHUNKS, CHUNK_BYTES, USAGE_EVERY = 3000, 1000, 100


def numbers(frames: list[Frame]) -> list[int]:
    return [frame["data"]["i"] for frame in frames]


def timestamps(frames: list[Frame]) -> list[str]:
    return [frame["timestamp"] for frame in frames]


async def test_events_come_in_the_envelope_of_the_hub(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """Its four keys and no other, the node above data and within it."""
    url = f"ws://{broker.public[0]}:{broker.public[1]}/ws?session={session}"
    async with connect(url) as client:
        await redis.xadd(
            key_of(session),
            {
                "event": "node_state_change",
                "data": '{"status":"running"}',
                "node_id": "agent_a",
            },
        )
        frame = orjson.loads(await client.recv())

    assert list(frame) == ["event", "timestamp", "node_id", "data"]
    assert (frame["event"], frame["node_id"]) == ("node_state_change", "agent_a")
    assert frame["data"] == {
        "status": "running",
        "node_id": "agent_a",
        "session_uuid": session,
    }


async def test_whatever_is_published_after_the_upgrade_arrives(
    start_broker: StartBroker, shared_redis: EmbeddedServer, redis: Redis, session: str
) -> None:
    """The hub has no word for "subscribed", so the answer to the upgrade is that."""
    server = start_broker(shared_redis.url)
    # Until it goes on nothing is read of a stream that is new to this pod.
    os.kill(server.reader, signal.SIGSTOP)
    client = await hub.enter(server, f"session={session}")
    await hub.publish(redis, session, "token_usage", i=1)
    os.kill(server.reader, signal.SIGCONT)

    assert numbers(await hub.take(client, 1)) == [1]
    client.cut()


async def test_nothing_that_was_published_before_arrives(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """The front end asks for no history, and would add it to what it shows."""
    await hub.publish(redis, session, "token_usage", i=1)
    client = await hub.enter(broker, f"session={session}")
    await hub.publish(redis, session, "token_usage", i=2)

    assert numbers(await hub.take(client, 1)) == [2]
    client.cut()


async def test_500_events_published_while_connecting_come_once_and_in_order(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """Whether they are replayed or live when a client comes."""

    async def visit() -> list[int]:
        client = await hub.enter(broker, f"session={session}&last_event_id=0")
        frames = await hub.take(client, 500)
        client.cut()
        return numbers(frames)

    visits = []
    for i in range(500):
        if i % 25 == 0:
            visits.append(asyncio.create_task(visit()))
        await hub.publish(redis, session, "token_usage", i=i, node_id="a")

    assert await asyncio.gather(*visits) == [list(range(500))] * 20


async def test_a_client_with_a_position_resumes_behind_it(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """The stock page names none; a program may."""
    entries = [("token_usage", {"i": i}) for i in range(10)]
    ids = await hub.publish_all(redis, session, entries)
    client = await hub.enter(broker, f"session={session}&last_event_id={ids[4]}")
    resumed = await hub.take(client, 5)
    await hub.publish(redis, session, "token_usage", i=10)

    assert numbers(resumed) == [5, 6, 7, 8, 9]
    assert numbers(await hub.take(client, 1)) == [10]
    client.cut()


async def test_python_websockets_resumes_behind_a_position(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """A client that is not ours reads the same."""
    entries = [("token_usage", {"i": i}) for i in range(10)]
    ids = await hub.publish_all(redis, session, entries)
    url = f"ws://{broker.public[0]}:{broker.public[1]}/ws"
    async with connect(f"{url}?session={session}&last_event_id={ids[6]}") as client:
        frames = [orjson.loads(await client.recv()) for _ in range(3)]

    assert numbers(frames) == [7, 8, 9]


async def test_what_was_trimmed_is_told(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """In front of what is left, with how much it was."""
    entries = [("token_usage", {"i": i}) for i in range(10)]
    ids = await hub.publish_all(redis, session, entries)
    await redis.xtrim(key_of(session), maxlen=3, approximate=False)
    client = await hub.enter(broker, f"session={session}&last_event_id={ids[1]}@2")
    gap, *rest = await hub.take(client, 4)

    assert (gap["event"], gap["data"]["lost"]) == ("gap", 5)
    assert (gap["data"]["reason"], gap["data"]["session_uuid"]) == ("trimmed", session)
    assert numbers(rest) == [7, 8, 9]
    client.cut()


async def test_another_history_is_told(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """And everything that it retains follows."""
    client = await hub.enter(broker, f"session={session}")
    await hub.publish(redis, session, "token_usage", i=1)
    before = await client.frame()
    await redis.delete(key_of(session))
    reset = await client.frame()
    await hub.publish(redis, session, "token_usage", i=2)
    after = await client.frame()

    assert numbers([before, after]) == [1, 2]
    assert (reset["event"], reset["data"]["session_uuid"]) == ("reset", session)
    client.cut()


async def test_an_entry_that_breaks_the_contract_is_told_as_skipped(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """The front end ignores it; what follows is not disturbed."""
    client = await hub.enter(broker, f"session={session}")
    await redis.xadd(key_of(session), {"event": "error", "data": "{"})
    await hub.publish(redis, session, "token_usage", i=2)
    skipped, following = await hub.take(client, 2)

    assert (skipped["event"], skipped["data"]["reason"]) == ("skipped", "not_json")
    assert numbers([following]) == [2]
    client.cut()


async def test_transient_events_are_live_only_and_no_loss(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """A replay leaves them out without a word: the hub knows of no replay."""
    client = await hub.enter(broker, f"session={session}")
    await hub.publish(redis, session, "token_usage", i=1)
    live = await hub.take(client, 1)
    await redis.xadd(
        key_of(session), {"event": "token_usage", "data": '{"i":2}', "transient": "1"}
    )
    await hub.publish(redis, session, "token_usage", i=3)
    live += await hub.take(client, 2)
    again = await hub.enter(broker, f"session={session}&last_event_id=0")
    replayed = await hub.take(again, 2)

    assert numbers(live) == [1, 2, 3]
    assert numbers(replayed) == [1, 3]
    client.cut()
    again.cut()


# A client that lags.


def agent_says(i: int) -> list[tuple[str, dict[str, Any]]]:
    """A chunk of one of two nodes that take turns, and now and then a bill."""
    node = "ab"[i // 50 % 2]
    ids = {"node_id": node, "agent_id": f"agent-{node}"}
    chunk = {**ids, "chunk": f"{i:05}|".ljust(CHUNK_BYTES, "x")}
    bill = {**ids, "input_tokens": i}
    return [
        ("token_stream", chunk),
        *([("token_usage", bill)] if i % USAGE_EVERY == 0 else []),
    ]


async def publish_until_read(
    redis: Redis, broker: BrokerServer, sessions: list[str]
) -> None:
    """Publish to all sessions in turns, until others have read all of it."""
    others = []
    for session in sessions:
        others.append(await WebSocketClient.connect(broker.public, f"/v1/ws/{session}"))
        await others[-1].until("subscribed")
    for first in range(0, CHUNKS, 100):
        entries = [entry for i in range(first, first + 100) for entry in agent_says(i)]
        for session in sessions:
            await hub.publish_all(redis, session, entries)
    for session, other in zip(sessions, others, strict=True):
        await hub.publish(redis, session, "execution:completed")
        await other.until("execution:completed")
        other.cut()


def transcript(told: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, str]]:
    """The text and the events of a session as the front end shows them."""
    lines = []
    for (event, node), run in groupby(
        told, lambda one: (one[0], one[1].get("node_id"))
    ):
        data = [one[1] for one in run]
        if event == "token_stream":
            lines.append((f"{event} {node}", "".join(one["chunk"] for one in data)))
        else:
            lines += [(f"{event} {node}", "")] * len(data)
    return lines


async def read_to_the_end(client: WebSocketClient, sessions: int) -> list[Frame]:
    """Everything up to the last event of so many sessions."""
    frames: list[Frame] = []
    while sessions:
        frames.append(await client.frame())
        sessions -= frames[-1]["event"] == "execution:completed"
    return frames


async def test_a_client_that_lags_gets_fewer_chunks_and_the_same_text(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """What it adds up and what it reacts to is never merged, and nothing is lost."""
    slow = await hub.enter(broker, f"session={session}", receive_buffer_bytes=4096)
    slow.pause()
    await publish_until_read(redis, broker, [session])
    slow.resume()
    frames = await read_to_the_end(slow, 1)
    published = [entry for i in range(CHUNKS) for entry in agent_says(i)]
    told = [(frame["event"], frame["data"]) for frame in frames[:-1]]
    bills = [data["input_tokens"] for event, data in told if event == "token_usage"]

    assert transcript(told) == transcript(published)
    assert bills == list(range(0, CHUNKS, USAGE_EVERY))
    assert len(told) < len(published) - 100
    slow.cut()


async def test_a_client_that_keeps_up_gets_every_chunk_as_published(
    broker: BrokerServer, redis: Redis, session: str
) -> None:
    """Merging is for who lags."""
    client = await hub.enter(broker, f"session={session}")
    for first in range(0, 1000, 10):
        entries = [entry for i in range(first, first + 10) for entry in agent_says(i)]
        await hub.publish_all(redis, session, entries)
        frames = await hub.take(client, len(entries))

        assert [f["data"].get("chunk") for f in frames] == [
            data.get("chunk") for _event, data in entries
        ]
    client.cut()


async def test_timestamps_rise_over_all_sessions_live_and_replayed(
    broker: BrokerServer, redis: Redis, new_session: Callable[[], str]
) -> None:
    """A client that tells events apart by name and timestamp drops none."""
    sessions = [new_session() for _ in range(3)]
    query = "&".join(f"session={session}" for session in sessions)
    client = await hub.enter(broker, query, receive_buffer_bytes=4096)
    for _ in range(20):
        for session in sessions:
            await hub.publish(redis, session, "token_usage", i=1)
    frames = await hub.take(client, 60)
    client.pause()
    await publish_until_read(redis, broker, sessions)
    client.resume()
    frames += await read_to_the_end(client, 3)
    for session in sessions:
        await hub.publish(redis, session, "token_usage", i=1)
    frames += await hub.take(client, 3)
    stamps = timestamps(frames)

    assert all(earlier < later for earlier, later in pairwise(stamps))
    client.cut()
