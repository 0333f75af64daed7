"""Finds where to begin for clients that do not know positions, without reading it all.

What such clients remember rises along the stream: a number or a time inside the data.
So the last entry they know is looked for among the newest ones, which is where nearly
everybody who comes back finds it, and then by halving the time that is left.

The place is always an entry that was seen there. What is published meanwhile comes
after it, so nothing can fall between the search and the subscription.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from broker.entry import Event, read_entry
from broker.model import Position, StreamId, id_before
from broker.store.stream_info import StreamInfo
from broker.store.streams import Entry
from broker.worker.archive import Archive, count_of, next_count
from broker.worker.channels import Start, StartAt


class Ordered(Protocol):
    """What can be compared with others of its kind."""

    def __lt__(self, other: Any, /) -> bool: ...


K = TypeVar("K", bound=Ordered)

TAIL_COUNT = 10
"""Entries read from the end at first."""
ENTRIES_MAX = 10_000
"""Entries that a search reads; where keys are rarer, more than was wanted is sent."""
PROBES_MAX = 64
"""Guesses; each halves what is left, so no 64-bit time needs more."""
NEAR_MS = 2
"""From here on it is quicker to read what is between."""

RETAINED = Start(at=StartAt.RETAINED)


class Seek(Protocol):
    """Where a subscription begins that has no position of ours."""

    async def find(self, archive: Archive, session: str) -> Start:
        """The start.

        Raises:
            StoreError: The stream cannot be read.
        """
        ...


class Seeker(Generic[K]):
    """Looks for the last entry whose key is below some value.

    Args:
        archive: Reads Redis.
        session: The session.
        key_of: The key of an entry, None for entries that have none. Keys do not fall
            along the stream; where some do, the place is one of those that qualify.
        max_event_bytes: Larger entries have no key.
    """

    def __init__(
        self,
        archive: Archive,
        session: str,
        key_of: Callable[[Event], K | None],
        max_event_bytes: int,
    ) -> None:
        self._archive = archive
        self._session = session
        self._key_of = key_of
        self._max_event_bytes = max_event_bytes
        self._looked_at = 0
        self._below: StreamId | None = None

    async def start(self, wanted: K) -> Start:
        """Begin with all that comes after the last entry with a key below *wanted*.

        Entries without a key that stand between it and the next one are sent, too. If
        no such entry is left, everything is that is retained. Then what was removed
        before it is announced as a ``gap``, unless the first key left is *wanted*
        itself: the client has what was before it.

        Raises:
            StoreError: The stream cannot be read.
        """
        info = await self._archive.info(self._session)
        if info is None:
            return RETAINED
        if not info.length:
            # Nobody knows whether what was removed had been seen.
            return _since(Position(id_before(info.last)))
        try:
            last = await self._find(info, wanted)
            if last is None:
                return await self._start_at_first(info, wanted)
        except _TooFarApart:
            # Too much is never wrong: a start before what is wanted loses nothing.
            last = self._below
        return RETAINED if last is None else _after(last)

    async def _start_at_first(self, info: StreamInfo, wanted: K) -> Start:
        removed = info.added - info.length
        if not removed:
            return RETAINED
        before = id_before(info.first)
        first = await self._next_key(before, None)
        follows = first is not None and not wanted < first[1]
        # Where entries were deleted among others, nobody knows the first one's ordinal.
        known = info.max_deleted <= before
        return _since(Position(before, removed if follows and known else None))

    async def _find(self, info: StreamInfo, wanted: K) -> StreamId | None:
        count = min(TAIL_COUNT, count_of(info.mean_bytes))
        tail = await self._read_back(None, None, count)
        found = self._last_below(tail, wanted)
        if found is not None or len(tail) < count:
            return found
        below, above = id_before(info.first), tail[-1][0]
        for _ in range(PROBES_MAX):
            if above[0] - below[0] <= NEAR_MS:
                break
            middle = ((below[0] + above[0]) // 2, 0)
            probe = await self._next_key(id_before(middle), above)
            if probe is not None and probe[1] < wanted:
                below = found = self._below = probe[0]
            else:
                above = middle
        return await self._scan_back(below, above, wanted) or found

    async def _scan_back(
        self, below: StreamId, above: StreamId, wanted: K
    ) -> StreamId | None:
        """The last entry with a key below *wanted* between two ids."""
        count = TAIL_COUNT
        while entries := await self._read_back(below, above, count):
            found = self._last_below(entries, wanted)
            if found is not None:
                return found
            above, count = entries[-1][0], next_count(entries)
        return None

    def _last_below(self, newest_first: list[Entry], wanted: K) -> StreamId | None:
        for entry in newest_first:
            key = self._read_key(entry)
            if key is not None and key < wanted:
                return entry[0]
        return None

    async def _next_key(
        self, after: StreamId, before: StreamId | None
    ) -> tuple[StreamId, K] | None:
        """The first entry with a key between two ids."""
        count = 1  # It mostly has one.
        while entries := await self._read(after, before, count):
            for entry in entries:
                key = self._read_key(entry)
                if key is not None:
                    return entry[0], key
            after, count = entries[-1][0], next_count(entries)
        return None

    async def _read(
        self, after: StreamId, before: StreamId | None, count: int
    ) -> list[Entry]:
        return await self._look(after, before, count, False)

    async def _read_back(
        self, after: StreamId | None, before: StreamId | None, count: int
    ) -> list[Entry]:
        return await self._look(after, before, count, True)

    async def _look(
        self,
        after: StreamId | None,
        before: StreamId | None,
        count: int,
        reverse: bool,
    ) -> list[Entry]:
        if self._looked_at > ENTRIES_MAX:
            raise _TooFarApart
        entries = await self._archive.history(
            self._session, after, before, count, reverse
        )
        self._looked_at += len(entries)
        return entries

    def _read_key(self, entry: Entry) -> K | None:
        event = read_entry(entry[1], self._max_event_bytes)
        return self._key_of(event) if isinstance(event, Event) else None


class _TooFarApart(Exception):
    """Too many entries were read to find those that have a key."""


def _after(stream_id: StreamId) -> Start:
    return Start(at=StartAt.POSITION, position=Position(stream_id))


def _since(position: Position) -> Start:
    return Start(at=StartAt.SINCE, position=position)
