"""One worker: its parts, what joins them, and how it drains."""

from __future__ import annotations

import asyncio
import contextlib
import random

import structlog

from broker.config import Settings
from broker.disconnect import Disconnect
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.model import Position
from broker.process import Boot
from broker.protocols.formats import NATIVE, SSE
from broker.ring import board as b
from broker.ring.receiver import Receiver
from broker.store.keys import event_key_pattern
from broker.worker.archive import Archive
from broker.worker.catchup import Catchup
from broker.worker.channels import Channels, State, Subscription
from broker.worker.commands import Commands
from broker.worker.connection import Connection
from broker.worker.dispatcher import Dispatcher
from broker.worker.handshake import Wanted
from broker.worker.heartbeat import HeartbeatWheel
from broker.worker.history import History
from broker.worker.hub import Hub
from broker.worker.limits import Limits
from broker.worker.link import Link
from broker.worker.subscriptions import Subscriptions
from broker.worker.tending import Tending

log = structlog.get_logger(__name__)

READER_ROW = 0
LAST_WORDS_S = 6.0
"""How long closed connections may take to be gone at the end of a drain."""
SPREAD_MS = 500


class Worker:
    """The parts of a worker, wired in the order of the data flow."""

    def __init__(
        self,
        boot: Boot,
        settings: Settings,
        receiver: Receiver,
        board: b.Board,
        values: Row,
    ) -> None:
        self.values = values
        self.write_buffer_bytes = settings.write_buffer_bytes
        self.lag_timeout_ms = int(settings.lag_timeout_s * 1000)
        self._settings = settings
        self._board = board
        self._row = boot.index
        self._draining = False
        self._connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._channels = Channels()
        self._limits = Limits(settings)
        keys = event_key_pattern(settings.event_stream)
        self._archive = Archive(
            settings.redis_url.get_secret_value(),
            f"broker-worker-{boot.pod}-{boot.index}",
            keys,
            values,
            lambda: board.get(READER_ROW, b.REDIS_IDENTITY),
        )
        self.history = History(settings, self._archive)
        self.subscriptions = Subscriptions(self._channels, self._limits)
        self.dispatcher = Dispatcher(
            boot.index, receiver, self._channels, values, self._drained, self._probed
        )
        hub = Hub(values, self._fall_behind)
        self._catchup = Catchup(
            receiver,
            self._archive,
            hub,
            values,
            settings.max_event_bytes,
            self.dispatcher.schedule,
            self.subscriptions.refuse,
        )
        self._link = Link(
            boot.requests_address, boot.index, self._channels, self.dispatcher.cut_off
        )
        self.dispatcher.connect(hub, self._catchup, self._link)
        self.subscriptions.connect(self._catchup, self._link)
        self._wheel = HeartbeatWheel(settings.heartbeat_s)
        self._tending = Tending(
            boot.index,
            settings,
            board,
            values,
            self._channels,
            self._catchup,
            self._limits,
            self.dispatcher.schedule,
        )
        self._commands = Commands(
            settings,
            self.subscriptions,
            self._limits,
            values,
            self._refuses_watch,
        )
        probe, _new = self._channels.get_or_add(f"_probe:{boot.pod}")
        probe.pinned = True
        self._drained(receiver.cursor)

    def start(self) -> list[asyncio.Task[None]]:
        """Start what runs beside the sockets; if one of these ends, so must we."""
        return [
            asyncio.create_task(self._link.run(), name="link"),
            asyncio.create_task(self._archive.run(), name="archive"),
            asyncio.create_task(self._wheel.run(), name="heartbeats"),
            asyncio.create_task(self._tending.run(), name="tending"),
        ]

    # What the server asks.

    def refusal(self, user: str, session: str) -> str:
        """Why no connection may be opened now; "" if one may."""
        if self._draining:
            return "draining"
        if not self._board.get(READER_ROW, b.REDIS_UP):
            return "unavailable"
        if session and self._refuses_watch(session):
            return "unavailable"
        if session and not self._limits.may_subscribe(user, 0):
            return "too_many_connections"
        return self._limits.refusal(user, session)

    def _refuses_watch(self, session: str) -> str:
        full = self._board.get(READER_ROW, b.WATCHES_REFUSED)
        known = session in self._channels.by_session
        return "unavailable" if full and not known else ""

    def new_connection(self, wanted: Wanted, *, sse: bool) -> Connection:
        """A connection that is not attached yet."""
        wire = SSE if sse else NATIVE
        return Connection(self, wire, wanted.user, wanted.session)

    def welcome(self, connection: Connection, wanted: Wanted) -> None:
        """Greet a new connection and subscribe it to the session of its path."""
        self._connections.add(connection)
        self._limits.opened(connection.user, connection.session)
        name = connection.format.name
        self.values[catalog.CONNECTIONS.slots[name]] += 1
        self.values[catalog.CONNECTIONS_OPENED.slots[name]] += 1
        self._wheel.add(connection)
        data = {
            "connection_id": f"{random.getrandbits(64):016x}",
            "user": connection.user or None,
            "heartbeat_s": self._settings.heartbeat_s,
            "max_frame_bytes": self._settings.max_frame_bytes,
        }
        connection.send(connection.format.notice("welcome", data))
        if wanted.session:
            self.subscriptions.open(
                connection, wanted.session, wanted.start, wanted.overflow
            )

    # What connections say.

    def handle_text(self, connection: Connection, payload: bytes) -> None:
        """A client said something."""
        self._commands.handle(connection, payload)

    def handle_drained(self, connection: Connection) -> None:
        """A blocked socket takes bytes again: its subscriptions catch up."""
        for sub in connection.subs.values():
            self._catchup.wake(sub)

    def handle_lost(self, connection: Connection, label: str) -> None:
        """A connection has ended."""
        self.subscriptions.end_all(connection)
        self._wheel.remove(connection)
        self._connections.discard(connection)
        if self._draining and not self._connections:
            self._empty.set()
        self._limits.closed(connection.user, connection.session)
        self.values[catalog.CONNECTIONS.slots[connection.format.name]] -= 1
        self.values[catalog.CLOSES.slots[label]] += 1

    # What the ring says.

    def _drained(self, cursor: int) -> None:
        self._board.set(self._row, b.CURSOR, cursor)

    def _probed(self, ms: int) -> None:
        self._board.set(self._row, b.PROBE_MS, ms)

    def _fall_behind(
        self, sub: Subscription, position: Position, epoch: int, state: State
    ) -> None:
        self._catchup.fall_behind(sub, position, epoch, state)

    # The end.

    async def drain(self, hurry: asyncio.Event) -> None:
        """Close all connections, spread over the drain time, each with its own delay.

        Args:
            hurry: Set when there is no time left: the rest is closed at once.
        """
        # 1. Nobody new: the listening socket is closed, and a late request is refused.
        self._draining = True
        everybody = list(self._connections)
        if not everybody:
            self._empty.set()
        random.shuffle(everybody)
        log.info("draining", connections=len(everybody))
        # 2. One by one, so the other pods see them come one by one.
        pause_s = self._settings.drain_s / max(1, len(everybody))
        due = asyncio.get_running_loop().time()
        for connection in everybody:
            await self._wait_until(due, hurry)
            due += pause_s
            delay_ms = random.randrange(SPREAD_MS)  # noqa: S311 - spreading load
            connection.close(Disconnect.DRAINING, delay_ms=delay_ms)
        # 3. Their sockets end when the close is answered, or a little later.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self._empty.wait()
        log.info("drained", left=len(self._connections))

    async def _wait_until(self, due: float, hurry: asyncio.Event) -> None:
        left = due - asyncio.get_running_loop().time()
        if left <= 0 or hurry.is_set():
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await hurry.wait()
