"""An account of one reader of one stream, and a stream in memory for it."""

from __future__ import annotations

from collections.abc import Sequence

from broker.model import FIRST_ID, Position, StreamId, id_before
from broker.store.loss import Anchor, Gap, Page, settle
from broker.store.stream_info import Info, StreamInfo


class ModelStream:
    """A Redis stream as far as ids, trimming and ``XINFO`` go."""

    def __init__(self) -> None:
        self.ids: list[StreamId] = []
        self.ever: list[StreamId] = []
        self.max_deleted = FIRST_ID

    def add(self, many: int) -> None:
        for number in range(many):
            ms, n = self.ever[-1] if self.ever else (1000, 0)
            # Pairs share their millisecond.
            new = (ms, n + 1) if number % 2 else (ms + 1, 0)
            self.ids.append(new)
            self.ever.append(new)

    def trim_to_length(self, length: int) -> None:
        del self.ids[: max(len(self.ids) - length, 0)]

    def trim_below(self, place: int) -> None:
        del self.ids[:place]

    def delete(self, place: int) -> None:
        if place < len(self.ids):
            self.max_deleted = max(self.max_deleted, self.ids.pop(place))

    def info(self) -> StreamInfo:
        return StreamInfo(
            added=len(self.ever),
            length=len(self.ids),
            last=self.ever[-1] if self.ever else FIRST_ID,
            first=self.ids[0] if self.ids else FIRST_ID,
            max_deleted=self.max_deleted,
        )

    def page(self, after: StreamId, count: int) -> list[StreamId]:
        return [entry_id for entry_id in self.ids if entry_id > after][:count]


class Account:
    """Follows a stream page by page and holds what it is told against the truth.

    Attributes:
        begun: How many entries had ever been added up to where it started.
        delivered: The ids of all entries it was given.
        gaps: All gaps it was told of.
    """

    def __init__(self, start: Position, ever: list[StreamId]) -> None:
        self.anchor = Anchor.at(start)
        self.begun = sum(entry_id <= start.id for entry_id in ever)
        self.ever = ever
        self.start = start
        self.delivered: list[StreamId] = []
        self.gaps: list[Gap] = []

    def take(
        self,
        ids: Sequence[StreamId],
        count: int,
        info: Info,
        present: bool | None = None,
    ) -> None:
        """Settle one page and check every number in it."""
        page = settle(self.anchor, ids, len(ids) >= count, info, cursor_present=present)
        assert isinstance(page, Page), "a reset although history goes on"
        before = self.delivered[-1] if self.delivered else self.start.id
        self._check_places(page, [before, *ids])
        self.delivered += ids
        self.gaps += [gap for _, gap in page.gaps]
        assert len(page.seqs) == len(ids)
        for entry_id, seq in zip(ids, page.seqs, strict=True):
            assert seq in (0, self.ordinal(entry_id))
        # A gap that is told before the tail counts entries of pages to come: what it
        # says is held against the truth by `check_settled`.
        early = bool(page.anchor.announced or self.anchor.announced)
        for _, gap in page.gaps:
            self._check_gap(gap, early)
        self.anchor = page.anchor
        assert self.anchor.cursor >= (ids[-1] if ids else before)

    def ordinal(self, stream_id: StreamId) -> int:
        """How many entries were ever added up to *stream_id*."""
        return sum(entry_id <= stream_id for entry_id in self.ever)

    @property
    def missing(self) -> list[StreamId]:
        """What was added after the start and before the cursor, and never given."""
        given = set(self.delivered)
        upto = self.anchor.cursor
        return [i for i in self.ever[self.begun :] if i <= upto and i not in given]

    @property
    def lost(self) -> int:
        """How many entries it was told are lost."""
        return sum(gap.lost or 0 for gap in self.gaps)

    def check_settled(self) -> None:
        """At the tail: published = delivered + announced as lost."""
        assert self.anchor.delivered == 0
        assert self.anchor.seq == len(self.ever)
        if any(gap.lost is None for gap in self.gaps):
            covered = [i for i in self.missing if self._is_covered(i)]
            assert covered == self.missing
            assert self.lost <= len(self.missing)
        else:
            published = len(self.ever) - self.begun
            assert published == len(self.delivered) + self.lost

    def _is_covered(self, stream_id: StreamId) -> bool:
        return any(gap.after.id < stream_id <= gap.next.id for gap in self.gaps)

    def _check_places(self, page: Page, ids: list[StreamId]) -> None:
        for index, gap in page.gaps:
            assert gap.at.id >= ids[index]
            assert index == len(ids) - 1 or gap.at.id < ids[index + 1]

    def _check_gap(self, gap: Gap, early: bool) -> None:
        for position in (gap.at, gap.after, gap.next):
            assert position.seq in (None, self.ordinal(position.id))
        assert gap.exact == (gap.lost is not None)
        if gap.lost is None:
            return
        assert gap.lost > 0
        if early:
            return
        given = set(self.delivered)
        span = [i for i in self.ever if gap.after.id < i <= gap.next.id]
        assert gap.lost == len([i for i in span if i not in given])
        if gap.at.seq is not None and gap.at.id == id_before(gap.next.id):
            inside = [i for i in self.ever if gap.after.id < i < gap.next.id]
            assert gap.lost == len(inside), "it does not lie where it says"
