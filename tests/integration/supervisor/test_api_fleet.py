"""Sessions, users and connections of the whole fleet by the server API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from redis.asyncio import Redis

from broker.control.notices import (
    ANSWERS,
    CHANNEL,
    DisconnectUser,
    Notice,
    Pardoned,
    Question,
    Revoked,
    SessionEnded,
    decode,
)
from broker.store.connection import Connection
from broker.store.embedded import EmbeddedServer
from broker.store.presence import Lease as PresenceLease
from broker.store.presence import renew
from broker.store.session_outcomes import Terms
from broker.store.sessions import open_session
from tests.harness.redis_server import new_server
from tests.integration.supervisor.conftest import Client

TERMS = Terms(lease_ms=30_000, idle_ms=3_600_000)
REVOKED = "/v1/revocations"


class Workers:
    """Workers as far as notices go: each hears them all, and answers as it is told."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._tasks: list[asyncio.Task[None]] = []
        self._listening: list[Any] = []
        self.heard: asyncio.Queue[Notice] = asyncio.Queue()

    async def add(self, answer: Callable[[Question], bytes | None]) -> None:
        """One more worker; None: it does not answer."""
        listening = self._redis.pubsub()
        await listening.subscribe(CHANNEL)
        assert await listening.get_message(timeout=5)
        self._listening.append(listening)
        self._tasks.append(asyncio.create_task(self._listen(listening, answer)))

    async def _listen(
        self, listening: Any, answer: Callable[[Question], bytes | None]
    ) -> None:
        async for message in listening.listen():
            notice = decode(message["data"])
            assert notice is not None
            self.heard.put_nowait(notice)
            text = answer(notice) if isinstance(notice, Question) else None
            if isinstance(notice, Question) and text is not None:
                pushed: Any = self._redis.rpush(ANSWERS + notice.number, text)
                await pushed

    async def next(self) -> Notice:
        async with asyncio.timeout(5):
            return await self.heard.get()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listening in self._listening:
            await listening.aclose()


@pytest.fixture(scope="module")
def shared_redis(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[EmbeddedServer]:
    """A server to which nobody else's workers listen."""
    with new_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def workers(redis: Redis) -> AsyncIterator[Workers]:
    """No worker yet."""
    made = Workers(redis)
    yield made
    await made.close()


@pytest.fixture
def user(session: str) -> str:
    """A user of the test's own, with a name that needs escaping."""
    return f"ä/{{{session}}} ?#%"


def path_of(user: str, *rest: str) -> str:
    return "/".join(("/v1/users", quote(user, safe=""), *rest))


def silent(question: Question) -> None:
    del question


def lagging(connection: str, behind: int, buffered: int = 0) -> dict[str, object]:
    return {
        "connection": connection,
        "user": None,
        "session": "s",
        "protocol": "websocket",
        "state": "lagging",
        "behind_entries": behind,
        "buffered_bytes": buffered,
        "lagging_s": 1.5,
        "pod": "p",
        "worker": 1,
        "something_new": True,
    }


def answering(*items: dict[str, object]) -> Callable[[Question], bytes]:
    return lambda question: msgspec.json.encode(items[: question.limit])


async def test_sessions_of_a_user_are_listed(
    api: Client, store: Connection, user: str
) -> None:
    """Open ones by their start, then who had to go and for whom."""
    for name in ("first", "second", "third"):
        await open_session(store, user, name, TERMS, limit=2)
    answer = await api.ask("GET", path_of(user, "sessions"))
    listed = answer.json()["sessions"]

    assert answer.status == 200
    assert answer.json()["user"] == user
    assert [(one["session"], one["state"]) for one in listed] == [
        ("second", "open"),
        ("third", "open"),
        ("first", "evicted"),
    ]
    assert listed[2]["replaced_by"] == "third"
    assert 0 < listed[0]["lease_left_ms"] <= 30_000


async def test_user_without_sessions_has_an_empty_list(api: Client, user: str) -> None:
    """Nobody knows whether there is such a user."""
    answer = await api.ask("GET", path_of(user, "sessions"))

    assert answer.json() == {"user": user, "sessions": []}


async def test_closed_session_is_told_to_workers_and_services(
    api: Client, store: Connection, workers: Workers, redis: Redis, user: str
) -> None:
    """A notice ends its connections, and the lifecycle stream has an entry."""
    await workers.add(silent)
    held = await open_session(store, user, "s1", TERMS, limit=3)
    answer = await api.ask("POST", path_of(user, "sessions", "s1", "close"))
    notice = await workers.next()
    again = await api.ask("POST", path_of(user, "sessions", "s1", "close"))
    listed = (await api.ask("GET", path_of(user, "sessions"))).json()["sessions"]
    entries: Any = await redis.xrevrange("broker:lifecycle", count=50)
    mine = [fields for _, fields in entries if fields[b"user"].decode() == user]

    assert answer.json() == {"closed": True}
    assert notice == SessionEnded(user, "s1", held.standings[0].fence, "closed")
    assert again.json() == {"closed": False}
    assert [(one["session"], one["state"]) for one in listed] == [("s1", "closed")]
    assert [fields[b"event"] for fields in mine] == [b"session_closed"]


async def test_disconnect_is_told_to_all_workers(
    api: Client, workers: Workers, user: str
) -> None:
    """The answer says how many were told."""
    await workers.add(silent)
    await workers.add(silent)
    answer = await api.ask("POST", path_of(user, "disconnect"))

    assert answer.json() == {"workers": 2}
    assert await workers.next() == DisconnectUser(user)


async def test_session_tells_its_events_and_who_is_there(
    api: Client, store: Connection, session: str
) -> None:
    """Counts as the history has them, and the present users by name."""
    lease = PresenceLease(lease_ms=30_000, linger_ms=1000)
    await renew(store, {session: ["bob", "ada"]}, lease, prune=False)
    added = await api.ask("POST", f"/v1/sessions/{session}/events", {"event": "e"})
    answer = await api.ask("GET", f"/v1/sessions/{session}")
    position = added.json()["id"]

    assert answer.json() == {
        "count": 1,
        "added": 1,
        "first": position,
        "last": position,
        "present": {"count": 2, "users": ["ada", "bob"]},
    }


async def test_session_that_nobody_knows_is_empty(api: Client, session: str) -> None:
    """There is no difference between a new session and none."""
    answer = await api.ask("GET", f"/v1/sessions/{session}")

    assert answer.json() == {
        "count": 0,
        "added": 0,
        "first": None,
        "last": None,
        "present": {"count": 0, "users": []},
    }


async def test_revocation_is_stored_told_and_listed(
    api: Client, workers: Workers, redis: Redis, user: str
) -> None:
    """Workers hear of it at once; those that start later read it."""
    await workers.add(silent)
    body = {"user": user, "ttl_s": 60}
    answer = await api.ask("POST", REVOKED, body)
    revocation = answer.json()
    notice = await workers.next()
    listed = (await api.ask("GET", REVOKED)).json()["revocations"]
    key = f"user:{quote(user, safe='')}"

    assert answer.status == 201
    assert (revocation["kind"], revocation["name"]) == ("user", user)
    assert 60 <= revocation["until"] - revocation["at"] <= 61
    assert notice == Revoked(key, revocation["at"], revocation["until"])
    assert revocation in listed
    assert await redis.hexists("broker:revoked", key)


async def test_pardon_takes_a_revocation_back(
    api: Client, workers: Workers, session: str
) -> None:
    """The second time there is nothing to take back, but workers are told again."""
    await api.ask("POST", REVOKED, {"token_id": f"jti/{session}"})
    await workers.add(silent)
    path = f"{REVOKED}/token/{quote(f'jti/{session}', safe='')}"
    first = await api.ask("DELETE", path)
    second = await api.ask("DELETE", path)
    names = [
        one["name"] for one in (await api.ask("GET", REVOKED)).json()["revocations"]
    ]
    key = f"token:jti/{session}"

    assert (first.status, first.body, second.status) == (204, b"", 404)
    assert [await workers.next(), await workers.next()] == [Pardoned(key)] * 2
    assert f"jti/{session}" not in names


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"user": "a", "token_id": "b"},
        {"user": ""},
        {"user": "a\n"},
        {"user": "a" * 257},
        {"user": "a", "ttl_s": 0},
        {"user": "a", "ttl_s": 366 * 86_400 + 1},
        {"user": "a", "ttl_s": "1"},
        {"user": "a", "until": 1},
    ],
    ids=lambda body: str(body)[:40],
)
async def test_revocation_that_cannot_be_is_refused(
    api: Client, body: dict[str, object]
) -> None:
    """Nothing is revoked by a mistake, and nothing for ever."""
    answer = await api.ask("POST", REVOKED, body)

    assert answer.status == 400
    assert answer.json()["error"]["code"] == "bad_request"


async def test_connections_furthest_behind_come_first(
    api: Client, workers: Workers
) -> None:
    """Of all workers together, as many as were asked for."""
    await workers.add(answering(lagging("a", 5), lagging("c", 5, 10)))
    await workers.add(answering(lagging("b", 1), lagging("d", 900)))
    await workers.add(answering())
    answer = (await api.ask("GET", "/v1/connections?limit=3")).json()
    names = [one["connection"] for one in answer["connections"]]

    assert names == ["d", "c", "a"]
    assert (answer["answered"], answer["workers"]) == (3, 3)


async def test_without_workers_there_are_no_connections(api: Client) -> None:
    """It does not wait for answers that nobody will give."""
    async with asyncio.timeout(5):
        answer = await api.ask("GET", "/v1/connections")

    assert answer.json() == {"connections": [], "answered": 0, "workers": 0}


async def test_worker_that_does_not_answer_is_not_waited_for(
    api: Client, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the others said is there in time, with how many they were."""
    monkeypatch.setattr("broker.supervisor.api.connections.ANSWERS_S", 0.3)
    await workers.add(silent)
    await workers.add(answering(lagging("a", 5)))
    async with asyncio.timeout(5):
        answer = (await api.ask("GET", "/v1/connections")).json()

    assert [one["connection"] for one in answer["connections"]] == ["a"]
    assert (answer["answered"], answer["workers"]) == (1, 2)


async def test_answer_that_cannot_be_read_does_not_spoil_the_others(
    api: Client, workers: Workers
) -> None:
    """A worker of another version is left out, and counts as not answering."""
    await workers.add(lambda question: b'[{"connection": 1}]')
    await workers.add(lambda question: b"\xff")
    await workers.add(answering(lagging("a", 5)))
    answer = (await api.ask("GET", "/v1/connections")).json()

    assert [one["connection"] for one in answer["connections"]] == ["a"]
    assert (answer["answered"], answer["workers"]) == (1, 3)


async def test_question_leaves_nothing_behind(
    api: Client, workers: Workers, redis: Redis
) -> None:
    """Neither a list in Redis nor a connection."""
    await workers.add(answering(lagging("a", 5)))
    await api.ask("GET", "/v1/connections")
    names = [one["name"] for one in await redis.client_list()]

    assert await redis.keys(ANSWERS + "*") == []
    assert "broker-question" not in names


async def test_questions_at_once_are_few(
    api: Client, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is work for the whole fleet: who asks too often is told to wait."""
    monkeypatch.setattr("broker.supervisor.api.connections.ANSWERS_S", 0.3)
    await workers.add(silent)
    answers = await asyncio.gather(
        *(api.ask("GET", "/v1/connections") for _ in range(10))
    )
    statuses = sorted(answer.status for answer in answers)

    assert statuses == [200] * 4 + [503] * 6
