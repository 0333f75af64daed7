"""Finding a place in streams of a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.entry import Event
from broker.errors import StoreRefused, StoreUnavailable
from broker.metrics.slots import Slots
from broker.model import Position, StreamId, parse_stream_id
from broker.store.embedded import EmbeddedServer
from broker.store.keys import event_key_pattern
from broker.worker.archive import Archive
from broker.worker.channels import Start, StartAt
from broker.worker.seeking import RETAINED, Seeker
from tests.harness.publisher import key_of

COUNT = 1_000


@pytest.fixture
async def archive(shared_redis: EmbeddedServer) -> AsyncIterator[Archive]:
    """Reads the shared server as a worker does."""
    pattern = event_key_pattern("broker:events:{session}")
    row = Slots.create(1).row(1)
    made = Archive(shared_redis.url, "test-seeking", pattern, row, lambda: 0)
    running = asyncio.create_task(made.run())
    async with asyncio.timeout(10):
        await made._standing.wait_up()
    yield made
    running.cancel()
    await asyncio.wait([running])


def number_of(event: Event) -> int | None:
    return int(event.data) if event.event == b"n" else None


def seeker(archive: Archive, session: str) -> Seeker[int]:
    return Seeker(archive, session, number_of, 1000)


async def fill(redis: Redis, session: str) -> list[StreamId]:
    """Numbered entries over ten days, each with one behind it that has no number."""
    pipeline: Any = redis.pipeline(transaction=False)
    for number in range(COUNT):
        ms = 1_763_700_000_000 + number * 864_000
        pipeline.xadd(key_of(session), {"event": "n", "data": number}, f"{ms}-0")
        pipeline.xadd(key_of(session), {"event": "other"}, f"{ms}-1")
    return [parse_stream_id(raw) for raw in (await pipeline.execute())[::2]]


def behind(stream_id: StreamId) -> Start:
    return Start(at=StartAt.POSITION, position=Position(stream_id))


@pytest.mark.parametrize("number", [1, 2, 499, 500, 990, 999, 1_000, 5_000])
async def test_the_entry_before_a_number_is_found(
    archive: Archive, redis: Redis, session: str, number: int
) -> None:
    """Near either end, in the middle and beyond the last one."""
    ids = await fill(redis, session)

    start = await seeker(archive, session).start(number)

    assert start == behind(ids[min(number, COUNT) - 1])


async def test_from_the_first_number_on_everything_is_wanted(
    archive: Archive, redis: Redis, session: str
) -> None:
    """No entry comes before it, and nothing is missing."""
    await fill(redis, session)

    assert await seeker(archive, session).start(0) == RETAINED


async def test_the_next_entry_after_what_was_trimmed_has_its_ordinal(
    archive: Archive, redis: Redis, session: str
) -> None:
    """So nothing is announced as lost that the client has."""
    ids = await fill(redis, session)
    await redis.xtrim(key_of(session), minid=f"{ids[300][0]}-0", approximate=False)

    assert await seeker(archive, session).start(300) == Start(
        at=StartAt.SINCE, position=Position((ids[300][0] - 1, 2**64 - 1), 600)
    )
    assert await seeker(archive, session).start(299) == Start(
        at=StartAt.SINCE, position=Position((ids[300][0] - 1, 2**64 - 1))
    )


async def test_a_stream_of_which_nothing_is_left_has_an_unknown_loss(
    archive: Archive, redis: Redis, session: str
) -> None:
    """Nobody can say whether the client has seen what is gone."""
    ids = await fill(redis, session)
    await redis.xtrim(key_of(session), maxlen=0, approximate=False)

    start = await seeker(archive, session).start(COUNT)

    assert start == Start(at=StartAt.SINCE, position=Position((ids[-1][0], 0)))


async def test_a_stream_that_does_not_exist_is_wanted_from_its_beginning(
    archive: Archive, session: str
) -> None:
    """Its first entries are still to come."""
    assert await seeker(archive, session).start(5) == RETAINED


async def test_a_key_that_holds_no_stream_cannot_be_searched(
    archive: Archive, redis: Redis, session: str
) -> None:
    """The answer of the server is an error that a retry repeats."""
    await redis.set(key_of(session), "text")
    try:
        with pytest.raises(StoreRefused):
            await seeker(archive, session).start(5)
    finally:
        await redis.delete(key_of(session))


async def test_without_a_connection_the_search_fails(session: str) -> None:
    """Its client is to come again when Redis is back."""
    pattern = event_key_pattern("broker:events:{session}")
    row = Slots.create(1).row(1)
    away = Archive("redis://127.0.0.1:1", "test-seeking", pattern, row, lambda: 0)

    with pytest.raises(StoreUnavailable):
        await seeker(away, session).start(5)
