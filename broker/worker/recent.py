"""Which records of a channel the ring still holds. Pure: no loop, no socket."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from broker.model import FIRST_ID, LAST_ID, Position, StreamId
from broker.protocols.formats import Format
from broker.ring.layout import Kind
from broker.ring.receiver import Link, Receiver
from broker.ring.records import position_of, unpack_event

INDEX_MAX = 20_000
"""Records of one channel that are found by walking back."""
STEPS_PER_TURN = 256
CACHE_BYTES_MAX = 4 * 1024 * 1024
PAGE_BYTES = 512
"""What a page takes without its frames: some have none."""

Newest = dict[bytes, StreamId]
"""The newest id per key, where older entries of a key are conflated."""

_RESET = int(Kind.RESET)
_GAP = int(Kind.GAP)
_ENDS = (int(Kind.BASE), int(Kind.RESET))


class Hole(NamedTuple):
    """Entries left out on purpose that the client has not been told of yet.

    Attributes:
        after: The last position before them.
        reason: ``transient`` or ``conflated``.
        lost: How many there are.
    """

    after: Position
    reason: str
    lost: int


class Page:
    """Bytes for one format that bring a subscription from one position to another.

    Attributes:
        data: The frames.
        end: The position after them.
        events: How many entries they carry.
        lost: Entries they announce as lost, by reason.
        unknown: Gaps whose size nobody knows.
        hole: What was left out at its end, to be told before the next frame.
        held: The frame to be sent when the client has caught up; empty for none.
    """

    __slots__ = ("data", "end", "events", "held", "hole", "lost", "unknown")

    def __init__(
        self,
        data: bytes,
        end: Position,
        events: int,
        lost: dict[str, int],
        unknown: int,
        hole: Hole | None,
        held: bytes = b"",
    ) -> None:
        self.data = data
        self.end = end
        self.events = events
        self.lost = lost
        self.unknown = unknown
        self.hole = hole
        self.held = held


class Recent:
    """The index of one channel's chain, shared by all who are behind.

    The chain is walked back once, in bounded steps, collecting positions only; records
    that are drained later are added at the end. Reading a record checks it again.

    Attributes:
        floor: Everything after this id is in the index.
        begins_anew: The chain begins with a reset: what is older is another history.
        pages: Pages made of it, by format and position; never wrong, as a log is
            only added to.
    """

    __slots__ = (
        "_below",
        "_cache_bytes",
        "_gaps",
        "_ids",
        "_newest",
        "_newest_end",
        "_next",
        "_number",
        "_places",
        "begins_anew",
        "floor",
        "pages",
    )

    def __init__(self, number: int, last: int, tip: Position) -> None:
        self._number = number
        self._next = last
        self._below = LAST_ID
        self._ids: list[StreamId] = []
        self._places: list[int] = []
        self._cache_bytes = 0
        self._newest: Newest | None = None
        self._newest_end = 0
        self._gaps: set[int] = set()
        self.begins_anew = False
        self.floor: StreamId = tip.id
        self.pages: dict[tuple[Format, Position], Page] = {}

    @classmethod
    def of_new_history(cls, number: int) -> Recent:
        """The index of a chain that has just been reset."""
        recent = cls(number, 0, position_of(0, 0, 0))
        recent.floor = FIRST_ID
        recent.begins_anew = True
        return recent

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, stream_id: StreamId, place: int, kind: int) -> None:
        """Take up a record that was drained just now."""
        if kind == _GAP:
            self._gaps.add(place)
        self._ids.append(stream_id)
        self._places.append(place)
        if len(self._ids) > 2 * INDEX_MAX:
            self.cut(INDEX_MAX)

    def walk(
        self, receiver: Receiver, until: StreamId, enough: int = INDEX_MAX
    ) -> bool:
        """Walk back some steps; returns whether to call it again.

        Args:
            receiver: Reads the ring.
            until: Stop as soon as this id is covered.
            enough: Stop as soon as the index has so many records.

        Raises:
            RingCorrupted: The chain runs into something that is no record.
        """
        enough = min(enough, INDEX_MAX)
        if self.wants(until) and len(self) < enough:
            most = min(enough - len(self), STEPS_PER_TURN)
            self._take(*self._collect(receiver, until, most))
        return self.wants(until) and len(self) < enough

    def _collect(
        self, receiver: Receiver, until: StreamId, most: int
    ) -> tuple[list[StreamId], list[int]]:
        """Ids and places of further records, the newest first, at most *most*."""
        ids: list[StreamId] = []
        places: list[int] = []
        following, self._next = self._next, 0
        while following:
            found, at, following = receiver.entries_back(
                following, self._number, self._below, until, most - len(ids)
            )
            if found:
                ids += found
                places += at
                self._below = found[-1]
            if self._below <= until or len(ids) == most:
                break
            # Here is what is no plain entry; behind it there may be many again.
            link = next(receiver.chain(following), None)
            following = 0 if link is None else self._look_at(link, ids, places)
            if self._below <= until or len(ids) == most:
                break
        self._next = following
        return ids, places

    def _look_at(self, link: Link, ids: list[StreamId], places: list[int]) -> int:
        """Take up one record of any kind; returns where to go on, 0 for nowhere."""
        place, kind, number, ms, n, before = link
        stream_id = (ms, n)
        if number != self._number or stream_id > self._below:
            return 0
        self._below = stream_id
        if kind in _ENDS:
            self.begins_anew = kind == _RESET
            return 0
        if kind == _GAP:
            self._gaps.add(place)
        ids.append(stream_id)
        places.append(place)
        return before

    def _take(self, ids: list[StreamId], places: list[int]) -> None:
        """Put what was collected before what is there, and only then move the floor."""
        self.floor = min(self.floor, self._below)
        if ids:
            self._newest = None
            ids.reverse()
            places.reverse()
            self._ids[:0] = ids
            self._places[:0] = places

    def wants(self, stream_id: StreamId) -> bool:
        """Whether walking further back may cover *stream_id*."""
        return self._next != 0 and stream_id < self.floor

    def covers(self, stream_id: StreamId) -> bool:
        """Whether everything after *stream_id* up to the tip is in the index."""
        return stream_id >= self.floor

    def is_foreign(self, stream_id: StreamId) -> bool:
        """Whether *stream_id* is older than a reset that the index begins with."""
        return (
            self.begins_anew
            and stream_id != FIRST_ID
            and not (self._ids and self._ids[0] <= stream_id)
        )

    def vouches_for(self, position: Position, receiver: Receiver) -> bool:
        """Whether *position* is an entry of this chain, with its ordinal if it has one.

        Between two records nothing is missing, so what lies there is no entry of this
        history; it may be one of a history that was lost.
        """
        stream_id = position.id
        index = bisect_right(self._ids, stream_id) - 1
        if index < 0 or self._ids[index] != stream_id:
            return stream_id in (FIRST_ID, self.floor)
        record = receiver.read(self._places[index])
        seqs = (None, 0) if record is None else (None, 0, record.seq)
        return position.seq in seqs or (record is not None and not record.seq)

    @property
    def has_gaps(self) -> bool:
        """Whether some of its records stand for no entry."""
        return bool(self._gaps)

    def after(self, position: Position) -> int:
        """Index of the first record behind *position*.

        Without an ordinal, a gap at the same id is still to be told.
        """
        index = bisect_right(self._ids, position.id)
        if position.seq is None and index and self._ids[index - 1] == position.id:
            while index and self._places[index - 1] in self._gaps:
                index -= 1
        return index

    def is_twin(self, index: int) -> bool:
        """Whether the record at *index* is a gap at the id of the one before it."""
        ids = self._ids
        return (
            0 < index < len(ids)
            and ids[index] == ids[index - 1]
            and self._places[index] in self._gaps
        )

    def at(self, index: int) -> tuple[StreamId, int]:
        """Id and ring position of one record."""
        return self._ids[index], self._places[index]

    def has(self, stream_id: StreamId) -> bool:
        """Whether there is a record at exactly this id."""
        index = bisect_right(self._ids, stream_id)
        return index > 0 and self._ids[index - 1] == stream_id

    def places(self, first: int, count: int) -> list[int]:
        """Ring positions of some records, the oldest first."""
        return self._places[first : first + count]

    def cut(self, index: int) -> None:
        """Forget the records up to *index*: the ring has overwritten them."""
        self._newest = None
        ms, n = self._ids[index]
        # Who stands at the id of a gap may not have been told of it.
        is_gap = self._places[index] in self._gaps
        self.floor = max(self.floor, (ms, n + 1) if is_gap else (ms, n))
        self._next = 0  # What is older is gone as well: a walk would lower the floor.
        self._gaps.difference_update(self._places[: index + 1])
        del self._ids[: index + 1]
        del self._places[: index + 1]

    def newest(self, receiver: Receiver) -> Newest:
        """The newest id of each key in the index; kept up to date at little cost."""
        newest, begin = self._newest, self._newest_end
        if newest is None:
            newest, begin = {}, 0
        for index in range(begin, len(self._ids)):
            record = receiver.read(self._places[index])
            if record is not None and record.kind == Kind.EVENT:
                event = unpack_event(record.payload)
                if event.key and not event.transient:
                    newest[event.key] = self._ids[index]
        self._newest, self._newest_end = newest, len(self._ids)
        return newest

    def keep(self, wire: Format, start: Position, page: Page) -> None:
        """Remember a page for others at the same position."""
        size = len(page.data) + len(page.held) + PAGE_BYTES
        if self._cache_bytes + size > CACHE_BYTES_MAX:
            self.pages.clear()
            self._cache_bytes = 0
        self.pages[wire, start] = page
        self._cache_bytes += size
