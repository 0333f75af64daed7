"""One worker: its parts, what joins them, and how it drains."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from broker.config import Settings
from broker.disconnect import Disconnect
from broker.errors import StoreError
from broker.metrics.slots import Row
from broker.model import Position
from broker.process import Boot
from broker.ring import board as b
from broker.ring.receiver import Receiver
from broker.store.keys import event_key_pattern
from broker.worker.applications import Applications
from broker.worker.archive import Archive
from broker.worker.catchup import Catchup
from broker.worker.channels import Channels, State, Subscription
from broker.worker.commands import Commands
from broker.worker.connection import Connection
from broker.worker.departure import Departure
from broker.worker.dispatcher import Dispatcher
from broker.worker.doorway import Doorway
from broker.worker.edges.parts import Parts
from broker.worker.edges.routes import make_edges
from broker.worker.entrance import Entrance
from broker.worker.evictions import Evictions
from broker.worker.heartbeat import HeartbeatWheel
from broker.worker.history import History
from broker.worker.hub import Hub
from broker.worker.limits import Limits
from broker.worker.link import Link
from broker.worker.members import Members
from broker.worker.plane import ControlPlane
from broker.worker.reception import Reception
from broker.worker.requests import Requests
from broker.worker.subscriptions import Subscriptions
from broker.worker.tending import Tending

log = structlog.get_logger(__name__)

READER_ROW = 0
LAST_WORDS_S = 6.0
"""How long closed connections may take to be gone at the end of a drain."""
FLUSH_S = 3.0
"""How long Redis may take to write the last commits."""


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
        self._empty = asyncio.Event()
        self._channels = Channels()
        limits = Limits(settings)
        self._archive = Archive(
            settings.redis_url.get_secret_value(),
            f"broker-worker-{boot.pod}-{boot.index}",
            event_key_pattern(settings.event_stream),
            values,
            lambda: board.get(READER_ROW, b.REDIS_IDENTITY),
        )
        hub = Hub(values, self._fall_behind)
        self._plane = ControlPlane(boot, settings, values)
        self._members = Members(self._plane, lambda: hub.busy)
        self._subscriptions = Subscriptions(self._channels, limits, self._members)
        self.dispatcher = Dispatcher(
            boot.index, receiver, self._channels, values, self._drained, self._probed
        )
        self._catchup = Catchup(
            receiver,
            self._archive,
            hub,
            values,
            settings.max_event_bytes,
            self.dispatcher.schedule,
            self._subscriptions.refuse,
        )
        self._link = Link(
            boot.requests_address, boot.index, self._channels, self.dispatcher.cut_off
        )
        self.dispatcher.connect(hub, self._catchup, self._link)
        self._subscriptions.connect(self._catchup, self._link)
        self._wheel = HeartbeatWheel(settings.heartbeat_s)
        self._entrance = Entrance(settings, values, self._plane, self._archive)
        self.reception = Reception(
            settings,
            values,
            limits,
            self._entrance,
            self._subscriptions,
            self._wheel,
            self._refusal,
        )
        self.reception.connect(self)
        self._plane.connect(
            Evictions(
                boot,
                values,
                self.reception.people,
                self._plane.revocations,
                self._subscriptions,
                self._members,
                self._catchup,
            )
        )
        self._tending = Tending(
            boot.index,
            settings,
            board,
            values,
            self._channels,
            self._catchup,
            limits,
            self.dispatcher.schedule,
            self._look,
        )
        requests = Requests(
            settings,
            self._subscriptions,
            limits,
            self._entrance,
            self._plane,
            self.reception.change_identity,
            self._refuses_watch,
        )
        applications = Applications(values, self._entrance, self._plane)
        commands = Commands(values, requests.handlers, applications.handle)
        doorway = Doorway(settings, self.reception)
        parts = Parts(
            settings=settings,
            values=values,
            doorway=doorway,
            commands=commands,
            applications=applications,
            subscriptions=self._subscriptions,
            entrance=self._entrance,
            archive=self._archive,
            history=History(settings, self._archive),
            plane=self._plane,
            limits=limits,
        )
        self.edges = make_edges(parts)
        probe, _new = self._channels.get_or_add(f"_probe:{boot.pod}")
        probe.pinned = True
        self._drained(receiver.cursor)

    def _look(self, now: float) -> None:
        self.reception.look(now)
        self._members.look()
        self._plane.measure()

    async def wait_connected(self) -> None:
        """Return when there are connections for what is kept in Redis."""
        await self._plane.wait_connected()

    def start(self) -> list[asyncio.Task[None]]:
        """Start what runs beside the sockets; if one of these ends, so must we."""
        return [
            asyncio.create_task(self._link.run(), name="link"),
            asyncio.create_task(self._archive.run(), name="archive"),
            asyncio.create_task(self._wheel.run(), name="heartbeats"),
            asyncio.create_task(self._tending.run(), name="tending"),
            *self._plane.start(),
        ]

    def _refusal(self, session: str) -> str:
        """Why nobody may come in now to read *session*; "" if somebody may."""
        if not self._board.get(READER_ROW, b.REDIS_UP):
            return "unavailable"
        return self._refuses_watch(session) if session else ""

    def _refuses_watch(self, session: str) -> str:
        full = self._board.get(READER_ROW, b.WATCHES_REFUSED)
        known = session in self._channels.by_session
        return "unavailable" if full and not known else ""

    # What connections say.

    def handle_text(self, connection: Connection, payload: bytes) -> None:
        """A client said something."""
        if connection.identity is None:
            self.reception.hear_stranger(connection, payload)
        else:
            connection.dialect.hear(connection, payload)

    def handle_binary(self, connection: Connection, payload: bytes) -> None:
        """A client sent bytes that are no text."""
        if connection.identity is None:
            connection.close(Disconnect.UNSUPPORTED_DATA)
        else:
            connection.dialect.hear_binary(connection, payload)

    def handle_drained(self, connection: Connection) -> None:
        """A blocked socket takes bytes again: its subscriptions catch up."""
        for sub in connection.subs.values():
            self._catchup.wake(sub)

    def handle_lost(self, connection: Connection, label: str) -> None:
        """A connection has ended."""
        self.reception.forget(connection, label)
        if self.reception.draining and not self.reception.connections:
            self._empty.set()

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
        self.reception.drain()
        everybody = self.reception.connections
        if not everybody:
            self._empty.set()
        log.info("draining", connections=len(everybody))
        # 2. One by one, so the other pods see them come one by one.
        await Departure(self._settings.drain_s, hurry).run(everybody)
        # 3. Their sockets end when the close is answered, or a little later.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self._empty.wait()
        # 4. What they committed is written; leases are left to run out by themselves.
        with contextlib.suppress(TimeoutError, StoreError):
            async with asyncio.timeout(FLUSH_S):
                await self._plane.flush()
        await self._entrance.close()
        log.info("drained", left=len(self.reception.connections))
