"""The application's commands: checked here, done by whoever reads their stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from broker.control.upstream import Answer
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.model import is_session_name
from broker.protocols.native import BadFrame, ClientFrame
from broker.worker.connection import Connection
from broker.worker.entrance import Entrance
from broker.worker.handshake import BAD_SESSION
from broker.worker.plane import ControlPlane
from broker.worker.requests import identity_of, with_ref

START_SESSION = "start_session"
"""Handed on like every other, and the deliberate act that opens a session again."""


class Applications:
    """Hands commands on to services, with who said them."""

    def __init__(self, values: Row, entrance: Entrance, plane: ControlPlane) -> None:
        self._values = values
        self._entrance = entrance
        self._plane = plane

    def handle(
        self, connection: Connection, frame: ClientFrame
    ) -> Awaitable[None] | None:
        """Check the right to say it, and append it to the command stream.

        Raises:
            BadFrame: It may not be said, or not to this session.
        """
        session = frame.session or connection.session or _named(frame)
        if not is_session_name(session):
            raise BadFrame("bad_session", f"session: {BAD_SESSION}", frame.id)
        identity = identity_of(connection)
        if not identity.may_command(session):
            raise BadFrame(
                "forbidden", "the token allows no commands to this session", frame.id
            )
        if frame.cmd == START_SESSION and identity.user:
            return self._start(connection, session, frame)
        self._send(connection, session, frame)
        return None

    async def _start(
        self, connection: Connection, session: str, frame: ClientFrame
    ) -> None:
        # First it is stored: what refuses a command refuses its effect as well. And it
        # opens what had ended when it was stored, so that saying it again is harmless.
        answer = await self._store(connection, session, frame)
        if not answer.code:
            await self._entrance.start_session(
                identity_of(connection),
                session,
                deliberate=True,
                as_of_ms=int(answer.stream_id.partition("-")[0]),
            )
        self._tell(connection, frame, answer)

    def _send(self, connection: Connection, session: str, frame: ClientFrame) -> None:
        answer = self._store(connection, session, frame)
        if answer.done():
            self._tell(connection, frame, answer.result())
        else:
            answer.add_done_callback(
                lambda done: self._tell(connection, frame, done.result())
            )

    def _store(
        self, connection: Connection, session: str, frame: ClientFrame
    ) -> asyncio.Future[Answer]:
        if connection.user:
            self._plane.sessions.active(connection.user, session)
        return self._plane.upstream.send(
            connection, session, frame.cmd, bytes(frame.data), frame.id
        )

    def _tell(self, connection: Connection, frame: ClientFrame, answer: Answer) -> None:
        self._values[catalog.COMMANDS.slots[answer.code or "stored"]] += 1
        if not answer.code:
            data = with_ref({"id": answer.stream_id}, frame)
            connection.send(connection.format.notice("ack", data))
            return
        data = with_ref({"code": answer.code, "message": answer.message}, frame)
        if answer.retry:
            data["retry"] = True
        connection.send(connection.format.notice("error", data))


def _named(frame: ClientFrame) -> str:
    session = frame.arguments.get("session")
    return session if isinstance(session, str) else ""
