"""A service stops, or stops waiting."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from broker.client import CommandConsumer
from broker.client import commands as module
from broker.errors import StoreUnavailable
from broker.store.embedded import EmbeddedServer
from tests.conftest import RedisAt, StartRedis
from tests.integration.client.service import (
    GROUP,
    NewConsumer,
    add,
    blocked,
    finish,
    names,
    pending,
    take,
)


async def test_stop_lets_what_is_under_way_finish(
    redis: Any, consumer: NewConsumer
) -> None:
    """Nothing more is taken, and the block is left when all is done."""
    await add(redis, 1, 2, 3)
    async with consumer() as commands:
        first, second = await take(commands, 2)
        commands.stop()
        assert [command async for command in commands] == []
        finishing = [asyncio.create_task(one.done()) for one in (first, second)]
    assert all(task.done() for task in finishing)
    assert await pending(redis) == 0
    async with consumer("two") as others:
        assert await finish(others, 1) == [3]


async def test_stop_does_not_wait_for_ever(
    redis: Any, consumer: NewConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that is never done stays for the next consumer."""
    monkeypatch.setattr(module, "STOP_S", 0.05)
    await add(redis, 1)
    async with consumer() as commands:
        (command,) = await take(commands, 1)
        commands.stop()
    with pytest.raises(StoreUnavailable, match="closed"):
        await command.done()
    assert await pending(redis) == 1


async def test_stop_ends_a_wait_for_news(redis: Any, consumer: NewConsumer) -> None:
    """And a consumer that held nothing leaves no name behind."""
    async with consumer() as commands:
        waiting = asyncio.ensure_future(anext(commands, None))
        await blocked(redis)
        assert await names(redis) == ["one"]
        commands.stop()
        async with asyncio.timeout(5):
            assert await waiting is None
    assert await names(redis) == []


async def test_stop_while_redis_is_away_ends_the_wait(start_redis: StartRedis) -> None:
    """An outage keeps no service from ending."""
    server = start_redis()
    async with CommandConsumer(server.url, group=GROUP) as commands:
        server.kill()
        waiting = asyncio.ensure_future(anext(commands, None))
        await asyncio.sleep(0)
        commands.stop()
        async with asyncio.timeout(5):
            assert await waiting is None


@contextlib.contextmanager
def frozen(server: EmbeddedServer) -> Iterator[None]:
    """The server hangs: it takes connections and commands, and answers nothing."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def test_stop_while_redis_hangs_ends_the_iteration_and_the_block(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """Within the second that is promised, both together."""
    server = start_redis()
    commands = await CommandConsumer(server.url, group=GROUP).__aenter__()
    waiting = asyncio.ensure_future(anext(commands, None))
    await blocked(redis_at(server.url))
    with frozen(server):
        commands.stop()
        async with asyncio.timeout(1.4):
            assert await waiting is None
            await commands.__aexit__(None, None, None)


async def test_block_ends_while_redis_hangs(start_redis: StartRedis) -> None:
    """Within a second too if nothing was awaited when it was stopped."""
    server = start_redis()
    commands = await CommandConsumer(server.url, group=GROUP).__aenter__()
    with frozen(server):
        commands.stop()
        async with asyncio.timeout(1.4):
            await commands.__aexit__(None, None, None)


async def test_stop_ends_a_start_while_redis_hangs(start_redis: StartRedis) -> None:
    """A service that never came up can be ended as well."""
    server = start_redis()
    commands = CommandConsumer(server.url, group=GROUP)
    with frozen(server):
        entering = asyncio.create_task(commands.__aenter__())
        await asyncio.sleep(0.05)
        commands.stop()
        async with asyncio.timeout(1.4):
            with pytest.raises(StoreUnavailable, match="stopped"):
                await entering


async def test_stop_before_a_start_while_redis_hangs_ends_it(
    start_redis: StartRedis,
) -> None:
    """A signal may come that early."""
    server = start_redis()
    commands = CommandConsumer(server.url, group=GROUP)
    commands.stop()
    with frozen(server):
        async with asyncio.timeout(1.4):
            with pytest.raises(StoreUnavailable, match="stopped"):
                await commands.__aenter__()


async def test_what_a_hanging_redis_delivered_after_the_stop_is_kept(
    start_redis: StartRedis, redis_at: RedisAt
) -> None:
    """It comes to the one that comes back under the name."""
    server = start_redis()
    redis = redis_at(server.url)
    async with CommandConsumer(server.url, group=GROUP, name="one") as commands:
        waiting = asyncio.ensure_future(anext(commands, None))
        await blocked(redis)
        with frozen(server):
            adding = asyncio.create_task(add(redis, 1))
            commands.stop()
            assert await waiting is None
        await adding
    async with CommandConsumer(server.url, group=GROUP, name="one") as commands:
        assert await finish(commands, 1) == [1]


async def test_name_that_holds_commands_stays(
    redis: Any, consumer: NewConsumer
) -> None:
    """With the name the commands would be gone."""
    await add(redis, 1)
    async with consumer() as commands:
        await take(commands, 1)
    assert await names(redis) == ["one"]


async def test_cancelled_wait_loses_no_command(
    redis: Any, consumer: NewConsumer
) -> None:
    """What was delivered to a wait that was given up comes to the next one."""
    async with consumer() as commands:
        for number in range(20):
            waiting = asyncio.ensure_future(anext(commands))
            await blocked(redis)
            waiting.cancel()
            await add(redis, number)
            with contextlib.suppress(asyncio.CancelledError):
                await waiting

            assert await finish(commands, 1) == [number]


async def test_command_that_an_old_wait_gets_is_not_forgotten(
    redis: Any, consumer: NewConsumer
) -> None:
    """Redis may still serve the wait that was given up when the next one begins."""
    async with consumer(claim_after_s=1000) as commands:
        given_up = asyncio.ensure_future(anext(commands))
        await blocked(redis)
        given_up.cancel()
        next_one = asyncio.create_task(finish(commands, 1))
        await asyncio.sleep(0.05)
        await add(redis, 1)
        async with asyncio.timeout(5):
            assert await next_one == [1]
