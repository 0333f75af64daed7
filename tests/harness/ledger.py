"""What was really published: the truth that every account is compared with."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict

from broker.model import StreamId


class Incarnation:
    """One life of a stream: from its first entry to its deletion or rewind.

    Attributes:
        ids: The ids of all entries that were ever added, in stream order; the
            ordinal of ``ids[i]`` is ``i + 1``.
        numbers: The publisher's own number of an entry, by id.
    """

    def __init__(self) -> None:
        self.ids: list[StreamId] = []
        self.numbers: dict[StreamId, int | None] = {}

    def add(self, entry_id: StreamId, number: int | None) -> None:
        if entry_id in self.numbers:
            return
        self.numbers[entry_id] = number
        if self.ids and entry_id < self.ids[-1]:
            insort(self.ids, entry_id)
        else:
            self.ids.append(entry_id)

    def ordinal(self, position: StreamId) -> int:
        """How many entries were added up to and including *position*."""
        return bisect_right(self.ids, position)

    def between(self, after: StreamId, last: StreamId) -> list[StreamId]:
        """The ids above *after*, up to and including *last*."""
        start, end = bisect_right(self.ids, after), bisect_right(self.ids, last)
        return self.ids[start:end]

    def has(self, entry_id: StreamId) -> bool:
        return entry_id in self.numbers

    @property
    def last(self) -> StreamId:
        return self.ids[-1] if self.ids else (0, 0)


class Ledger:
    """What the publishers published, per session and life of its stream."""

    def __init__(self) -> None:
        self._lives: defaultdict[str, list[Incarnation]] = defaultdict(
            lambda: [Incarnation()]
        )

    def published(
        self, session: str, entry_id: StreamId, number: int | None = None
    ) -> None:
        """An XADD was acknowledged with *entry_id*."""
        self._lives[session][-1].add(entry_id, number)

    def deleted(self, session: str) -> None:
        """The stream was deleted: what is published from now on is another history."""
        self._lives[session].append(Incarnation())

    def rewound(self, session: str, last: StreamId) -> None:
        """The stream lost every entry above *last*, as after a failover."""
        old = self._lives[session][-1]
        new = Incarnation()
        for entry_id in old.ids[: bisect_right(old.ids, last)]:
            new.add(entry_id, old.numbers[entry_id])
        self._lives[session].append(new)

    def lives(self, session: str) -> list[Incarnation]:
        """All lives of the stream, oldest first."""
        return self._lives[session]

    def current(self, session: str) -> Incarnation:
        return self._lives[session][-1]

    def position(self, session: str, entry_id: StreamId) -> str:
        """The exact position of an entry that was published."""
        ids = self.current(session).ids
        place = bisect_left(ids, entry_id)
        assert ids[place] == entry_id, "not a published id"
        return f"{entry_id[0]}-{entry_id[1]}@{place + 1}"
