"""Follows the ring as a worker does, and checks what must hold of every record."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import orjson

from broker.model import FIRST_ID, Position, StreamId
from broker.ring import board as b
from broker.ring.doorbell import Doorbell
from broker.ring.layout import Kind
from broker.ring.receiver import NewGeneration, Receiver, Record
from broker.ring.records import (
    GapRecord,
    Join,
    Refused,
    position_of,
    unpack_event,
    unpack_gap,
    unpack_join,
    unpack_refused,
    unpack_unreadable,
)
from broker.ring.segment import Segment

EVERY_CHANNEL = range(2**32)
ENTRIES = (Kind.EVENT, Kind.REFERENCE, Kind.SKIPPED)
ROW = 1


@dataclass(frozen=True)
class Entry:
    """An entry as the ring has it; *seq* is 0 where it is not known."""

    kind: Kind
    id: StreamId
    seq: int
    payload: bytes

    @property
    def data(self) -> bytes:
        """The event's data."""
        event = unpack_event(self.payload)
        envelope = orjson.loads(event.frame[event.header_bytes :])
        return orjson.dumps(envelope["data"])


@dataclass(frozen=True)
class Hole:
    """A GAP record, and where it stands among the entries."""

    at: Position
    gap: GapRecord


@dataclass(frozen=True)
class Answer:
    """What a request for a watch was answered with."""

    channel: int
    cursor: Position
    join: Join | None = None
    refused: Refused | None = None


@dataclass
class Chain:
    """Everything that one channel has had so far.

    Attributes:
        histories: Entries and holes in order; a RESET begins another list.
        complaints: Why the stream could not be read, each time it began.
    """

    number: int
    base: Position
    last: int
    tip: StreamId
    histories: list[list[Entry | Hole]] = field(default_factory=lambda: [[]])
    complaints: list[str] = field(default_factory=list)

    @property
    def entries(self) -> list[Entry]:
        """The entries of the present history."""
        return [item for item in self.histories[-1] if isinstance(item, Entry)]

    @property
    def ids(self) -> list[StreamId]:
        """The ids of the present history."""
        return [entry.id for entry in self.entries]

    @property
    def holes(self) -> list[Hole]:
        """The gaps of the present history."""
        return [item for item in self.histories[-1] if isinstance(item, Hole)]

    @property
    def told(self) -> int:
        """Entries delivered or announced as lost, of the present history."""
        return len(self.entries) + sum(hole.gap.lost or 0 for hole in self.holes)

    @property
    def resets(self) -> int:
        """How often the stream became another one."""
        return len(self.histories) - 1


class Follower:
    """Drains the ring when the bell rings, as worker 1 of the board.

    Attributes:
        chains: By channel number, of all generations.
        answers: By token.
        generations: How often another transmitter took over.
    """

    def __init__(self, segment: Segment, board: b.Board, bell: Doorbell) -> None:
        self._receiver = Receiver(segment)
        self._board = board
        self._bell = bell
        self._moved = asyncio.Event()
        self._failure: Exception | None = None
        self._known: dict[int, Chain] = {}
        self.chains: dict[int, Chain] = {}
        self.answers: dict[int, Answer] = {}
        self.generations = 0

    def start(self) -> None:
        self._board.set(ROW, b.STATE, b.READY)
        asyncio.get_running_loop().add_reader(self._bell.fd, self._drain)

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._bell.fd)

    def beat(self, seconds_ago: float = 0.0) -> None:
        """Say that the worker lives, or when it last did."""
        when = time.monotonic_ns() - int(seconds_ago * 1e9)
        self._board.set(ROW, b.HEARTBEAT_NS, when)

    def check(self) -> None:
        """Raise what went wrong while draining."""
        if self._failure is not None:
            raise self._failure

    async def moved(self, patience_s: float) -> None:
        """Wait for something to come, but not longer than *patience_s*."""
        self._moved.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._moved.wait()

    def _drain(self) -> None:
        self._bell.clear()
        self.beat()
        try:
            self._take_all()
        except Exception as failure:  # noqa: BLE001 - raised again in the test
            self._failure = failure
        self._board.set(ROW, b.CURSOR, self._receiver.cursor)
        self._moved.set()

    def _take_all(self) -> None:
        while True:
            try:
                copied = self._receiver.receive(1 << 20)
            except NewGeneration:
                self.generations += 1
                self._known.clear()
                continue
            if not copied:
                return
            for record in self._receiver.records(copied, EVERY_CHANNEL):
                self._take(record)

    def _take(self, record: Record) -> None:
        kind = Kind(record.kind)
        at = position_of(record.ms, record.n, record.seq)
        if kind is Kind.BASE:
            self._begin(record, at)
        elif kind is Kind.JOIN:
            self._join(record, at)
        elif kind is Kind.REFUSED:
            refused = unpack_refused(record.payload)
            self.answers[refused.token] = Answer(0, at, refused=refused)
        elif kind is Kind.UNREADABLE:
            why = unpack_unreadable(record.payload)
            self._known[record.channel].complaints.append(why)
        else:
            self._follow(record, kind, at)

    def _begin(self, record: Record, at: Position) -> None:
        assert record.prev == 0
        assert record.channel > max(self.chains, default=0), "a number came twice"
        chain = Chain(record.channel, at, record.position, at.id)
        self._known[record.channel] = self.chains[record.channel] = chain

    def _join(self, record: Record, at: Position) -> None:
        chain = self._known[record.channel]
        join = unpack_join(record.payload)
        assert (join.base, join.last) == (chain.base, chain.last)
        assert join.epoch == chain.resets
        assert at.id == chain.tip, "records came between the cursor and the JOIN"
        self.answers[join.token] = Answer(record.channel, at, join=join)

    def _follow(self, record: Record, kind: Kind, at: Position) -> None:
        chain = self._known[record.channel]
        assert record.prev == chain.last, "the chain is broken"
        chain.last = record.position
        if kind is Kind.RESET:
            assert at.id == FIRST_ID
            chain.histories.append([])
        elif kind is Kind.GAP:
            assert at.id >= chain.tip
            chain.histories[-1].append(Hole(at, unpack_gap(record.payload)))
        else:
            assert kind in ENTRIES
            assert at.id > chain.tip, "twice, or not in order"
            entry = Entry(kind, at.id, record.seq, record.payload)
            chain.histories[-1].append(entry)
        chain.tip = at.id
