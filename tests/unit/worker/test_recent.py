"""The index of what the ring holds of a channel."""

from __future__ import annotations

import pytest

from broker.model import FIRST_ID, Position
from broker.protocols.formats import NATIVE
from broker.ring.layout import Kind
from broker.ring.records import pack_gap
from broker.worker import recent as module
from broker.worker.recent import Page, Recent
from tests.unit.worker.parts import Ring, at, gap, id_of


def walked(ring: Ring, tip: int, until: int = 0) -> Recent:
    recent = Recent(ring.number, ring.last, at(tip))
    while recent.walk(ring.receiver, id_of(until)):
        pass
    return recent


def ordinals(recent: Recent) -> list[int]:
    return [recent.at(index)[0][0] - 1000 for index in range(len(recent))]


def test_the_walk_finds_the_whole_chain(ring: Ring) -> None:
    """All records up to BASE are found, oldest first, and BASE says from where."""
    ring.base(2)
    ring.events(3, 6)
    recent = walked(ring, 6)
    assert ordinals(recent) == [3, 4, 5, 6]
    assert recent.floor == id_of(2)
    assert recent.covers(id_of(2))
    assert not recent.covers(id_of(1))
    assert not recent.wants(FIRST_ID)


def test_the_walk_goes_no_further_than_asked(ring: Ring) -> None:
    """A position is covered by the first record at or below it."""
    ring.base()
    ring.events(1, 9)
    recent = walked(ring, 9, until=6)
    assert ordinals(recent) == [6, 7, 8, 9]
    assert recent.covers(id_of(6))
    assert recent.wants(id_of(5))


def test_records_of_other_channels_end_the_walk(ring: Ring) -> None:
    """A link is followed only as long as it stays in the channel."""
    ring.number = 3
    ring.event(1)
    ring.number = 7
    ring.events(2, 3)
    recent = walked(ring, 3)
    assert ordinals(recent) == [2, 3]
    assert not recent.covers(id_of(1))


def test_overwritten_records_end_the_walk(ring: Ring) -> None:
    """What was lapped is not covered, what came after it is."""
    ring.base()
    ring.events(1, 3)
    ring.flood()
    ring.events(4, 5)
    recent = walked(ring, 5)
    assert ordinals(recent) == [4, 5]
    assert recent.floor == id_of(4)
    assert not recent.covers(id_of(3))


def test_whatever_is_above_the_floor_is_in_the_index(ring: Ring) -> None:
    """While one walks in steps, others may rely on what is covered already."""
    ring.base()
    last = 3 * module.STEPS_PER_TURN
    ring.events(1, last)
    recent = Recent(ring.number, ring.last, at(last))
    every = range(1, last + 1)
    turns = 0
    more = True
    while more:
        more = recent.walk(ring.receiver, FIRST_ID)
        found = set(ordinals(recent))
        assert all(id_of(number) <= recent.floor or number in found for number in every)
        turns += 1
    assert turns >= 3


def test_drained_records_are_added_at_the_end(ring: Ring) -> None:
    """The index grows with the channel and needs no second walk."""
    ring.base()
    ring.event(1)
    recent = walked(ring, 1)
    place = ring.event(2)
    recent.add(id_of(2), place, Kind.EVENT)
    assert ordinals(recent) == [1, 2]
    assert recent.after(at(1)) == 1
    assert recent.has(id_of(2))
    assert not recent.has(id_of(3))


def test_cutting_moves_the_floor(ring: Ring) -> None:
    """Records that were overwritten are not covered any more."""
    ring.base()
    ring.events(1, 4)
    recent = walked(ring, 4)
    recent.cut(1)
    assert ordinals(recent) == [3, 4]
    assert recent.covers(id_of(2))
    assert not recent.covers(id_of(1))


def test_cutting_a_gap_leaves_its_id_to_redis(ring: Ring) -> None:
    """A gap may stand at the id of the entry before it, whose readers still want it."""
    ring.base()
    ring.event(1)
    ring.append(Kind.GAP, Position(id_of(1)), pack_gap(gap(1, 5)))
    ring.event(5)
    recent = walked(ring, 5)
    recent.cut(1)
    assert ordinals(recent) == [5]
    assert not recent.covers(id_of(1))
    assert recent.covers(id_of(5))


def test_the_index_is_bounded(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is further behind than that reads the store."""
    monkeypatch.setattr(module, "INDEX_MAX", 10)
    ring.base()
    ring.events(1, 30)
    recent = walked(ring, 30)
    assert ordinals(recent) == [*range(21, 31)]
    assert not recent.covers(id_of(20))


def test_the_walk_goes_on_behind_what_is_no_plain_entry(ring: Ring) -> None:
    """Gaps are in the index like entries, wherever they stand."""
    ring.base()
    ring.events(1, 3)
    ring.gap(3, 7)
    ring.gap(6, 9)
    ring.events(9, 11)
    ring.gap(11, 14)
    recent = walked(ring, 13)
    assert ordinals(recent) == [1, 2, 3, 6, 8, 9, 10, 11, 13]
    assert recent.has_gaps
    assert recent.floor == id_of(0)
    assert ordinals(walked(ring, 13, until=8)) == [8, 9, 10, 11, 13]
    assert ordinals(walked(ring, 13, until=2)) == [2, 3, 6, 8, 9, 10, 11, 13]


def test_a_walk_after_a_cut_brings_no_hole_back(ring: Ring) -> None:
    """Who is further behind than the cut is not told that nothing is missing."""
    ring.base()
    ring.events(1, 9)
    recent = walked(ring, 9, until=5)
    ring.flood()
    recent.cut(2)
    assert ordinals(recent) == [8, 9]
    assert not recent.walk(ring.receiver, id_of(6))
    assert recent.floor == id_of(7)
    assert not recent.covers(id_of(6))


def test_a_new_history_is_covered_from_its_beginning(ring: Ring) -> None:
    """After a reset everything that follows is in the index."""
    recent = Recent.of_new_history(ring.number)
    assert recent.covers(FIRST_ID)
    assert not recent.wants(FIRST_ID)


def test_the_newest_of_each_key_is_kept_up(ring: Ring) -> None:
    """Transient entries and those without a key conflate nothing."""
    ring.base()
    ring.event(1, key=b"a")
    ring.event(2, key=b"b")
    ring.event(3)
    ring.event(4, key=b"b", transient=True)
    recent = walked(ring, 4)
    assert recent.newest(ring.receiver) == {b"a": id_of(1), b"b": id_of(2)}
    recent.add(id_of(5), ring.event(5, key=b"a"), Kind.EVENT)
    assert recent.newest(ring.receiver) == {b"a": id_of(5), b"b": id_of(2)}


def test_the_cache_of_pages_is_bounded(ring: Ring) -> None:
    """Pages are dropped rather than kept without end."""
    recent = Recent(ring.number, 0, at(0))
    large = Page(bytes(module.CACHE_BYTES_MAX // 2 + 1), at(1), 1, {}, 0, None)
    recent.keep(NATIVE, at(1), large)
    recent.keep(NATIVE, at(2), large)
    assert list(recent.pages) == [(NATIVE, at(2))]
