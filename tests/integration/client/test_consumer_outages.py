"""A service reads what clients say while Redis or its consumers come and go."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from typing import Any

import pytest

from broker.client import CommandConsumer
from broker.client import commands as module
from broker.errors import StoreRefused
from broker.store.embedded import EmbeddedServer
from tests.conftest import RedisAt, StartRedis
from tests.harness.upstream import Sender, running_upstream
from tests.integration.client.service import (
    GROUP,
    STREAM,
    NewConsumer,
    add,
    blocked,
    data_of,
    drop_connections,
    finish,
    own_connections,
    pending,
    take,
)

CHILD = """
import asyncio, sys
from broker.client import CommandConsumer

async def main():
    async with CommandConsumer(sys.argv[1], group="agents", name="one") as commands:
        async for command in commands:
            print(command.id, command.connection, command.data, flush=True)
            await command.done()

asyncio.run(main())
"""
SENDERS = 200
EACH = 100


async def test_lost_connections_lose_no_command(
    redis: Any, consumer: NewConsumer
) -> None:
    """Each one comes, in order, also what was just being delivered."""
    async with consumer() as commands:
        finishing = asyncio.create_task(finish(commands, 300))
        for number in range(300):
            await add(redis, number)
            if number % 60 == 30:
                await drop_connections(redis)
        found = await finishing

    assert list(dict.fromkeys(found)) == [*range(300)]
    assert await pending(redis) == 0


@pytest.mark.parametrize("abandoned", [0, 2], ids=["given", "taken-over"])
async def test_lost_connections_bring_nothing_again_that_is_under_way(
    redis: Any, consumer: NewConsumer, abandoned: int
) -> None:
    """What this consumer was given, or has taken over, it still works on."""
    added = await add(redis, 1, 2)
    await redis.xgroup_create(STREAM, GROUP, "0")
    for entry_id in added[:abandoned]:
        await redis.xreadgroup(GROUP, "dead", {STREAM: ">"}, 1)
        await redis.xclaim(STREAM, GROUP, "dead", 0, [entry_id], idle=10**9)
    async with consumer(claim_after_s=1000) as commands:
        under_way = await take(commands, 2)
        later = asyncio.create_task(take(commands, 1))
        await blocked(redis)
        await drop_connections(redis)
        await add(redis, 3)

        assert data_of(under_way + await later) == [1, 2, 3]


async def test_done_waits_for_redis(
    start_redis: StartRedis, redis_at: RedisAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart of Redis is a pause for the service, and nothing is done twice."""
    monkeypatch.setattr(module, "backoff_s", lambda failures: 0.01 * (failures + 1))
    server = start_redis(appendonly=True)
    await add(redis_at(server.url), 1, 2)
    async with CommandConsumer(server.url, group=GROUP) as commands:
        (command,) = await take(commands, 1)
        server.kill()
        finishing = asyncio.create_task(command.done())
        await asyncio.to_thread(server.start)
        await finishing
        assert await pending(redis_at(server.url)) == 0
        server.restart()
        assert await finish(commands, 1) == [2]


async def test_demoted_primary_is_left(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """Its address may lead elsewhere by now: what it refuses is asked there."""
    server = start_redis()
    redis = redis_at(server.url)
    async with CommandConsumer(server.url, group=GROUP) as commands:
        before = await own_connections(redis)
        await redis.replicaof("127.0.0.1", 1)
        waiting = asyncio.create_task(finish(commands, 1))
        async with asyncio.timeout(10):
            while before & await own_connections(redis):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await redis.replicaof("NO", "ONE")
        await add(redis, 1)

        assert await waiting == [1]


async def test_redis_that_forgot_everything_is_read_anew(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """The group is made again, and begins with all that is there."""
    server = start_redis()
    redis = redis_at(server.url)
    async with CommandConsumer(server.url, group=GROUP, start="$") as commands:
        waiting = asyncio.create_task(finish(commands, 2))
        await blocked(redis)
        await redis.flushall()
        await add(redis, 1, 2)

        assert await waiting == [1, 2]


async def test_service_that_starts_before_redis_waits_for_it(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """The order in which programs are started does not matter."""
    server = start_redis(appendonly=True)
    await add(redis_at(server.url), 1)
    server.kill()
    commands = CommandConsumer(server.url, group=GROUP)
    entering = asyncio.create_task(commands.__aenter__())
    await asyncio.to_thread(server.start)
    await entering

    assert await finish(commands, 1) == [1]
    await commands.__aexit__(None, None, None)


async def test_what_redis_refuses_is_told_at_once(
    shared_redis: EmbeddedServer, redis: Any, consumer: NewConsumer
) -> None:
    """A wrong password, or a key that is no stream, is not tried for ever."""
    wrong = shared_redis.url.replace("//", "//nobody:wrong@")
    async with asyncio.timeout(5):
        with pytest.raises(StoreRefused, match="WRONGPASS"):
            await CommandConsumer(wrong, group=GROUP).__aenter__()
        await redis.set(STREAM, "no stream")
        with pytest.raises(StoreRefused, match="WRONGTYPE"):
            await consumer().__aenter__()


async def run_child(url: str, limit: int) -> list[list[str]]:
    """Run a consumer until it has handled *limit* commands, then kill it (SIGKILL).

    Returns what it handled: it may be some more.
    """
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, url), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    handled = [(await child.stdout.readline()).split() for _ in range(limit)]
    child.kill()
    handled += [line.split() for line in (await child.stdout.read()).splitlines()]
    await child.wait()
    return [[word.decode() for word in words] for words in handled if len(words) == 3]


async def test_consumer_that_is_killed_again_and_again_misses_nothing(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """20 000 commands of 200 connections: stored once, handled, in order each."""
    server = start_redis()
    async with running_upstream(server.url) as upstream:
        senders = [Sender(f"c{number}") for number in range(SENDERS)]

        async def talk(sender: Sender) -> list[str]:
            told = []
            for number in range(EACH):
                ref = f"{sender.connection_id}-command-{number}"
                data = b"%d" % number
                answer = await upstream.send(sender, "s1", "do", data, ref)
                told.append(answer.stream_id)
            return told

        talking = asyncio.gather(*[talk(sender) for sender in senders])
        handled: list[list[str]] = []
        while len({words[0] for words in handled}) < SENDERS * EACH:
            left = SENDERS * EACH - len({words[0] for words in handled})
            handled += await run_child(server.url, min(4500, left))
        stored = [entry_id for told in await talking for entry_id in told]
    first_times = {entry_id: rest for entry_id, *rest in reversed(handled)}
    orders = defaultdict(list)
    for connection, number in reversed(first_times.values()):
        orders[connection].append(int(number))

    assert "" not in stored
    assert len(set(stored)) == SENDERS * EACH == len(stored)
    assert await redis_at(server.url).xlen(STREAM) == SENDERS * EACH
    assert set(first_times) == set(stored)
    assert list(orders.values()) == [[*range(EACH)]] * SENDERS
