"""Where a client begins that knows a number or a time, but no position."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, cast

from hypothesis import example, given
from hypothesis import strategies as st

from broker.entry import Event
from broker.model import FIRST_ID, LAST_ID, Position, StreamId, id_before
from broker.store.stream_info import StreamInfo
from broker.store.streams import Entry
from broker.worker.archive import COUNT_MAX, Archive
from broker.worker.channels import Start, StartAt
from broker.worker.seeking import ENTRIES_MAX, RETAINED, Seeker

HOUR_MS = 3_600_000


class Item(NamedTuple):
    """An entry of the model; *key* is None where it has none."""

    id: StreamId
    key: int | None


class Past:
    """A stream in memory, as `Archive` reads it.

    Attributes:
        sent: How many entries were read of it.
        questions: How many reads that took.
    """

    def __init__(
        self, items: Sequence[Item], trimmed: int = 0, deleted: int = -1
    ) -> None:
        self._every = items
        self._left = [
            item for i, item in enumerate(items) if i >= trimmed and i != deleted
        ]
        self._max_deleted = items[deleted].id if deleted >= 0 else FIRST_ID
        self.sent = 0
        self.questions = 0

    async def info(self, session: str) -> StreamInfo | None:
        if not self._every:
            return None
        first = self._left[0].id if self._left else FIRST_ID
        last = self._every[-1].id
        added, length = len(self._every), len(self._left)
        return StreamInfo(added, length, last, first, self._max_deleted, 100)

    async def history(
        self,
        session: str,
        after: StreamId | None,
        before: StreamId | None,
        limit: int,
        reverse: bool,
    ) -> list[Entry]:
        low, high = after or FIRST_ID, before or LAST_ID
        items = self._left[::-1] if reverse else self._left
        chosen = [item for item in items if low < item.id < high][:limit]
        self.sent += len(chosen)
        self.questions += 1
        return [(item.id, fields(item.key)) for item in chosen]


def fields(key: int | None) -> list[bytes]:
    data = b"null" if key is None else b"%d" % key
    return [b"event", b"e", b"data", data]


def key_of(event: Event) -> int | None:
    return None if event.data == b"null" else int(event.data)


async def seek(past: Past, wanted: int) -> Start:
    return await Seeker(cast("Archive", past), "s1", key_of, 1000).start(wanted)


def behind(stream_id: StreamId) -> Start:
    return Start(at=StartAt.POSITION, position=Position(stream_id))


def every(step_ms: int, count: int) -> list[Item]:
    """Entries numbered from 0, one each *step_ms*."""
    return [Item((1000 + step_ms * i, 0), i) for i in range(count)]


def expected(items: Sequence[Item], trimmed: int, deleted: int, wanted: int) -> Start:
    """The same by looking at everything."""
    left = [item for i, item in enumerate(items) if i >= trimmed and i != deleted]
    known = [item.id for item in left if item.key is not None and item.key < wanted]
    if known:
        return behind(known[-1])
    removed = len(items) - len(left)
    if not removed:
        return RETAINED
    if not left:
        return Start(at=StartAt.SINCE, position=Position(id_before(items[-1].id)))
    keys = [item.key for item in left if item.key is not None]
    before = id_before(left[0].id)
    counted = keys[:1] == [wanted] and not (
        0 <= deleted < len(items) and items[deleted].id > before
    )
    position = Position(before, removed if counted else None)
    return Start(at=StartAt.SINCE, position=position)


STEPS = st.tuples(
    st.sampled_from([0, 0, 1, 1, 2, 50, 10**6, 10**12]), st.integers(0, 2)
)
STREAMS = st.lists(st.tuples(STEPS, st.booleans()), min_size=1, max_size=60)


def made_of(steps: Sequence[tuple[tuple[int, int], bool]]) -> list[Item]:
    """Entries in pauses of any length; keys stay or rise, and some have none."""
    times = accumulate(pause for (pause, _rise), _has in steps)
    keys = accumulate(rise for (_pause, rise), _has in steps)
    return [
        Item((1 + ms, n), key if has else None)
        for n, (ms, key, (_step, has)) in enumerate(
            zip(times, keys, steps, strict=True)
        )
    ]


@given(STREAMS, st.integers(0, 70), st.integers(-1, 70), st.integers(0, 125))
@example([((1, 1), True)] * 60, 20, -1, 21)
@example([((1, 1), True)] * 60, 20, -1, 10)
@example([((1, 1), True)] * 60, 0, 30, 31)
@example([((1, 1), True)] * 60, 20, 30, 21)
@example([((50, 1), i % 5 == 0) for i in range(60)], 0, -1, 40)
@example([((1, 0), False)] * 60, 10, -1, 1)
async def test_the_place_is_the_one_that_reading_everything_finds(
    steps: list[tuple[tuple[int, int], bool]], trimmed: int, deleted: int, wanted: int
) -> None:
    """Whatever the pauses, equal keys, entries without one, trimming or deletion."""
    items = made_of(steps)
    gone = deleted if trimmed <= deleted < len(items) else -1
    past = Past(items, trimmed, gone)

    assert await seek(past, wanted) == expected(items, trimmed, gone, wanted)


async def test_a_short_absence_costs_one_read() -> None:
    """Nearly everybody who comes back has missed only the newest entries."""
    past = Past(every(1000, 10_000))

    assert await seek(past, 9_995) == behind((1000 + 9_994_000, 0))
    assert (past.questions, past.sent) == (1, 10)


async def test_a_long_history_is_not_read() -> None:
    """The place among many is found by few reads of single entries."""
    past = Past(every(HOUR_MS, 10_000))

    assert await seek(past, 5_001) == behind((1000 + 5_000 * HOUR_MS, 0))
    assert past.questions < 50
    assert past.sent < 60


async def test_a_burst_within_one_millisecond_is_read_once() -> None:
    """There is no time to halve, and no page of it is read again."""
    items = [Item((1000, n), n) for n in range(3_000)]
    past = Past(items)

    assert await seek(past, 1) == behind((1000, 0))
    assert past.sent <= 3_000 + 10
    assert past.questions < 20


async def test_a_short_history_is_read_once() -> None:
    """Nothing is left to be halved."""
    past = Past(every(HOUR_MS, 5))

    assert await seek(past, 0) == RETAINED
    assert past.questions == 1


async def test_a_number_beyond_the_end_begins_behind_the_last_entry() -> None:
    """What is published while it was looked for comes after that entry."""
    assert await seek(Past(every(1, 50)), 1_000) == behind((1049, 0))


async def test_nothing_is_lost_if_the_first_entry_left_is_the_next_one() -> None:
    """The ordinal before it says so: there will be no gap."""
    start = await seek(Past(every(1, 50), trimmed=20), 20)

    assert start.position == Position((1020 - 1, 2**64 - 1), 20)


async def test_a_loss_of_unknown_size_is_left_to_be_announced() -> None:
    """Without an ordinal the replay says that something is missing."""
    start = await seek(Past(every(1, 50), trimmed=20), 10)

    assert start.position == Position((1020 - 1, 2**64 - 1))
    assert start.at is StartAt.SINCE


async def test_of_a_stream_that_was_never_written_everything_is_wanted() -> None:
    """Whatever its client remembers, it is of another one."""
    assert await seek(Past([]), 7) == RETAINED


async def test_a_search_among_entries_without_keys_is_bounded() -> None:
    """More than was wanted is sent then, and nothing is lost."""
    items = [Item((n * HOUR_MS, 0), n if n < 3 else None) for n in range(1, 40_000)]
    past = Past(items)
    start = await seek(past, 10)

    assert past.sent <= ENTRIES_MAX + COUNT_MAX + 10
    assert start == RETAINED or start.position.id <= items[1].id
