"""Drains the ring in bounded slices and hands each record to its channel."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

import structlog

from broker.errors import RingCorrupted
from broker.metrics import catalog
from broker.metrics.slots import Row, observe
from broker.model import START
from broker.process import ExitStatus
from broker.ring.layout import ENTRIES, Kind
from broker.ring.receiver import Lapped, NewGeneration, Receiver, Record
from broker.ring.records import (
    position_of,
    unpack_gap,
    unpack_join,
    unpack_refused,
    unpack_unreadable,
)
from broker.worker.archive import count_of
from broker.worker.catchup import Catchup
from broker.worker.channels import UNCOUNTED, Channel, Channels, State
from broker.worker.hub import Hub
from broker.worker.link import Link
from broker.worker.recent import Recent

log = structlog.get_logger(__name__)

SLICE_BYTES = 256 * 1024
ASK_AGAIN_S = 2.0
"""After a refusal, how long until a channel is asked for again that is still needed."""

# Plain numbers: comparing with a member of an enum costs twice as much per record.
_REFERENCE, _GAP, _RESET, _UNREADABLE, _JOIN = map(
    int, (Kind.REFERENCE, Kind.GAP, Kind.RESET, Kind.UNREADABLE, Kind.JOIN)
)

Batches = dict[Channel, list[Record]]


class Dispatcher:
    """The worker's turn: sockets first, then the ring, then those who are behind.

    A turn does a bounded amount and asks for another one while anything is left: the
    doorbell is quiet about records that it has rung for.
    """

    def __init__(
        self,
        row: int,
        receiver: Receiver,
        channels: Channels,
        values: Row,
        on_drained: Callable[[int], None],
        on_probe: Callable[[int], None],
    ) -> None:
        self._row = row
        self._receiver = receiver
        self._channels = channels
        self._values = values
        self._on_drained = on_drained
        self._on_probe = on_probe
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._hub: Hub
        self._catchup: Catchup
        self._link: Link

    def connect(self, hub: Hub, catchup: Catchup, link: Link) -> None:
        """Name the parts that it works with; they know it already."""
        self._hub, self._catchup, self._link = hub, catchup, link

    def schedule(self) -> None:
        """Ask for a turn soon; asking twice is one turn."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def wake(self) -> None:
        """The bell has rung: take a turn now, unless one is about to come."""
        if not self._scheduled:
            self._turn()

    def _turn(self) -> None:
        self._scheduled = False
        try:
            self._take_turn()
        except Exception:
            log.exception("turn_failed")
            os._exit(ExitStatus.FAILED)

    def _take_turn(self) -> None:
        hub, catchup = self._hub, self._catchup
        hub.do_work()
        if not hub.busy:
            self._drain()
            catchup.do_work()
            hub.count()
        if hub.busy or catchup.ready or self._receiver.unread() > 0:
            self.schedule()

    def _drain(self) -> None:
        """Take one slice of the ring."""
        receiver = self._receiver
        try:
            copied = receiver.receive(SLICE_BYTES)
            if not copied:
                return
            self._take(copied)
        except NewGeneration:
            return
        except Lapped:
            self._values[catalog.LAPPED.slot] += 1
            log.warning("lapped")
            self._leap()
        except RingCorrupted as error:
            self._values[catalog.RING_CORRUPTED.slot] += 1
            log.error("ring_corrupted", why=str(error))  # noqa: TRY400
            receiver.skip_to_head()
            self._leap()
        self._on_drained(receiver.cursor)

    def _take(self, copied: bytes) -> None:
        batches: Batches = {}
        by_number = self._channels.by_number
        taken = 0
        for record in self._receiver.records(copied, by_number):
            taken += 1
            if record.kind >= _JOIN:
                self._flush(batches)
                self._take_answer(record)
                continue
            channel = by_number.get(record.channel)
            if channel is not None:
                self._take_record(channel, record, batches)
        self._flush(batches)
        self._values[catalog.DRAINED.slot] += taken

    def _take_record(self, channel: Channel, record: Record, batches: Batches) -> None:
        kind = record.kind
        if kind == _UNREADABLE:
            self._flush(batches)
            self._hub.notice(channel, "error", unreadable(record))
            return
        channel.last = record.position
        stream_id = (record.ms, record.n)
        if kind == _RESET:
            self._flush(batches)
            self._reset(channel)
            return
        if channel.pinned:
            self._hear_probe(record.ms)
        if channel.recent is not None:
            channel.recent.add(stream_id, record.position, kind)
        batch = batches.get(channel)
        tip = channel.tip.id if batch is None else (batch[-1].ms, batch[-1].n)
        if stream_id < tip or (stream_id == tip and kind in ENTRIES):
            return
        if kind == _REFERENCE or (kind == _GAP and spans(channel, record)):
            self._flush(batches)
            self._hub.cut(channel)
            channel.tip = position_of(record.ms, record.n, record.seq)
            channel.advance(record.seq, 1)
            self._wake_reached(channel)
        elif batch is None:
            batches[channel] = [record]
        else:
            batch.append(record)

    def _hear_probe(self, ms: int) -> None:
        self._on_probe(ms)
        late_s = max(0.0, time.time_ns() / 1e9 - ms / 1e3)
        observe(self._values, catalog.PROBE_SECONDS.slot, late_s)

    def _flush(self, batches: Batches) -> None:
        for channel, records in batches.items():
            self._hub.publish(channel, records)
            if channel.ahead:
                self._wake_reached(channel)
        batches.clear()

    def _wake_reached(self, channel: Channel) -> None:
        for sub in list(channel.ahead):
            if sub.position.id <= channel.tip.id:
                del channel.ahead[sub]
                self._catchup.wake(sub)

    def _reset(self, channel: Channel) -> None:
        data = {"from": str(START), "tip": str(START)}
        self._hub.notice(channel, "reset", data)
        for sub in channel.everybody():
            if sub.consumer is not None and sub.state is State.LIVE:
                sub.consumer.restart()
        channel.tip = START
        channel.reached = 0
        channel.epoch += 1
        channel.begin_life()
        channel.reader_epoch += 1
        channel.recent = Recent.of_new_history(channel.number)
        self._wake_all(channel)

    def _wake_all(self, channel: Channel) -> None:
        channel.ahead.clear()
        for sub in list(channel.behind):
            if sub.state is State.JOINING:
                self._catchup.begin(sub)
            else:
                self._catchup.wake(sub)

    # Answers of the reader.

    def _take_answer(self, record: Record) -> None:
        if record.kind == _JOIN:
            self._take_join(record)
        else:
            self._take_refused(record)

    def _take_join(self, record: Record) -> None:
        join = unpack_join(record.payload)
        if join.worker != self._row:
            return
        self._link.answered(join.token)
        channel = self._channels.answered(join.token)
        if channel is None:
            return  # Asked for again since, or left.
        cursor = position_of(record.ms, record.n, record.seq)
        same_watch = record.channel == channel.former
        reset = channel.known and (
            join.reset or (same_watch and join.epoch != channel.reader_epoch)
        )
        if reset:
            channel.epoch += 1
            channel.begin_life()
        if reset or not channel.known or cursor.id > channel.tip.id:
            channel.tip = cursor
            if reset or not channel.known:
                channel.reached = UNCOUNTED if cursor.seq is None else cursor.seq
            else:
                channel.advance(cursor.seq or 0, 0)
        channel.known = True
        channel.former = record.channel
        channel.reader_epoch = join.epoch
        channel.last = join.last
        if join.mean_bytes and not channel.count:
            channel.count = count_of(join.mean_bytes)
            channel.learn_size(join.mean_bytes, 1)
        channel.recent = None
        self._channels.set_number(channel, record.channel)
        self._wake_all(channel)

    def _take_refused(self, record: Record) -> None:
        refused = unpack_refused(record.payload)
        if refused.worker != self._row:
            return
        self._link.answered(refused.token)
        channel = self._channels.answered(refused.token)
        if channel is None:
            return
        for sub in channel.everybody():
            self._catchup.refuse(sub, refused.reason)
        if channel.needed:
            self._loop.call_later(ASK_AGAIN_S, self._ask_again, channel)

    def _ask_again(self, channel: Channel) -> None:
        known = self._channels.by_session.get(channel.session) is channel
        if known and not channel.joined and not channel.token:
            self._link.watch(channel)

    # When the ring is lost.

    def cut_off(self) -> None:
        """The reader is gone: nothing more comes under the numbers known so far."""
        for channel in self._channels.by_session.values():
            self._hub.cut(channel)
        while self._hub.busy:
            self._hub.do_work()
        for channel in list(self._channels.by_number.values()):
            channel.recent = None
            self._channels.set_number(channel, 0)
        # An answer may still lie in the ring, from a reader that is dead by now.
        self._channels.expect_no_answer()

    def _leap(self) -> None:
        """Records were missed: every channel is joined again where it stood."""
        self.cut_off()
        self._link.rejoin_all()


def spans(channel: Channel, gap: Record) -> bool:
    """Whether *gap* begins before a tip that was exact, so part of it was delivered.

    A reader that was restarted begins where the first worker stood that asked; the
    others may have been further. Who is live counts for itself then.
    """
    tip = channel.tip
    return tip.seq is not None and unpack_gap(gap.payload).after.id < tip.id


def unreadable(record: Record) -> dict[str, str]:
    """The ``data`` of the error that a stream cannot be read for now."""
    return {
        "code": unpack_unreadable(record.payload),
        "message": "the session's stream cannot be read; it is tried again",
    }
