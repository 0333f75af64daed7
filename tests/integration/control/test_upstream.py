"""Commands of clients on their way to a real server."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.control.upstream import Answer, Upstream
from broker.store.embedded import EmbeddedServer
from tests.conftest import RedisAt, StartRedis
from tests.harness.upstream import Sender, running_upstream

STREAM = "test:commands"
running = partial(running_upstream, stream=STREAM)


@pytest.fixture
async def redis(redis: Redis) -> Any:
    """The shared server without commands."""
    await redis.delete(STREAM)
    return redis


@pytest.fixture
async def upstream(
    shared_redis: EmbeddedServer, redis: Redis
) -> AsyncIterator[Upstream]:
    del redis  # it empties the stream first
    async with running(shared_redis.url) as made:
        yield made


def say(
    upstream: Upstream, sender: Sender, number: int, ref: str | None = None
) -> asyncio.Future[Answer]:
    return upstream.send(sender, "s1", "user_input", b"%d" % number, ref)


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_true():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)


async def stored(redis: Any) -> list[tuple[str, dict[str, str]]]:
    """Id and fields of all commands."""
    found = []
    for entry_id, fields in await redis.xrange(STREAM):
        texts = {name.decode(): value.decode() for name, value in fields.items()}
        found.append((entry_id.decode(), texts))
    return found


async def test_command_is_stored_as_the_contract_says(
    upstream: Upstream, redis: Any
) -> None:
    """With its sender, and with the time at which it came; without data it is null."""
    answer = await upstream.send(Sender(), "s1", "pause", b"", None)
    ((entry_id, fields),) = await stored(redis)
    received_at = fields.pop("received_at")

    assert answer == Answer(entry_id)
    assert fields == {
        "session": "s1",
        "user": "ann",
        "connection": "c1",
        "cmd": "pause",
        "data": "null",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", received_at)
    age = datetime.now(UTC) - datetime.fromisoformat(received_at)
    assert timedelta(0) <= age < timedelta(seconds=10)


async def test_commands_said_together_are_stored_in_order(
    upstream: Upstream, redis: Any
) -> None:
    """With and without ids, of several connections: the order of saying is kept."""
    senders = [Sender(f"c{index}") for index in range(10)]
    answers = [
        say(upstream, senders[n % 10], n, f"command-{n}" if n % 3 else None)
        for n in range(1000)
    ]
    told = [(await answer).stream_id for answer in answers]
    entries = await stored(redis)

    assert [fields["data"] for _, fields in entries] == [str(n) for n in range(1000)]
    assert told == [entry_id for entry_id, _ in entries]


async def test_resend_gets_the_same_answer(upstream: Upstream, redis: Any) -> None:
    """From another connection of the user too; other content is refused."""
    first = await say(upstream, Sender("c1"), 1, "6f1c2f0e-1")
    again = await say(upstream, Sender("c2"), 1, "6f1c2f0e-1")
    other = await say(upstream, Sender("c2"), 2, "6f1c2f0e-1")

    assert first == again
    assert other.code == "id_reused"
    assert len(await stored(redis)) == 1


async def test_server_that_stalls_is_unavailable_in_time(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """What it stores after all is stored once when the client says it again."""
    server = start_redis()
    async with running(server.url, timeout_s=0.3) as upstream:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        async with asyncio.timeout(10):
            first = await say(upstream, Sender(), 1, "command-1")
            os.kill(server.pid, signal.SIGCONT)
            answer = await insist(upstream, 1)

    assert first.code == "unavailable"
    assert [entry_id for entry_id, _ in await stored(redis_at(server.url))] == [
        answer.stream_id
    ]


async def insist(upstream: Upstream, number: int) -> Answer:
    """Say a command until it is stored, as a client does."""
    while True:
        answer = await say(upstream, Sender(), number, f"command-{number}")
        if not answer.code:
            return answer
        await asyncio.sleep(0.01)


async def test_server_killed_under_load_loses_nothing_that_was_acknowledged(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """And each command is there once after its client has said it again."""
    server = start_redis(appendonly=True)
    told: set[str] = set()
    under_way = []
    async with running(server.url) as worker:

        async def talk(first: int) -> None:
            for number in range(first, first + 100):
                told.add((await insist(worker, number)).stream_id)

        async def crash(count: int) -> None:
            await until(lambda: len(told) > count)
            under_way.append(worker.in_flight)
            server.kill()
            await asyncio.to_thread(server.start)

        talks = [asyncio.create_task(talk(n * 100)) for n in range(30)]
        await crash(500)
        await crash(2000)
        await asyncio.gather(*talks)
    entries = await stored(redis_at(server.url))

    assert all(under_way)
    assert told == {entry_id for entry_id, _ in entries}
    assert sorted(int(fields["data"]) for _, fields in entries) == [*range(3000)]


async def test_flushed_scripts_are_an_outage_of_a_moment(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """Without anybody doing anything, commands are taken again."""
    server = start_redis()
    async with running(server.url) as upstream:
        await redis_at(server.url).script_flush()
        first = await say(upstream, Sender(), 1, "command-1")
        async with asyncio.timeout(5):
            answer = await insist(upstream, 1)

    assert first.code == "unavailable"
    assert answer.stream_id


async def test_full_backlog_refuses_until_services_have_read(
    shared_redis: EmbeddedServer, redis: Any
) -> None:
    """What is read and acknowledged makes room; what is not read is never trimmed."""
    await redis.xgroup_create(STREAM, "agents", "0", mkstream=True)
    async with running(shared_redis.url, trims=True, backlog=4) as upstream:
        answers = [await say(upstream, Sender(), n) for n in range(6)]
        await upstream.check_backlog()
        still = await say(upstream, Sender(), 6)
        await redis.xreadgroup("agents", "me", {STREAM: ">"}, 3, noack=True)
        await upstream.check_backlog()
        taken = await say(upstream, Sender(), 7)

    assert [answer.code for answer in answers] == ["", "", "", "", "", "overloaded"]
    assert still.code == "overloaded"
    assert not taken.code
    assert upstream.trimmed == 3
    assert [fields["data"] for _, fields in await stored(redis)] == ["3", "4", "7"]


async def test_only_who_is_told_to_trims(
    shared_redis: EmbeddedServer, redis: Any
) -> None:
    """The other workers only count."""
    await redis.xgroup_create(STREAM, "agents", "0", mkstream=True)
    async with running(shared_redis.url, backlog=4) as upstream:
        for number in range(4):
            await say(upstream, Sender(), number)
        await redis.xreadgroup("agents", "me", {STREAM: ">"}, noack=True)
        await upstream.check_backlog()

    assert upstream.backlog == 4
    assert len(await stored(redis)) == 4


async def test_backlog_is_looked_at_all_the_time(
    shared_redis: EmbeddedServer, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what other pods add counts; a key that is no stream stops nothing."""
    monkeypatch.setattr("broker.control.upstream.CHECK_S", 0.01)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(running(shared_redis.url))
        watching = asyncio.create_task(upstream.run())
        stack.callback(watching.cancel)
        await redis.set(STREAM, "no stream")
        await asyncio.sleep(0.05)
        await redis.delete(STREAM)
        await redis.xadd(STREAM, {"cmd": "x"})
        await until(lambda: upstream.backlog == 1)
