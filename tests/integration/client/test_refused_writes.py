"""A service goes on when Redis takes no writes for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.client import CommandConsumer, Publisher
from broker.client import commands as commands_module
from broker.client import publisher as publisher_module
from broker.errors import StoreUnavailable
from tests.conftest import RedisAt, StartRedis
from tests.harness.publisher import key_of
from tests.integration.client.service import GROUP, add, data_of, pending, take

NO_REPLICAS = ("NOREPLICAS", "min-replicas-to-write", "1", "0")
NO_MEMORY = ("OOM", "maxmemory", "1", "0")
NO_DISK = ("MISCONF", "stop-writes-on-bgsave-error", "yes", "no")
"""Kind of the error; the setting behind it; its values while it lasts and after it."""

Writes = tuple[str, str, str, str]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again soon."""
    monkeypatch.setattr(commands_module, "backoff_s", lambda _: 0.01)
    monkeypatch.setattr(publisher_module, "backoff_s", lambda _: 0.01)


@pytest.fixture
async def url(start_redis: StartRedis, redis_at: RedisAt) -> AsyncIterator[str]:
    """A server that failed to save its data and takes writes all the same."""
    server = start_redis("--stop-writes-on-bgsave-error", "no", "--save", "3600 1")
    in_the_way = server.directory / "dump.rdb"
    in_the_way.mkdir()
    redis: Any = redis_at(server.url)
    await redis.bgsave()
    async with asyncio.timeout(5):
        while (await redis.info("persistence"))["rdb_last_bgsave_status"] != "err":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    yield server.url
    in_the_way.rmdir()  # It saves when it ends, or else does not end.


async def until_refused(redis: Any, kind: str, count: int) -> None:
    """Return when so many commands were answered with that error."""
    name = f"errorstat_{kind}"
    async with asyncio.timeout(5):
        while (await redis.info("errorstats")).get(name, {"count": 0})["count"] < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("writes", [NO_REPLICAS, NO_DISK], ids=lambda one: one[0])
async def test_refused_writes_are_a_pause_for_a_consumer(
    url: str, redis_at: RedisAt, writes: Writes
) -> None:
    """Its reads and what it says is done are writes: they wait until they may be."""
    kind, setting, during, after = writes
    redis: Any = redis_at(url)
    await add(redis, 1, 2)
    async with CommandConsumer(url, group=GROUP) as commands:
        (command,) = await take(commands, 1)
        await redis.config_set(setting, during)
        finishing = asyncio.create_task(command.done())
        reading = asyncio.create_task(take(commands, 1))
        await until_refused(redis, kind, 5)
        assert not finishing.done()
        assert not reading.done()
        await redis.config_set(setting, after)
        await finishing

        assert data_of(await reading) == [2]
        assert await pending(redis) == 1


@pytest.mark.parametrize(
    "writes", [NO_REPLICAS, NO_MEMORY, NO_DISK], ids=lambda one: one[0]
)
async def test_consumer_that_starts_while_writes_are_refused_waits(
    url: str, redis_at: RedisAt, writes: Writes
) -> None:
    """Its group is made when that is possible."""
    kind, setting, during, after = writes
    redis: Any = redis_at(url)
    await redis.config_set(setting, during)
    commands = CommandConsumer(url, group=GROUP)
    entering = asyncio.create_task(commands.__aenter__())
    await until_refused(redis, kind, 3)
    await redis.config_set(setting, after)
    await entering
    await add(redis, 1)

    assert data_of(await take(commands, 1)) == [1]
    await commands.__aexit__(None, None, None)


async def test_consumer_can_be_stopped_while_writes_are_refused(
    url: str, redis_at: RedisAt
) -> None:
    """Its wait ends, as in any outage."""
    redis: Any = redis_at(url)
    async with CommandConsumer(url, group=GROUP) as commands:
        await redis.config_set("min-replicas-to-write", 1)
        waiting = asyncio.ensure_future(anext(commands, None))
        await until_refused(redis, "NOREPLICAS", 3)
        commands.stop()
        async with asyncio.timeout(0.8):
            assert await waiting is None


@pytest.mark.parametrize(
    "writes", [NO_REPLICAS, NO_MEMORY, NO_DISK], ids=lambda one: one[0]
)
async def test_refused_writes_are_a_pause_for_a_publisher(
    url: str, redis_at: RedisAt, writes: Writes
) -> None:
    """Every call returns when its event is stored, each once."""
    kind, setting, during, after = writes
    redis: Any = redis_at(url)
    async with Publisher(url) as publish:
        await publish("s1", "first")
        await redis.config_set(setting, during)
        publishing = asyncio.gather(*[publish("s1", "more") for _ in range(5)])
        await until_refused(redis, kind, 10)
        await redis.config_set(setting, after)
        await publishing

    assert await redis.xlen(key_of("s1")) == 6


async def test_writes_that_stay_refused_are_given_up(
    url: str, redis_at: RedisAt
) -> None:
    """In bounded time, with the reason."""
    redis: Any = redis_at(url)
    await redis.config_set("min-replicas-to-write", 1)
    async with Publisher(url, give_up_s=0.1) as publish, asyncio.timeout(10):
        with pytest.raises(StoreUnavailable, match=r"not stored .*NOREPLICAS"):
            await publish("s1", "tick")
