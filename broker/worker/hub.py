"""Writes what has just happened to the sockets at the tip. Pure: no loop.

The bytes of a slice of records are built once per wire format and the same buffer is
written to each socket, so the busier it gets the cheaper a delivery is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from os import write
from types import MappingProxyType
from typing import Protocol

from broker.metrics import catalog
from broker.metrics.slots import Row, observe
from broker.model import Position
from broker.protocols.formats import Format
from broker.ring.layout import Kind
from broker.ring.receiver import Record
from broker.ring.records import (
    GapRecord,
    position_of,
    unpack_gap,
    unpack_skipped,
)
from broker.worker.channels import Channel, State, Subscription

SENDS_PER_TURN = 640
"""Sockets written to before the loop may turn: about 4 ms of system calls."""


def gap_data(gap: GapRecord) -> dict[str, object]:
    """The ``data`` of a gap frame."""
    return {
        "after": str(gap.after),
        "next": str(gap.next),
        "lost": gap.lost,
        "exact": gap.exact,
        "reason": gap.reason,
    }


def encode(channel: Channel, wire: Format, records: list[Record]) -> bytes:
    """The frames of some records in one wire format."""
    recorded = wire.recorded
    frames = [
        recorded(r.ms, r.n, r.seq, r.payload)
        if r.kind == _EVENT
        else _encode_other(channel, wire, r)
        for r in records
    ]
    return frames[0] if len(frames) == 1 else b"".join(frames)


def _encode_other(channel: Channel, wire: Format, record: Record) -> bytes:
    if record.kind == Kind.SKIPPED:
        skipped = unpack_skipped(record.payload)
        ms, n, seq = record.ms, record.n, record.seq
        name = channel.name
        return wire.skipped(name, ms, n, seq, skipped.reason, skipped.detail)
    gap = unpack_gap(record.payload)
    return wire.notice("gap", gap_data(gap), channel.session)


class Broadcast:
    """One buffer on its way to the sockets of a channel.

    Attributes:
        data: The frames.
        targets: Who was at the tip when it was made.
        before: The tip before it: the position of a socket that cannot take it.
        reached: The same as the channel's count of entries.
        events: How many entries the frames carry.
        lost: Entries that the frames announce as lost, by reason.
        number: Counts broadcasts: who went live after it has had its content.
        epoch: The channel's epoch that ``before`` belongs to.
    """

    __slots__ = (
        "before",
        "data",
        "epoch",
        "events",
        "lost",
        "number",
        "reached",
        "targets",
    )

    def __init__(
        self,
        number: int,
        data: bytes,
        targets: Iterator[Subscription],
        before: Position,
        reached: int,
        epoch: int,
        events: int,
        lost: Mapping[str, int],
    ) -> None:
        self.number = number
        self.data = data
        self.targets = targets
        self.before = before
        self.reached = reached
        self.epoch = epoch
        self.events = events
        self.lost = lost


class FallBehind(Protocol):
    """Takes a live subscription out of the live set."""

    def __call__(
        self, sub: Subscription, position: Position, epoch: int, state: State
    ) -> None:
        """*position*, of *epoch*, is how far it has been sent."""


class Hub:
    """Fan-out to live subscriptions, in turns of bounded length.

    Args:
        values: The process's metric row.
        fall_behind: Called with a live subscription whose socket is full.
    """

    def __init__(self, values: Row, fall_behind: FallBehind) -> None:
        self._values = values
        self._fall_behind = fall_behind
        self._underway: deque[Broadcast] = deque()
        self._oldest_ns = 0
        self._room = 0
        self._events = 0
        self._bytes = 0
        self.number = 0
        """Number of the newest broadcast."""

    @property
    def busy(self) -> bool:
        """Whether sockets still wait for what was published."""
        return bool(self._underway)

    def publish(self, channel: Channel, records: list[Record]) -> None:
        """Send records, in order, to who is live now, and move the channel's tip.

        Few sockets are written to at once: for them a queue costs more than the calls.
        """
        for wire, live in channel.live.items():
            if live:
                events, lost = len(records), NOTHING
                if events == 1 and records[0].kind == _EVENT:
                    (only,) = records
                    data = wire.recorded(only.ms, only.n, only.seq, only.payload)
                else:
                    events, lost = _tally(records)
                    data = encode(channel, wire, records)
                if not data:
                    continue  # Nothing that clients of this format get.
                self._oldest_ns = self._oldest_ns or records[0].stamp_ns
                if len(live) > self._room or self._underway:
                    self._queue(channel, live, data, events, lost)
                else:
                    self._send_at_once(channel, live, data, events, lost)
        last = records[-1]
        channel.tip = position_of(last.ms, last.n, last.seq)
        if not last.seq:
            channel.reached += len(records)
        elif channel.reached >= 0:
            channel.reached = last.seq
        else:
            channel.advance(last.seq, len(records))

    def _send_at_once(
        self,
        channel: Channel,
        live: Mapping[Subscription, int],
        data: bytes,
        events: int,
        lost: Mapping[str, int],
    ) -> None:
        sent, size = 0, len(data)
        for sub, fd in tuple(live.items()):
            if fd >= 0:
                # No callback runs meanwhile, so nobody else has got the descriptor.
                try:
                    written = write(fd, data)
                except OSError:
                    sub.socket.send(data)  # It meets the same and knows what to do.
                else:
                    if written != size:
                        sub.socket.queue_rest(data, written)
            elif sub.socket.blocked:
                sub.reached = channel.reached
                channel.learn_size(size, events)
                self._fall_behind(sub, channel.tip, channel.epoch, State.LAGGING)
                continue
            else:
                sub.socket.send(data)
            sent += 1
        self._room -= sent
        self._events += sent * events
        self._bytes += sent * size
        if lost:
            self._count_lost(lost, sent)

    def notice(self, channel: Channel, event: str, data: object) -> None:
        """Queue a broker event for who is live now."""
        for wire, live in channel.live.items():
            frame = wire.notice(event, data, channel.session) if live else b""
            if frame:
                self._queue(channel, live, frame, 0, NOTHING)

    def cut(self, channel: Channel) -> None:
        """Let everybody who is live fall behind, after what is queued for them."""
        for live in channel.live.values():
            if live:
                self._queue(channel, live, b"", 0, NOTHING)

    def _queue(
        self,
        channel: Channel,
        live: Mapping[Subscription, int],
        data: bytes,
        events: int,
        lost: Mapping[str, int],
    ) -> None:
        self.number = number = self.number + 1
        targets = iter(list(live))
        tip, reached, epoch = channel.tip, channel.reached, channel.epoch
        self._underway.append(
            Broadcast(number, data, targets, tip, reached, epoch, events, lost)
        )

    def do_work(self) -> int:
        """Begin a turn: write to at most ``SENDS_PER_TURN`` sockets of those queued.

        Returns:
            To how many.
        """
        underway, room = self._underway, SENDS_PER_TURN
        while underway and room > 0:
            broadcast = underway[0]
            sent = self._send(broadcast, room)
            self._events += sent * broadcast.events
            self._bytes += sent * len(broadcast.data)
            if broadcast.lost:
                self._count_lost(broadcast.lost, sent)
            if sent < room:
                underway.popleft()
            room -= sent
        self._room = room
        self.count()
        return SENDS_PER_TURN - room

    def count(self) -> None:
        """Add what was sent since the last call to the metrics."""
        values = self._values
        if self._events:
            values[catalog.DELIVERIES.slot] += self._events
            values[catalog.DELIVERED_BYTES.slot] += self._bytes
            self._events = self._bytes = 0
        if self._oldest_ns and not self._underway:
            late_s = (time.monotonic_ns() - self._oldest_ns) / 1e9
            observe(values, catalog.STAGE_SECONDS["reader_to_socket"], late_s)
            self._oldest_ns = 0

    def _send(self, broadcast: Broadcast, room: int) -> int:
        """Write to at most *room* sockets; fewer means that nobody is left."""
        data = broadcast.data
        number = broadcast.number
        live = State.LIVE
        sent = 0
        for sub in broadcast.targets:
            if sub.state is not live or sub.live_since >= number:
                continue
            socket = sub.socket
            if socket.blocked or not data:
                state = State.LAGGING if data else State.REPLAYING
                sub.reached = broadcast.reached
                sub.channel.learn_size(len(data), broadcast.events)
                self._fall_behind(sub, broadcast.before, broadcast.epoch, state)
                continue
            socket.send(data)
            sent += 1
            if sent == room:
                break
        return sent

    def _count_lost(self, lost: Mapping[str, int], sent: int) -> None:
        for reason, entries in lost.items():
            self._values[catalog.DROPS.slots[reason]] += sent * entries


def _tally(records: list[Record]) -> tuple[int, Mapping[str, int]]:
    """How many entries the records stand for, and how many they announce as lost."""
    gaps = [unpack_gap(r.payload) for r in records if r.kind == Kind.GAP]
    if not gaps:
        return len(records), NOTHING
    lost: dict[str, int] = {}
    for gap in gaps:
        lost[gap.reason] = lost.get(gap.reason, 0) + (gap.lost or 0)
    return len(records) - len(gaps), lost


_EVENT = int(Kind.EVENT)
NOTHING: Mapping[str, int] = MappingProxyType({})
