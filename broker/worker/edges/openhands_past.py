"""Reads OpenHands events of the past: pages, counts, single events.

Every read is bounded, in what it may have Redis send and in what it holds. A page ends
early where the bound is met and says where the next one begins; a count goes on where
it stopped when it is asked for again; an event by its id is looked for in the newest
64 MiB.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection

import msgspec

from broker.entry import Event, read_entry
from broker.errors import StoreError
from broker.model import FIRST_ID, StreamId, id_before
from broker.protocols.openhands.rest import EVERYTHING, EventFilter, Search, event_id
from broker.store.stream_info import StreamInfo
from broker.store.streams import Entry
from broker.worker.archive import FIRST_COUNT, Archive, next_count
from broker.worker.entrance import refusal_of
from broker.worker.handshake import Refusal
from broker.worker.snapshots import Look, Snapshots, id_after

READ_BYTES_MAX = 64 * 1024 * 1024
"""What one request may have Redis send; it comes in steps of half a MiB."""
ANSWER_BYTES_MAX = 4 * 1024 * 1024
READS_AT_ONCE = 8
"""Of the places that the archive has: clients that resume need the others."""
WAITING_MAX = 256
COUNTS_MAX = 1000
"""Counts that are remembered, each with its filter: 2 KB at most."""


class Page(msgspec.Struct, frozen=True):
    """Some events.

    Attributes:
        items: Their JSON.
        following: Where the next page begins; None for no more.
        empty: Whether the stream had nothing to read, from where this page begins.
    """

    items: list[bytes]
    following: StreamId | None
    empty: bool


class _Count:
    """How many events a stream has up to some entry, and when that still holds.

    Attributes:
        lock: Held by who goes on with it.
        number: How many of the entries are events that the filter takes.
        last: The last one that was looked at.
    """

    __slots__ = ("_first", "_gone", "last", "lock", "number")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.number = 0
        self.last: StreamId = FIRST_ID
        self._first: StreamId | None = None
        self._gone = 0

    def begin(self, info: StreamInfo) -> None:
        """Count from the first entry that there is now."""
        self.number, self.last = 0, FIRST_ID
        self._first, self._gone = info.first, info.added - info.length

    def holds(self, info: StreamInfo) -> bool:
        """Whether nothing of what was counted is gone, nor another stream there."""
        same = info.first == self._first and info.added - info.length == self._gone
        return same and info.last >= self.last


class _Walk:
    """Goes through a part of a stream in steps.

    Attributes:
        rest: Where it stopped because it had read enough; None before that.
    """

    def __init__(
        self,
        archive: Archive,
        session: str,
        after: StreamId | None,
        before: StreamId | None,
        *,
        reverse: bool = False,
    ) -> None:
        self.rest: StreamId | None = None
        self._archive = archive
        self._session = session
        self._after = after
        self._before = before
        self._reverse = reverse
        self._count = FIRST_COUNT
        self._left_bytes = READ_BYTES_MAX
        self._is_over = False

    async def step(self) -> list[Entry]:
        """The next entries, none at the end or where enough was read.

        Raises:
            StoreError: The stream cannot be read.
        """
        if self._is_over:
            return []
        entries = await self._archive.history(
            self._session, self._after, self._before, self._count, self._reverse
        )
        self._is_over = len(entries) < self._count
        if entries:
            self._note(entries)
        return entries

    def _note(self, entries: list[Entry]) -> None:
        last = entries[-1][0]
        following: StreamId | None
        if self._reverse:
            self._before, following = last, id_before(last)
        else:
            self._after, following = last, id_after(last)
        self._count = next_count(entries)
        self._left_bytes -= sum(len(f) for _id, fields in entries for f in fields)
        if self._left_bytes < 0 and not self._is_over:
            self.rest, self._is_over = following, True


class Past:
    """What is retained of conversations.

    Args:
        archive: Reads Redis.
        snapshots: Know the newest states.
        max_event_bytes: Larger entries are no events.
    """

    def __init__(
        self, archive: Archive, snapshots: Snapshots, max_event_bytes: int
    ) -> None:
        self._archive = archive
        self._snapshots = snapshots
        self._max_event_bytes = max_event_bytes
        self._places = asyncio.Semaphore(READS_AT_ONCE)
        self._inside = 0
        self._counts: dict[tuple[str, EventFilter], _Count] = {}

    async def info(self, session: str) -> StreamInfo | None:
        """How the stream stands; None if there is none.

        Raises:
            Refusal: It cannot be read.
        """
        async with self._reading():
            return await self._archive.info(session)

    async def state(self, session: str) -> Look:
        """The newest state that was published.

        Raises:
            Refusal: The stream cannot be read.
        """
        async with self._reading():
            return await self._snapshots.newest(session)

    async def search(self, session: str, search: Search) -> Page:
        """A page of events in the order of the stream, or against it.

        Raises:
            Refusal: The stream cannot be read.
        """
        async with self._reading():
            start = search.start
            if search.start_event:
                start = await self._locate(session, search)
            return await self._search(session, search, start)

    async def _search(
        self, session: str, search: Search, start: StreamId | None
    ) -> Page:
        after = before = None
        if start is not None and search.reverse:
            before = id_after(start)
        elif start is not None:
            after = id_before(start)
        walk = _Walk(self._archive, session, after, before, reverse=search.reverse)
        items: list[bytes] = []
        size_bytes, empty = 0, True
        while entries := await walk.step():
            empty = False
            for entry in entries:
                data = self._data(entry, search.filter)
                if data is None:
                    continue
                size_bytes += len(data)
                full = len(items) == search.limit or size_bytes > ANSWER_BYTES_MAX
                if full and items:
                    return Page(items, entry[0], empty)
                items.append(data)
        return Page(items, walk.rest, empty)

    async def _locate(self, session: str, search: Search) -> StreamId | None:
        """The entry of the event that a page begins with, None if it is not found."""
        walk = _Walk(self._archive, session, None, None, reverse=search.reverse)
        while entries := await walk.step():
            for entry in entries:
                data = self._data(entry, EVERYTHING)
                if data is not None and event_id(data) == search.start_event:
                    return entry[0]
        return None

    async def find(self, session: str, ids: Collection[str]) -> dict[str, bytes]:
        """The newest events with these ids, as far as they are found.

        Raises:
            Refusal: The stream cannot be read, or they are too large for one answer.
        """
        found: dict[str, bytes] = {}
        wanted = set(ids)
        size_bytes = 0
        async with self._reading():
            walk = _Walk(self._archive, session, None, None, reverse=True)
            while wanted and (entries := await walk.step()):
                for entry in entries:
                    data = self._data(entry, EVERYTHING)
                    name = "" if data is None else event_id(data)
                    if data is None or name not in wanted:
                        continue
                    size_bytes += len(data)
                    if size_bytes > ANSWER_BYTES_MAX and found:
                        raise Refusal(
                            "bad_request", "too large for one answer", status=413
                        )
                    found[name] = data
                    wanted.discard(name)
        return found

    async def count(self, session: str, wanted: EventFilter) -> int | None:
        """How many events there are, exactly; None if there is no stream.

        Raises:
            Refusal: The stream cannot be read, or is so long that the count goes on
                when it is asked for again.
        """
        count = self._remember(session, wanted)
        # Those who ask the same wait for each other without a place: each goes on from
        # there.
        async with self._waiting(), count.lock, self._places:
            info = await self._archive.info(session)
            if info is None:
                return None
            if not count.holds(info):
                count.begin(info)
            await self._go_on(session, wanted, count, info.last)
            return count.number

    async def _go_on(
        self, session: str, wanted: EventFilter, count: _Count, until: StreamId
    ) -> None:
        walk = _Walk(self._archive, session, count.last, id_after(until))
        while entries := await walk.step():
            taken = [self._data(entry, wanted) is not None for entry in entries]
            count.number += sum(taken)
            count.last = entries[-1][0]
        if walk.rest is not None:
            raise Refusal("unavailable", "still counting; ask again")
        count.last = until

    def _remember(self, session: str, wanted: EventFilter) -> _Count:
        key = session, wanted
        # Taken out and put back, so the first one is what nobody asked for longest.
        count = self._counts.pop(key) if key in self._counts else _Count()
        self._counts[key] = count
        if len(self._counts) > COUNTS_MAX:
            del self._counts[next(iter(self._counts))]
        return count

    def _data(self, entry: Entry, wanted: EventFilter) -> bytes | None:
        """The JSON of an event that is wanted."""
        event = read_entry(entry[1], self._max_event_bytes)
        if isinstance(event, Event) and wanted.takes(event):
            return event.data
        return None

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncIterator[None]:
        """Wait for a place to read from."""
        async with self._waiting(), self._places:
            yield

    @contextlib.asynccontextmanager
    async def _waiting(self) -> AsyncIterator[None]:
        """Be one of those who may wait, and tell what fails as a refusal."""
        if self._inside >= WAITING_MAX:
            raise Refusal("unavailable", "too many reads of the past at once")
        self._inside += 1
        try:
            await self._archive.wait_up()
            if not self._archive.up:
                raise Refusal("unavailable")
            yield
        except StoreError as error:
            raise refusal_of(error) from None
        finally:
            self._inside -= 1
