"""Events by the server API: stored as by services, read as by clients."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.client.publisher import Publisher
from broker.store.embedded import EmbeddedServer
from tests.conftest import RedisAt, StartRedis
from tests.harness.http import Response
from tests.harness.publisher import key_of
from tests.integration.supervisor.conftest import Client, StartApi


def events_of(session: str) -> str:
    return f"/v1/sessions/{session}/events"


async def last_entry(redis: Redis, session: str) -> tuple[str, Any]:
    """The id and the fields of the last entry of a session."""
    entries: Any = await redis.xrevrange(key_of(session), count=1)
    ((entry_id, fields),) = entries
    return entry_id.decode(), fields


def code_of(answer: Response) -> str:
    code: str = answer.json()["error"]["code"]
    return code


async def test_event_is_stored_with_its_fields(
    api: Client, redis: Redis, session: str
) -> None:
    """The entry is one that a service could have added, its data byte for byte."""
    body = (
        b'{"event":"note","key":"k","node_id":"n","transient":true,'
        b'"timestamp":"2025-11-21T04:40:00Z","data": {"a" : 1.50, "b":"\\u00e4"} }'
    )
    answer = await api.ask("POST", events_of(session), body)
    entry_id, fields = await last_entry(redis, session)

    assert answer.status == 201
    assert answer.json() == {"id": entry_id}
    assert fields == {
        b"event": b"note",
        b"data": b'{"a" : 1.50, "b":"\\u00e4"}',
        b"key": b"k",
        b"node_id": b"n",
        b"timestamp": b"2025-11-21T04:40:00Z",
        b"transient": b"1",
    }


async def test_only_the_name_is_needed(api: Client, redis: Redis, session: str) -> None:
    """What is not given is not stored; data is null then."""
    answer = await api.ask("POST", events_of(session), {"event": "start"})
    _, fields = await last_entry(redis, session)

    assert answer.status == 201
    assert fields == {b"data": b"null", b"event": b"start"}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"event": "x" * 1025}, "bad_request"),
        ({"event": "ä" * 600}, "field_too_large"),
        ({"event": "e", "key": "ä" * 600}, "field_too_large"),
        ({"event": "e", "timestamp": "yesterday"}, "bad_request"),
        ({"event": "e", "transient": 1}, "bad_request"),
        ({"data": 1}, "bad_request"),
        (b'{"event":"e","data":"\xff"}', "not_utf8"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_event_that_readers_would_skip_is_refused(
    api: Client, redis: Redis, session: str, body: object, code: str
) -> None:
    """Better an error for who sends it than a skipped frame for everybody else."""
    answer = await api.ask("POST", events_of(session), body)

    assert (answer.status, code_of(answer)) == (400, code)
    assert await redis.xlen(key_of(session)) == 0


async def test_same_key_stores_the_event_once(
    api: Client, redis: Redis, session: str
) -> None:
    """A repeated request gets the first one's answer, also two at once."""
    path, body = events_of(session), {"event": "e", "data": 1}
    first, second = await asyncio.gather(
        api.ask("POST", path, body, Idempotency_Key="k1"),
        api.ask("POST", path, body, Idempotency_Key="k1"),
    )
    other = await api.ask("POST", path, body, Idempotency_Key="k2")

    assert first.json() == second.json()
    assert other.json() != first.json()
    assert await redis.xlen(key_of(session)) == 2


async def test_without_a_key_each_request_is_an_event(
    api: Client, redis: Redis, session: str
) -> None:
    """Saying the same twice is nothing wrong."""
    for _ in range(3):
        await api.ask("POST", events_of(session), {"event": "tick"})

    assert await redis.xlen(key_of(session)) == 3


async def test_key_of_another_event_is_refused(
    api: Client, redis: Redis, session: str
) -> None:
    """A key that stands for something else must not swallow what is said now."""
    path = events_of(session)
    await api.ask("POST", path, {"event": "pause"}, Idempotency_Key="c1")
    answer = await api.ask("POST", path, {"event": "stop"}, Idempotency_Key="c1")

    assert (answer.status, code_of(answer)) == (422, "id_reused")
    assert await redis.xlen(key_of(session)) == 1


async def test_keys_of_two_sessions_are_apart(
    api: Client, redis: Redis, session: str
) -> None:
    """A key says something within one session."""
    for name in (session, session + "2"):
        await api.ask("POST", events_of(name), {"event": "e"}, Idempotency_Key="k")

    assert await redis.xlen(key_of(session)) == 1
    assert await redis.xlen(key_of(session + "2")) == 1


@pytest.mark.parametrize("key", ["x" * 129, "ä"])
async def test_key_that_is_no_key_is_refused(
    api: Client, session: str, key: str
) -> None:
    """It takes memory in Redis, so it is short and plain."""
    answer = await api.ask(
        "POST", events_of(session), {"event": "e"}, Idempotency_Key=key
    )

    assert (answer.status, code_of(answer)) == (400, "bad_request")


async def test_stream_stays_as_short_as_services_keep_it(
    api: Client, redis: Redis, session: str
) -> None:
    """Retention is the publisher's, and here that is the API."""
    pipeline = redis.pipeline(transaction=False)
    for _ in range(12_000):
        pipeline.xadd(key_of(session), {"event": "e"})  # type: ignore[unused-awaitable]
    await pipeline.execute()
    await api.ask("POST", events_of(session), {"event": "e"})

    assert 10_000 <= await redis.xlen(key_of(session)) < 10_200


async def test_history_and_count_answer_as_the_workers_do(
    api: Client, session: str
) -> None:
    """Pages follow each other, and the count says what there is."""
    ids = [
        (await api.ask("POST", events_of(session), {"event": "e", "data": i})).json()[
            "id"
        ]
        for i in range(5)
    ]
    first = (await api.ask("GET", events_of(session) + "?limit=3")).json()
    after = f"?limit=3&after={first['next']}"
    second = (await api.ask("GET", events_of(session) + after)).json()
    count = (await api.ask("GET", events_of(session) + "/count")).json()

    assert [one["id"] for one in first["events"] + second["events"]] == ids
    assert second["next"] is None
    assert count == {"count": 5, "added": 5, "first": ids[0], "last": ids[-1]}


async def test_key_that_holds_no_stream_is_said_to_be_so(
    api: Client, redis: Redis, session: str
) -> None:
    """What Redis refuses for good is not answered with: try again."""
    await redis.set(key_of(session), "x")
    written = await api.ask("POST", events_of(session), {"event": "e"})
    read = await api.ask("GET", events_of(session))

    assert (written.status, code_of(written)) == (502, "store_refused")
    assert "WRONGTYPE" in written.json()["error"]["message"]
    assert (read.status, code_of(read)) == (404, "not_found")


async def test_redis_without_memory_is_a_reason_to_try_again(
    start_api: StartApi, start_redis: StartRedis, redis_at: RedisAt, session: str
) -> None:
    """Whoever publishes may repeat it when there is room again."""
    server = start_redis()
    api = await start_api(server.url)
    await redis_at(server.url).config_set("maxmemory", "1")
    answer = await api.ask("POST", events_of(session), {"event": "e"})

    assert (answer.status, code_of(answer)) == (503, "unavailable")


async def test_key_and_id_of_a_service_are_the_same(
    api: Client, shared_redis: EmbeddedServer, session: str
) -> None:
    """An event that came by the library and is repeated here is stored once."""
    async with Publisher(shared_redis.url) as publish:
        position = await publish(session, "done", {"n": 1}, id="run-1")
    body = b'{"event":"done","data":{"n":1}}'
    answer = await api.ask("POST", events_of(session), body, Idempotency_Key="run-1")

    assert answer.json() == {"id": position}
