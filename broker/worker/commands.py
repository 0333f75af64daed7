"""Answers what clients say in ``broker.v1``, each client in its own order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from broker.disconnect import Disconnect
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.protocols.native import BadFrame, ClientFrame, read_client_frame
from broker.worker.connection import Connection
from broker.worker.handshake import Refusal

log = structlog.get_logger(__name__)

ERRORS_MAX = 100
"""Bad frames after which a connection is closed."""
WAITING_MAX = 1000
"""Frames of one connection that may wait behind one that needs Redis."""
WAITING_BYTES_MAX = 256 * 1024
"""The same in bytes."""

Handler = Callable[[Connection, ClientFrame], Awaitable[None] | None]


class _Waiting:
    """What one connection has said meanwhile, in bounds."""

    __slots__ = ("frames", "size")

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.size = 0

    @property
    def has_room(self) -> bool:
        return len(self.frames) < WAITING_MAX and self.size < WAITING_BYTES_MAX

    def append(self, payload: bytes) -> None:
        self.frames.append(payload)
        self.size += len(payload)

    def pop(self) -> bytes:
        payload = self.frames.popleft()
        self.size -= len(payload)
        return payload


class Commands:
    """Reads frames and gives each to its handler.

    A handler that must ask somebody returns an awaitable; until it is done, what the
    same connection says waits. So a client's commands are done in its own order, and
    nobody else waits for them.

    Args:
        values: The process's metric row.
        handlers: What the broker does itself, by ``cmd``.
        otherwise: Every other command: the application's.
    """

    def __init__(
        self, values: Row, handlers: dict[str, Handler], otherwise: Handler
    ) -> None:
        self._values = values
        self._handlers = handlers
        self._otherwise = otherwise
        self._waiting: dict[Connection, _Waiting] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def handle(self, connection: Connection, payload: bytes) -> None:
        """Answer one text frame; a bad one is answered with ``error``."""
        self._values[catalog.CLIENT_FRAMES.slot] += 1
        waiting = self._waiting.get(connection)
        if waiting is None:
            self._begin(connection, payload)
        elif waiting.has_room:
            waiting.append(payload)
        else:
            refuse = BadFrame("rate_limited", "too many commands at once", retry=True)
            self.refuse(connection, refuse)

    def _begin(self, connection: Connection, payload: bytes) -> None:
        work = self._do(connection, payload)
        if work is not None:
            self._waiting[connection] = _Waiting()
            task = asyncio.get_running_loop().create_task(self._go_on(connection, work))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _do(self, connection: Connection, payload: bytes) -> Awaitable[None] | None:
        """Do what *payload* asks for, or begin to."""
        ref = None
        try:
            frame = read_client_frame(payload)
            ref = frame.id
            handler = self._handlers.get(frame.cmd, self._otherwise)
            work = handler(connection, frame)
        except BadFrame as error:
            self.refuse(connection, error)
            return None
        except Refusal as refusal:
            self.refuse(connection, bad_frame(refusal, ref))
            return None
        return None if work is None else self._finish(connection, ref, work)

    async def _finish(
        self, connection: Connection, ref: str | None, work: Awaitable[None]
    ) -> None:
        try:
            await work
        except BadFrame as error:
            self.refuse(connection, error)
        except Refusal as refusal:
            self.refuse(connection, bad_frame(refusal, ref))
        except Exception:
            log.exception("command_failed")
            connection.close(Disconnect.INTERNAL)

    async def _go_on(self, connection: Connection, work: Awaitable[None]) -> None:
        waiting = self._waiting[connection]
        try:
            await work
            while waiting.frames and connection.open:
                following = self._do(connection, waiting.pop())
                if following is not None:
                    await following
        finally:
            del self._waiting[connection]

    def refuse(self, connection: Connection, error: BadFrame) -> None:
        """Answer with ``error``; too many of them end the connection."""
        self._values[catalog.CLIENT_ERRORS.slots[error.code]] += 1
        data: dict[str, object] = {"code": error.code, "message": error.message}
        if error.retry:
            data["retry"] = True
        if error.ref is not None:
            data["ref"] = error.ref
        connection.notify("error", data)
        connection.errors += 1
        if connection.errors >= ERRORS_MAX:
            connection.close(Disconnect.TOO_MANY_ERRORS)


def bad_frame(refusal: Refusal, ref: str | None) -> BadFrame:
    """The same refusal as the answer to a frame."""
    return BadFrame(refusal.reason, refusal.message, ref, retry=refusal.temporary)
