"""What clients of the hub say: handed on, with the session to see what follows."""

from __future__ import annotations

from collections.abc import Awaitable

from broker.control.upstream import Answer
from broker.errors import StoreError
from broker.protocols.council import named_session
from broker.protocols.native import BadFrame, ClientFrame
from broker.worker.applications import START_SESSION
from broker.worker.connection import Connection
from broker.worker.edges.council_visit import FROM_HERE
from broker.worker.edges.parts import Parts
from broker.worker.entrance import refusal_of
from broker.worker.requests import identity_of
from broker.worker.starting import Reading

OPENING_COMMANDS = frozenset({START_SESSION, "user_input"})
"""Who says one of these to a session wants to see what comes of it."""


class Speakers:
    """Hands on what clients say, and subscribes them to the sessions they say it to.

    Args:
        parts: Of the worker.
    """

    def __init__(self, parts: Parts) -> None:
        self._applications = parts.applications
        self._archive = parts.archive
        self._entrance = parts.entrance
        self._subscriptions = parts.subscriptions
        self._default = parts.settings.council_session
        self._limits = parts.limits

    def handle(
        self, connection: Connection, frame: ClientFrame
    ) -> Awaitable[None] | None:
        """Do any command but ``ping``.

        Raises:
            BadFrame: It may not be said, or it is not clear to which session.
        """
        named = named_session(frame)
        session = named or self._only_one(connection)
        self._applications.check(connection, session, frame.id)
        subscribes = bool(named) and self._is_news(connection, named, frame.cmd)
        if subscribes:
            self._check_limits(connection, frame)
        if frame.cmd == START_SESSION and connection.user:
            return self._start(connection, session, frame, subscribes)
        if subscribes:
            return self._subscribe_and_send(connection, session, frame)
        self._send(connection, session, frame)
        return None

    def _check_limits(self, connection: Connection, frame: ClientFrame) -> None:
        if not self._limits.may_subscribe(connection.user, len(connection.subs)):
            raise BadFrame(
                "too_many_subscriptions", "nobody may read more than that", frame.id
            )

    def _only_one(self, connection: Connection) -> str:
        if len(connection.subs) == 1:
            return next(iter(connection.subs))
        return self._default

    def _is_news(self, connection: Connection, session: str, cmd: str) -> bool:
        return (
            cmd in OPENING_COMMANDS
            and session not in connection.subs
            and identity_of(connection).may_subscribe(session)
        )

    async def _subscribe_and_send(
        self, connection: Connection, session: str, frame: ClientFrame
    ) -> None:
        identity = identity_of(connection)
        reading = Reading(seek=FROM_HERE)
        reading = await self._entrance.open(identity, session, reading)
        self._check_limits(connection, frame)
        if connection.open:
            self._subscriptions.open(connection, session, reading)
            self._send(connection, session, frame)

    async def _start(
        self,
        connection: Connection,
        session: str,
        frame: ClientFrame,
        subscribes: bool,
    ) -> None:
        """Open a session deliberately, and read it from before that."""
        reading = await self._read_from_here(session) if subscribes else None
        data = bytes(frame.data)
        answer = await self._applications.start(
            connection, session, frame.cmd, data, frame.id
        )
        _tell(connection, session, frame, answer)
        if reading is not None and not answer.code and connection.open:
            self._subscriptions.open(connection, session, reading)

    async def _read_from_here(self, session: str) -> Reading:
        try:
            return Reading(start=await FROM_HERE.find(self._archive, session))
        except StoreError as error:
            raise refusal_of(error) from None

    def _send(self, connection: Connection, session: str, frame: ClientFrame) -> None:
        answer = self._applications.send(
            connection, session, frame.cmd, bytes(frame.data), frame.id
        )
        answer.add_done_callback(
            lambda done: _tell(connection, session, frame, done.result())
        )


def _tell(
    connection: Connection, session: str, frame: ClientFrame, answer: Answer
) -> None:
    """Say what went wrong; the hub has no word for what went well."""
    if answer.code and connection.open:
        data = {"code": answer.code, "message": answer.message}
        if frame.id is not None:
            data["ref"] = frame.id
        connection.notify("error", data, session)
