"""Sockets that came without a token: they have one frame and little time to send it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from broker.config import Settings
from broker.disconnect import Disconnect
from broker.protocols.native import BadFrame
from broker.worker.connection import Connection
from broker.worker.departure import return_delay_ms
from broker.worker.handshake import TERMINAL, Refusal, Wanted

log = structlog.get_logger(__name__)

FRAME_BYTES_MAX = 16 * 1024
EARLY_FRAMES_MAX = 16
"""Frames that a connection may send while its first one is judged."""
SHARE_OF_CONNECTIONS = 10
"""At most one in so many of the connections that a worker may have."""


Enter = Callable[[Connection, Wanted, str | None], Awaitable[None]]


class Greeter:
    """Waits for the first frame of connections that have not said who they are.

    Args:
        settings: The effective settings.
        enter: Lets a connection in with its token, or raises `Refusal`.
    """

    def __init__(self, settings: Settings, enter: Enter) -> None:
        self._timeout_s = settings.auth_timeout_s
        self._most = max(1, settings.max_connections // SHARE_OF_CONNECTIONS)
        self._enter = enter
        self._waiting: dict[Connection, tuple[Wanted, float]] = {}
        self._early: dict[Connection, list[bytes]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def full(self) -> bool:
        """Whether as many wait as may, for their frame or for the verdict."""
        return len(self._waiting) + len(self._tasks) >= self._most

    def add(self, connection: Connection, wanted: Wanted) -> None:
        """Wait for the token of *connection*."""
        connection.set_frame_limit(FRAME_BYTES_MAX)
        due = asyncio.get_running_loop().time() + self._timeout_s
        self._waiting[connection] = (wanted, due)

    def remove(self, connection: Connection) -> None:
        """It has ended, or is in."""
        self._waiting.pop(connection, None)

    def hear(self, connection: Connection, payload: bytes) -> None:
        """Take the first frame of a connection; what follows waits for the verdict."""
        wanted, _due = self._waiting.pop(connection, (None, 0.0))
        if wanted is None:
            self._keep(connection, payload)
            return
        try:
            token = connection.dialect.read_token(payload)
        except BadFrame:
            connection.close(Disconnect.UNAUTHORIZED)
            return
        self._early[connection] = []
        task = asyncio.get_running_loop().create_task(
            self._judge(connection, wanted, token)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _keep(self, connection: Connection, payload: bytes) -> None:
        early = self._early.get(connection)
        if early is None:
            connection.close(Disconnect.UNAUTHORIZED)
        elif len(early) >= EARLY_FRAMES_MAX:
            connection.close(Disconnect.OVERLOADED)  # Who it is decides later.
        else:
            early.append(payload)

    async def _judge(
        self, connection: Connection, wanted: Wanted, token: str | None
    ) -> None:
        try:
            await self._enter(connection, wanted, token)
        except Refusal as refusal:
            reason = TERMINAL.get(refusal.reason, Disconnect.OVERLOADED)
            connection.close(reason, **refusal.details)
        except Exception:
            log.exception("auth_failed")
            connection.close(Disconnect.INTERNAL)
        else:
            for payload in self._early.get(connection, ()):
                if connection.open:
                    connection.dialect.hear(connection, payload)
        finally:
            self._early.pop(connection, None)

    def drain(self) -> None:
        """Send everybody who waits to another pod."""
        for connection in list(self._waiting):
            self.remove(connection)
            connection.close(Disconnect.DRAINING, delay_ms=return_delay_ms())

    def look(self, now: float) -> None:
        """Close those whose time is over; *now* is the loop's time."""
        for connection, (_wanted, due) in list(self._waiting.items()):
            if due > now:
                return  # They are in the order in which they came.
            self.remove(connection)
            connection.close(Disconnect.UNAUTHORIZED)
