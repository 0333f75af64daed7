"""Writes what has just happened to the sockets at the tip. Pure: no loop.

The bytes of a slice of records are built once per wire format and the same buffer is
written to each socket, so the busier it gets the cheaper a delivery is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from broker.metrics import catalog
from broker.metrics.slots import Row, observe
from broker.model import Position
from broker.protocols.formats import FORMATS, Format
from broker.ring.layout import Kind
from broker.ring.receiver import Record
from broker.ring.records import (
    GapRecord,
    position_of,
    unpack_event,
    unpack_gap,
    unpack_skipped,
)
from broker.worker.channels import Channel, State, Subscription
from broker.worker.recent import ENTRIES

SENDS_PER_TURN = 500
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


def encode_record(channel: Channel, wire: Format, record: Record) -> bytes:
    """The frame of one record in one wire format."""
    _place, kind, _number, ms, n, seq, _prev, _stamp, payload = record
    if kind == Kind.EVENT:
        return wire.event(channel.name, ms, n, seq, unpack_event(payload))
    if kind == Kind.SKIPPED:
        skipped = unpack_skipped(payload)
        return wire.skipped(channel.name, ms, n, seq, skipped.reason, skipped.detail)
    return wire.notice("gap", gap_data(unpack_gap(payload)), channel.session)


class Broadcast:
    """One buffer on its way to the sockets of a channel.

    Attributes:
        data: The frames.
        targets: Who was at the tip when it was made.
        before: The tip before it: the position of a socket that cannot take it.
        events: How many entries the frames carry.
        lost: Entries that the frames announce as lost, by reason.
        stamp_ns: When the reader wrote the oldest of the records, 0 for notices.
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
        "stamp_ns",
        "targets",
    )

    def __init__(
        self,
        number: int,
        data: bytes,
        targets: Iterator[Subscription],
        before: Position,
        epoch: int,
        events: int,
        lost: dict[str, int],
        stamp_ns: int,
    ) -> None:
        self.number = number
        self.data = data
        self.targets = targets
        self.before = before
        self.epoch = epoch
        self.events = events
        self.lost = lost
        self.stamp_ns = stamp_ns


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
        self.number = 0
        """Number of the newest broadcast."""

    @property
    def busy(self) -> bool:
        """Whether sockets still wait for what was published."""
        return bool(self._underway)

    def publish(self, channel: Channel, records: list[Record]) -> None:
        """Queue records, in order, for who is live now, and move the channel's tip."""
        events = sum(record.kind in ENTRIES for record in records)
        lost = _announced_lost(records)
        for wire in FORMATS:
            if channel.live[wire.index]:
                data = b"".join([encode_record(channel, wire, r) for r in records])
                self._queue(channel, wire, data, events, lost, records[0].stamp_ns)
        last = records[-1]
        channel.tip = position_of(last.ms, last.n, last.seq)

    def notice(self, channel: Channel, event: str, data: object) -> None:
        """Queue a broker event for who is live now."""
        for wire in FORMATS:
            if channel.live[wire.index]:
                frame = wire.notice(event, data, channel.session)
                self._queue(channel, wire, frame, 0, {}, 0)

    def cut(self, channel: Channel) -> None:
        """Let everybody who is live fall behind, after what is queued for them."""
        for wire in FORMATS:
            if channel.live[wire.index]:
                self._queue(channel, wire, b"", 0, {}, 0)

    def _queue(
        self,
        channel: Channel,
        wire: Format,
        data: bytes,
        events: int,
        lost: dict[str, int],
        stamp_ns: int,
    ) -> None:
        self.number += 1
        targets = iter(list(channel.live[wire.index]))
        self._underway.append(
            Broadcast(
                self.number,
                data,
                targets,
                channel.tip,
                channel.epoch,
                events,
                lost,
                stamp_ns,
            )
        )

    def do_work(self) -> int:
        """Write to at most ``SENDS_PER_TURN`` sockets; returns to how many."""
        room = SENDS_PER_TURN
        while self._underway and room > 0:
            broadcast = self._underway[0]
            done, exhausted = self._send(broadcast, room)
            room -= done
            if exhausted:
                self._underway.popleft()
                self._observe(broadcast)
        return SENDS_PER_TURN - room

    def _send(self, broadcast: Broadcast, room: int) -> tuple[int, bool]:
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
                self._fall_behind(sub, broadcast.before, broadcast.epoch, state)
                continue
            socket.send(data)
            sent += 1
            if sent == room:
                break
        self._count(broadcast, sent)
        return sent, sent < room

    def _count(self, broadcast: Broadcast, sent: int) -> None:
        values = self._values
        values[catalog.DELIVERIES.slot] += sent * broadcast.events
        values[catalog.DELIVERED_BYTES.slot] += sent * len(broadcast.data)
        for reason, lost in broadcast.lost.items():
            values[catalog.DROPS.slots[reason]] += sent * lost

    def _observe(self, broadcast: Broadcast) -> None:
        if broadcast.stamp_ns:
            late_s = (time.monotonic_ns() - broadcast.stamp_ns) / 1e9
            observe(self._values, catalog.STAGE_SECONDS["reader_to_socket"], late_s)


def _announced_lost(records: list[Record]) -> dict[str, int]:
    lost: dict[str, int] = {}
    for record in records:
        if record.kind == Kind.GAP:
            gap = unpack_gap(record.payload)
            lost[gap.reason] = lost.get(gap.reason, 0) + (gap.lost or 0)
    return lost
