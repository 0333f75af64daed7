"""The other side of a ring under test: writes, reads and damages records."""

from __future__ import annotations

import struct

from broker.ring import layout
from broker.ring.layout import Kind
from broker.ring.receiver import Receiver, Record
from broker.ring.segment import Segment
from broker.ring.transmitter import Transmitter

EVERY_CHANNEL = range(2**32)


def append(transmitter: Transmitter, payload: bytes, *, channel: int = 1) -> int:
    """Add an EVENT record whose words all differ; returns its ring position."""
    return transmitter.append(Kind.EVENT, channel, 2, 3, 4, 5, payload)


def send(transmitter: Transmitter, *payloads: bytes) -> list[int]:
    """Publish one batch; returns the ring positions of its records."""
    positions = [append(transmitter, payload) for payload in payloads]
    transmitter.commit()
    return positions


def drain(receiver: Receiver) -> list[Record]:
    """Everything that is unread, in copies of the size that a worker takes."""
    found: list[Record] = []
    while copied := receiver.receive(4096):
        found += receiver.records(copied, EVERY_CHANNEL)
    return found


def damage(segment: Segment, position: int, offset: int, new: bytes) -> None:
    """Overwrite bytes of the record at *position*."""
    at = (position + offset) & (segment.size - 1)
    segment.data[at : at + len(new)] = new


class LappedWhileReading:
    """A struct that is read while the writer laps the reader."""

    def __init__(self, real: struct.Struct, segment: Segment) -> None:
        self._real = real
        self._segment = segment
        self.size = real.size

    def unpack_from(self, data: memoryview, offset: int) -> tuple[int, ...]:
        """Read, and by then everything that was there is gone."""
        fields = self._real.unpack_from(data, offset)
        self._segment.words[layout.CLAIM] += 2 * self._segment.size
        return fields


def lap(transmitter: Transmitter) -> None:
    """Write more than a whole ring."""
    size = 0
    while size <= 2 * layout.MIN_SIZE:
        append(transmitter, bytes(10_000))
        size += 10_000
    transmitter.commit()


def advance(transmitter: Transmitter, end: int) -> None:
    """Fill the ring until the next record begins *end* bytes before it turns round."""
    room = (-transmitter.tail - end - layout.RECORD_BYTES) % layout.MIN_SIZE
    while room > 100_000:
        transmitter.append(Kind.BASE, 7, 0, 0, 0, 0, bytes(100_000))
        transmitter.commit()
        room -= 100_000 + layout.RECORD_BYTES
    transmitter.append(Kind.BASE, 7, 0, 0, 0, 0, bytes(room))
    transmitter.commit()
