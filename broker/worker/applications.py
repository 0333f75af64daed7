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

    # Clients of broker.v1.

    def handle(
        self, connection: Connection, frame: ClientFrame
    ) -> Awaitable[None] | None:
        """Do `send`, or `start` where that is asked for, and tell what came of it.

        Raises:
            BadFrame: It may not be said, or not to this session.
        """
        session = frame.session or connection.session or _named(frame)
        if frame.cmd == START_SESSION and connection.user:
            self.check(connection, session, frame.id)
            return self._start(connection, session, frame)
        answer = self.send(connection, session, frame.cmd, bytes(frame.data), frame.id)
        if answer.done():
            self._tell(connection, frame, answer.result())
        else:
            answer.add_done_callback(
                lambda done: self._tell(connection, frame, done.result())
            )
        return None

    async def _start(
        self, connection: Connection, session: str, frame: ClientFrame
    ) -> None:
        data = bytes(frame.data)
        answer = await self.start(connection, session, frame.cmd, data, frame.id)
        self._tell(connection, frame, answer)

    # Everybody's.

    def check(self, connection: Connection, session: str, ref: str | None) -> None:
        """Refuse commands that may not be said.

        Raises:
            BadFrame: They may not, or not to this session.
        """
        if not is_session_name(session):
            raise BadFrame("bad_session", f"session: {BAD_SESSION}", ref)
        if not identity_of(connection).may_command(session):
            raise BadFrame(
                "forbidden", "the token allows no commands to this session", ref
            )

    def send(
        self,
        connection: Connection,
        session: str,
        cmd: str,
        data: bytes,
        ref: str | None = None,
    ) -> asyncio.Future[Answer]:
        """Append a command to the command stream.

        Args:
            connection: Who says it.
            session: To which session.
            cmd: Its name.
            data: JSON text.
            ref: The client's id of the command, None for none.

        Returns:
            What came of it: within ``command_timeout_s``, at once if it is refused.

        Raises:
            BadFrame: It may not be said, or not to this session.
        """
        self.check(connection, session, ref)
        if connection.user:
            self._plane.sessions.active(connection.user, session)
        answer = self._plane.upstream.send(connection, session, cmd, data, ref)
        answer.add_done_callback(self._count)
        return answer

    async def start(
        self,
        connection: Connection,
        session: str,
        cmd: str,
        data: bytes,
        ref: str | None = None,
    ) -> Answer:
        """The same for a command by which a user deliberately opens a session.

        Raises:
            BadFrame: It may not be said.
            Refusal: It was stored, but the session cannot be opened.
        """
        # First it is stored: what refuses a command refuses its effect as well. And it
        # opens what had ended when it was stored, so that saying it again is harmless.
        answer = await self.send(connection, session, cmd, data, ref)
        if not answer.code and connection.user:
            await self._entrance.start_session(
                identity_of(connection),
                session,
                deliberate=True,
                as_of_ms=int(answer.stream_id.partition("-")[0]),
            )
        return answer

    def _count(self, answer: asyncio.Future[Answer]) -> None:
        if not answer.cancelled():
            self._values[catalog.COMMANDS.slots[answer.result().code or "stored"]] += 1

    def _tell(self, connection: Connection, frame: ClientFrame, answer: Answer) -> None:
        if not answer.code:
            data = with_ref({"id": answer.stream_id}, frame)
            connection.notify("ack", data)
            return
        data = with_ref({"code": answer.code, "message": answer.message}, frame)
        if answer.retry:
            data["retry"] = True
        connection.notify("error", data)


def _named(frame: ClientFrame) -> str:
    session = frame.arguments.get("session")
    return session if isinstance(session, str) else ""
