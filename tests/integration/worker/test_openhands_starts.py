"""Where the events of a V1 socket begin, on streams of a real server."""

from __future__ import annotations

from datetime import datetime

import pytest
from redis.asyncio import Redis

from broker.model import START, Position, StreamId
from broker.protocols.openhands.v1 import Resend
from broker.worker.archive import Archive
from broker.worker.channels import Start, StartAt
from broker.worker.edges.openhands_starts import AfterSeq, Arrival, Place, Resent
from broker.worker.seeking import RETAINED
from broker.worker.snapshots import Look, Snapshots
from tests.harness.conversations import Conversation

TEN = datetime.fromisoformat("2026-01-01T10:00:10")


class Greeted:
    """Remembers what it was prepared with."""

    look: Look
    start: Start

    def prepare(self, look: Look, start: Start) -> None:
        self.look, self.start = look, start


@pytest.fixture
def conversation(redis: Redis, session: str) -> Conversation:
    return Conversation(redis, session)


async def find(archive: Archive, conversation: Conversation, place: Place) -> Start:
    greeted = Greeted()
    arrival = Arrival(Snapshots(archive, 10_000), place, greeted)
    start = await arrival.find(archive, conversation.session)
    assert greeted.start == start
    return start


async def resent(
    archive: Archive, conversation: Conversation, since: datetime | None
) -> Start:
    return await find(archive, conversation, Resent(Resend(since=since), 10_000))


async def after(archive: Archive, conversation: Conversation, seq: int | None) -> Start:
    return await find(archive, conversation, AfterSeq(seq))


def behind(stream_id: StreamId, seq: int | None = None) -> Start:
    return Start(at=StartAt.POSITION, position=Position(stream_id, seq))


# By time.


async def test_everything_is_what_is_retained(
    archive: Archive, conversation: Conversation
) -> None:
    """Without a look at times."""
    await conversation.happen(1, 2)
    everything = Resent(Resend(everything=True), 10_000)

    assert await find(archive, conversation, everything) == RETAINED


async def test_nothing_begins_with_the_entry_seen_last(
    archive: Archive, conversation: Conversation
) -> None:
    """What is published while a client is let in comes after that."""
    assert await resent(archive, conversation, None) == behind(*_of(START))
    ids = await conversation.happen(1, 2)
    assert await resent(archive, conversation, None) == behind(ids[1], 2)


async def test_the_event_of_that_time_is_sent_again(
    archive: Archive, conversation: Conversation
) -> None:
    """A time is not before itself."""
    ids = await conversation.happen(1, 8.5, 9.5, 10, 10, 20)

    assert await resent(archive, conversation, TEN) == behind(ids[2])


async def test_with_nothing_of_that_time_it_begins_at_the_end(
    archive: Archive, conversation: Conversation
) -> None:
    """A client that has seen everything is sent nothing."""
    ids = await conversation.happen(1, 5, 9.999999)

    assert await resent(archive, conversation, TEN) == behind(ids[2])


async def test_events_a_little_out_of_order_are_not_lost(
    archive: Archive, conversation: Conversation
) -> None:
    """Several publishers do not agree to the millisecond."""
    ids = await conversation.happen(1, 8, 10.5, 9.5, 10.1, 9.9, 11)

    assert await resent(archive, conversation, TEN) == behind(ids[1])


async def test_disorder_at_the_beginning_is_everything(
    archive: Archive, conversation: Conversation
) -> None:
    """There is no entry to begin behind."""
    await conversation.happen(10.5, 9.5, 11)

    assert await resent(archive, conversation, TEN) == RETAINED


async def test_the_search_for_disorder_ends_where_times_are_older(
    archive: Archive, conversation: Conversation
) -> None:
    """An event that is far out of order is the publisher's business."""
    ids = await conversation.happen(15, 7.9, 9, 11)

    assert await resent(archive, conversation, TEN) == behind(ids[2])


async def test_disorder_is_found_behind_many_entries_without_a_time(
    archive: Archive, conversation: Conversation
) -> None:
    """It is read in as many pages as that takes."""
    first = await conversation.happen(1)
    await conversation.happen(10.5)
    await conversation.stammer(600)
    await conversation.happen(9.5, 11)

    assert await resent(archive, conversation, TEN) == behind(first[0])


# By place.


async def test_without_a_place_it_begins_at_the_end(
    archive: Archive, conversation: Conversation
) -> None:
    """Live events only."""
    ids = await conversation.say(3)

    assert await after(archive, conversation, None) == behind(ids[2], 3)


async def test_minus_one_is_everything(
    archive: Archive, conversation: Conversation
) -> None:
    """Nothing is known to the client."""
    await conversation.say(3)

    assert await after(archive, conversation, -1) == RETAINED


@pytest.mark.parametrize("seq", [0, 1, 250, 498])
async def test_a_place_is_that_of_an_entry(
    archive: Archive, conversation: Conversation, seq: int
) -> None:
    """It is found by counting from the end."""
    ids = await conversation.say(500)

    assert await after(archive, conversation, seq) == behind(ids[seq], seq + 1)


@pytest.mark.parametrize("seq", [2, 3, 10**17])
async def test_a_place_at_the_end_or_beyond_begins_there(
    archive: Archive, conversation: Conversation, seq: int
) -> None:
    """What the log does not have is not waited for."""
    ids = await conversation.say(3)

    assert await after(archive, conversation, seq) == behind(ids[2], 3)


async def test_a_place_in_a_stream_that_does_not_exist_begins_with_it(
    archive: Archive, conversation: Conversation
) -> None:
    """Everything that comes is new."""
    assert await after(archive, conversation, 5) == behind(*_of(START))


async def test_a_place_that_is_gone_shows_how_much_is_lost(
    archive: Archive, conversation: Conversation
) -> None:
    """It keeps its ordinal: the gap behind it is exact."""
    ids = await conversation.say(50)
    await conversation.redis.xtrim(conversation.key, maxlen=10, approximate=False)
    ms, n = ids[40]
    before = (ms, n - 1) if n else (ms - 1, 2**64 - 1)

    assert await after(archive, conversation, 4) == Start(
        at=StartAt.SINCE, position=Position(before, 5)
    )


async def test_a_stream_of_which_nothing_is_left_is_lost(
    archive: Archive, conversation: Conversation
) -> None:
    """All of it counts as missing."""
    ids = await conversation.say(5)
    await conversation.redis.xtrim(conversation.key, maxlen=0, approximate=False)
    ms, n = ids[4]
    before = (ms, n - 1) if n else (ms - 1, 2**64 - 1)

    assert await after(archive, conversation, 1) == Start(
        at=StartAt.SINCE, position=Position(before, 2)
    )


async def test_entries_deleted_in_between_repeat_some_rather_than_lose_one(
    archive: Archive, conversation: Conversation
) -> None:
    """Nobody knows where they were, so an earlier entry is taken, without ordinal."""
    ids = await conversation.say(30)
    await conversation.redis.xdel(conversation.key, f"{ids[25][0]}-{ids[25][1]}")

    assert await after(archive, conversation, 20) == behind(ids[19])


def _of(position: Position) -> tuple[StreamId, int | None]:
    return position.id, position.seq
