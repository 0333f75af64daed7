"""What several of these tests need: a ring with a chain in it, and frames to read."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from broker.entry import Event
from broker.metrics.slots import Row
from broker.model import START, Position, StreamId, id_before
from broker.protocols.formats import NATIVE, Format, event_payload
from broker.ring import records, requests
from broker.ring.layout import Kind
from broker.ring.receiver import Receiver, Record
from broker.ring.segment import Segment
from broker.ring.transmitter import Transmitter
from broker.worker.channels import (
    Channel,
    Overflow,
    Socket,
    Start,
    State,
    Subscription,
)
from broker.worker.starting import Reading
from tests.fakes import FakeClock, FakeSocket
from tests.unit.worker.seam.account import frames_of
from tests.unit.worker.seam.pod import KEYS, Client, Shared, WorkerProcess
from tests.unit.worker.seam.streams import ModelRedis

SESSION = "s1"


def id_of(ordinal: int) -> StreamId:
    """The id that the entry with this ordinal has in these tests."""
    return (1000 + ordinal, 0) if ordinal else START.id


def at(ordinal: int) -> Position:
    return Position(id_of(ordinal), ordinal)


def event(ordinal: int, *, key: bytes = b"", transient: bool = False) -> Event:
    return Event(
        event=b"e",
        data=b"%d" % ordinal,
        timestamp=b"",
        node_id=b"",
        key=key,
        transient=transient,
    )


def gap(after: int, following: int) -> records.GapRecord:
    """Everything between two ordinals is gone."""
    return records.GapRecord(
        after=at(after),
        next=at(following),
        lost=following - after - 1,
        exact=True,
        reason="trimmed",
    )


class Ring:
    """A ring, its one writer, a reader of it and the chain of one channel."""

    def __init__(self, segment: Segment | None = None, number: int = 7) -> None:
        self.segment = segment or Segment.create(1 << 20)
        self.transmitter = Transmitter(self.segment)
        self.receiver = Receiver(self.segment)
        self.number = number
        self.last = 0

    def append(self, kind: Kind, position: Position, payload: bytes = b"") -> int:
        ms, n = position.id
        seq = records.seq_word(position.seq)
        self.last = self.transmitter.append(
            kind, self.number, ms, n, seq, self.last, payload
        )
        self.transmitter.commit()
        return self.last

    def base(self, ordinal: int = 0) -> int:
        return self.append(Kind.BASE, at(ordinal))

    def event(self, ordinal: int, *, key: bytes = b"", transient: bool = False) -> int:
        said = event(ordinal, key=key, transient=transient)
        payload = event_payload(SESSION.encode(), *id_of(ordinal), ordinal, said)
        return self.append(Kind.EVENT, at(ordinal), payload)

    def events(self, first: int, last: int) -> None:
        for ordinal in range(first, last + 1):
            self.event(ordinal)

    def gap(self, after: int, following: int) -> int:
        where = at(following - 1)
        return self.append(Kind.GAP, where, records.pack_gap(gap(after, following)))

    def reference(self, ordinal: int) -> int:
        return self.append(Kind.REFERENCE, at(ordinal))

    def reset(self) -> int:
        return self.append(Kind.RESET, START)

    def join(
        self,
        token: int,
        cursor: int,
        *,
        worker: int = 1,
        base: int = 0,
        epoch: int = 0,
        reset: bool = False,
    ) -> None:
        """Answer a request; the channel's own chain stays what it is."""
        join = records.Join(worker, token, SESSION, at(base), self.last, epoch, reset)
        self._append_answer(Kind.JOIN, cursor, records.pack_join(join))

    def join_at(self, token: int, cursor: Position) -> None:
        """Answer with a cursor of the bench's Redis; the chain begins there if new."""
        base = cursor if self.last == 0 else START
        join = records.Join(1, token, SESSION, base, self.last, 0, False)
        self.transmitter.append(
            Kind.JOIN,
            self.number,
            *cursor.id,
            cursor.seq or 0,
            0,
            records.pack_join(join),
        )
        self.transmitter.commit()

    def refuse(self, token: int, reason: str, *, worker: int = 1) -> None:
        refused = records.Refused(worker, token, reason)
        self._append_answer(Kind.REFUSED, 0, records.pack_refused(refused))

    def _append_answer(self, kind: Kind, cursor: int, payload: bytes) -> None:
        ms, n = id_of(cursor)
        self.transmitter.append(kind, self.number, ms, n, cursor, 0, payload)
        self.transmitter.commit()

    def append_stored(self, bench: Bench, first: int, last: int) -> None:
        """Entries as they stand in the bench's Redis."""
        for ordinal in range(first, last + 1):
            where = bench.stored(ordinal)
            name, said = SESSION.encode(), event(ordinal)
            payload = event_payload(name, *where.id, ordinal, said)
            self.append(Kind.EVENT, where, payload)

    def stored_reference(self, bench: Bench, ordinal: int) -> None:
        self.append(Kind.REFERENCE, bench.stored(ordinal))

    def stored_gap(self, bench: Bench, after: int, following: int) -> None:
        begin = bench.stored(after) if after else START
        end = bench.stored(following)
        lost = following - after - 1
        record = records.GapRecord(begin, end, lost, True, "trimmed")
        where = Position(id_before(end.id), following - 1)
        self.append(Kind.GAP, where, records.pack_gap(record))

    def other(self) -> None:
        """One large record of somebody else's channel."""
        payload = bytes(self.transmitter.largest)
        self.transmitter.append(Kind.EVENT, 2**31, 1, 0, 1, 0, payload)
        self.transmitter.commit()

    def flood(self) -> None:
        """Overwrite everything that the ring holds."""
        for _ in range(9):
            self.other()

    def drain(self) -> list[Record]:
        return list(
            self.receiver.records(self.receiver.receive(1 << 20), {self.number})
        )

    def close(self) -> None:
        self.segment.close()


class Listener(Client):
    """A connection that keeps the frames that it is sent.

    Attributes:
        takes_one: Its socket is full after the first page of events.
    """

    takes_one = False

    def __init__(self, owner: WorkerProcess, wire: Format = NATIVE) -> None:
        super().__init__(owner, wire)
        self.frames: list[dict[str, Any]] = []

    def send(self, data: bytes) -> None:
        if data and self.closing is None:
            self.frames += frames_of(self.format, data)
            self.blocked |= self.takes_one and "seq" in self.frames[-1]

    @property
    def story(self) -> list[object]:
        """The ordinals of events, the names of notices, in the order sent."""
        return [frame.get("seq") or frame["event"] for frame in self.frames]

    def last(self, name: str) -> dict[str, Any]:
        """The data of the last notice of that name."""
        said = [frame for frame in self.frames if frame["event"] == name]
        data: dict[str, Any] = said[-1]["data"]
        return data


class Bench:
    """One whole worker without sockets, a ring to write into and a Redis to fill."""

    def __init__(self, clock: FakeClock, *, rising: bool = False) -> None:
        self.shared = Shared()
        self.clock = clock
        self.ring = Ring(self.shared.segment)
        self.redis = ModelRedis(rising=rising)
        self.worker = WorkerProcess(1, self.shared, self.redis, clock)
        self.asked: list[requests.Request] = []
        with self.worker.loop.running():
            self.worker.link._writer = cast("asyncio.StreamWriter", self)

    def write(self, lines: bytes) -> None:
        """Take what the link asks for, in place of its socket."""
        self.asked += [requests.decode(line) for line in lines.splitlines()]

    @property
    def worker_values(self) -> Row:
        return self.shared.slots.row(1)

    @property
    def channel(self) -> Channel:
        return self.worker.channels.by_session[SESSION]

    @property
    def token(self) -> int:
        """Number of the newest request."""
        watches = [said for said in self.asked if isinstance(said, requests.Watch)]
        return watches[-1].token

    def open(
        self,
        start: Start | None = None,
        overflow: Overflow = Overflow.LAG,
        wire: Format = NATIVE,
        *,
        blocked: bool = False,
        takes_one: bool = False,
    ) -> Listener:
        """Subscribe a new connection; it waits until its channel is joined."""
        listener = Listener(self.worker, wire)
        listener.blocked = blocked
        listener.takes_one = takes_one
        with self.worker.loop.running():
            reading = Reading(start=start or Start(), overflow=overflow)
            self.worker.subscriptions.open(listener, SESSION, reading)
        self.worker.loop.settle()
        return listener

    def join(self, cursor: int, **answer: Any) -> None:
        """Answer the newest request and have the worker take note."""
        self.ring.join(self.token, cursor, **answer)
        self.turn()

    def restart_reader(self) -> None:
        """Another reader answers from now on, under another channel number."""
        with self.worker.loop.running():
            self.worker.dispatcher.cut_off()
            self.worker.link.rejoin_all()
        self.worker.loop.settle()
        self.ring.number += 1
        self.ring.last = 0

    def turn(self) -> None:
        """Let the worker drain the ring and do what follows, Redis aside."""
        with self.worker.loop.running():
            self.worker.dispatcher.schedule()
        self.worker.loop.settle()

    def serve(self) -> None:
        """Let Redis answer until nobody asks any more."""
        self.turn()
        while self.worker.store.execute():
            self.worker.store.receive()
            self.worker.loop.settle()

    def publish(self, count: int) -> None:
        """Add entries to the stream; their ids are those of ``stored``."""
        for _ in range(count):
            number = len(self.redis.history(KEYS.key(SESSION)).now.ids) + 1
            fields = [b"event", b"e", b"data", b"%d" % number]
            self.redis.add(KEYS.key(SESSION), fields)

    def stored(self, ordinal: int) -> Position:
        """Where the entry with this ordinal is in the stream."""
        life = self.redis.history(KEYS.key(SESSION)).now
        return Position(life.ids[ordinal - 1], ordinal)

    def close(self) -> None:
        self.worker.loop.close()
        self.shared.close()


def new_channel(tip: int = 0, number: int = 7) -> Channel:
    channel = Channel(SESSION)
    channel.number = number
    channel.tip = at(tip)
    channel.known = True
    return channel


def new_sub(
    channel: Channel,
    socket: Socket,
    *,
    overflow: Overflow = Overflow.LAG,
    state: State = State.LIVE,
) -> Subscription:
    """A subscription that is where *state* says, and the channel knows it."""
    sub = Subscription(socket, channel, Start(), overflow, None)
    sub.state = state
    sub.announced = True
    if state is State.LIVE:
        channel.live.setdefault(socket.format, {})[sub] = socket.fd
    else:
        channel.behind[sub] = None
    return sub


def frames(socket: FakeSocket) -> list[dict[str, Any]]:
    """All frames that a socket was sent."""
    return [frame for data in socket.sent for frame in frames_of(socket.format, data)]


def story(socket: FakeSocket) -> list[object]:
    """The ordinals of events, the names of notices, in the order sent."""
    return [frame.get("seq") or frame["event"] for frame in frames(socket)]


def frames_in(wire: Format, data: bytes) -> list[dict[str, Any]]:
    return list(frames_of(wire, data))
