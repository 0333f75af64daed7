"""What else programs do with their client: tokens, consumers, commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from broker.client import (
    Client,
    ClosedByServer,
    CommandRefused,
    Item,
    TokenReason,
    follow,
)
from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.e2e.programs import seqs, take, until_named, url
from tests.harness.load import until
from tests.harness.proxy import FaultProxy
from tests.harness.publisher import Author
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET, token


@pytest.fixture
async def client(broker: BrokerServer) -> AsyncIterator[Client]:
    """A client of the shared broker."""
    async with Client(url(broker.public), user="ada") as client:
        yield client


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
        refreshed = [asyncio.create_task(until_named(s, "refreshed")) for s in streams]
        await asyncio.gather(*refreshed)
        await author.publish(session)
        events = [await until_named(stream, "tick") for stream in streams]

    assert seqs(events) == [1, 1, 1]
    assert issuer.reasons == ["connect", "expiring"]
    assert proxy.accepted == 3


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


async def test_commands_are_stored_once_through_cuts(
    monkeypatch: pytest.MonkeyPatch,
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    redis: Redis,
    session: str,
) -> None:
    """In their order, wherever the connection was cut."""
    monkeypatch.setattr(follow, "MAX_BACKOFF_S", 0.05)
    broker = start_broker(
        shared_redis.url, command_rate_per_s=10_000, command_rate_per_user_per_s=10_000
    )
    async with (
        FaultProxy(broker.public) as proxy,
        Client(url(proxy.address), user="ada") as client,
    ):
        ids = []
        for start in range(0, 300, 10):
            sending = [
                asyncio.create_task(client.send(session, "go", {"n": number}))
                for number in range(start, start + 10)
            ]
            # Before they get there, when they are there, when they are answered.
            await asyncio.sleep(start / 100_000)
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
        joined = await until_named(stream, "joined")

    assert (there.event, there.data["users"]) == ("present", ["ada"])
    assert (joined.event, joined.data["users"]) == ("joined", ["bob"])
