"""The client for programs against a real broker, through whatever may happen."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from broker.client import (
    Client,
    Event,
    Gap,
    Item,
    Publisher,
    Reset,
    Skipped,
    follow,
)
from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.e2e.programs import seqs, take, url
from tests.harness import http
from tests.harness.load import until
from tests.harness.proxy import FaultProxy
from tests.harness.publisher import Author, key_of
from tests.harness.servers import BrokerServer


@pytest.fixture
async def client(broker: BrokerServer) -> AsyncIterator[Client]:
    """A client of the shared broker."""
    async with Client(url(broker.public), user="ada") as client:
        yield client


def numbers(items: list[Item]) -> list[int]:
    return [item.data["i"] for item in items]


async def test_program_of_the_readme_works(
    broker: BrokerServer, shared_redis: EmbeddedServer, session: str
) -> None:
    """Publish, read all that is there, and go on live."""
    async with (
        Publisher(shared_redis.url) as publish,
        Client(url(broker.public)) as client,
    ):
        position = await publish(session, "token", {"text": "Hel"}, node_id="writer")
        stream = client.events(session, last_event_id="0")
        (first,) = await take(stream, 1)
        await publish(session, "token", {"text": "lo"})
        (second,) = await take(stream, 1)

    assert isinstance(first, Event)
    assert first.id == f"{position}@1"
    assert (first.event, first.data) == ("token", {"text": "Hel"})
    assert (first.seq, first.session, first.node_id) == (1, session, "writer")
    assert first.timestamp.endswith("Z")
    assert second.data == {"text": "lo"}


async def test_restart_of_the_broker_is_not_noticed_by_the_loop(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    author: Author,
    session: str,
) -> None:
    """Every event once, in order; what is published meanwhile as well."""
    first = start_broker(shared_redis.url)
    async with Client(url(first.public)) as client:
        await author.publish(session, 5)
        stream = client.events(session, last_event_id="0")
        items = await take(stream, 5)
        first.signal(signal.SIGTERM)
        assert await asyncio.to_thread(first.wait) == 0
        await author.publish(session, 5)
        await asyncio.to_thread(
            lambda: start_broker(shared_redis.url, port=first.public[1])
        )
        items += await take(stream, 5)
        await author.publish(session, 5)
        items += await take(stream, 5)

    assert seqs(items) == list(range(1, 16))


async def test_live_loop_misses_nothing_over_a_kill(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    author: Author,
    session: str,
) -> None:
    """Also if no event had come yet: it goes on where it began."""
    broker = start_broker(shared_redis.url, workers=1)
    async with Client(url(broker.public)) as client:
        stream = client.events(session, everything=True)
        while (await take(stream, 1))[0].event != "subscribed":
            pass
        broker.signal(signal.SIGKILL)
        await asyncio.to_thread(broker.wait)
        broker.destroy()
        await author.publish(session, 3)
        await asyncio.to_thread(
            lambda: start_broker(shared_redis.url, port=broker.public[1])
        )
        items: list[Item] = []
        while len(seqs(items)) < 3:
            items += await take(stream, 1)

    assert seqs(items) == [1, 2, 3]


async def test_twenty_thousand_events_come_once_each(
    client: Client, author: Author, session: str
) -> None:
    """In order, and with what was published."""
    for _ in range(20):
        await author.publish(session, 1000, pad_bytes=100)
    items = await take(client.events(session, last_event_id="0"), 20_000)

    assert seqs(items) == list(range(1, 20_001))
    assert numbers(items) == list(range(1, 20_001))


async def test_connection_that_is_cut_again_and_again_is_not_noticed(
    monkeypatch: pytest.MonkeyPatch, broker: BrokerServer, author: Author, session: str
) -> None:
    """Exactly once, in order, while events are published."""
    monkeypatch.setattr(follow, "MAX_BACKOFF_S", 0.05)
    items: list[Item] = []
    async with (
        FaultProxy(broker.public) as proxy,
        Client(url(proxy.address)) as client,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(_publish_slowly(author, session))
        stream = client.events(session, last_event_id="0")
        for _ in range(COUNT // CUT_EVERY):
            items += await take(stream, CUT_EVERY)
            proxy.cut()

    assert proxy.accepted > COUNT // CUT_EVERY // 2
    assert seqs(items) == list(range(1, COUNT + 1))


COUNT, CUT_EVERY = 3000, 100


async def _publish_slowly(author: Author, session: str) -> None:
    for _ in range(COUNT // 50):
        await author.publish(session, 50)
        await asyncio.sleep(0.02)


async def test_server_that_falls_silent_is_left_and_found_again(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    author: Author,
    session: str,
) -> None:
    """A network that swallows everything breaks no connection by itself."""
    broker = start_broker(shared_redis.url, heartbeat_s=0.5)
    async with (
        FaultProxy(broker.public) as proxy,
        Client(url(proxy.address)) as client,
    ):
        await author.publish(session, 5)
        stream = client.events(session, last_event_id="0")
        items = await take(stream, 5)
        proxy.pause()
        await author.publish(session, 5)
        await until(lambda: proxy.accepted > 1, 20, "second connection")
        proxy.resume()
        items += await take(stream, 5)

    assert seqs(items) == list(range(1, 11))


async def test_trimmed_events_are_told_in_their_place(
    broker: BrokerServer,
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    author: Author,
    redis: Redis,
    session: str,
) -> None:
    """With their number, while the loop goes on."""
    other = start_broker(shared_redis.url)  # which has not seen what was trimmed
    async with (
        FaultProxy(broker.public) as proxy,
        Client(url(proxy.address)) as client,
    ):
        await author.publish(session, 10)
        stream = client.events(session, last_event_id="0")
        items = await take(stream, 10)
        proxy.upstream = other.public
        proxy.refuses = True
        proxy.cut()
        await author.publish(session, 30)
        await redis.xtrim(key_of(session), maxlen=5, approximate=False)
        proxy.refuses = False
        items += await take(stream, 6)

    assert isinstance(items[10], Gap)
    assert (items[10].lost, items[10].exact, items[10].reason) == (25, True, "trimmed")
    assert items[10].after == items[9].id
    assert items[10].next == items[11].id
    assert seqs(items) == [*range(1, 11), *range(36, 41)]


async def test_new_history_is_told_and_read_from_its_beginning(
    client: Client, author: Author, session: str
) -> None:
    """The stream was deleted and begun anew under the loop."""
    await author.publish(session, 5)
    stream = client.events(session, last_event_id="0")
    items = await take(stream, 5)
    await author.delete(session)
    await author.publish(session, 3)
    items += await take(stream, 4)
    position = stream.position

    assert isinstance(items[5], Reset)
    assert seqs(items) == [1, 2, 3, 4, 5, 1, 2, 3]
    assert position == items[-2].id


async def test_new_history_is_told_to_whoever_resumes_in_the_old_one(
    client: Client, author: Author, session: str
) -> None:
    """By the first connection of a new stream as well."""
    (ended,) = await author.publish(session)
    await author.delete(session)
    await author.publish(session, 2)
    position = f"{ended[0] + 60_000}-0"
    items = await take(client.events(session, last_event_id=position), 3)

    assert isinstance(items[0], Reset)
    assert seqs(items) == [1, 2]


async def test_bad_entry_takes_its_place(
    client: Client, author: Author, session: str
) -> None:
    """It is told why it is no event."""
    await author.publish(session)
    await author.publish_raw(session, {"data": "1"})
    await author.publish(session)
    items = await take(client.events(session, last_event_id="0"), 3)

    assert [type(item) for item in items] == [Event, Skipped, Event]
    assert items[1].data["reason"] == "no_event"


async def test_loop_that_is_slow_is_a_slow_socket_and_not_a_dead_one(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    author: Author,
    session: str,
) -> None:
    """The broker sees it lag, does not cut it, and it gets everything later."""
    broker = start_broker(shared_redis.url, heartbeat_s=0.5, lag_timeout_s=60)
    async with (
        FaultProxy(broker.public) as proxy,
        Client(url(proxy.address), user="ada") as client,
    ):
        stream = client.events(session, last_event_id="0")
        await author.publish(session)
        items = await take(stream, 1)
        for _ in range(60):
            await author.publish(session, 100, pad_bytes=10_000)
        await until(lambda: _lags(broker, session), 20, "lagging connection")
        await asyncio.sleep(3)  # six heartbeats, of which it may miss none
        waiting = len(stream._flow.inbox)
        connections = proxy.accepted
        items += await take(stream, 6000)

    assert waiting < 150
    assert connections == proxy.accepted == 1
    assert seqs(items) == list(range(1, 6002))


async def _lags(broker: BrokerServer, session: str) -> bool:
    answer = await http.get(broker.admin, "/v1/connections")
    return any(
        one["session"] == session and one["state"] == "lagging"
        for one in answer.json()["connections"]
    )


async def test_loop_that_stands_still_on_few_events_is_not_cut(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    author: Author,
    session: str,
) -> None:
    """Its socket is not full, so the broker expects answers to its pings."""
    broker = start_broker(shared_redis.url, heartbeat_s=0.5)
    async with (
        FaultProxy(broker.public) as proxy,
        Client(url(proxy.address)) as client,
    ):
        stream = client.events(session, last_event_id="0")
        await author.publish(session, 1500)
        items = await take(stream, 1)
        await asyncio.sleep(3)  # six heartbeats, whose pings lie behind the events
        items += await take(stream, 1499)
        await author.publish(session)
        items += await take(stream, 1)

    assert proxy.accepted == 1
    assert seqs(items) == list(range(1, 1502))
