"""Builds the bytes that bring a subscription forward. Pure: no loop, no socket."""

from __future__ import annotations

from broker.entry import Event, Skipped, read_entry
from broker.model import FIRST_ID, Position, StreamId
from broker.protocols.formats import NATIVE, Format
from broker.ring.layout import Kind
from broker.ring.receiver import Receiver, Record
from broker.ring.records import (
    GapRecord,
    position_of,
    unpack_event,
    unpack_gap,
    unpack_skipped,
)
from broker.store import loss
from broker.store.streams import EntryPage
from broker.worker.archive import SharedRead
from broker.worker.channels import Channel, State, Subscription
from broker.worker.hub import gap_data
from broker.worker.recent import Hole, Newest, Page, Recent

Built = tuple[Page, loss.Anchor, bool] | loss.Reset

PAGE_EVENTS = 128
PAGE_BYTES = 64 * 1024
PLACES_MAX = 1024
"""Records looked at for one page, sent or left out."""

# Not members of the enumeration: each of those costs two look-ups.
_EVENT, _REFERENCE, _GAP = int(Kind.EVENT), int(Kind.REFERENCE), int(Kind.GAP)


class PageBuilder:
    """Collects frames from one position on; holes in between are announced exactly.

    Transient entries are not replayed, conflated ones are not sent: both leave a hole
    in the ordinals, and a ``gap`` before the next frame accounts for it, even if that
    is in another page.
    """

    def __init__(
        self,
        channel: Channel,
        wire: Format,
        position: Position,
        newest: Newest | None,
        hole: Hole | None,
        lagging: bool = False,
    ) -> None:
        self._channel = channel
        self._wire = wire
        self._newest = newest
        self._editor = wire.editor(lagging)
        self._is_plain = newest is None and self._editor is None
        self._parts: list[bytes] = []
        self._hole = hole
        self._lost: dict[str, int] = {}
        self._unknown = 0
        self.position = position
        self.events = 0
        self.size = 0

    @property
    def full(self) -> bool:
        """Whether the page is large enough."""
        return self.events >= PAGE_EVENTS or self.size >= PAGE_BYTES

    def take(self, receiver: Receiver, places: list[int]) -> int:
        """Add the records that are simply sent, up to the first one that is not.

        Returns:
            How many; where the format has frames of its own, none.
        """
        if self._wire is not NATIVE or not self._is_plain or self._hole is not None:
            return 0
        frames, last = receiver.frames(places, PAGE_EVENTS, PAGE_BYTES)
        if frames:
            self._parts += frames
            self.size += sum(map(len, frames))
            self.events += len(frames)
            self.position = position_of(*last)
        return len(frames)

    def event(self, ms: int, n: int, seq: int, event: Event) -> None:
        """Add an entry, or the hole that stands for it."""
        reason = self._left_out((ms, n), event.key, event.transient)
        if reason:
            self._skip(reason, position_of(ms, n, seq))
            return
        frame = self._wire.event(self._channel.name, ms, n, seq, event)
        self._frame(frame, ms, n, seq)

    def recorded(self, ms: int, n: int, seq: int, payload: bytes) -> None:
        """The same for the payload of an EVENT record."""
        if self._is_plain and not payload[0]:
            self._frame(self._wire.recorded(ms, n, seq, payload), ms, n, seq)
            return
        event = unpack_event(payload)
        reason = self._left_out((ms, n), event.key, event.transient)
        if reason:
            self._skip(reason, position_of(ms, n, seq))
            return
        self._frame(self._wire.recorded(ms, n, seq, payload), ms, n, seq)

    def skipped(self, ms: int, n: int, seq: int, skipped: Skipped) -> None:
        """Add the place of an entry that breaks the contract."""
        name = self._channel.name
        frame = self._wire.skipped(name, ms, n, seq, skipped.reason, skipped.detail)
        self._frame(frame, ms, n, seq)

    def gap(self, at: Position, gap: GapRecord) -> None:
        """Announce entries that can no longer be read."""
        self._close_hole(gap.after)
        self._announce(gap)
        self.position = at

    def finish(self) -> Page:
        """The page so far."""
        self._flush()
        data = b"".join(self._parts)
        lost, unknown = self._lost, self._unknown
        held = b"" if self._editor is None else self._editor.held
        return Page(data, self.position, self.events, lost, unknown, self._hole, held)

    def _left_out(self, stream_id: StreamId, key: bytes, transient: bool) -> str:
        if transient:
            return "transient"
        if self._newest is not None and key:
            known = self._newest.get(key, FIRST_ID)
            if known > stream_id:
                return "conflated"
        return ""

    def _skip(self, reason: str, position: Position) -> None:
        hole = self._hole
        if hole is not None and hole.reason == reason:
            self._hole = hole._replace(lost=hole.lost + 1)
        else:
            self._close_hole(position)
            self._hole = Hole(self.position, reason, 1)
        self.position = position

    def _close_hole(self, following: Position) -> None:
        hole = self._hole
        if hole is not None:
            self._hole = None
            self._announce(gap_of(hole, following))

    def _announce(self, gap: GapRecord) -> None:
        session = self._channel.session
        self._flush()
        self._add(self._wire.notice("gap", gap_data(gap), session))
        if gap.lost is None:
            self._unknown += 1
        else:
            self._lost[gap.reason] = self._lost.get(gap.reason, 0) + gap.lost

    def _frame(self, frame: bytes, ms: int, n: int, seq: int) -> None:
        position = position_of(ms, n, seq)
        self._close_hole(position)
        self._add(frame if self._editor is None else self._editor.add(frame))
        self.events += 1
        self.position = position

    def _flush(self) -> None:
        if self._editor is not None:
            self._add(self._editor.finish())

    def _add(self, data: bytes) -> None:
        self._parts.append(data)
        self.size += len(data)


def next_page(
    receiver: Receiver, recent: Recent, sub: Subscription, conflates: bool
) -> Page | None:
    """The next page for a subscription from the ring, shared with others there.

    Returns:
        None if the ring has nothing for it: see `page_from_ring`.
    """
    position = sub.position
    if not recent.covers(position.id) or recent.after(position) == len(recent):
        return None
    wire = sub.socket.format
    shared = wire.shared and not conflates and sub.hole is None
    if shared:
        page = recent.pages.get((wire, position))
        if page is not None:
            return page
    newest = recent.newest(receiver) if conflates else None
    lagging = sub.state is State.LAGGING
    builder = PageBuilder(sub.channel, wire, position, newest, sub.hole, lagging)
    page = page_from_ring(receiver, recent, builder)
    if page is not None and shared:
        recent.keep(wire, position, page)
    return page


def gap_of(hole: Hole, following: Position) -> GapRecord:
    """The gap that tells of a hole which ends before *following*."""
    return GapRecord(
        after=hole.after,
        next=following,
        lost=hole.lost,
        exact=True,
        reason=hole.reason,
    )


def page_from_ring(
    receiver: Receiver,
    recent: Recent,
    builder: PageBuilder,
) -> Page | None:
    """A page of what the ring holds after the builder's position.

    Returns:
        None if what is next has to be read from the store: it is there by reference
        only, has been overwritten just now, or is a gap that begins earlier.
    """
    first = recent.after(builder.position)
    held: list[Record] = []
    places = recent.places(first, PLACES_MAX)
    added = builder.take(receiver, places)
    if builder.full and not recent.is_twin(first + added):
        return builder.finish()
    rest = receiver.read_all(places[added:])
    for index, record in enumerate(rest, first + added):
        if record is None:
            recent.cut(index)
            break
        if record.kind != _EVENT:
            if record.kind == _REFERENCE:
                break
            if not added and _overlaps(record, builder.position, recent):
                break
            if record.kind == _GAP and not record.seq:
                # No page may end here: the next one would begin with the same gap.
                held.append(record)
                continue
        for one in (*held, record):
            _add_record(builder, one)
        held.clear()
        added += 1
        if builder.full and not recent.is_twin(index + 1):
            break
    return builder.finish() if added else None


def _overlaps(record: Record, position: Position, recent: Recent) -> bool:
    """Whether *record* is a gap of which a part was read from Redis and sent."""
    return (
        record.kind == Kind.GAP
        and unpack_gap(record.payload).after.id < position.id
        and not recent.has(position.id)
    )


def _add_record(builder: PageBuilder, record: Record) -> None:
    ms, n, seq, payload = record.ms, record.n, record.seq, record.payload
    if record.kind == Kind.EVENT:
        builder.recorded(ms, n, seq, payload)
    elif record.kind == Kind.SKIPPED:
        builder.skipped(ms, n, seq, unpack_skipped(payload))
    else:
        builder.gap(position_of(ms, n, seq), unpack_gap(payload))


def build_once(
    shared: SharedRead,
    sub: Subscription,
    anchor: loss.Anchor,
    conflates: bool,
    max_event_bytes: int,
) -> Built:
    """As `build_from_store`, for everybody at the same place the same bytes.

    A large entry for a thousand sockets is one buffer.
    """
    wire = sub.socket.format
    question = (wire, anchor, sub.hole, conflates)
    built: Built | None = shared.built.get(question)
    if built is None:
        newest: Newest | None = {} if conflates else None
        lagging = sub.state is State.LAGGING
        builder = PageBuilder(
            sub.channel, wire, sub.position, newest, sub.hole, lagging
        )
        built = build_from_store(builder, shared.page, anchor, max_event_bytes)
        if wire.shared:
            shared.built[question] = built
    return built


def build_from_store(
    builder: PageBuilder,
    read: EntryPage,
    anchor: loss.Anchor,
    max_event_bytes: int,
) -> Built:
    """A page of entries that were read from Redis, with what is missing among them.

    Args:
        builder: Stands at the position before the first entry.
        read: Entries and the XINFO of the same moment.
        anchor: The same position, with what is known of its ordinal.
        max_event_bytes: Larger entries are skipped.

    Returns:
        The page, the anchor behind it and whether it begins with a gap; or `Reset`
        where the position is of another history.
    """
    ids = [entry[0] for entry in read.entries]
    settled = loss.settle(
        anchor, ids, read.full, read.info, cursor_present=read.cursor_present
    )
    if isinstance(settled, loss.Reset):
        return settled
    missing = dict(settled.gaps)
    for index, ((ms, n), fields) in enumerate(read.entries):
        if index in missing:
            _add_gap(builder, missing[index])
        entry = read_entry(fields, max_event_bytes)
        if isinstance(entry, Event):
            builder.event(ms, n, settled.seqs[index], entry)
        else:
            builder.skipped(ms, n, settled.seqs[index], entry)
    if len(ids) in missing:
        _add_gap(builder, missing[len(ids)])
    return builder.finish(), settled.anchor, 0 in missing


def _add_gap(builder: PageBuilder, gap: loss.Gap) -> None:
    record = GapRecord(
        after=gap.after,
        next=gap.next,
        lost=gap.lost,
        exact=gap.exact,
        reason=gap.reason,
    )
    builder.gap(gap.at, record)
