"""The newest state that services have published of an OpenHands conversation.

Clients want to be told the state of a conversation before anything else. Services
publish it as entries of its stream that are not replayed, so it is looked for from the
end of the stream backwards; what was found is remembered, and the next look begins
where the last one did.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from broker.entry import Event, read_entry
from broker.model import LAST_ID, START, U64_MAX, Position, StreamId
from broker.protocols.openhands.v1 import is_state, read_state
from broker.store.stream_info import StreamInfo
from broker.store.streams import Entry
from broker.worker.archive import FIRST_COUNT, Archive, next_count

ENTRIES_MAX = 10_000
BYTES_MAX = 16 * 1024 * 1024
"""Entries, and their bytes, that are looked at for one answer."""
SESSIONS_MAX = 5_000
KEPT_BYTES_MAX = 32 * 1024 * 1024
"""Sessions, and bytes of their states, that are remembered."""


class Snapshot(msgspec.Struct, frozen=True):
    """A ``full_state`` as it was published.

    Attributes:
        id: Of its entry.
        data: The event, JSON text.
    """

    id: StreamId
    data: bytes


class Status(msgspec.Struct, frozen=True):
    """An ``execution_status`` that was published.

    Attributes:
        id: Of its entry.
        value: Such as ``running``.
        transient: It is not replayed.
    """

    id: StreamId
    value: str
    transient: bool


class Look(msgspec.Struct, frozen=True):
    """What is known of one conversation.

    Attributes:
        tip: The last entry there was when it was looked at.
        snapshot: The newest one up to there, None if none was found.
        status: The newest one after that; None if there is none.
    """

    tip: Position = START
    snapshot: Snapshot | None = None
    status: Status | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return 0 if self.snapshot is None else len(self.snapshot.data)


UNKNOWN: Final = Look()


class Snapshots:
    """Finds the newest states, with few reads however many ask.

    Args:
        archive: Reads Redis.
        max_event_bytes: Larger entries are none.
    """

    def __init__(self, archive: Archive, max_event_bytes: int) -> None:
        self._archive = archive
        self._max_event_bytes = max_event_bytes
        self._looks: dict[str, Look] = {}
        self._kept_bytes = 0
        self._asking: dict[str, asyncio.Task[Look]] = {}

    def known(self, session: str) -> Look:
        """What was found when somebody last asked; `UNKNOWN` if nobody did."""
        return self._looks.get(session, UNKNOWN)

    async def newest(self, session: str) -> Look:
        """Look at the end of a session's stream; who asks meanwhile gets the same.

        Raises:
            StoreError: The stream cannot be read.
        """
        task = self._asking.get(session)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._look(session))
            self._asking[session] = task
            task.add_done_callback(lambda done: self._answered(session, done))
        # Who stops waiting leaves it to the others.
        return await asyncio.shield(task)

    def _answered(self, session: str, task: asyncio.Task[Look]) -> None:
        del self._asking[session]
        if not task.cancelled():
            task.exception()  # Looked at, in case that nobody waits any more.

    async def _look(self, session: str) -> Look:
        info = await self._archive.info(session)
        before = self.known(session)
        if info is None or not _continues(before, info):
            before = UNKNOWN
        if info is None:
            look = UNKNOWN
        elif info.last == before.tip.id:
            look = before
        else:
            look = await self._walk(session, before, info)
        self._remember(session, look)
        return look

    async def _walk(self, session: str, before: Look, info: StreamInfo) -> Look:
        """Go back from the end to where the last look began, or to a snapshot."""
        status: Status | None = None
        until = id_after(info.last)
        count, seen, size = FIRST_COUNT, 0, 0
        tip = Position(info.last, info.added or None)
        while seen < ENTRIES_MAX and size < BYTES_MAX:
            entries = await self._archive.history(
                session, before.tip.id, until, count, True
            )
            for entry in entries:
                found = self._read(entry)
                if isinstance(found, Snapshot):
                    return Look(tip, found, status)
                status = status or found
            if len(entries) < count:
                break
            seen += len(entries)
            size += sum(len(field) for _id, fields in entries for field in fields)
            until, count = entries[-1][0], next_count(entries)
        return Look(tip, before.snapshot, status or before.status)

    def _read(self, entry: Entry) -> Snapshot | Status | None:
        stream_id, fields = entry
        if not any(map(is_state, fields)):
            return None  # Most of them, at a hundredth of the price.
        event = read_entry(fields, self._max_event_bytes)
        state = read_state(event) if isinstance(event, Event) else None
        if state is None or not isinstance(event, Event):
            return None
        if state.status:
            return Status(stream_id, state.status, event.transient)
        return Snapshot(stream_id, event.data)

    def _remember(self, session: str, look: Look) -> None:
        # Taken out and put back, so the first one is who nobody asked for longest.
        former = self._looks.pop(session, UNKNOWN)
        self._looks[session] = look
        self._kept_bytes += look.size - former.size
        while self._kept_bytes > KEPT_BYTES_MAX or len(self._looks) > SESSIONS_MAX:
            oldest = next(iter(self._looks))
            self._kept_bytes -= self._looks.pop(oldest).size


def _continues(before: Look, info: StreamInfo) -> bool:
    """Whether a stream can be the one that was looked at before."""
    seen = before.tip.seq or 0
    if info.first > before.tip.id and seen > info.added - info.length:
        return False  # More was seen than has ever been removed of this one.
    return before.tip.id <= info.last and seen <= info.added


def id_after(stream_id: StreamId) -> StreamId | None:
    """The smallest id above *stream_id*, None if there is none."""
    ms, n = stream_id
    if n < U64_MAX:
        return ms, n + 1
    return None if stream_id == LAST_ID else (ms + 1, 0)
