"""A reader of a ring: copies first, then asks whether the copy may be used."""

from __future__ import annotations

import zlib
from collections.abc import Container, Iterable, Iterator, Sequence

import msgspec

from broker.errors import RingCorrupted
from broker.model import StreamId
from broker.ring import layout
from broker.ring.records import FRAME_HEAD
from broker.ring.segment import Segment


class Lapped(Exception):
    """The writer has overwritten records that this reader had not copied."""


class NewGeneration(Exception):
    """Another transmitter owns the ring; the cursor stands at its first record."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record, copied out of the ring.

    Attributes:
        position: Ring position of the record.
        kind: A ``layout.Kind``.
        channel: Channel number, 0 for none.
        ms: First half of the stream id.
        n: Second half of the stream id.
        seq: Ordinal, 0 where it is not known (at id 0-0 it is the ordinal 0).
        prev: Ring position of the channel's previous record, 0 for none.
        stamp_ns: CLOCK_MONOTONIC of the writer.
        payload: The payload and up to 7 zero bytes.
    """

    position: int
    kind: int
    channel: int
    ms: int
    n: int
    seq: int
    prev: int
    stamp_ns: int
    payload: bytes


Link = tuple[int, int, int, int, int, int]
"""Position, kind, channel number, stream id ms and n, and the position before."""

EventId = tuple[int, int, int]
"""Stream id ms and n, and the ordinal: 0 where it is not known."""
NO_EVENT: EventId = (0, 0, 0)


class Receiver:
    """Reads a ring from its own cursor. There may be many, in any process."""

    def __init__(
        self, segment: Segment, *, checksums: bool = not layout.ORDER_IS_TRUSTED
    ) -> None:
        self._segment = segment
        self._checksums = checksums
        self._largest = segment.size // layout.LARGEST_SHARE
        self._lengths = range(layout.RECORD_BYTES, self._largest + 1, layout.ALIGNMENT)
        self.generation: int = segment.words[layout.GENERATION]
        self.cursor: int = segment.head()

    def unread(self) -> int:
        """Bytes between the cursor and the head."""
        return self._segment.head() - self.cursor

    def skip_to_head(self) -> None:
        """Give up what is unread."""
        self.cursor = self._segment.head()

    def receive(self, limit: int) -> bytes:
        """Copy unread bytes, at most about *limit*, and check them for a lap.

        The cursor does not move: hand the copy to ``records``, which moves it.

        Returns:
            The copy, b"" when nothing is unread.

        Raises:
            NewGeneration: Another transmitter took over; the cursor is at its start.
            Lapped: The cursor's bytes are gone; the cursor is at the head now.
        """
        segment = self._segment
        words = segment.words
        if words[layout.GENERATION] != self.generation:
            self.generation = words[layout.GENERATION]
            self.cursor = words[layout.GENERATION_START]
            raise NewGeneration
        cursor = self.cursor
        head = words[layout.HEAD]
        if head <= cursor:  # Below it: a new transmitter is about to move the head.
            return b""
        length = min(head - cursor, max(limit, self._largest), segment.size)
        copied = segment.copy(cursor, length)
        if cursor < words[layout.CLAIM] - segment.size:
            self.cursor = words[layout.HEAD]
            raise Lapped
        return copied

    def records(self, copied: bytes, wanted: Container[int]) -> Iterator[Record]:
        """Walk the whole records of a copy, moving the cursor behind each.

        Args:
            copied: What ``receive`` has just returned.
            wanted: Channel numbers; records of other channels are passed over, but
                those outside any chain are not.

        Raises:
            RingCorrupted: A record breaks the layout although it was not lapped.
        """
        unpack, kinds = layout.RECORD.unpack_from, layout.KINDS
        header_bytes, join = layout.RECORD_BYTES, int(layout.Kind.JOIN)
        end, largest = len(copied), self._largest
        offset = 0
        begin = self.cursor
        while offset + header_bytes <= end:
            word, channel, checksum, ms, n, seq, prev, stamp = unpack(copied, offset)
            length = word >> 8
            kind = word & 0xFF
            if length & 7 or not header_bytes <= length <= largest or kind not in kinds:
                self._check(begin + offset, kind, length)
            start, here, offset = offset + header_bytes, begin + offset, offset + length
            if offset > end:
                return
            if self._checksums:
                self._verify(here, copied[here - begin : offset], checksum)
            self.cursor = begin + offset
            if channel in wanted or kind >= join:
                payload = copied[start:offset]
                yield Record(here, kind, channel, ms, n, seq, prev, stamp, payload)

    def chain(self, position: int) -> Iterator[Link]:
        """Walk a chain back from the record at *position* to one that is gone.

        Raises:
            RingCorrupted: A record breaks the layout although it was not lapped.
        """
        while position:
            record = self.read(position)
            if record is None:
                return
            if record.prev >= position:
                raise RingCorrupted(position, "its link goes forward")
            yield (
                position,
                record.kind,
                record.channel,
                record.ms,
                record.n,
                record.prev,
            )
            position = record.prev

    def entries_back(
        self,
        position: int,
        channel: int,
        newest: StreamId,
        oldest: StreamId,
        most: int,
    ) -> tuple[list[StreamId], list[int], int]:
        """Walk a chain back over records that stand for one entry each.

        It ends before anything else: another kind of record, or of another channel, an
        id out of order, a link that goes forward, a head that wraps around the end.
        `chain` says which it is. What a record holds is left to who reads it. After an
        outage every client makes a worker walk, and this costs a third per record.

        Args:
            position: Ring position of the newest record.
            channel: Its channel number.
            newest: No record has a later id.
            oldest: It ends behind the first record that has no later id.
            most: It ends behind so many records.

        Returns:
            The ids and ring positions of the records, the newest first, and where to
            go on: 0 where the rest is gone.
        """
        ids: list[StreamId] = []
        places: list[int] = []
        segment = self._segment
        data, size = segment.data, segment.size
        unpack, entries = layout.LINK.unpack_from, layout.ENTRIES
        whole_up_to = size - layout.LINK.size
        for _ in () if self._checksums else range(most):
            offset = position & size - 1
            if offset > whole_up_to:
                break
            word, number, ms, n, before = unpack(data, offset)
            stream_id = (ms, n)
            # It may be garbage: a link that goes forward would never come to an end.
            if (
                word & 0xFF not in entries
                or number != channel
                or stream_id > newest
                or before >= position
            ):
                break
            ids.append(stream_id)
            places.append(position)
            newest, position = stream_id, before
            if stream_id <= oldest or not position:
                break
        # What is older than the claim allows was overwritten before it was read, or
        # after that: nobody knows. All the others were whole.
        edge = segment.words[layout.CLAIM] - size
        while places and places[-1] < edge:
            ids.pop()
            places.pop()
            position = 0
        return ids, places, position

    def read(self, position: int) -> Record | None:
        """Copy one record that a link or an index points at, None if it is gone.

        Raises:
            RingCorrupted: The record breaks the layout although it was not lapped.
        """
        return next(self.read_all((position,)))

    def read_all(self, positions: Iterable[int]) -> Iterator[Record | None]:
        """The same for many: each is copied when it is asked for.

        Raises:
            RingCorrupted: A record breaks the layout although it was not lapped.
        """
        segment, words = self._segment, self._segment.words
        data, copy = segment.data, segment.copy
        size, mask = segment.size, segment.size - 1
        unpack, header_bytes = layout.RECORD.unpack_from, layout.RECORD_BYTES
        lengths, kinds = self._lengths, layout.KINDS
        whole_up_to = size - header_bytes
        for position in positions:
            offset = position & mask
            if offset <= whole_up_to:
                header = unpack(data, offset)
            else:
                header = unpack(copy(position, header_bytes))
            word, channel, checksum, ms, n, seq, prev, stamp = header
            kind, length = word & 0xFF, word >> 8
            # It may be garbage until the claim has been looked at.
            is_possible = length in lengths and kind in kinds
            payload_bytes = length - header_bytes if is_possible else 0
            payload = copy(position + header_bytes, payload_bytes)
            if position < words[layout.CLAIM] - size:
                yield None
                continue
            if not is_possible:
                self._check(position, kind, length)
            if self._checksums:
                self._verify(position, layout.RECORD.pack(*header) + payload, checksum)
            yield Record(position, kind, channel, ms, n, seq, prev, stamp, payload)

    def frames(
        self, positions: Sequence[int], most: int, most_bytes: int
    ) -> tuple[list[bytes], EventId]:
        """The frames of EVENT records, for who sends them as they are.

        It ends before anything else: another kind of record, a transient event, one
        that is gone, wraps around the end or breaks the layout. `read_all` says which
        it is. A page costs a quarter of what it costs by records.

        Args:
            positions: Ring positions of records, the oldest first.
            most: How many frames at most.
            most_bytes: After so many bytes no further frame is begun.

        Returns:
            The frames, and what the last of them is.
        """
        frames: list[bytes] = []
        segment = self._segment
        data, memory, size = segment.data, segment.memory, segment.size
        unpack, head_bytes = FRAME_HEAD.unpack_from, FRAME_HEAD.size
        lengths, event = self._lengths, int(layout.Kind.EVENT)
        room, offset = most_bytes, 0
        for position in () if self._checksums else positions[:most]:
            at = position & size - 1
            if at + head_bytes > size:
                break
            word, transient, key, length = unpack(data, at)
            begin, end = at + head_bytes + key, at + (word >> 8)
            # It may be garbage until the claim has been looked at.
            is_whole = word >> 8 in lengths and begin + length <= end <= size
            if word & 0xFF != event or transient or not is_whole:
                break
            begin += layout.HEADER_BYTES
            frames.append(memory[begin : begin + length])
            offset = at
            room -= length
            if room <= 0:
                break
        if not frames:
            return frames, NO_EVENT
        _, _, _, ms, n, seq, _, _ = layout.RECORD.unpack_from(data, offset)
        if positions[0] < segment.words[layout.CLAIM] - size:
            return [], NO_EVENT
        return frames, (ms, n, seq)

    def _check(self, position: int, kind: int, length: int) -> None:
        if kind not in layout.KINDS:
            raise RingCorrupted(position, f"unknown kind {kind}")
        if length not in self._lengths:
            raise RingCorrupted(position, f"impossible length {length}")

    def _verify(self, position: int, record: bytes, checksum: int) -> None:
        at = layout.CHECKSUM_OFFSET
        plain = record[:at] + bytes(4) + record[at + 4 :]
        if zlib.crc32(plain, self.generation & 0xFFFFFFFF) != checksum:
            raise RingCorrupted(position, "checksum does not match")
