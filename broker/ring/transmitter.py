"""The one writer of a ring."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from time import monotonic_ns

from broker.ring import layout
from broker.ring.doorbell import Doorbell
from broker.ring.segment import Segment

# Names of this module: an event costs 0.05 us less than with those of another.
_RECORD_BYTES, _pack = layout.RECORD_BYTES, layout.RECORD.pack
_PADDING = tuple(bytes(size) for size in range(layout.ALIGNMENT))


class Transmitter:
    """Appends records and publishes them batch by batch.

    Only one transmitter may exist per segment at a time: the supervisor starts a
    reader only after it has reaped the one before. A new transmitter begins more than
    a whole ring after its predecessor, so the ordinary lap check refuses every old
    cursor and every old link, and a predecessor that died between ``claim`` and
    ``head`` needs no repair.
    """

    def __init__(
        self,
        segment: Segment,
        doorbells: Sequence[Doorbell] = (),
        *,
        checksums: bool = not layout.ORDER_IS_TRUSTED,
    ) -> None:
        self._segment = segment
        self._doorbells = doorbells
        self._checksums = checksums
        self._pending: list[bytes] = []
        self._batch_bytes = segment.size // layout.LARGEST_SHARE
        self.largest = self._batch_bytes - layout.RECORD_BYTES
        """Largest payload in bytes that one record can hold."""

        words = segment.words
        start = layout.aligned(words[layout.CLAIM]) + segment.size + 8
        words[layout.CLAIM] = start
        words[layout.GENERATION_START] = start
        words[layout.GENERATION] += 1
        words[layout.HEAD] = start
        self.generation: int = words[layout.GENERATION]
        self.tail: int = start
        """Ring position of the next record."""
        self.published: int = start

    def new_channel(self) -> int:
        """Take a channel number that no watch has had before."""
        words = self._segment.words
        number = int(words[layout.NEXT_CHANNEL]) + 1
        words[layout.NEXT_CHANNEL] = number
        return number & 0xFFFFFFFF

    def append(
        self,
        kind: int,
        channel: int,
        ms: int,
        n: int,
        seq: int,
        prev: int,
        payload: bytes,
    ) -> int:
        """Add a record to the batch; readers see it after ``commit``.

        Args:
            kind: A ``layout.Kind``.
            channel: Channel number, 0 for records outside any channel.
            ms: First half of the stream id.
            n: Second half of the stream id.
            seq: Ordinal, 0 where it is not known.
            prev: Ring position of the channel's previous record, 0 for none.
            payload: At most ``largest`` bytes.

        Returns:
            The ring position of the record.
        """
        length = _RECORD_BYTES + len(payload)
        padded = (length + 7) & ~7
        position = self.tail
        if position + padded - self.published > self._batch_bytes:
            self.commit()
        now = monotonic_ns()
        header = _pack(padded << 8 | kind, channel, 0, ms, n, seq, prev, now)
        parts: tuple[bytes, ...] = (header, payload, _PADDING[padded - length])
        if self._checksums:
            parts = (sealed(b"".join(parts), self.generation),)
        self._pending += parts
        self.tail = position + padded
        return position

    def commit(self) -> int:
        """Publish the batch and wake the workers; returns its size in bytes.

        The order of the stores is the contract with ``Receiver``: the claim moves
        before a byte of the batch is written, the head after the last one.
        """
        if not self._pending:
            return 0
        batch = b"".join(self._pending)
        self._pending.clear()
        segment = self._segment
        segment.words[layout.CLAIM] = self.tail
        offset = self.published & (segment.size - 1)
        room = segment.size - offset
        if len(batch) <= room:
            segment.data[offset : offset + len(batch)] = batch
        else:
            segment.data[offset:] = batch[:room]
            segment.data[: len(batch) - room] = batch[room:]
        segment.words[layout.HEAD] = self.published = self.tail
        for doorbell in self._doorbells:
            doorbell.ring()
        return len(batch)


def sealed(record: bytes, generation: int) -> bytes:
    """The record with the checksum of its bytes and of *generation* filled in."""
    at = layout.CHECKSUM_OFFSET
    checksum = zlib.crc32(record, generation & 0xFFFFFFFF)
    return record[:at] + checksum.to_bytes(4, "little") + record[at + 4 :]
