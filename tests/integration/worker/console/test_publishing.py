"""Publishing through the console, into a real Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from broker.errors import StoreUnavailable
from broker.store.client import DEFAULT_MAX_LEN
from broker.store.connection import Command
from broker.worker import console as module
from tests.harness.http import request
from tests.harness.publisher import key_of
from tests.harness.tokens import token
from tests.integration.worker.console.front import MAX_EVENT_BYTES, Front


def bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(**claims)}"}


async def entries(redis: Redis, session: str) -> list[dict[bytes, bytes]]:
    found: Any = await redis.xrange(key_of(session))
    return [fields for _id, fields in found]


async def test_what_is_published_is_an_entry_of_the_stream(
    console: Front, redis: Redis, session: str
) -> None:
    """The answer is the id of the entry, and data arrives byte for byte."""
    body = {"session": session, "event": "note", "data": {"a": [1, 2]}}
    answer = await console.publish(body | {"node_id": "n", "transient": True})
    found: Any = await redis.xrange(key_of(session))
    (entry_id, fields) = found[0]
    assert (answer.status, answer.json()) == (200, {"id": entry_id.decode()})
    assert fields == {
        b"event": b"note",
        b"data": b'{"a": [1, 2]}',
        b"node_id": b"n",
        b"transient": b"1",
    }


async def test_a_stream_is_kept_as_long_as_by_the_server_api(
    console: Front, redis: Redis, session: str
) -> None:
    """Both trim to about the same length, so neither cuts what the other kept."""
    assert module.MAX_LEN == DEFAULT_MAX_LEN
    many: Any = redis.pipeline(transaction=False)
    for _ in range(DEFAULT_MAX_LEN + 500):
        many.xadd(key_of(session), {"event": "old"})
    await many.execute()
    await console.publish({"session": session, "event": "new"})
    length = await redis.xlen(key_of(session))
    assert DEFAULT_MAX_LEN <= length < DEFAULT_MAX_LEN + 200


async def test_a_page_of_another_site_cannot_publish(
    console: Front, redis: Redis, session: str
) -> None:
    """Its Origin gives it away, whatever else it sends."""
    body = {"session": session, "event": "note"}
    answer = await console.publish(body, {"Origin": "https://elsewhere.example"})
    assert answer.status == 403
    assert (await console.publish(body, {"Origin": console.origin})).status == 200
    assert len(await entries(redis, session)) == 1


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data"])
async def test_a_form_cannot_publish(
    console: Front, session: str, content_type: str
) -> None:
    """The types that a page may send anywhere without asking are not taken."""
    body = {"session": session, "event": "note"}
    answer = await console.publish(body, {"Content-Type": content_type})
    assert answer.status == 415


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"rights": ["publish"], "sessions": ["*"]}, 200),
        ({"rights": ["publish"], "sessions": ["other"]}, 403),
        ({"rights": ["subscribe", "command", "admin"], "sessions": ["*"]}, 403),
        ({"rights": ["publish"], "sessions": ["*"], "lives_s": -60}, 401),
    ],
)
async def test_publishing_needs_the_right_for_the_session(
    guarded: Front, session: str, claims: dict[str, Any], status: int
) -> None:
    """No other right contains it, and it reaches as far as the token says."""
    body = {"session": session, "event": "note"}
    assert (await guarded.publish(body, bearer(**claims))).status == status


async def test_without_a_token_nothing_is_published(
    guarded: Front, session: str
) -> None:
    """Where tokens are asked for, nobody publishes without one."""
    answer = await guarded.publish({"session": session, "event": "note"})
    assert (answer.status, answer.json()["error"]["code"]) == (401, "unauthorized")


async def test_a_token_in_the_url_is_refused(guarded: Front, session: str) -> None:
    """URLs end up in logs."""
    answer = await request(
        "POST",
        guarded.address,
        "/console/publish",
        query={"token": token(rights=["publish"])},
        body={"session": session, "event": "note"},
    )
    assert answer.status == 400


async def test_who_may_not_publish_makes_nobody_read_a_body(guarded: Front) -> None:
    """It is refused although the body never comes."""
    headers = bearer(rights=["subscribe"])
    async with asyncio.timeout(module.BODY_S - 1):
        assert b" 403 " in await guarded.post(b"", headers, 100)


async def test_a_body_is_read_up_to_a_bound_only(console: Front, session: str) -> None:
    """However it is filled, and whatever it would say."""
    event = orjson.dumps({"session": session, "event": "note"})
    body = event + b" " * (MAX_EVENT_BYTES + module.NAMES_BYTES)
    assert b" 413 " in await console.post(body, {}, len(body))


async def test_a_body_that_does_not_come_is_given_up(
    console: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes one of few places as long as it is waited for."""
    monkeypatch.setattr(module, "BODY_S", 0.05)
    async with asyncio.timeout(4):
        assert b" 408 " in await console.post(b"{", {}, 100)


async def test_more_bodies_at_once_than_there_is_room_for_are_refused(
    console: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may be as large as an event, so they are few."""
    monkeypatch.setattr(module, "IN_FLIGHT_MAX", 1)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(console.post(b"{", {}, 2))
        second = tasks.create_task(console.post(b"{", {}, 2))
        done, waiting = await asyncio.wait(
            (first, second), return_when=asyncio.FIRST_COMPLETED
        )
        assert b" 429 " in done.pop().result()
        waiting.pop().cancel()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"event": ""}, 400),
        ({"event": "x" * 1025}, 400),
        ({"node_id": "x" * 1025}, 400),
        ({"session": "_broker"}, 400),
        ({"session": "a b"}, 400),
        ({"sesion": "typo"}, 400),
        ({"data": "x" * MAX_EVENT_BYTES}, 413),
    ],
)
async def test_what_readers_would_skip_is_refused(
    console: Front, redis: Redis, session: str, change: dict[str, str], status: int
) -> None:
    """An event that breaks the contract gets no place in the log."""
    answer = await console.publish({"session": session, "event": "note"} | change)
    assert answer.status == status
    assert await entries(redis, session) == []


async def test_a_key_that_is_no_stream_is_not_written(
    console: Front, redis: Redis, session: str
) -> None:
    """Redis' refusal is an answer, not a fault."""
    await redis.set(key_of(session), "text")
    answer = await console.publish({"session": session, "event": "note"})
    assert (answer.status, answer.json()["error"]["code"]) == (404, "not_found")


async def test_an_outage_is_told(
    console: Front, session: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Redis is away the answer is 503, with a time to come back."""

    async def away(_: Command) -> str:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(console.console, "_add", away)
    answer = await console.publish({"session": session, "event": "note"})
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1


async def test_publishing_takes_post_only(console: Front) -> None:
    """A link or an image cannot publish."""
    answer = await console.get("/console/publish")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
