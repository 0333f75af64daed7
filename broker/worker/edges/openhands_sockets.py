"""How clients of the two sockets of OpenHands V1 are heard, told and shown out."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, Final, cast

from broker.control.upstream import Answer
from broker.disconnect import Disconnect
from broker.errors import StoreRefused, StoreUnavailable
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.model import FIRST_ID, StreamId, parse_position
from broker.protocols import websocket
from broker.protocols.native import BadFrame
from broker.protocols.openhands.v1 import (
    ERROR_CODES,
    IDLE,
    UNAVAILABLE,
    Trouble,
    check_message,
    read_key,
    status_event,
)
from broker.protocols.openhands.v1_formats import (
    EVENTS,
    HISTORY_RESET,
    SESSION,
    SocketFormat,
    sync_frame,
)
from broker.worker.applications import Applications
from broker.worker.channels import Start, StartAt
from broker.worker.connection import Connection
from broker.worker.dialect import Dialect, Farewell
from broker.worker.snapshots import UNKNOWN, Look, Snapshots

LOOKS_MAX = 4
"""How often the end of a stream is looked at that moves on all the time."""
RETRY_S = 1.0

AUTHENTICATION_FAILED = (4001, "Authentication failed")
NOT_FOUND = (4004, "Conversation not found")
COME_BACK = 1012
TRY_LATER = 1013

CLOSES: Final[Mapping[Disconnect, tuple[int, str]]] = {
    Disconnect.NORMAL: (COME_BACK, ""),
    Disconnect.DRAINING: (COME_BACK, "service restart"),
    Disconnect.DISCONNECTED: (COME_BACK, "closed by an operator"),
    Disconnect.SLOW: (TRY_LATER, "slow_consumer"),
    Disconnect.NO_PROGRESS: (TRY_LATER, "slow_consumer"),
    Disconnect.NO_PONG: (TRY_LATER, "slow_consumer"),
    Disconnect.OVERLOADED: (TRY_LATER, "overloaded"),
    Disconnect.CONNECTION_REPLACED: (
        TRY_LATER,
        "Too many connections for this conversation",
    ),
    Disconnect.INTERNAL: (1011, "internal error"),
    Disconnect.TOO_MANY_ERRORS: (1008, "too many bad frames"),
    Disconnect.UNAUTHORIZED: AUTHENTICATION_FAILED,
    Disconnect.TOKEN_EXPIRED: AUTHENTICATION_FAILED,
    Disconnect.REVOKED: AUTHENTICATION_FAILED,
    Disconnect.BAD_REQUEST: NOT_FOUND,
    Disconnect.NOT_FOUND: NOT_FOUND,
    Disconnect.FORBIDDEN: (4004, "This conversation may not be read"),
    Disconnect.SESSION_EVICTED: (4004, "The user opened a newer conversation"),
    Disconnect.SESSION_CLOSED: (4004, "The conversation was closed"),
}
"""Close codes as these clients understand them; those of RFC 6455 stay as they are.

Python stops at 4001 and 4004. After 1000 and 1001 it comes back without a pause, so
those are never used.
"""
EXPLAINED: Final = {
    Disconnect.SESSION_EVICTED: "SessionEvicted",
    Disconnect.SESSION_CLOSED: "SessionClosed",
}
"""What is said before the close, by code of the error."""


class Desk:
    """What the dialects of all connections share.

    Args:
        values: The process's metric row.
        applications: Takes what users say.
        snapshots: Knows the states of conversations.
    """

    def __init__(
        self, values: Row, applications: Applications, snapshots: Snapshots
    ) -> None:
        self.values = values
        self.applications = applications
        self.snapshots = snapshots
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Let *work* be done beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class SocketDialect(Dialect):
    """One connection of either socket.

    The state of a conversation is no part of its log, so a replay leaves it out. It is
    looked for whenever the client has caught up, and told if there is a newer one.
    """

    __slots__ = ("_desk", "_round", "_told", "format", "wire")

    def __init__(self, wire: SocketFormat, desk: Desk) -> None:
        super().__init__(wire)
        self.wire = wire
        self._desk = desk
        self._told: StreamId | None = None
        self._round = 0

    def prepare(self, look: Look, start: Start) -> None:
        """The state, and where the events begin."""

    # What the client says.

    def read_token(self, payload: bytes) -> str:
        """The key of the first frame.

        Raises:
            BadFrame: It is none.
        """
        return read_key(payload)

    def hear(self, connection: Connection, payload: bytes) -> None:
        """Hand a message on to the services; it is answered only if that fails."""
        self._desk.values[catalog.CLIENT_FRAMES.slot] += 1
        try:
            if not check_message(payload):
                return
            answer = self._desk.applications.send(
                connection, connection.session, "message", payload
            )
        except BadFrame as error:
            self._desk.values[catalog.CLIENT_ERRORS.slots[error.code]] += 1
            self._refuse(connection, error.code, error.message)
            return
        answer.add_done_callback(partial(self._answered, connection))

    def hear_binary(self, connection: Connection, payload: bytes) -> None:
        """Say what the agent-server says."""
        self._desk.values[catalog.CLIENT_FRAMES.slot] += 1
        self._desk.values[catalog.CLIENT_ERRORS.slots["bad_frame"]] += 1
        connection.send(self.wire.trouble(Trouble("KeyError", "'text'")))

    def _answered(self, connection: Connection, done: asyncio.Future[Answer]) -> None:
        if not done.cancelled() and done.result().code:
            self._refuse(connection, done.result().code, done.result().message)

    def _refuse(self, connection: Connection, code: str, message: str) -> None:
        trouble = Trouble(ERROR_CODES.get(code, UNAVAILABLE), message)
        connection.send(self.wire.trouble(trouble))

    # What it is told of the state.

    def _tell(self, connection: Connection, look: Look, start: StreamId | None) -> None:
        """Tell the newest state, whatever it is.

        Args:
            connection: Whom.
            look: What is known.
            start: After which entry events follow; None if they have been sent.
        """
        self._told = look.tip.id
        status = look.status
        if look.snapshot is None:
            value = IDLE if status is None else status.value
            connection.send(self.wire.state(status_event(value)))
            return
        connection.send(self.wire.state(look.snapshot.data))
        if status is not None and (
            status.transient or start is None or status.id <= start
        ):
            # Newer than the snapshot, and it does not follow.
            connection.send(self.wire.state(status_event(status.value)))

    def _catch_up(self, connection: Connection, position: StreamId) -> None:
        """Everything up to *position* was sent, but for what is not replayed."""
        self._round += 1
        look = self._desk.snapshots.known(connection.session)
        if look.tip.id >= position:
            self._tell_missed(connection, look, position)
        else:
            self._desk.spawn(self._look_again(connection, position, self._round))

    async def _look_again(
        self, connection: Connection, position: StreamId, number: int
    ) -> None:
        looks, look = 0, UNKNOWN
        # Who was told of an older state after a newer one would be told wrong.
        while looks < LOOKS_MAX and look.tip.id < _tip(connection):
            try:
                look = await self._desk.snapshots.newest(connection.session)
                looks += 1
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)
            except StoreRefused:
                return
            if not connection.open or self._round != number:
                return
        self._tell_missed(connection, look, position)

    def _tell_missed(
        self, connection: Connection, look: Look, position: StreamId
    ) -> None:
        told, snapshot, status = self._told, look.snapshot, look.status
        if told is None:
            self._tell(connection, look, None)
            return
        # What comes after the position comes by itself, or is looked for another time.
        self._told = max(told, min(position, look.tip.id))
        if snapshot is not None and told < snapshot.id <= position:
            self._tell(connection, look, None)
        elif status is not None and status.transient and told < status.id <= position:
            connection.send(self.wire.state(status_event(status.value)))

    # The end.

    def farewell(
        self, connection: Connection, reason: Disconnect, details: Mapping[str, object]
    ) -> Farewell:
        """Why, where the code alone does not say it; then the code."""
        return Farewell(
            last_words(self.wire, reason, details), close_as_openhands(reason)
        )


class EventsDialect(SocketDialect):
    """``/sockets/events``: the state first, then events."""

    __slots__ = ("_look", "_start")

    def __init__(self, desk: Desk) -> None:
        super().__init__(EVENTS, desk)
        self._look = UNKNOWN
        self._start = FIRST_ID

    def prepare(self, look: Look, start: Start) -> None:
        """The state, and where the events begin."""
        self._look = look
        if start.at is not StartAt.RETAINED:
            self._start = start.position.id

    def notify(
        self,
        connection: Connection,
        event: str,
        data: object,
        session: str | None = None,
    ) -> None:
        """Tell the state at once, and what is lost."""
        if event == "welcome":
            self._tell(connection, self._look, self._start)
            self._look = UNKNOWN
        elif event == "subscribed" and _field(data, "resume") == "reset":
            connection.send(self.wire.trouble(HISTORY_RESET))
        elif event == "caught_up":
            self._catch_up(connection, parse_position(_field(data, "position")).id)
        else:
            super().notify(connection, event, data, session)


class SessionDialect(SocketDialect):
    """``/sockets/session``: what is coming, then events, then the state.

    Args:
        desk: What all share.
        after_seq: Behind which place in the log the client wants events, None for
            live ones only.
    """

    __slots__ = ("_after_seq",)

    def __init__(self, desk: Desk, after_seq: int | None) -> None:
        super().__init__(SESSION, desk)
        self._after_seq = after_seq

    def notify(
        self,
        connection: Connection,
        event: str,
        data: object,
        session: str | None = None,
    ) -> None:
        """Tell what is coming, what is lost, and at the end the state."""
        if event == "subscribed":
            tip = parse_position(_field(data, "tip")).seq
            connection.send(sync_frame(self._after_seq, tip - 1 if tip else None))
            if _field(data, "resume") == "reset":
                connection.send(self.wire.trouble(HISTORY_RESET))
        elif event == "caught_up":
            self._catch_up(connection, parse_position(_field(data, "position")).id)
        else:
            super().notify(connection, event, data, session)


def last_words(
    wire: SocketFormat, reason: Disconnect, details: Mapping[str, object]
) -> bytes:
    """What is said before a close that its code does not explain."""
    code = EXPLAINED.get(reason)
    if code is None:
        return b""
    newer = details.get("replaced_by")
    more = f": {newer} takes its place" if newer else ""
    return wire.trouble(Trouble(code, f"{reason.text}{more}"))


def close_as_openhands(reason: Disconnect) -> bytes:
    """The close frame that makes these clients do what is meant."""
    return websocket.close_frame(*CLOSES.get(reason, (reason.code, reason.text)))


def _tip(connection: Connection) -> StreamId:
    sub = connection.subs.get(connection.session)
    return FIRST_ID if sub is None else sub.channel.tip.id


def _field(data: object, name: str) -> str:
    return cast("Mapping[str, str]", data)[name]
