"""Writes what was read into the ring, each channel's records linked to a chain."""

from __future__ import annotations

from broker.model import START, Position
from broker.reader.watched import BEGINNING, Watched
from broker.ring import records
from broker.ring.layout import Kind
from broker.ring.transmitter import Transmitter
from broker.store.loss import Gap


class Chains:
    """The channels' records on their way into the ring.

    Between two linked records of a channel nothing is missing without a GAP or RESET
    record, so a chain covers exactly what comes after its BASE.
    """

    def __init__(self, transmitter: Transmitter) -> None:
        self._transmitter = transmitter

    @property
    def head(self) -> int:
        """Ring position up to which records are published."""
        return self._transmitter.published

    @property
    def largest(self) -> int:
        """Largest payload in bytes that a record can hold."""
        return self._transmitter.largest

    def open(self, watched: Watched, base: Position) -> None:
        """Give *watched* a channel number and begin its chain after *base*."""
        watched.channel = self._transmitter.new_channel()
        watched.base = base
        watched.last = 0
        self.append(watched, Kind.BASE, *base.id, records.seq_word(base.seq), b"")

    def append(
        self, watched: Watched, kind: int, ms: int, n: int, seq: int, payload: bytes
    ) -> None:
        """Add a record to the chain of *watched*; *seq* 0 is not known."""
        watched.last = self._transmitter.append(
            kind, watched.channel, ms, n, seq, watched.last, payload
        )

    def gap(self, watched: Watched, gap: Gap) -> None:
        """Say where entries are missing that can no longer be read."""
        payload = records.pack_gap(
            records.GapRecord(
                after=gap.after,
                next=gap.next,
                lost=gap.lost,
                exact=gap.exact,
                reason=gap.reason,
            )
        )
        at = gap.at
        self.append(watched, Kind.GAP, *at.id, records.seq_word(at.seq), payload)

    def reset(self, watched: Watched) -> None:
        """Say that the stream is another one, which is read from its beginning."""
        watched.epoch += 1
        watched.verified.clear()
        watched.anchor = BEGINNING
        watched.singles = 0
        self.append(watched, Kind.RESET, *START.id, 0, b"")

    def unreadable(self, watched: Watched, reason: str) -> None:
        """Tell who reads *watched* that it cannot be read now."""
        payload = records.pack_unreadable(reason)
        self._transmitter.append(
            Kind.UNREADABLE, watched.channel, *watched.anchor.cursor, 0, 0, payload
        )

    def join(self, watched: Watched, worker: int, token: int, *, reset: bool) -> None:
        """Answer a worker: from here on it understands the channel's records."""
        position = watched.position
        join = records.Join(
            worker=worker,
            token=token,
            session=watched.session,
            base=watched.base,
            last=watched.last,
            epoch=watched.epoch,
            reset=reset,
            mean_bytes=int(watched.mean_bytes) if watched.sized else 0,
        )
        seq = records.seq_word(position.seq)
        payload = records.pack_join(join)
        self._transmitter.append(
            Kind.JOIN, watched.channel, *position.id, seq, 0, payload
        )

    def refuse(self, worker: int, token: int, reason: str) -> None:
        """Tell a worker that it cannot watch the session of its request."""
        payload = records.pack_refused(records.Refused(worker, token, reason))
        self._transmitter.append(Kind.REFUSED, 0, 0, 0, 0, 0, payload)

    def commit(self) -> int:
        """Publish what was added; returns its size in bytes."""
        return self._transmitter.commit()
