"""The client for programs against a real broker, through whatever may happen."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from broker.client import (
    Client,
    ClosedByServer,
    CommandRefused,
    Event,
    Gap,
    Item,
    Publisher,
    Reset,
    Skipped,
    Stream,
    TokenReason,
    follow,
)
from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness import http
from tests.harness.load import until
from tests.harness.proxy import FaultProxy
from tests.harness.publisher import Author, key_of
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET, token


def url(address: tuple[str, int]) -> str:
    return f"http://{address[0]}:{address[1]}"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnect at once, where a test cuts connections that would have lasted."""
    monkeypatch.setattr(follow, "MAX_BACKOFF_S", 0.05)


@pytest.fixture
async def client(broker: BrokerServer) -> AsyncIterator[Client]:
    """A client of the shared broker."""
    async with Client(url(broker.public), user="ada") as client:
        yield client


async def take(stream: Stream, count: int) -> list[Item]:
    """The next *count* items."""
    async with asyncio.timeout(30):
        return [await anext(stream) for _ in range(count)]


def seqs(items: list[Item]) -> list[int | None]:
    return [item.seq for item in items if isinstance(item, Event)]


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


@pytest.mark.usefixtures("impatient")
async def test_connection_that_is_cut_again_and_again_is_not_noticed(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """Exactly once, in order, while events are published."""
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


async def test_eviction_ends_the_loop_for_good(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    author: Author,
    new_session: Callable[[], str],
) -> None:
    """The user opened another session; a takeover is a deliberate act."""
    broker = start_broker(shared_redis.url, max_sessions_per_user=1)
    first, second = new_session(), new_session()
    await author.publish(first)
    await author.publish(second)
    async with Client(url(broker.public), user=first) as client:
        stream = client.events(first, last_event_id="0")
        await take(stream, 1)
        await take(client.events(second, last_event_id="0"), 1)
        with pytest.raises(ClosedByServer) as evicted:
            await take(stream, 1)
        with pytest.raises(ClosedByServer) as refused:
            await take(client.events(first), 1)
        back = client.events(first, last_event_id="0", takeover=True)
        again = await take(back, 1)

    assert (evicted.value.code, evicted.value.retry) == (4509, False)
    assert refused.value.code == 4509
    assert seqs(again) == [1]


class Issuer:
    """Makes tokens that live as long as the test says.

    Attributes:
        reasons: Why it was asked.
        lives_s: How long the next token lives.
    """

    def __init__(self, lives_s: float) -> None:
        self.reasons: list[TokenReason] = []
        self.lives_s = lives_s

    async def __call__(self, reason: TokenReason) -> str:
        self.reasons.append(reason)
        lives_s, self.lives_s = self.lives_s, 300
        return token("ada", lives_s=lives_s)


@pytest.fixture
def guarded(start_broker: StartBroker, shared_redis: EmbeddedServer) -> BrokerServer:
    """A broker that asks for tokens, and warns two seconds before their end."""
    return start_broker(shared_redis.url, auth="jwt", jwt_secret=SECRET, token_warn_s=2)


async def test_token_is_replaced_before_it_ends(
    guarded: BrokerServer, author: Author, session: str
) -> None:
    """Once for all connections, and none is closed for it."""
    issuer = Issuer(lives_s=3)
    async with (
        FaultProxy(guarded.public) as proxy,
        Client(url(proxy.address), token=issuer) as client,
    ):
        streams = [client.events(session, everything=True) for _ in range(3)]
        refreshed = [asyncio.create_task(_until(s, "refreshed")) for s in streams]
        await asyncio.gather(*refreshed)
        await author.publish(session)
        events = [await _until(stream, "tick") for stream in streams]

    assert seqs(events) == [1, 1, 1]
    assert issuer.reasons == ["connect", "expiring"]
    assert proxy.accepted == 3


async def _until(stream: Stream, name: str) -> Item:
    """The next item with this name."""
    async with asyncio.timeout(10):
        async for item in stream:
            if item.event == name:
                return item
    raise AssertionError(name)


async def test_token_that_has_ended_is_replaced_by_the_next_connection(
    guarded: BrokerServer, author: Author, session: str
) -> None:
    """4510 says that the request was right and only its token was not."""
    issuer = Issuer(lives_s=-60)
    await author.publish(session)
    async with Client(url(guarded.public), token=issuer) as client:
        items = await take(client.events(session, last_event_id="0"), 1)
        stored = await client.send(session, "go")

    assert seqs(items) == [1]
    assert stored
    assert issuer.reasons == ["connect", "expired"]


async def test_token_without_rights_ends_it(
    guarded: BrokerServer, session: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No other token is asked for; and it is repeated nowhere."""
    text = token("ada", sessions=["other"], command_sessions=["other"])
    async with Client(url(guarded.public), token=text) as client:
        with pytest.raises(ClosedByServer) as ended:
            await take(client.events(session), 1)
        with pytest.raises(CommandRefused) as refused:
            await client.send(session, "go")

    assert ended.value.code == 4503
    assert refused.value.code == "forbidden"
    said = f"{ended.value} {refused.value} {caplog.text} {guarded.log.text}"
    assert text.rpartition(".")[2] not in said


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


async def test_consumer_goes_on_behind_what_was_acknowledged(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """In another process as well: the broker keeps the position."""
    async with Client(url(broker.public), user="ada") as first:
        stream = first.events(session, consumer="c")
        asking = asyncio.create_task(take(stream, 3))
        await until(lambda: stream._flow._was_open, 10, "subscription")
        await author.publish(session, 5)
        items = await asking
        await first.ack(items[1])  # type: ignore[arg-type]
    async with Client(url(broker.public), user="ada") as second:
        rest = await take(second.events(session, consumer="c"), 3)

    assert seqs(items) == [1, 2, 3]
    assert seqs(rest) == [3, 4, 5]


async def test_auto_acknowledges_what_the_loop_was_done_with(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """A program that fails on an event gets that event again."""
    options: dict[str, Any] = {"consumer": "c", "ack": "auto"}
    async with Client(url(broker.public), user="ada") as first:
        stream = first.events(session, last_event_id="0", **options)
        await author.publish(session, 5)
        await take(stream, 3)
    async with Client(url(broker.public), user="ada") as second:
        rest = await take(second.events(session, **options), 3)

    assert seqs(rest) == [3, 4, 5]


async def test_position_is_where_the_next_program_goes_on(
    client: Client, author: Author, session: str
) -> None:
    """With what was in hand, and then with what follows."""
    await author.publish(session, 5)
    seen: list[Item] = []
    async with client.events(session, last_event_id="0") as stream:
        async for item in stream:
            seen.append(item)
            if len(seen) == 3:
                break
    rest = await take(client.events(session, last_event_id=stream.position), 3)

    assert seqs(seen) == [1, 2, 3]
    assert seqs(rest) == [3, 4, 5]


async def test_cancelled_program_leaves_nothing(
    broker: BrokerServer, author: Author, session: str
) -> None:
    """No task, and no connection on the other side."""
    before = asyncio.all_tasks()
    taking = asyncio.Event()

    async def program() -> None:
        async with Client(url(broker.public)) as client:
            await client.send(session, "go")
            async for _ in client.events(session, last_event_id="0"):
                taking.set()

    await author.publish(session)
    running = asyncio.create_task(program())
    async with asyncio.timeout(10):
        await taking.wait()
    running.cancel()
    await asyncio.wait((running,))
    left = asyncio.all_tasks() - before - {running}

    assert running.cancelled()
    assert left == set()


async def commands_of(redis: Redis, session: str) -> list[int]:
    """The numbers of the commands to *session* that are stored, in their order."""
    entries: Any = await redis.xrange("broker:commands")
    return [
        orjson.loads(fields[b"data"])["n"]
        for _id, fields in entries
        if fields[b"session"].decode() == session
    ]


@pytest.mark.usefixtures("impatient")
async def test_commands_are_stored_once_through_cuts(
    start_broker: StartBroker, shared_redis: EmbeddedServer, redis: Redis, session: str
) -> None:
    """In their order, wherever the connection was cut."""
    broker = start_broker(
        shared_redis.url, command_rate_per_s=10_000, command_rate_per_user_per_s=10_000
    )
    async with (
        FaultProxy(broker.public) as proxy,
        Client(url(proxy.address), user="ada") as client,
    ):
        ids = []
        proxy.delay_s = 0.01
        for start in range(0, 300, 10):
            sending = [
                asyncio.create_task(client.send(session, "go", {"n": number}))
                for number in range(start, start + 10)
            ]
            # Before they get there, when they are there, when they are answered.
            await asyncio.sleep(start / 10_000)
            proxy.cut()
            ids += await asyncio.gather(*sending)
    stored = await commands_of(redis, session)

    assert proxy.accepted > 5
    assert stored == list(range(300))
    assert len(set(ids)) == 300


async def test_loop_may_send_commands_about_its_events(
    client: Client, redis: Redis, author: Author, session: str
) -> None:
    """Each waits for its answer while events pile up behind it."""
    for _ in range(20):
        await author.publish(session, 100, pad_bytes=3000)
    async with asyncio.timeout(20):
        async for item in client.events(session, last_event_id="0"):
            await client.send(session, "seen", {"n": item.data["i"]})
            if item.data["i"] == 20:
                break

    assert await commands_of(redis, session) == list(range(1, 21))


async def test_same_id_is_stored_once(
    client: Client, redis: Redis, session: str
) -> None:
    """And another command under it is refused."""
    first = await client.send(session, "go", {"n": 1}, id="command-1")
    second = await client.send(session, "go", {"n": 1}, id="command-1")
    with pytest.raises(CommandRefused) as refused:
        await client.send(session, "go", {"n": 2}, id="command-1")

    assert first == second
    assert (refused.value.code, refused.value.retry) == ("id_reused", False)
    assert await commands_of(redis, session) == [1]


async def test_presence_is_told(
    client: Client, broker: BrokerServer, session: str
) -> None:
    """Who is there, and then who comes."""
    stream = client.events(session, presence=True)
    (there,) = await take(stream, 1)
    async with Client(url(broker.public), user="bob") as other:
        beside = other.events(session, everything=True)
        await take(beside, 1)
        joined = await _until(stream, "joined")

    assert (there.event, there.data["users"]) == ("present", ["ada"])
    assert (joined.event, joined.data["users"]) == ("joined", ["bob"])
