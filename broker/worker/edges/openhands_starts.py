"""Where the events of an OpenHands V1 socket begin, whatever its client remembers."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Protocol

from broker.entry import Event, read_entry
from broker.model import START, Position, id_before
from broker.protocols.openhands.v1 import Resend, event_time
from broker.store.streams import Entry
from broker.worker.archive import FIRST_COUNT, Archive, next_count
from broker.worker.channels import Start, StartAt
from broker.worker.seeking import RETAINED, Seeker
from broker.worker.snapshots import Look, Snapshots, id_after

DISORDER: Final = timedelta(seconds=2)
"""How far the times of events may be out of the order of their log."""
SCAN_MAX = 10_000
"""Entries that are looked at for such."""


class Greeted(Protocol):
    """Who is to be sent the state of the conversation."""

    def prepare(self, look: Look, start: Start) -> None:
        """The state, and where the events begin that follow it."""


class Place(Protocol):
    """Where the events of a client begin."""

    async def find(self, archive: Archive, session: str, look: Look) -> Start:
        """The start; *look* was taken just before.

        Raises:
            StoreError: The stream cannot be read.
        """
        ...


class Arrival:
    """What is looked up of a conversation before a client of it is let in.

    It is done only for who may read the session. Nobody begins live: events are
    replayed from the entry on that the look ended with, so nothing falls in between.
    """

    def __init__(self, snapshots: Snapshots, place: Place, greeted: Greeted) -> None:
        self._snapshots = snapshots
        self._place = place
        self._greeted = greeted

    async def find(self, archive: Archive, session: str) -> Start:
        """The start.

        Raises:
            StoreError: The stream cannot be read.
        """
        look = await self._snapshots.newest(session)
        start = await self._place.find(archive, session, look)
        self._greeted.prepare(look, start)
        return start


def live_from(tip: Position) -> Start:
    """Begin with what comes after *tip*."""
    return Start(at=StartAt.POSITION, position=tip)


class Resent:
    """As ``resend_mode`` says."""

    def __init__(self, resend: Resend, max_event_bytes: int) -> None:
        self._resend = resend
        self._max_event_bytes = max_event_bytes

    async def find(self, archive: Archive, session: str, look: Look) -> Start:
        """All that is retained, or from a time on, or what is published from now on."""
        if self._resend.everything:
            return RETAINED
        since = self._resend.since
        if since is None:
            return live_from(look.tip)
        seeker = Seeker(archive, session, event_time, self._max_event_bytes)
        start = await seeker.start(since)
        if start.at is not StartAt.POSITION:
            return start
        return await self._step_back(archive, session, start, since)

    async def _step_back(
        self, archive: Archive, session: str, start: Start, since: datetime
    ) -> Start:
        """Begin before events, too, that stand a little earlier than they should."""
        floor = since - min(DISORDER, since - datetime.min)  # noqa: DTZ901 - naive too
        until, count, seen, wanted = start.position.id, FIRST_COUNT, 0, False
        while seen < SCAN_MAX:
            entries = await archive.history(session, None, until, count, True)
            for entry in entries:
                if wanted:
                    start = live_from(Position(entry[0]))
                time = self._time(entry)
                if time is not None and time < floor:
                    return start
                wanted = time is not None and time >= since
            if len(entries) < count:
                return RETAINED if wanted else start
            seen += len(entries)
            until, count = entries[-1][0], next_count(entries)
        return start

    def _time(self, entry: Entry) -> datetime | None:
        event = read_entry(entry[1], self._max_event_bytes)
        return event_time(event) if isinstance(event, Event) else None


class AfterSeq:
    """After the entry that has a place in the log.

    Args:
        seq: Place of the last one that the client has, from 0 on; -1 for none; None if
            it wants to be told of new events only.
    """

    def __init__(self, seq: int | None) -> None:
        self._seq = seq

    async def find(self, archive: Archive, session: str, look: Look) -> Start:
        """The start: what the log does not have yet is not waited for."""
        if self._seq is None:
            return live_from(look.tip)
        if self._seq < 0:
            return RETAINED
        return await self._after(archive, session, self._seq + 1)

    async def _after(self, archive: Archive, session: str, ordinal: int) -> Start:
        info = await archive.info(session)
        if info is None:
            return live_from(START)
        if ordinal >= info.added:
            return live_from(Position(info.last, info.added or None))
        # Counted from an end that stays where it is while others add entries.
        until, left, count = id_after(info.last), info.added - ordinal + 1, FIRST_COUNT
        oldest = info.last
        while left:
            asked = min(count, left)
            entries = await archive.history(session, None, until, asked, True)
            if entries:
                oldest = entries[-1][0]
            if len(entries) < asked:
                # It is gone. With its place the next one shows how many are.
                gone = Position(id_before(oldest), ordinal)
                return Start(at=StartAt.SINCE, position=gone)
            left -= asked
            until, count = oldest, next_count(entries)
        # With entries removed in between it is an earlier one: nobody knows which.
        exact = info.max_deleted < oldest
        return live_from(Position(oldest, ordinal if exact else None))
