"""A reader and workers made of the real parts, on loops that run when told."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

from broker.config import load_settings
from broker.control.identity import everybody
from broker.disconnect import Disconnect
from broker.errors import StoreUnavailable
from broker.metrics.slots import Row, Slots
from broker.model import Position
from broker.protocols.formats import Format
from broker.reader.chain import Chains
from broker.reader.desk import Desk
from broker.reader.opening import Openings
from broker.reader.pump import Pump
from broker.reader.watches import Watches
from broker.ring import layout, requests
from broker.ring.doorbell import Doorbell
from broker.ring.receiver import Receiver
from broker.ring.segment import Segment
from broker.ring.transmitter import Transmitter
from broker.store.connection import Connection as StoreConnection
from broker.store.keys import event_key_pattern
from broker.worker.archive import Archive
from broker.worker.catchup import Catchup
from broker.worker.channels import Channels, Overflow, State, Subscription
from broker.worker.connection import Connection
from broker.worker.dialect import Dialect
from broker.worker.dispatcher import Dispatcher
from broker.worker.hub import Hub
from broker.worker.limits import Limits
from broker.worker.link import Link
from broker.worker.starting import Reading
from broker.worker.subscriptions import Subscriptions
from tests.fakes import FakeClock, StepLoop
from tests.unit.worker.seam.account import Account, Broken, frames_of
from tests.unit.worker.seam.streams import ModelConnection, ModelRedis

KEYS = event_key_pattern("events:{session}")
MAX_EVENT_BYTES = 100_000
RING_BYTES = 1 << 20
SWEEP_S = 10.0


class Shared:
    """What outlives every process: made once, cleared for each schedule."""

    def __init__(self) -> None:
        self.segment = Segment.create(RING_BYTES)
        self.slots = Slots.create(2)
        self.settings = load_settings({}, env_file=None)

    def clear(self) -> None:
        for word in (
            *(layout.CLAIM, layout.HEAD, layout.GENERATION),
            *(layout.GENERATION_START, layout.NEXT_CHANNEL),
        ):
            self.segment.words[word] = 0

    def close(self) -> None:
        self.slots.close()
        self.segment.close()


class Bell(Doorbell):
    """A doorbell without a descriptor."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.rung = False

    def ring(self) -> None:
        self.rung = True

    def clear(self) -> None:
        self.rung = False


class Pipe:
    """One worker's connection to the reader: lines on their way, then the end."""

    def __init__(self, desk: Desk, former: Pipe | None) -> None:
        self._desk = desk
        self._former = former
        self._lines: deque[bytes | None] = deque()

    @property
    def lines_left(self) -> bool:
        """Whether lines of it or of a former pipe are still on their way."""
        if self._lines and self._lines[0] is not None:
            return True
        return self._former is not None and self._former.lines_left

    def write(self, lines: bytes) -> None:
        self._lines += lines.splitlines(keepends=True)

    def end(self) -> None:
        self._lines.append(None)

    def deliver(self) -> bool:
        """Have the next line read; only the end of a former pipe may come later."""
        if self._former is not None and self._former.lines_left:
            return self._former.deliver()
        if not self._lines:
            return False
        line = self._lines.popleft()
        if line is None:
            self._desk.connection_lost(None)
        else:
            self._desk.data_received(line)
        return True


class ReaderProcess:
    """The reader between two restarts."""

    def __init__(
        self, shared: Shared, redis: ModelRedis, clock: FakeClock, bells: Sequence[Bell]
    ) -> None:
        values = shared.slots.row(0)
        self.loop = StepLoop(clock)
        self.watches = Watches(KEYS, linger_s=0.0, sweep_s=SWEEP_S)
        self.transmitter = Transmitter(shared.segment, bells)
        self.chains = Chains(self.transmitter)
        self.openings = Openings(self.watches, self.chains, values, limit=1000)
        self.pump = Pump(self.watches, self.chains, values, MAX_EVENT_BYTES)
        self.pump.rings_are_trusted = False
        self.desks: dict[int, Desk] = {}
        self._redis = redis
        self._turn: asyncio.Task[None] | None = None
        self.connection: ModelConnection
        self.connect()

    def connect(self) -> None:
        """Come back from a lost connection: everything is dirty."""
        self.connection = ModelConnection(self._redis, self.loop, self._handle_push)
        self.watches.mark_all_dirty()

    def _handle_push(self, push: list[Any]) -> None:
        self.watches.ring(push[1][0])

    @property
    def idle(self) -> bool:
        return self._turn is None and not self.watches.work

    def step(self) -> bool:
        """One callback of its loop, or the beginning of a turn."""
        if self.loop.step():
            return True
        if self._turn is not None and self._turn.done():
            self._turn.result()
            self._turn = None
        if self._turn is None and self.watches.work:
            with self.loop.running():
                self._turn = self.loop.create_task(self._take_turn())
            return True
        return False

    def kill(self) -> None:
        """End it where it stands; not a byte more goes into the ring."""
        self.connection.lose()
        self.loop.close()

    async def _take_turn(self) -> None:
        connection = cast("StoreConnection", self.connection)
        try:
            await self.openings.do_work(connection)
            await self.pump.do_work(connection)
        except StoreUnavailable:
            pass

    def flood(self, count: int) -> None:
        """Other sessions' records: nine are more than the ring holds."""
        for _ in range(count):
            payload = bytes(self.transmitter.largest)
            self.transmitter.append(layout.Kind.EVENT, 2**31, 1, 0, 1, 0, payload)
            self.transmitter.commit()


class Unwatched:
    """Nobody wants to know of subscriptions."""

    def opened(self, sub: Subscription, reading: Reading) -> None:
        pass

    def ended(self, sub: Subscription) -> None:
        pass


class Client(Connection):
    """A connection whose socket keeps accounts instead of sending."""

    def __init__(self, owner: WorkerProcess, wire: Format) -> None:
        super().__init__(cast("Any", owner), Dialect(wire), everybody(""), "")
        self._worker = owner
        self.accounts: dict[str, Account] = {}
        self.room = -1
        """Buffers that it takes before it is blocked; negative: no bound."""
        self.closing: Disconnect | None = None
        self.log: list[str] = []

    @property
    def buffered_bytes(self) -> int:
        return 0

    def send(self, data: bytes) -> None:
        if not data or self.closing is not None:
            return
        for frame in frames_of(self.format, data):
            self.log.append(str(frame)[:150])
            session = frame.get("session") or frame["data"]["session"]
            account = self.accounts.get(session)
            if account is None:
                raise Broken(f"a frame without a subscription: {frame}")
            account.take(frame)
        if self.room > 0:
            self.room -= 1
            self.blocked = self.room == 0

    def close(self, reason: Disconnect, **details: object) -> None:
        self.closing = self.closing or reason

    def unblock(self) -> None:
        self.room = -1
        if self.blocked:
            self.blocked = False
            for sub in self.subs.values():
                self._worker.catchup.wake(sub)


class WorkerProcess:
    """One worker: everything between its ring cursor and its sockets."""

    def __init__(
        self, row: int, shared: Shared, redis: ModelRedis, clock: FakeClock
    ) -> None:
        self.row = row
        self.bell = Bell()
        self.loop = StepLoop(clock)
        self.clients: list[Client] = []
        self._redis = redis
        self._pipe: Pipe | None = None
        self._last_pipe: Pipe | None = None
        self._last_reader: ReaderProcess | None = None
        values = shared.slots.row(row)
        with self.loop.running():
            self._wire(shared, values)

    def _wire(self, shared: Shared, values: Row) -> None:
        receiver = Receiver(shared.segment)
        self.channels = Channels()
        self.archive = Archive("redis://nowhere", "model", KEYS, values, lambda: 0)
        self.connect_store()
        self.subscriptions = Subscriptions(
            self.channels, Limits(shared.settings), Unwatched()
        )
        self.dispatcher = Dispatcher(
            self.row, receiver, self.channels, values, _ignore, _ignore
        )
        self.hub = Hub(values, self._fall_behind)
        self.catchup = Catchup(
            receiver,
            self.archive,
            self.hub,
            values,
            MAX_EVENT_BYTES,
            self.dispatcher.schedule,
            self.subscriptions.refuse,
        )
        self.link = Link("nowhere", self.row, self.channels, self.dispatcher.cut_off)
        self.dispatcher.connect(self.hub, self.catchup, self.link)
        self.subscriptions.connect(self.catchup, self.link)

    def _fall_behind(
        self, sub: Subscription, position: Position, epoch: int, state: State
    ) -> None:
        self.catchup.fall_behind(sub, position, epoch, state)

    def connect_store(self) -> None:
        self.store = ModelConnection(self._redis, self.loop)
        self.archive._standing._connection = cast("StoreConnection", self.store)

    def lose_store(self) -> None:
        self.store.lose()
        self.connect_store()

    @property
    def linked(self) -> bool:
        return self._pipe is not None

    def connect_link(self, reader: ReaderProcess) -> Pipe:
        """The link's connection stands."""
        former = self._last_pipe if reader is self._last_reader else None
        pipe = Pipe(Desk(reader.openings, reader.desks), former)
        self._pipe = self._last_pipe = pipe
        self._last_reader = reader
        with self.loop.running():
            self.link._writer = cast("asyncio.StreamWriter", pipe)
            self.link._write(requests.Hello(self.row))
            self.link.rejoin_all()
        return pipe

    def lose_link(self) -> None:
        """The link's connection has ended."""
        if self._pipe is not None:
            self._pipe.end()
            self._pipe = None
            with self.loop.running():
                self.link._writer = None
                self.link._unsent.clear()
                self.dispatcher.cut_off()

    def step(self) -> bool:
        """One callback of its loop; its doorbell is one of its events."""
        if self.bell.rung:
            self.bell.clear()
            self.dispatcher.schedule()
        return self.loop.step()

    def open(
        self, client: Client, session: str, account: Account, overflow: Overflow
    ) -> None:
        client.accounts[session] = account
        reading = Reading(start=account.start, overflow=overflow)
        with self.loop.running():
            self.subscriptions.open(client, session, reading)

    def end(self, client: Client, session: str) -> None:
        with self.loop.running():
            self.subscriptions.end(client.subs[session])
        del client.accounts[session]

    def lose(self, client: Client) -> None:
        """The connection has ended."""
        with self.loop.running():
            self.subscriptions.end_all(client)
        client.accounts.clear()
        self.clients.remove(client)


def _ignore(_number: int) -> None:
    pass
