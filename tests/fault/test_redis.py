"""Redis dies, forgets, or throws the broker out."""

from __future__ import annotations

import asyncio
from typing import Any

from broker.model import StreamId, parse_stream_id
from tests.conftest import StartBroker, StartRedis
from tests.harness.load import SECONDS, SESSIONS, load
from tests.harness.publisher import CLIENT_NAME, RatePublisher, connect, key_of

EXPECTED = "redis_unavailable|probe|stream_reset|server_changed|child_ended"


async def test_redis_killed_and_restarted_with_its_data_loses_nothing(
    start_redis: StartRedis, start_broker: StartBroker
) -> None:
    """The sockets stay, and what was stored before and after arrives."""
    redis = start_redis(appendonly=True)
    broker = start_broker(redis.url)
    broker.allowed.append(EXPECTED)
    async with load(broker, redis.url, rate_per_s=1000) as running:
        for _ in range(2):
            await asyncio.sleep(SECONDS / 5)
            redis.kill()
            await asyncio.sleep(1.5)
            await asyncio.to_thread(redis.start)

    assert running.lost == 0
    assert "server_changed" in broker.log.text


async def test_every_broker_connection_killed_each_second_loses_nothing(
    start_redis: StartRedis, start_broker: StartBroker
) -> None:
    """Tracking is a property of a connection: each new one must begin anew."""
    redis = start_redis()
    broker = start_broker(redis.url)
    broker.allowed.append(EXPECTED)
    client: Any = connect(redis.url)
    killed = 0
    async with load(broker, redis.url) as running:
        for _ in range(int(SECONDS)):
            for one in await client.client_list():
                if one["name"] != CLIENT_NAME:
                    killed += await client.client_kill_filter(_id=one["id"])
            await asyncio.sleep(1)
    await client.aclose()

    assert killed > SECONDS
    assert running.lost == 0


async def test_redis_that_lost_writes_resets_and_goes_on(
    start_redis: StartRedis, start_broker: StartBroker
) -> None:
    """After a restart from an older snapshot the new history is told completely."""
    redis = start_redis()
    broker = start_broker(redis.url)
    broker.allowed.append(EXPECTED)
    async with load(broker, redis.url, seconds=SECONDS / 2) as running:
        await asyncio.sleep(SECONDS / 4)
        await save(redis.url)
        await running.publishing
        redis.kill()
        await asyncio.to_thread(redis.start)
        for session, last in (await last_ids(redis.url)).items():
            running.recorder.ledger.rewound(session, last)
        publisher = RatePublisher(
            redis.url, running.recorder.ledger, SESSIONS, 2000, first=1_000_000
        )
        await publisher.run(SECONDS / 4)
    epochs = [len(account.epochs) for account in running.recorder.accounts]

    assert max(epochs) == 2
    assert running.lost == 0


async def test_flush_under_load_resets_and_goes_on(
    start_redis: StartRedis, start_broker: StartBroker
) -> None:
    """FLUSHALL is one null invalidation for twenty sessions."""
    redis = start_redis()
    broker = start_broker(redis.url)
    broker.allowed.append(EXPECTED)
    async with load(broker, redis.url, seconds=SECONDS / 4) as running:
        for _ in range(2):
            await running.publishing
            await flush(redis.url)
            for session in SESSIONS:
                running.recorder.ledger.deleted(session)
            publisher = RatePublisher(
                redis.url, running.recorder.ledger, SESSIONS, 2000, first=1_000_000
            )
            await publisher.run(SECONDS / 4)

    assert running.lost == 0


async def flush(url: str) -> None:
    """Delete everything."""
    client: Any = connect(url)
    await client.flushall()
    await client.aclose()


async def save(url: str) -> None:
    """Write the snapshot that a restart begins with."""
    client: Any = connect(url)
    await client.save()
    await client.aclose()


async def last_ids(url: str) -> dict[str, StreamId]:
    """What each session's stream ends with."""
    client: Any = connect(url)
    found = {}
    for session in SESSIONS:
        (last,) = await client.xrevrange(key_of(session), count=1)
        found[session] = parse_stream_id(last[0])
    await client.aclose()
    return found
