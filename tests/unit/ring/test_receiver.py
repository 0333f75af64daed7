"""Readers: laps, generations, damage, and the ring held against a list."""

from __future__ import annotations

import contextlib
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import RingCorrupted
from broker.ring import layout
from broker.ring.layout import Kind
from broker.ring.receiver import Lapped, NewGeneration, Receiver, Record
from broker.ring.segment import Segment
from broker.ring.transmitter import Transmitter
from tests.unit.ring.peer import EVERY_CHANNEL, append, damage, drain, lap, send

WORD = struct.Struct("=Q")
LINK_OFFSET = 40

# Short, or so long that a few of them fill the ring.
LENGTHS = st.integers(0, 200) | st.integers(100_000, layout.MIN_SIZE // 8 - 56)
STEPS = st.lists(
    st.tuples(st.just("append"), LENGTHS)
    | st.tuples(st.just("commit"), st.just(0))
    | st.tuples(st.just("fill"), st.integers(1, 10))
    | st.tuples(st.just("read"), st.integers(0, layout.MIN_SIZE)),
    min_size=20,
    max_size=80,
)


class Model:
    """What a reader of the ring must see, kept in a list."""

    def __init__(self, transmitter: Transmitter, receiver: Receiver) -> None:
        self._transmitter = transmitter
        self._receiver = receiver
        self._written: list[tuple[int, int, bytes]] = []
        self._next = 0

    def append(self, length: int) -> None:
        payload = os.urandom(length) + bytes(-length % 8)
        number = len(self._written)
        at = self._transmitter.append(2, 1, number, 0, 0, 0, payload[:length])
        self._written.append((at, number, payload))

    def fill(self, count: int) -> None:
        for _ in range(count):
            self.append(120_000)

    def commit(self, _: int) -> None:
        self._transmitter.commit()

    def read(self, limit: int) -> None:
        """One copy: all whole records of it are next in the list, or it is lapped."""
        edge = self._transmitter.published - layout.MIN_SIZE
        start = self._receiver.cursor
        if start < edge:
            with pytest.raises(Lapped):
                self._receiver.receive(limit)
            self._next = sum(
                at < self._transmitter.published for at, _, _ in self._written
            )
            assert self._receiver.cursor == self._transmitter.published
            return
        copied = self._receiver.receive(limit)
        walk = self._receiver.records(copied, EVERY_CHANNEL)
        found = [(record.position, record.ms, record.payload) for record in walk]
        assert bool(found) == (start < self._transmitter.published)
        assert found == self._written[self._next : self._next + len(found)]
        self._next += len(found)

    def check_links(self) -> None:
        """Each record is read by its position, or it is gone because of its age."""
        edge = self._transmitter.published - layout.MIN_SIZE
        for at, number, payload in self._written:
            record = self._receiver.read(at)
            link = next(self._receiver.chain(at), None)
            if at < edge:
                assert (record, link) == (None, None)
            else:
                assert link == (at, 2, 1, number, 0, 0)
                assert record is not None
                assert (record.ms, record.payload) == (number, payload)


@pytest.mark.parametrize("checksums", [False, True])
@settings(max_examples=40, deadline=None)
@given(steps=STEPS, room=st.integers(0, 1000))
def test_ring_hands_on_what_a_list_would(
    checksums: bool, steps: list[tuple[str, int]], room: int
) -> None:
    """Every record once, whole and in order, round the end too; or a lap."""
    segment = Segment.create(layout.MIN_SIZE)
    segment.words[layout.CLAIM] = layout.MIN_SIZE - room
    transmitter = Transmitter(segment, checksums=checksums)
    model = Model(transmitter, Receiver(segment, checksums=checksums))
    for verb, number in steps:
        getattr(model, verb)(number)
    model.commit(0)
    model.read(0)
    model.check_links()
    segment.close()
    os.close(segment.fd)


def test_receiver_starts_at_the_head(segment: Segment) -> None:
    """What was written before it came is not for it."""
    transmitter = Transmitter(segment)
    send(transmitter, b"old")
    receiver = Receiver(segment)
    send(transmitter, b"new")

    assert receiver.unread() == layout.RECORD_BYTES + 8
    assert [record.payload[:3] for record in drain(receiver)] == [b"new"]
    assert receiver.unread() == 0


def test_cursor_moves_record_by_record(segment: Segment) -> None:
    """A worker that stops in the middle of a copy goes on behind the last record."""
    transmitter = Transmitter(segment)
    receiver = Receiver(segment)
    positions = send(transmitter, b"a", b"b", b"c")
    walk = receiver.records(receiver.receive(4096), EVERY_CHANNEL)
    next(walk)
    cursor = receiver.cursor

    assert cursor == positions[1]
    assert [record.position for record in drain(receiver)] == positions[1:]


def test_records_of_unwanted_channels_are_passed_over(segment: Segment) -> None:
    """A worker sees its channels and every answer, and its cursor passes the rest."""
    transmitter = Transmitter(segment)
    receiver = Receiver(segment)
    for kind in Kind:
        for channel in (7, 8):
            transmitter.append(kind, channel, 0, 0, 0, 0, b"")
    transmitter.commit()
    found = list(receiver.records(receiver.receive(4096), {7}))

    answers = {Kind.JOIN, Kind.REFUSED}
    assert {record.kind for record in found if record.channel == 7} == set(Kind)
    assert {record.kind for record in found if record.channel == 8} == answers
    assert receiver.unread() == 0


@pytest.mark.parametrize("checksums", [False, True])
def test_chain_is_walked_back_to_what_is_gone(
    segment: Segment, *, checksums: bool
) -> None:
    """Kind, channel, id and the record before, of records round the end as well."""
    transmitter = Transmitter(segment, checksums=checksums)
    receiver = Receiver(segment, checksums=checksums)
    before = 0
    for number in range(40):
        size = 30_000 + 8 * number
        before = transmitter.append(Kind.EVENT, 7, number, 1, 2, before, bytes(size))
    transmitter.commit()
    chain = list(receiver.chain(before))
    walked = [ms for _place, _kind, _channel, ms, _n, _prev in chain]

    assert walked[0] == 39
    assert walked == list(range(39, walked[-1] - 1, -1))
    assert len(walked) > 30
    assert {link[1:3] for link in chain} == {(Kind.EVENT, 7)}
    assert [link[0] for link in chain[1:]] == [link[5] for link in chain[:-1]]
    read = list(receiver.read_all(link[0] for link in chain))
    assert [record and record.ms for record in read] == walked


def test_skipping_to_the_head_leaves_the_rest_unread(segment: Segment) -> None:
    """A reader that gives up hears only of what comes afterwards."""
    transmitter = Transmitter(segment)
    receiver = Receiver(segment)
    send(transmitter, b"a", b"b")
    receiver.skip_to_head()
    send(transmitter, b"c")

    assert [record.payload[:1] for record in drain(receiver)] == [b"c"]


def test_lapped_receiver_is_told_and_goes_on_at_the_head(segment: Segment) -> None:
    """Nothing of what was overwritten is handed on."""
    transmitter = Transmitter(segment)
    receiver = Receiver(segment)
    send(transmitter, b"lost")
    lap(transmitter)
    with pytest.raises(Lapped):
        receiver.receive(4096)
    send(transmitter, b"next")

    assert [record.payload[:4] for record in drain(receiver)] == [b"next"]


def test_claim_alone_laps(segment: Segment) -> None:
    """Bytes that are being overwritten are gone although the head has not moved."""
    transmitter = Transmitter(segment)
    receiver = Receiver(segment)
    (position,) = send(transmitter, b"x")
    segment.words[layout.CLAIM] = position + segment.size
    still_whole = receiver.read(position), next(receiver.chain(position), None)
    segment.words[layout.CLAIM] = position + segment.size + 8

    assert None not in still_whole
    assert receiver.read(position) is None
    assert list(receiver.chain(position)) == []
    with pytest.raises(Lapped):
        receiver.receive(4096)


def test_new_generation_is_told_and_read_from_its_first_record(
    segment: Segment,
) -> None:
    """A worker misses nothing that the new reader wrote before the worker looked."""
    send(Transmitter(segment), b"former")
    receiver = Receiver(segment)
    second = Transmitter(segment)
    send(second, b"first")
    with pytest.raises(NewGeneration):
        receiver.receive(4096)

    assert receiver.generation == second.generation
    assert [record.payload[:5] for record in drain(receiver)] == [b"first"]


def test_reader_between_two_generations_sees_nothing(segment: Segment) -> None:
    """The new transmitter has said who it is but not yet moved the head."""
    send(Transmitter(segment), b"former")
    receiver = Receiver(segment)
    head = segment.head()
    Transmitter(segment)
    segment.words[layout.HEAD] = head
    with pytest.raises(NewGeneration):
        receiver.receive(4096)

    assert receiver.receive(4096) == b""
    assert receiver.receive(layout.MIN_SIZE) == b""


@pytest.mark.parametrize(
    "word",
    [
        (64 << 8) | 0,
        (64 << 8) | 10,
        (60 << 8) | 1,
        (48 << 8) | 1,
        1,
        ((layout.MIN_SIZE // 8 + 8) << 8) | 1,
        2**64 - 1,
    ],
)
def test_impossible_first_word_is_corruption(segment: Segment, word: int) -> None:
    """A kind or a length that nobody writes stops the reading, with the place."""
    transmitter = Transmitter(segment)
    receiver = Receiver(segment)
    (position,) = send(transmitter, b"payload")
    damage(segment, position, 0, WORD.pack(word))

    with pytest.raises(RingCorrupted) as drained:
        drain(receiver)
    with pytest.raises(RingCorrupted) as read:
        receiver.read(position)
    with pytest.raises(RingCorrupted) as linked:
        next(receiver.chain(position))
    assert drained.value.position == read.value.position == position
    assert linked.value.position == position


@pytest.mark.parametrize("forward", [0, 64])
def test_a_link_that_goes_forward_is_corruption(segment: Segment, forward: int) -> None:
    """A walk along it would never come to an end."""
    transmitter = Transmitter(segment)
    (position,) = send(transmitter, b"payload")
    damage(segment, position, LINK_OFFSET, WORD.pack(position + forward))

    with pytest.raises(RingCorrupted, match="goes forward"):
        list(Receiver(segment).chain(position))


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 79), bit=st.integers(0, 7))
def test_checksum_finds_every_changed_bit(at: int, bit: int) -> None:
    """Header, link or payload: a record of which one bit differs is not used."""
    segment = Segment.create(layout.MIN_SIZE)
    transmitter = Transmitter(segment, checksums=True)
    receiver = Receiver(segment, checksums=True)
    (position,) = send(transmitter, b"payload of 24 bytes ....")
    (old,) = segment.copy(position + at, 1)
    damage(segment, position, at, bytes([old ^ 1 << bit]))

    with pytest.raises(RingCorrupted):
        receiver.read(position)
    with pytest.raises(RingCorrupted):
        list(receiver.chain(position))
    found: list[Record] = []
    # A length that now ends behind the head is waited for, not believed.
    with contextlib.suppress(RingCorrupted):
        found += receiver.records(receiver.receive(4096), EVERY_CHANNEL)
    assert found == []
    segment.close()
    os.close(segment.fd)


def test_checksum_belongs_to_its_generation(segment: Segment) -> None:
    """A record left from another generation is none of this one."""
    transmitter = Transmitter(segment, checksums=True)
    receiver = Receiver(segment, checksums=True)
    (position,) = send(transmitter, b"x")
    receiver.generation += 1

    with pytest.raises(RingCorrupted, match="checksum"):
        receiver.read(position)


def test_long_record_is_read_with_a_small_limit(segment: Segment) -> None:
    """The limit never hides a record that is longer than it."""
    transmitter = Transmitter(segment)
    receiver = Receiver(segment)
    append(transmitter, b"s")
    append(transmitter, bytes(transmitter.largest))
    transmitter.commit()

    assert len(drain(receiver)) == 2
