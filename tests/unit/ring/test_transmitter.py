"""The writer: what readers may see and when."""

from __future__ import annotations

import os
import select

import pytest

from broker.ring import layout
from broker.ring.doorbell import Doorbell
from broker.ring.layout import Kind
from broker.ring.receiver import Receiver
from broker.ring.segment import Segment
from broker.ring.transmitter import Transmitter
from tests.unit.ring.peer import append, drain, send


class Watching:
    """Stands for the ring's data and notes the claim and the head at each store."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._data = segment.data
        self.seen: list[tuple[int, int]] = []

    def __setitem__(self, where: slice, new: bytes) -> None:
        self.seen.append((self._segment.claim(), self._segment.head()))
        self._data[where] = new


def test_record_is_not_seen_before_commit(segment: Segment) -> None:
    """Readers wake once per batch."""
    transmitter = Transmitter(segment)
    receiver = Receiver(segment)
    append(transmitter, b"one")
    before = drain(receiver)
    size = transmitter.commit()

    assert before == []
    assert size == layout.RECORD_BYTES + 8
    assert [record.payload for record in drain(receiver)] == [b"one" + bytes(5)]


def test_every_word_arrives(segment: Segment) -> None:
    """A record is read as it was written."""
    transmitter = Transmitter(segment)
    receiver = Receiver(segment)
    largest = 2**64 - 1
    position = transmitter.append(
        Kind.GAP, 2**32 - 1, largest, largest, largest, largest, b"12345678"
    )
    transmitter.commit()

    (record,) = drain(receiver)
    assert (record.position, record.kind) == (position, Kind.GAP)
    assert record.channel == 2**32 - 1
    assert {record.ms, record.n, record.seq, record.prev} == {largest}
    assert record.stamp_ns > 0
    assert record.payload == b"12345678"


def test_claim_moves_before_a_byte_and_head_after_the_last(
    segment: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader of old bytes must learn that they are being overwritten."""
    transmitter = Transmitter(segment)
    start = transmitter.tail
    while transmitter.tail % segment.size + 100_000 < segment.size:
        send(transmitter, bytes(50_000))
    head = segment.head()
    watching = Watching(segment)
    monkeypatch.setattr(segment, "data", watching)
    send(transmitter, bytes(60_000), bytes(60_000))
    monkeypatch.undo()

    assert start < head
    assert watching.seen == [(transmitter.tail, head)] * 2
    assert segment.head() == transmitter.tail


def test_empty_commit_writes_nothing(segment: Segment) -> None:
    """Answering nobody costs nothing and wakes nobody."""
    bell = Doorbell.create()
    transmitter = Transmitter(segment, [bell])
    head = segment.head()

    assert transmitter.commit() == 0
    assert segment.head() == head
    assert select.select([bell], [], [], 0)[0] == []
    os.close(bell.fd)


def test_commit_rings_every_bell_once(segment: Segment) -> None:
    """A batch wakes all workers."""
    bells = [Doorbell.create(), Doorbell.create()]
    transmitter = Transmitter(segment, bells)
    send(transmitter, b"a", b"b")

    assert [os.eventfd_read(bell.fd) for bell in bells] == [1, 1]
    for bell in bells:
        os.close(bell.fd)


def test_batch_is_published_before_it_is_too_large(segment: Segment) -> None:
    """One batch never claims more than an eighth of the ring."""
    transmitter = Transmitter(segment)
    claims = []
    for _ in range(30):
        append(transmitter, bytes(30_000))
        claims.append(transmitter.tail - segment.head())

    assert max(claims) <= segment.size // layout.LARGEST_SHARE
    assert segment.head() > transmitter.tail - segment.size // layout.LARGEST_SHARE


def test_largest_payload_is_read_back(segment: Segment) -> None:
    """The bound that is given out really fits."""
    transmitter = Transmitter(segment)
    receiver = Receiver(segment)
    payload = os.urandom(transmitter.largest)
    send(transmitter, b"before", payload, b"after")

    found = [record.payload for record in drain(receiver)]
    assert found[1] == payload
    assert found[2] == b"after" + bytes(3)


def test_channel_numbers_go_on_in_the_next_generation(segment: Segment) -> None:
    """An old number can never mean a new channel."""
    first = Transmitter(segment)
    numbers = [first.new_channel(), first.new_channel()]
    second = Transmitter(segment)

    assert numbers == [1, 2]
    assert second.new_channel() == 3


def test_next_generation_starts_a_whole_ring_later(segment: Segment) -> None:
    """Also behind what its predecessor had only claimed when it died."""
    first = Transmitter(segment)
    send(first, b"x")
    segment.words[layout.CLAIM] += 4099
    claim = segment.claim()
    second = Transmitter(segment)

    assert second.tail > claim + segment.size
    assert second.tail % 8 == 0
    assert segment.head() == segment.claim() == second.tail
    assert (first.generation, second.generation) == (1, 2)


@pytest.mark.parametrize("checksums", [True, False])
def test_checksum_word_is_filled_only_where_needed(
    segment: Segment, checksums: bool
) -> None:
    """Where plain stores keep their order the CRC is not paid for."""
    transmitter = Transmitter(segment, checksums=checksums)
    (position,) = send(transmitter, b"payload")

    stored = segment.copy(position + layout.CHECKSUM_OFFSET, 4)
    assert (stored != bytes(4)) == checksums
