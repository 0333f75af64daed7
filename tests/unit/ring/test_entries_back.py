"""Walking a chain back in one go, up to what is no plain entry."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model import FIRST_ID, LAST_ID, StreamId
from broker.ring import layout
from broker.ring.layout import ENTRIES, Kind
from broker.ring.receiver import Receiver
from broker.ring.segment import Segment
from broker.ring.transmitter import Transmitter
from tests.unit.ring.peer import LappedWhileReading, advance, damage, lap

CHANNEL, OTHER, MANY = 7, 8, 1000
LINK = 40
Found = tuple[list[StreamId], list[int], int]


class Chain:
    """A channel's records, each linked to the one before."""

    def __init__(self, segment: Segment, *, checksums: bool = False) -> None:
        self._transmitter = Transmitter(segment, checksums=checksums)
        self._receiver = Receiver(segment, checksums=checksums)
        self.ids: list[StreamId] = []
        self.places: list[int] = []

    def put(
        self, ms: int, kind: int = Kind.EVENT, size: int = 8, channel: int = CHANNEL
    ) -> int:
        """Publish a record; its ring position."""
        before = self.places[-1] if self.places else 0
        place = self._transmitter.append(
            kind, channel, ms, 1, ms + 1, before, bytes(size)
        )
        self._transmitter.commit()
        self.ids.append((ms, 1))
        self.places.append(place)
        return place

    def back(
        self,
        oldest: StreamId = FIRST_ID,
        most: int = MANY,
        newest: StreamId = LAST_ID,
    ) -> Found:
        """Walk back from the last record."""
        last = self.places[-1]
        return self._receiver.entries_back(last, CHANNEL, newest, oldest, most)

    def from_to(self, first: int, behind: int = 0) -> tuple[list[StreamId], list[int]]:
        """Ids and places of the records from *first* on, the newest first."""
        until = len(self.ids) - behind
        return self.ids[first:until][::-1], self.places[first:until][::-1]

    def advance(self, end: int) -> None:
        """Let the next record begin *end* bytes before the end."""
        advance(self._transmitter, end)

    def lap(self) -> None:
        """Write more than a whole ring."""
        lap(self._transmitter)


@pytest.fixture
def chain(segment: Segment) -> Chain:
    """Of five events."""
    made = Chain(segment)
    for ms in range(5):
        made.put(ms)
    return made


RECORDS = st.lists(
    st.tuples(st.sampled_from(sorted(ENTRIES)), st.integers(0, 40_000)), min_size=1
)


@settings(max_examples=100, deadline=None)
@given(RECORDS, st.integers(0, 60))
def test_it_finds_what_a_careful_walk_finds(
    records: list[tuple[int, int]], oldest: int
) -> None:
    """Wherever in the ring, and however much of the chain is gone."""
    segment = Segment.create(layout.MIN_SIZE)
    chain, receiver = Chain(segment), Receiver(segment)
    for ms, (kind, size) in enumerate(records):
        chain.put(ms, kind, size)
    careful: list[tuple[StreamId, int]] = []
    for place, _kind, _channel, ms, n, _prev in receiver.chain(chain.places[-1]):
        careful.append(((ms, n), place))
        if ms <= oldest:
            break
    found: list[tuple[StreamId, int]] = []
    position = chain.places[-1]
    while position and not (found and found[-1][0] <= (oldest, 1)):
        ids, places, following = receiver.entries_back(
            position, CHANNEL, LAST_ID, (oldest, 1), MANY
        )
        found += zip(ids, places, strict=True)
        if following == position:  # A head that wraps around the end, or it is gone.
            link = next(receiver.chain(position), None)
            if link is None:
                break
            found.append(((link[3], link[4]), link[0]))
            following = link[5]
        position = following

    assert found == careful
    segment.close()
    os.close(segment.fd)


def test_it_ends_with_the_chain(chain: Chain) -> None:
    """The first record has none before it."""
    assert chain.back() == (*chain.from_to(0), 0)


@pytest.mark.parametrize(("oldest", "first"), [((2, 1), 2), ((2, 0), 1), ((2, 2), 2)])
def test_it_ends_behind_the_oldest(chain: Chain, oldest: StreamId, first: int) -> None:
    """With the first record that is not newer, and goes on before that one."""
    assert chain.back(oldest) == (*chain.from_to(first), chain.places[first - 1])


def test_it_ends_where_enough_was_found(chain: Chain) -> None:
    """By number."""
    assert chain.back(most=2) == (*chain.from_to(3), chain.places[2])
    assert chain.back(most=0) == ([], [], chain.places[4])


@pytest.mark.parametrize("kind", [Kind.GAP, Kind.RESET, Kind.BASE, Kind.JOIN, 0, 10])
def test_it_ends_before_another_kind(segment: Segment, kind: int) -> None:
    """What stands for no entry has to be looked at."""
    chain = Chain(segment)
    other = chain.put(0, kind)
    chain.put(1)

    assert chain.back() == (*chain.from_to(1), other)


def test_it_ends_before_another_channel(segment: Segment) -> None:
    """A link that leads astray is not followed."""
    chain = Chain(segment)
    other = chain.put(0, channel=OTHER)
    chain.put(1)

    assert chain.back() == (*chain.from_to(1), other)


def test_it_ends_before_an_id_out_of_order(segment: Segment) -> None:
    """Nothing older can have a later id; a gap and its entry have the same."""
    chain = Chain(segment)
    later = chain.put(9)
    chain.put(1)
    chain.put(1)

    assert chain.back() == (*chain.from_to(1), later)
    assert chain.back(newest=(0, 9)) == ([], [], chain.places[2])


def test_a_link_that_goes_forward_is_not_followed(
    segment: Segment, chain: Chain
) -> None:
    """It would never come to an end."""
    for before in (chain.places[2], chain.places[4]):
        damage(segment, chain.places[2], LINK, struct.pack("=Q", before))
        assert chain.back() == (*chain.from_to(3), chain.places[2])


def test_what_may_be_overwritten_is_not_believed(
    segment: Segment, chain: Chain
) -> None:
    """The claim says how far back; there is nothing before that."""
    edge = chain.places[2]
    segment.words[layout.CLAIM] = edge + segment.size
    assert chain.back() == (*chain.from_to(2), 0)
    segment.words[layout.CLAIM] = edge + segment.size + 8
    assert chain.back() == (*chain.from_to(3), 0)
    assert chain.back(most=4) == (*chain.from_to(3), 0)


def test_what_is_overwritten_meanwhile_is_not_believed(
    segment: Segment, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is looked at when everything has been read."""
    monkeypatch.setattr(layout, "LINK", LappedWhileReading(layout.LINK, segment))

    assert chain.back() == ([], [], 0)


@pytest.mark.parametrize("end", [8, 48, 56])
def test_it_ends_before_a_head_that_wraps_around_the_end(
    segment: Segment, end: int
) -> None:
    """Not before one of which only the payload does."""
    chain = Chain(segment)
    chain.advance(end)
    wraps = chain.put(1)
    chain.put(2)
    is_whole = end == layout.RECORD_BYTES

    assert chain.back() == (
        *chain.from_to(0 if is_whole else 1),
        not is_whole and wraps,
    )


def test_what_is_gone_is_not_there(chain: Chain) -> None:
    """All of it: nothing is found, and nothing invented."""
    last = chain.places[-1]
    chain.lap()

    assert chain.back() in (([], [], 0), ([], [], last))


def test_with_checksums_it_finds_none(segment: Segment) -> None:
    """Where the order of stores is not trusted each record is checked as a whole."""
    chain = Chain(segment, checksums=True)
    place = chain.put(1)

    assert chain.back() == ([], [], place)
