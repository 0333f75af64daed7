"""Counting events in chunks of bytes, without looking at single frames.

Every event has one marker. The ordinals of the last event of this chunk and of the one
before say how many events should be in between; where all frames of a stream have one
size, the distance from the first marker to the last says how many there are. If the two
agree, that is the count. If not, because a number in the frames got a digit more or
because events are missing, the markers are counted. So order and holes are checked for
every socket and every event, at about 2 us per chunk however many events it has.
"""

from __future__ import annotations

from loadtest import payload
from loadtest.payload import (
    DATA_BYTES,
    MARKER,
    ORDINAL_BASE,
    ORDINAL_END,
    ORDINAL_START,
    TAIL_BYTES,
)

BUCKET_NS = 10_000
"""Latencies are counted in steps of 10 us."""

PREFIX_BYTES = 512
"""Room in front of what is received, for the unfinished event of the last chunk."""

_MARKER_BYTES = len(MARKER)


class Stream:
    """What must be known of one socket between two chunks.

    Attributes:
        ordinal: Of the last event seen; -1 before the first one.
        tail: The last bytes behind the last whole marker.
        frame_bytes: The size of a frame as learnt from the last chunk counted; 0 if
            its frames had several.
    """

    __slots__ = ("frame_bytes", "ordinal", "tail")

    def __init__(self, ordinal: int = -1) -> None:
        self.ordinal = ordinal
        self.tail = b""
        self.frame_bytes = 0


class Tally:
    """What one process has counted.

    Attributes:
        delivered: Events received.
        missing: Events that ordinals say should have come and did not.
        surplus: Events that came more often than the ordinals moved.
        chunks: Reads that had at least one event.
        latencies: Events by latency in steps of ``BUCKET_NS``.
        window_ns: Events published before this time are left out of ``latencies``.
        stride: Latencies are taken of every so-manieth chunk, with so much weight.
    """

    __slots__ = (
        "chunks",
        "delivered",
        "latencies",
        "missing",
        "stride",
        "surplus",
        "window_ns",
    )

    def __init__(self) -> None:
        self.delivered = 0
        self.missing = 0
        self.surplus = 0
        self.chunks = 0
        self.latencies: dict[int, int] = {}
        self.window_ns = 0
        self.stride = 1

    def take(
        self, stream: Stream, buffer: bytearray, end: int, now_ns: int, checked: bool
    ) -> None:
        """Count what was received into *buffer* from ``PREFIX_BYTES`` to *end*.

        Ordinals are only *checked* where they belong to one session.
        """
        start = PREFIX_BYTES - len(stream.tail)
        buffer[start:PREFIX_BYTES] = stream.tail
        last = buffer.rfind(MARKER, start, end)
        if last < 0:
            stream.tail = bytes(buffer[max(start, end - TAIL_BYTES) : end])
            return
        # Not by ``payload.ordinal_at``: two calls are a tenth of the time of a chunk.
        digits = buffer[last - ORDINAL_START : last - ORDINAL_END]
        ordinal = int(digits) - ORDINAL_BASE
        first, count = last, 1
        if last - start >= DATA_BYTES:
            first = buffer.find(MARKER, start, end)
            count = ordinal - stream.ordinal
            frame_bytes = stream.frame_bytes
            if not frame_bytes or last - first != (count - 1) * frame_bytes:
                count = self._count(stream, buffer, first, last)
        if checked:
            off = ordinal - stream.ordinal - count
            if off and stream.ordinal >= 0:
                self._note(off)
            stream.ordinal = ordinal
        else:
            stream.frame_bytes = 0  # the steps of ordinals mean nothing here
        self.delivered += count
        self.chunks += 1
        if self.chunks % self.stride == 0:
            self._sample(buffer, first, last, count * self.stride, now_ns)
        tail_start = max(last + _MARKER_BYTES, end - TAIL_BYTES)
        stream.tail = bytes(buffer[tail_start:end])

    def _count(self, stream: Stream, buffer: bytearray, first: int, last: int) -> int:
        count = buffer.count(MARKER, first, last + _MARKER_BYTES)
        frame_bytes, odd = divmod(last - first, max(1, count - 1))
        stream.frame_bytes = 0 if odd else frame_bytes
        return count

    def _note(self, off: int) -> None:
        if off > 0:
            self.missing += off
        else:
            self.surplus -= off

    def _sample(
        self, buffer: bytearray, first: int, last: int, weight: int, now_ns: int
    ) -> None:
        """Record a chunk of events.

        Its latencies are taken to lie on a line between those of its first and its
        last event: half of the weight goes to each.
        """
        if first != last:
            half = weight // 2
            weight -= half
            self.record(now_ns, payload.time_ns_at(buffer, first), half)
        self.record(now_ns, payload.time_ns_at(buffer, last), weight)

    def record(self, now_ns: int, published_ns: int, weight: int) -> None:
        """Count *weight* events that were published at *published_ns*."""
        if published_ns >= self.window_ns:
            bucket = (now_ns - published_ns) // BUCKET_NS
            self.latencies[bucket] = self.latencies.get(bucket, 0) + weight
