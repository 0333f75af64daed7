"""A service publishes, through everything that can go wrong."""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import signal
import textwrap
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.client import Publisher
from broker.client import publisher as module
from broker.entry import MAX_NAME_BYTES, Event, read_entry
from broker.errors import ConfigError, StoreRefused, StoreUnavailable
from broker.store.embedded import EmbeddedServer
from tests.conftest import RedisAt, StartRedis
from tests.harness.publisher import key_of


@pytest.fixture
async def publish(shared_redis: EmbeddedServer) -> AsyncIterator[Publisher]:
    async with Publisher(shared_redis.url) as made:
        yield made


async def stored(redis: Any, session: str) -> list[tuple[str, Event]]:
    """Id and content of all events, as the broker reads them."""
    found = []
    for entry_id, fields in await redis.xrange(key_of(session)):
        event = read_entry([part for pair in fields.items() for part in pair], 1 << 20)
        assert isinstance(event, Event)
        found.append((entry_id.decode(), event))
    return found


async def own_connections(redis: Any) -> set[str]:
    """What the publishers under test have open."""
    clients = await redis.client_list()
    return {one["id"] for one in clients if one["name"] == "broker-client-publisher"}


async def test_example_runs(
    shared_redis: EmbeddedServer,
    redis: Redis,
    session: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The lines of the documentation store what they say."""
    documented = inspect.cleandoc(module.__doc__ or "").split("::\n")[1]
    code = documented.split("\nA plain")[0]
    code = code.replace("redis://127.0.0.1:6379/0", shared_redis.url)
    code = code.replace('"s1"', repr(session))
    scope: dict[str, Any] = {"Publisher": Publisher}
    exec(f"async def example():\n{textwrap.indent(code, ' ')}", scope)
    await scope["example"]()
    events = await stored(redis, session)

    assert capsys.readouterr().out == f"{events[-1][0]}\n"
    assert [event.event for _, event in events] == [
        *(b"started", b"token_stream", b"done"),
    ]


async def test_event_is_stored_as_the_contract_says(
    publish: Publisher, redis: Redis, session: str
) -> None:
    """Every field is what was given, and the id is the one that was returned."""
    entry_id = await publish(
        *(session, "token", {"chunk": "Hé"}),
        key="k",
        node_id="writer",
        timestamp="2026-01-02T03:04:05Z",
        transient=True,
    )

    assert await stored(redis, session) == [
        (
            entry_id,
            Event(
                event=b"token",
                data='{"chunk":"Hé"}'.encode(),
                timestamp=b"2026-01-02T03:04:05Z",
                node_id=b"writer",
                key=b"k",
                transient=True,
            ),
        )
    ]


async def test_same_event_twice_is_two_events(
    publish: Publisher, redis: Redis, session: str
) -> None:
    """Without an id each call is one of its own."""
    ids = [await publish(session, "tick") for _ in range(2)]

    assert [entry_id for entry_id, _ in await stored(redis, session)] == ids


async def test_given_id_is_stored_once_per_session(
    publish: Publisher, redis: Redis, new_session: Any
) -> None:
    """A caller that repeats itself gets the answer of the first time."""
    session, other = new_session(), new_session()
    first = await publish(session, "done", 1, id="run-17")
    again = await publish(session, "done", 1, id="run-17")
    await publish(other, "done", 1, id="run-17")

    assert again == first
    assert len(await stored(redis, session)) == len(await stored(redis, other)) == 1


@pytest.mark.parametrize(
    "other", [{"data": 2}, {"event": "e"}, {"key": "1"}, {"transient": True}]
)
async def test_given_id_of_another_event_is_refused(
    publish: Publisher, redis: Redis, session: str, other: dict[str, Any]
) -> None:
    """No event is swallowed by the answer to another one."""
    await publish(session, "done", 1, id="run-17")
    with pytest.raises(ValueError, match="another event"):
        await publish(session, **{"event": "done", "data": 1, "id": "run-17", **other})

    assert len(await stored(redis, session)) == 1


async def test_memory_of_an_id_is_bounded(
    shared_redis: EmbeddedServer, redis: Redis, session: str
) -> None:
    """Its own ids are forgotten soon after nobody can repeat them."""
    options = {"give_up_s": 10.0, "remember_s": 1000.0}
    async with Publisher(shared_redis.url, **options) as publish:  # type: ignore[arg-type]
        await publish(session, "own")
        (own,) = await redis.keys(f"broker:dedup:{{{key_of(session)}}}:*")
        await publish(session, "given", id="x")
    keys = await redis.keys(f"broker:dedup:{{{key_of(session)}}}:*")
    (given,) = set(keys) - {own}

    assert 10_000 < await redis.pttl(own) <= 20_000
    assert 900_000 < await redis.pttl(given) <= 1_000_000


async def test_stream_is_kept_short(
    shared_redis: EmbeddedServer, redis: Redis, session: str
) -> None:
    """About as many events stay as was asked for."""
    async with Publisher(shared_redis.url, max_len=50) as publish:
        for number in range(1000):
            await publish(session, "tick", number)

    assert 50 <= await redis.xlen(key_of(session)) < 400


async def test_stream_has_the_name_that_was_configured(
    shared_redis: EmbeddedServer, redis: Redis, session: str
) -> None:
    """BROKER_EVENT_STREAM may be another one."""
    pattern = "app:{session}:log"
    async with Publisher(shared_redis.url, event_stream=pattern) as publish:
        await publish(session, "tick")

    assert await redis.xlen(f"app:{session}:log") == 1
    with pytest.raises(ConfigError):
        Publisher(shared_redis.url, event_stream="{session}")


@pytest.mark.parametrize(
    ("event", "why"),
    [
        ({"event": ""}, "event is missing"),
        ({"event": "x" * (MAX_NAME_BYTES + 1)}, "larger than"),
        ({"event": "\ud800"}, "surrogates"),
        ({"data": object()}, "JSON"),
        ({"data": "x" * 1001}, "larger than 1000"),
        ({"key": "x" * (MAX_NAME_BYTES + 1)}, "larger than"),
        ({"node_id": "x" * (MAX_NAME_BYTES + 1)}, "larger than"),
        ({"timestamp": "yesterday"}, "RFC 3339"),
        ({"session": "../x"}, "name of a session"),
        ({"session": "_probe"}, "name of a session"),
    ],
)
async def test_event_that_breaks_the_contract_is_refused(
    shared_redis: EmbeddedServer,
    redis: Redis,
    session: str,
    event: dict[str, Any],
    why: str,
) -> None:
    """The publisher is told, rather than the clients by a skipped frame."""
    async with Publisher(shared_redis.url, max_event_bytes=1000) as publish:
        with pytest.raises(ValueError, match=why):
            await publish(**{"session": session, "event": "e", **event})

    assert await redis.keys(f"*{session}*") == []


async def test_many_tasks_share_the_connection(
    publish: Publisher, redis: Redis, session: str
) -> None:
    """Events of one task stay in order."""
    await asyncio.gather(*[publish(session, "tick", n) for n in range(500)])
    events = await stored(redis, session)

    assert [int(event.data) for _, event in events] == [*range(500)]


# Redis goes away and comes back.


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again soon."""
    monkeypatch.setattr(module, "backoff_s", lambda failures: 0.01 * (failures + 1))


@pytest.mark.usefixtures("quick")
async def test_event_is_stored_once_though_its_connection_was_lost(
    publish: Publisher, redis: Any, session: str
) -> None:
    """Connections are cut all the time; order stays, and nothing comes twice."""

    async def cut() -> None:
        while True:
            for number in await own_connections(redis):
                await redis.client_kill_filter(_id=number)
            await asyncio.sleep(0.01)

    cutting = asyncio.create_task(cut())
    ids = [await publish(session, "tick", n) for n in range(500)]
    cutting.cancel()
    await asyncio.wait([cutting])
    events = await stored(redis, session)

    assert [entry_id for entry_id, _ in events] == ids
    assert [int(event.data) for _, event in events] == [*range(500)]


@pytest.mark.usefixtures("quick")
async def test_event_whose_answer_was_lost_is_stored_once(
    start_redis: StartRedis, redis_at: RedisAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that stalls stores the first try, and knows it when the next comes."""
    monkeypatch.setattr(module, "ANSWER_S", 0.2)
    server = start_redis()
    async with Publisher(server.url) as publish:
        await publish("s1", "first")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        publishing = asyncio.create_task(publish("s1", "second"))
        await asyncio.sleep(0.4)
        os.kill(server.pid, signal.SIGCONT)
        entry_id = await publishing
    events = await stored(redis_at(server.url), "s1")

    assert [event.event for _, event in events] == [b"first", b"second"]
    assert events[1][0] == entry_id


@pytest.mark.usefixtures("quick")
async def test_restart_of_redis_is_a_pause(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """Every call returns when its event is stored, each once."""
    server = start_redis(appendonly=True)
    async with Publisher(server.url) as publish:
        publishing = [
            asyncio.create_task(publish("s1", "tick", number)) for number in range(300)
        ]
        await publishing[0]
        server.kill()
        publishing += [
            asyncio.create_task(publish("s1", "tick", number))
            for number in range(300, 600)
        ]
        await asyncio.to_thread(server.start)
        ids = set(await asyncio.gather(*publishing))
    events = await stored(redis_at(server.url), "s1")

    assert {entry_id for entry_id, _ in events} == ids
    assert sorted(int(event.data) for _, event in events) == [*range(600)]


@pytest.mark.usefixtures("quick")
async def test_demoted_primary_is_left(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """Its address may lead elsewhere by now: what it refuses is sent there."""
    server = start_redis()
    redis: Any = redis_at(server.url)
    async with Publisher(server.url) as publish:
        await publish("s1", "first")
        before = await own_connections(redis)
        await redis.replicaof("127.0.0.1", 1)
        publishing = asyncio.create_task(publish("s1", "second"))
        async with asyncio.timeout(10):
            while before & await own_connections(redis):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await redis.replicaof("NO", "ONE")
        await publishing

    assert await redis.xlen(key_of("s1")) == 2


async def test_redis_that_stays_away_is_given_up(start_redis: StartRedis) -> None:
    """In bounded time, with the reason."""
    server = start_redis()
    async with Publisher(server.url, give_up_s=0.1) as publish:
        server.kill()
        async with asyncio.timeout(10):
            with pytest.raises(StoreUnavailable, match=r"not stored .*127\.0\.0\.1"):
                await publish("s1", "tick")


@pytest.mark.usefixtures("quick")
async def test_flushed_scripts_are_loaded_again(
    start_redis: StartRedis, redis_at: RedisAt, session: str
) -> None:
    """SCRIPT FLUSH is not noticed by the caller."""
    server = start_redis()
    async with Publisher(server.url) as publish:
        await publish(session, "tick")
        await redis_at(server.url).script_flush()

        assert await publish(session, "tock")


async def test_what_redis_refuses_is_not_tried_again(
    publish: Publisher, redis: Redis, session: str
) -> None:
    """A key that is no stream stays none."""
    await redis.set(key_of(session), "no stream")
    async with asyncio.timeout(10):
        with pytest.raises(StoreRefused, match="WRONGTYPE"):
            await publish(session, "tick")


async def test_publisher_that_was_closed_says_so(
    shared_redis: EmbeddedServer, session: str
) -> None:
    """It does not connect again behind its owner's back."""
    async with Publisher(shared_redis.url) as publish:
        await publish(session, "tick")
    with pytest.raises(RuntimeError, match="closed"):
        await publish(session, "tick")


async def test_numbers_that_json_does_not_have_are_null(
    publish: Publisher, redis: Redis, session: str
) -> None:
    """As orjson writes them."""
    await publish(session, "tick", math.nan)
    ((_, event),) = await stored(redis, session)

    assert event.data == b"null"
