"""Pages: bytes that bring a subscription forward."""

from __future__ import annotations

import pytest

from broker.entry import Skipped
from broker.model import Position
from broker.protocols.formats import NATIVE, SSE, Format, NativeFormat
from broker.ring.layout import Kind
from broker.ring.records import pack_gap, pack_skipped
from broker.store.loss import Anchor, Reset
from broker.store.stream_info import StreamInfo
from broker.store.streams import EntryPage
from broker.worker.pages import (
    PAGE_EVENTS,
    PageBuilder,
    build_from_store,
    page_from_ring,
)
from broker.worker.recent import Hole, Newest, Page, Recent
from tests.unit.worker.parts import Ring, at, frames_in, gap, id_of, new_channel

MAX_EVENT_BYTES = 1000


def builder(
    start: int,
    wire: Format = NATIVE,
    newest: Newest | None = None,
    hole: Hole | None = None,
) -> PageBuilder:
    return PageBuilder(new_channel(), wire, at(start), newest, hole)


def from_ring(ring: Ring, tip: int, made: PageBuilder) -> Page | None:
    recent = Recent(ring.number, ring.last, at(tip))
    while recent.walk(ring.receiver, made.position.id):
        pass
    return page_from_ring(ring.receiver, recent, made)


def said(page: Page, wire: Format = NATIVE) -> list[object]:
    return [frame.get("seq") or frame["data"] for frame in frames_in(wire, page.data)]


def names(page: Page, wire: Format = NATIVE) -> list[str]:
    return [frame["event"] for frame in frames_in(wire, page.data)]


@pytest.mark.parametrize("wire", [NATIVE, SSE])
def test_a_page_has_what_follows_the_position(ring: Ring, wire: Format) -> None:
    """Entries after the position, none before it, and where it ends."""
    ring.base()
    ring.events(1, 5)
    page = from_ring(ring, 5, builder(2, wire))
    assert page is not None
    assert said(page, wire) == [3, 4, 5]
    assert (page.end, page.events) == (at(5), 3)


def test_a_page_is_bounded(ring: Ring) -> None:
    """No more entries than one turn should write."""
    ring.base()
    ring.events(1, PAGE_EVENTS + 10)
    page = from_ring(ring, PAGE_EVENTS + 10, builder(0))
    assert page is not None
    assert page.events == PAGE_EVENTS
    assert page.end == at(PAGE_EVENTS)


def test_transient_entries_leave_a_hole_that_is_told(ring: Ring) -> None:
    """A replay has no transient entries; a gap accounts for them before the next."""
    ring.base()
    ring.event(1)
    ring.event(2, transient=True)
    ring.event(3, transient=True)
    ring.event(4)
    page = from_ring(ring, 4, builder(0))
    assert page is not None
    told = {
        "after": str(at(1)),
        "next": str(at(4)),
        "lost": 2,
        "exact": True,
        "reason": "transient",
    }
    assert said(page) == [1, told, 4]
    assert page.lost == {"transient": 2}


class Keeping:
    """An editor that holds the newest even event, and sends odd ones in pairs."""

    def __init__(self) -> None:
        self.held = b""
        self._odd = b""

    def add(self, frame: bytes) -> bytes:
        (event,) = frames_in(NATIVE, frame)
        if not event["seq"] % 2:
            self.held = frame
            return b""
        if not self._odd:
            self._odd = frame
            return b""
        pair, self._odd = self._odd + frame, b""
        return pair

    def finish(self) -> bytes:
        rest, self._odd = self._odd, b""
        return rest


class EditedFormat(NativeFormat):
    """The native frames, looked over before they are replayed."""

    def editor(self, lagging: bool) -> Keeping:  # type: ignore[override]
        return Keeping()


def test_an_editor_sees_each_frame_of_a_page(ring: Ring) -> None:
    """What it keeps back comes at the end of the page, what it holds beside it."""
    ring.base()
    ring.events(1, 5)
    page = from_ring(ring, 5, builder(0, EditedFormat()))
    assert page is not None
    assert said(page) == [1, 3, 5]
    assert [frame["seq"] for frame in frames_in(NATIVE, page.held)] == [4]
    assert page.end == at(5)


def test_what_an_editor_keeps_back_comes_before_a_notice(ring: Ring) -> None:
    """A gap is told where it is, not before what came earlier."""
    ring.base()
    ring.event(1)
    ring.event(2, transient=True)
    ring.event(3)
    page = from_ring(ring, 3, builder(0, EditedFormat()))
    assert page is not None
    assert names(page) == ["e", "gap", "e"]


def test_a_hole_at_the_end_is_told_with_the_next_page(ring: Ring) -> None:
    """It is carried over and grows until a frame follows."""
    ring.base()
    ring.event(1)
    ring.event(2, transient=True)
    page = from_ring(ring, 2, builder(0))
    assert page is not None
    assert page.hole == Hole(at(1), "transient", 1)
    ring.event(3, transient=True)
    ring.event(4)
    following = from_ring(ring, 4, builder(2, hole=page.hole))
    assert following is not None
    assert names(following) == ["gap", "e"]
    assert following.lost == {"transient": 2}


def test_older_entries_of_a_key_are_conflated(ring: Ring) -> None:
    """Only the newest of each key is sent; entries without a key all are."""
    ring.base()
    ring.event(1, key=b"k")
    ring.event(2)
    ring.event(3, key=b"k")
    page = from_ring(ring, 3, builder(0, newest={b"k": id_of(3)}))
    assert page is not None
    assert names(page) == ["gap", "e", "e"]
    assert page.lost == {"conflated": 1}


def test_skipped_entries_take_their_place(ring: Ring) -> None:
    """What breaks the contract is one frame with its position."""
    ring.base()
    skipped = Skipped("not_json", b"no")
    ring.append(Kind.SKIPPED, at(1), pack_skipped(skipped))
    page = from_ring(ring, 1, builder(0))
    assert page is not None
    assert names(page) == ["skipped"]
    assert page.end == at(1)


def test_gap_records_are_told(ring: Ring) -> None:
    """A hole that the reader has found is passed on as it is."""
    ring.base()
    ring.event(1)
    ring.gap(1, 5)
    ring.event(5)
    page = from_ring(ring, 5, builder(0))
    assert page is not None
    assert names(page) == ["e", "gap", "e"]
    assert page.lost == {"trimmed": 3}


def test_a_gap_that_begins_before_the_position_is_not_ours(ring: Ring) -> None:
    """Who has read part of it from Redis counts the rest by itself."""
    ring.base()
    ring.event(1)
    ring.gap(1, 5)
    ring.event(5)
    assert from_ring(ring, 5, builder(3)) is None


def test_no_page_ends_with_a_gap_that_has_no_ordinal(ring: Ring) -> None:
    """It stands at the id of the entry before it, so the next page would repeat it."""
    ring.base()
    ring.event(1)
    bare = Position(id_of(1))
    ring.append(Kind.GAP, bare, pack_gap(gap(1, 5)))
    first = from_ring(ring, 1, builder(0))
    assert first is not None
    assert (said(first), first.end) == ([1], at(1))
    ring.event(5)
    whole = from_ring(ring, 5, builder(0))
    assert whole is not None
    assert names(whole) == ["e", "gap", "e"]


def test_every_gap_without_an_ordinal_is_told(ring: Ring) -> None:
    """Also if one comes right behind the other."""
    ring.base()
    ring.event(1)
    bare = Position(id_of(1))
    ring.append(Kind.GAP, bare, pack_gap(gap(1, 3)))
    ring.append(Kind.GAP, bare, pack_gap(gap(2, 5)))
    ring.event(5)
    page = from_ring(ring, 5, builder(0))
    assert page is not None
    assert names(page) == ["e", "gap", "gap", "e"]
    assert page.lost == {"trimmed": 3}


def test_no_page_ends_between_an_entry_and_the_gap_at_its_id(ring: Ring) -> None:
    """Though it is full: the next page would begin behind the gap."""
    ring.base()
    ring.events(1, PAGE_EVENTS)
    bare = Position(id_of(PAGE_EVENTS))
    ring.append(Kind.GAP, bare, pack_gap(gap(PAGE_EVENTS, PAGE_EVENTS + 4)))
    ring.event(PAGE_EVENTS + 4)
    page = from_ring(ring, PAGE_EVENTS + 4, builder(0))
    assert page is not None
    assert names(page)[PAGE_EVENTS - 1 :] == ["e", "gap", "e"]


def test_a_reference_ends_the_page(ring: Ring) -> None:
    """An entry too large for the ring is fetched from the store."""
    ring.base()
    ring.event(1)
    ring.reference(2)
    ring.event(3)
    page = from_ring(ring, 3, builder(0))
    assert page is not None
    assert page.end == at(1)
    assert from_ring(ring, 3, builder(1)) is None


def test_an_overwritten_record_ends_the_page(ring: Ring) -> None:
    """What was lapped since it was found is read from the store."""
    ring.base()
    ring.events(1, 3)
    recent = Recent(ring.number, ring.last, at(3))
    recent.walk(ring.receiver, id_of(0))
    ring.flood()
    assert page_from_ring(ring.receiver, recent, builder(0)) is None
    assert not recent.covers(id_of(0))


def info(added: int, length: int) -> StreamInfo:
    first = id_of(added - length + 1)
    return StreamInfo(added, length, id_of(added), first, (0, 0))


def entries(*ordinals: int) -> list[tuple[tuple[int, int], list[bytes]]]:
    return [
        (id_of(n), [b"event", b"e", b"data", b"%d" % n] if n else []) for n in ordinals
    ]


def test_a_page_from_the_store_tells_what_was_trimmed() -> None:
    """The gap lies before the first entry, and every entry has its ordinal."""
    read = EntryPage(entries(4, 5), info(5, 2), False, None)
    built = build_from_store(builder(1), read, Anchor.at(at(1)), MAX_EVENT_BYTES)
    assert not isinstance(built, Reset)
    page, after, behind = built
    assert behind
    assert names(page) == ["gap", "e", "e"]
    assert page.lost == {"trimmed": 2}
    assert after == Anchor.at(at(5))


def test_a_foreign_position_is_found_by_the_store() -> None:
    """A stream that ends before the position is another one."""
    read = EntryPage([], info(5, 2), False, None)
    position = Position(id_of(9), 9)
    built = build_from_store(builder(9), read, Anchor.at(position), MAX_EVENT_BYTES)
    assert isinstance(built, Reset)


def test_bad_entries_from_the_store_are_skipped() -> None:
    """They take their place as they do in the ring."""
    read = EntryPage([(id_of(1), [b"data", b"1"])], info(1, 1), False, None)
    built = build_from_store(builder(0), read, Anchor.at(at(0)), MAX_EVENT_BYTES)
    assert not isinstance(built, Reset)
    assert names(built[0]) == ["skipped"]
