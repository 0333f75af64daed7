"""One stream that the reader watches."""

from __future__ import annotations

from broker.model import START, Position, StreamId
from broker.ring.requests import Watch as Request
from broker.store.loss import Anchor
from broker.store.stream_info import StreamInfo

FIRST_MEAN_BYTES = 1024
INFO_MEAN_BYTES = 16 * 1024
"""Above this mean the XINFO, which repeats two whole entries, is left out often."""
GLANCE_AFTER = 3
"""After so many reads of one entry each the XINFO alone is read, which has the last."""
INFO_EVERY = 16
"""With large entries every so many reads bring the XINFO all the same."""
REST_S = 1.0
"""A key that holds no stream is read for its rings once in this time."""
EMPTY_READS_MAX = 4
"""So many reads in a row, each within `REST_S` of the last, that bring nothing make a
stream a suspect: XTRIM, XDEL and EXPIRE behind each XADD are nothing unusual."""
QUARANTINED_COST = 10
"""What a read of a key that is no stream costs in others: it is read alone."""

BEGINNING = Anchor(cursor=START.id, seq=0, since=START.id, delivered=0)


class Watched:
    """One stream and how far it has been read.

    Attributes:
        session: The session's name.
        name: The same as bytes, safe inside JSON text.
        key: The stream's key in Redis.
        channel: Channel number in the ring, 0 until the first XINFO has come.
        anchor: How far the stream has been read and with which ordinals.
        base: Where the chain in the ring begins.
        last: Ring position of the chain's last record.
        epoch: How many resets the watch has seen.
        mean_bytes: Largest mean size of entries seen, slowly forgotten.
        was_read: Whether ``mean_bytes`` comes from entries that were read.
        sized: Whether it is more than a guess.
        reads: How often it was read.
        singles: Reads in a row that brought one entry.
        first: Id of the first entry in the stream when it was read last, as sent.
        alone: Read it by itself: a batch with it has failed.
        quarantined: Its key holds no stream: it is read by the sweep, and seldom for a
            ring.
        swept: The sweep asked for the read and not the doorbell.
        looked: It was read with its XINFO since the sweep last came by.
        empty_reads: Reads in a row, each within `REST_S` of the last, that brought
            nothing; those of the sweep do not count.
        last_empty: CLOCK_MONOTONIC seconds of the last of them.
        rest_until: CLOCK_MONOTONIC seconds before which it is not read for a ring.
        asking: In a cluster: its slot is under way to the node where it is read.
        waiting: Requests to answer as soon as the channel is open.
        workers: Board rows of the workers that need it.
        idle_since: When the last of them left, None while there are some.
        verified: Ids of positions that were found to be of this stream.
    """

    __slots__ = (
        "alone",
        "anchor",
        "asking",
        "base",
        "channel",
        "empty_reads",
        "epoch",
        "first",
        "idle_since",
        "key",
        "last",
        "last_empty",
        "last_ring",
        "looked",
        "mean_bytes",
        "name",
        "quarantined",
        "reads",
        "rest_until",
        "session",
        "singles",
        "sized",
        "swept",
        "verified",
        "waiting",
        "was_read",
        "workers",
    )

    def __init__(self, session: str, key: bytes) -> None:
        self.session = session
        self.name = session.encode()
        self.key = key
        self.channel = 0
        self.anchor = BEGINNING
        self.base = START
        self.last = 0
        self.epoch = 0
        self.mean_bytes = float(FIRST_MEAN_BYTES)
        self.was_read = False
        self.sized = False
        self.reads = 0
        self.singles = 0
        self.first = b""
        self.alone = False
        self.quarantined = False
        self.swept = False
        self.looked = False
        self.empty_reads = 0
        self.last_ring = 0.0
        self.last_empty = -REST_S
        self.rest_until = 0.0
        self.asking = False
        self.waiting: list[tuple[int, Request]] = []
        self.workers: set[int] = set()
        self.idle_since: float | None = None
        self.verified: set[StreamId] = set()

    @property
    def position(self) -> Position:
        """How far it has been read; without an ordinal where that is not exact now."""
        anchor = self.anchor
        return Position(anchor.cursor, None if anchor.delivered else anchor.seq)

    def note_entries(self, entries: int, size: int) -> None:
        """Take note of a read of *entries* entries, *size* bytes long together."""
        mean = size / entries
        self.mean_bytes = max(mean, self.mean_bytes * 0.9) if self.was_read else mean
        self.was_read = self.sized = True
        self.empty_reads = 0

    def expect_size(self, info: StreamInfo) -> None:
        """Take the size of entries from an XINFO, before any has been read."""
        if not self.was_read and info.mean_bytes:
            self.sized = True
            self.mean_bytes = max(float(info.mean_bytes), self.mean_bytes)

    def may_glance(self) -> bool:
        """Whether its next read may be an XINFO alone."""
        return (
            self.singles >= GLANCE_AFTER
            and not self.alone
            and self.mean_bytes <= INFO_MEAN_BYTES
        )

    @property
    def empty_cost(self) -> int:
        """What a read costs that is likely to bring nothing."""
        return QUARANTINED_COST if self.quarantined else 1

    def is_suspect(self, now: float) -> bool:
        """Whether its next ring, too, is likely to bring nothing."""
        is_ringing = self.empty_reads >= EMPTY_READS_MAX
        return self.quarantined or (is_ringing and now - self.last_empty < REST_S)

    def wants_info(self) -> bool:
        """Whether the next read should bring the XINFO in any case."""
        return (
            self.mean_bytes <= INFO_MEAN_BYTES
            or self.swept
            or self.reads % INFO_EVERY == 0
            or 0 < self.empty_reads < EMPTY_READS_MAX
        )
