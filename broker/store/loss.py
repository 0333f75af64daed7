"""What was lost between two reads of a stream, counted exactly. Pure.

Redis skips trimmed and deleted entries silently. But every ``XINFO STREAM`` says how
many entries were ever added, so a reader that knows the ordinal of its cursor can
count what it did not get. In the comments E is ``entries-added``, L ``length``, T
``last-generated-id``, F ``recorded-first-entry-id``, D ``max-deleted-entry-id``, all
of one ``XINFO`` in the same ``MULTI`` as the page; C is the cursor, q its ordinal and
k the number of entries in the page.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from broker.model import FIRST_ID, Position, StreamId, id_before
from broker.store.stream_info import NOT_READ, Info, StreamInfo


class Anchor(msgspec.Struct, frozen=True, gc=False):
    """How far a stream was read and what is known of its ordinals.

    Attributes:
        cursor: Everything up to this id was read.
        seq: The ordinal of ``since``, or None if it is not known.
        since: The last id at which nothing was left to settle; the same as
            ``cursor`` unless the counting is deferred.
        delivered: How many entries were handed on after ``since``.
        announced: How many after ``since`` have been announced as lost.
        least: Where ``seq`` is not known: a number that the ordinal of ``since`` is
            not below, by what was seen and what was removed up to there.
    """

    cursor: StreamId
    seq: int | None
    since: StreamId
    delivered: int
    announced: int = 0
    least: int = 0

    @property
    def counted(self) -> int | None:
        """The ordinal of ``cursor`` or, if that is not known, what it is at least."""
        if self.seq is None:
            return self.least + self.delivered or None
        return self.seq + self.delivered

    @classmethod
    def at(cls, position: Position) -> Anchor:
        """Everything up to *position* was read and nothing is left to settle."""
        return cls(position.id, position.seq, position.id, 0)


class Gap(msgspec.Struct, frozen=True, gc=False):
    """Entries that can no longer be read.

    Attributes:
        at: Where the gap itself stands among the entries.
        after: The last position before the loss.
        next: The first position behind it.
        lost: How many entries, or None if nobody can know.
        exact: Whether ``lost`` is that number.
        reason: Why they are gone.
    """

    at: Position
    after: Position
    next: Position
    lost: int | None
    exact: bool
    reason: str = "trimmed"


class Reset(msgspec.Struct, frozen=True, gc=False):
    """The stream is not the one that the cursor belongs to: read it from 0-0."""


class Page(msgspec.Struct, frozen=True, gc=False):
    """What is known about the entries of one read.

    Attributes:
        gaps: Each with the index of the entry that it goes before; the number of
            entries means after the last one.
        seqs: The ordinal of each entry, 0 where it is not known exactly.
        anchor: Where the next page begins.
    """

    gaps: list[tuple[int, Gap]]
    seqs: list[int]
    anchor: Anchor


def belongs(
    position: Position, info: StreamInfo | None, *, present: bool | None
) -> bool:
    """Whether *position* can be one of the stream that *info* describes.

    Args:
        position: The id and, where known, the ordinal of an entry that was read, or
            a number that this ordinal is not below.
        info: None if there is no such key.
        present: Whether there is an entry at that id; None if nobody looked.
    """
    if position.id == FIRST_ID:
        return True
    if info is None or info.last < position.id:
        return False
    if position.seq is not None and info.added < position.seq:
        return False
    removed = info.added - info.length
    ordinal = position.seq or int(present is False)
    if info.length and info.first > position.id and removed < ordinal:
        return False  # More is missing up to there than was ever removed.
    # Neither trimmed nor deleted, so an entry that ever was there still is.
    kept = info.length and info.first <= position.id and info.max_deleted < position.id
    return not (kept and present is False)


def is_next(anchor: Anchor, count: int, added: int) -> bool:
    """Whether a page that reached the tail has exactly what came after *anchor*.

    The common case: live, nothing lost, and the ordinals are the next ones. `settle`
    would find the same. Of a page that may have been cut off nobody can say so by
    these numbers: a stream made anew may have as many entries again.

    Args:
        anchor: Where the page began.
        count: Its entries; fewer than were asked for.
        added: How many entries the stream ever had.
    """
    seq = anchor.seq
    return (
        bool(count)
        and seq is not None
        and added - seq == count
        and (not anchor.delivered)
    )


def settle(
    anchor: Anchor,
    entry_ids: Sequence[StreamId],
    full: bool,
    info: Info,
    *,
    cursor_present: bool | None = None,
) -> Reset | Page:
    """Count what is missing between *anchor* and the end of a page.

    Args:
        anchor: Where the page began.
        entry_ids: The ids of its entries, which all come after ``anchor.cursor``.
        full: Whether the page may have been cut off by its bound.
        info: Read in the same transaction; `NOT_READ` defers the counting.
        cursor_present: Whether there is an entry at the cursor; None if nobody
            looked, which is right for a cursor that this process has read itself.
    """
    seq = anchor.seq
    if info is NOT_READ:
        return _defer(anchor, entry_ids)
    if anchor.cursor == FIRST_ID:
        seq = 0
    cursor = Position(anchor.cursor, anchor.counted)
    if not belongs(cursor, info, present=cursor_present):
        return Reset()
    if info is None:
        return Page([], [], Anchor.at(Position(FIRST_ID, 0)))
    if (cursor.seq or 0) + len(entry_ids) > info.added:
        return Reset()
    at_tail = not full or entry_ids[-1] == info.last
    if seq is None:
        return _settle_unknown(anchor, entry_ids, at_tail, info)
    known = Anchor(anchor.cursor, seq, anchor.since, anchor.delivered, anchor.announced)
    if at_tail:
        return _settle_at_tail(known, seq, entry_ids, info, bool(cursor_present))
    return _settle_midway(known, seq, entry_ids, info)


def _settle_at_tail(
    anchor: Anchor, seq: int, ids: Sequence[StreamId], info: StreamInfo, checked: bool
) -> Reset | Page:
    # Every entry ever added is either counted, or here, or lost.
    lost = info.added - seq - anchor.delivered - anchor.announced - len(ids)
    if lost < 0:
        return Reset()
    cursor = anchor.cursor
    deleted = anchor.delivered > 0 or info.max_deleted > cursor
    if lost and not deleted and not _trimmed_past(cursor, info):
        # Everything after the cursor is still here, so its ordinal was wrong: it came
        # from a client, or from another history whose ids this one has used again.
        if not checked:
            return Reset()
        lost = 0
    if lost == 0:
        if not ids:
            counted = anchor.delivered or anchor.announced or cursor == FIRST_ID
            if info.last > cursor and not counted:
                return Reset()  # As many entries as before, and others.
            return Page([], [], Anchor.at(Position(cursor, info.added)))
        page = _exact_page(ids, info.added, [])
        if anchor.announced:  # The holes may lie among these entries.
            page.seqs[:-1] = [0] * (len(ids) - 1)
        return page
    if deleted or not ids:
        return _late_gap(anchor, ids, info, lost)
    gap = _gap_in_front(Position(cursor, seq), ids[0], seq + lost + 1, lost)
    return _exact_page(ids, info.added, [(0, gap)])


def _settle_midway(
    anchor: Anchor, seq: int, ids: Sequence[StreamId], info: StreamInfo
) -> Reset | Page:
    cursor = anchor.cursor
    if anchor.delivered or info.max_deleted > cursor:
        # What is lost may lie inside this page or behind it: count at the tail.
        if not anchor.delivered and info.first > cursor:
            return _announce_early(anchor, seq, ids, info)
        return _defer(anchor, ids)
    lost = info.added - info.length - seq if info.first > cursor else 0
    last_seq = seq + lost + len(ids)
    if lost < 0 or last_seq > info.added:
        return Reset()
    if not lost:
        return _exact_page(ids, last_seq, [])
    gap = _gap_in_front(Position(cursor, seq), ids[0], seq + lost + 1, lost)
    return _exact_page(ids, last_seq, [(0, gap)])


def _announce_early(
    anchor: Anchor, seq: int, ids: Sequence[StreamId], info: StreamInfo
) -> Reset | Page:
    """Tell at once what is missing up to the tail, so that no cut can hide it.

    Nothing at or below the cursor is left, so what is left is all behind it. Not if the
    newest entry is gone: the page that ends the replay would have no end to stand at.
    """
    lost = info.added - info.length - seq
    if lost < 0:
        return Reset()
    page = _defer(anchor, ids)
    place = _room_in(anchor.cursor, ids)
    if not lost or place == len(ids) or info.max_deleted == info.last:
        return page
    at = Position(id_before(ids[place]))
    tail = Position(info.last, info.added)
    gap = Gap(at, Position(anchor.since, seq), tail, lost, exact=True)
    later = page.anchor
    told = Anchor(later.cursor, seq, later.since, later.delivered, lost)
    return Page([(place, gap)], page.seqs, told)


def _settle_unknown(
    anchor: Anchor, ids: Sequence[StreamId], at_tail: bool, info: StreamInfo
) -> Page:
    since = anchor.since
    if at_tail and info.max_deleted <= since and not _trimmed_past(since, info):
        return _exact_tail(anchor, ids, info)
    if ids and info.first > anchor.cursor:
        before_first = id_before(ids[0])
        if info.max_deleted <= before_first:
            return _first_retained(anchor, ids, info)
        if not at_tail:
            gap = _gap_in_front(Position(since), ids[0], None, None)
            least = anchor.counted or 0
            after = Anchor(ids[-1], None, before_first, len(ids), least=least)
            return Page([(0, gap)], [0] * len(ids), after)
    if at_tail:
        return _late_gap(anchor, ids, info, None)
    if anchor.delivered or info.max_deleted > anchor.cursor:
        return _defer(anchor, ids)
    # What was removed lies below these entries, as what was seen does.
    last, least = ids[-1], max(anchor.least, info.added - info.length) + len(ids)
    return Page([], [0] * len(ids), Anchor(last, None, last, 0, least=least))


def _exact_tail(anchor: Anchor, ids: Sequence[StreamId], info: StreamInfo) -> Page:
    # Nothing behind ``since`` was removed: the ordinals can be counted from the tail.
    if ids:
        return _exact_page(ids, info.added, [])
    return Page([], [], Anchor.at(Position(anchor.cursor, info.added)))


def _first_retained(anchor: Anchor, ids: Sequence[StreamId], info: StreamInfo) -> Page:
    # The page begins with the first entry there is, and nothing was deleted behind it:
    # its ordinal is E - L + 1. What came before it can be counted only if it is none.
    first_seq = info.added - info.length + 1
    gaps = []
    if first_seq > 1:
        gap = _gap_in_front(Position(anchor.since), ids[0], first_seq, None)
        gaps.append((0, gap))
    return _exact_page(ids, first_seq + len(ids) - 1, gaps)


def _trimmed_past(stream_id: StreamId, info: StreamInfo) -> bool:
    """Whether entries right behind *stream_id* may have been trimmed."""
    return (info.first if info.length else info.last) > stream_id


def _exact_page(
    ids: Sequence[StreamId], last_seq: int, gaps: list[tuple[int, Gap]]
) -> Page:
    last = ids[-1]
    seqs = list(range(last_seq - len(ids) + 1, last_seq + 1))
    return Page(gaps, seqs, Anchor(last, last_seq, last, 0))


def _defer(anchor: Anchor, ids: Sequence[StreamId]) -> Page:
    if not ids:
        return Page([], [], anchor)
    count = len(ids)
    after = msgspec.structs.replace(
        anchor, cursor=ids[-1], delivered=anchor.delivered + count
    )
    return Page([], [0] * count, after)


def _gap_in_front(
    after: Position, first: StreamId, seq: int | None, lost: int | None
) -> Gap:
    """A gap that lies right before the entry *first*, which has the ordinal *seq*."""
    at = Position(id_before(first), None if seq is None else seq - 1)
    return Gap(at, after, Position(first, seq), lost, lost is not None)


def _late_gap(
    anchor: Anchor, ids: Sequence[StreamId], info: StreamInfo, lost: int | None
) -> Page:
    """A gap somewhere behind ``anchor.since``, found at the tail."""
    tail = Position(info.last, info.added)
    after = Position(anchor.since, anchor.seq)
    exact = lost is not None
    seqs = [0] * len(ids)
    place = _room_in(anchor.cursor, ids)
    if ids and ids[-1] == tail.id and place < len(ids):
        seqs[-1] = info.added
        at = Position(id_before(ids[place]))
    else:
        place, at = len(ids), tail
    gap = Gap(at, after, tail, lost, exact)
    return Page([(place, gap)], seqs, Anchor.at(tail))


def _room_in(cursor: StreamId, ids: Sequence[StreamId]) -> int:
    """Index of the first entry with room for another id before it.

    Between neighbours without room nothing can be missing, and a gap there would stand
    at the id of an entry: whoever has read that far could not tell them apart.
    """
    before = cursor
    for index, stream_id in enumerate(ids):
        if id_before(stream_id) > before:
            return index
        before = stream_id
    return len(ids)
