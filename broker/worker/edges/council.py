"""``/ws``: the hub of "The Council" (PROTOCOL.md says what it does differently).

How it lets go of a client follows from what its front end does then: it comes back at
once, and without end, when a socket was closed in order, and after seconds when it was
cut or refused. So all refusals are HTTP, and only a drain closes in order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from aiohttp import web

from broker.disconnect import Disconnect
from broker.model import is_session_name
from broker.protocols import websocket
from broker.protocols.council import COUNCIL
from broker.protocols.native import BadFrame, ClientFrame
from broker.worker.channels import StartAt
from broker.worker.commands import Commands, Handler
from broker.worker.connection import Connection
from broker.worker.dialect import Dialect, Farewell, close_frame
from broker.worker.doorway import Doorway, Opening, check_upgrade
from broker.worker.edges.council_commands import Speakers
from broker.worker.edges.council_visit import FROM_HERE, Visit
from broker.worker.edges.edge import error_response
from broker.worker.edges.parts import Parts
from broker.worker.handshake import BAD_SESSION, Refusal, read_request, read_token
from broker.worker.limits import PerAddress
from broker.worker.starting import Reading

SERVICE_RESTART = 1012
"""Close code of a drain, from the registry of RFC 6455 section 11.7."""
PROMPT_PER_S, PROMPT_BURST = 2, 20
"""Refusals per address that are answered at once."""
HOLD_S = (1.0, 3.0)
"""How long others wait: a page that has used up its attempts asks without a pause."""
HELD_MAX = 200


class CouncilDialect(Dialect):
    """How the hub talks.

    Args:
        commands: Does what clients say.
    """

    def __init__(self, commands: Commands) -> None:
        super().__init__(COUNCIL)
        self._commands = commands

    def hear(self, connection: Connection, payload: bytes) -> None:
        """Do what a frame asks for."""
        self._commands.handle(connection, payload)

    def hear_binary(self, connection: Connection, payload: bytes) -> None:
        """Answer with an error: a close would bring the client back at once."""
        del payload
        self._commands.refuse(
            connection, BadFrame("bad_frame", "only text frames are read here")
        )

    def notify(
        self,
        connection: Connection,
        event: str,
        data: object,
        session: str | None = None,
    ) -> None:
        """Tell what the hub has a word for.

        A subscription for which there was no room ends the connection: its client
        would wait for ever, and another pod may have room.
        """
        super().notify(connection, event, data, session)
        if event == "error" and session is None and _is_overload(data):
            connection.close(Disconnect.OVERLOADED)

    def farewell(
        self, connection: Connection, reason: Disconnect, details: Mapping[str, object]
    ) -> Farewell | None:
        """Close in order at a drain, or where the client broke WebSocket; else cut."""
        del connection, details
        if reason is Disconnect.DRAINING:
            return Farewell(b"", websocket.close_frame(SERVICE_RESTART, reason.text))
        return Farewell(b"", close_frame(reason)) if reason.code < 4000 else None


def _is_overload(data: object) -> bool:
    return isinstance(data, dict) and data.get("code") == "overloaded"


class CouncilEdge:
    """The front end of "The Council", unchanged.

    Args:
        parts: Of the worker.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._settings = parts.settings
        handlers: dict[str, Handler] = {"ping": _swallow}
        commands = Commands(parts.values, handlers, Speakers(parts).handle)
        self._dialect = CouncilDialect(commands)
        self._prompt = PerAddress(PROMPT_PER_S, PROMPT_BURST)
        self._held = 0

    async def handle(
        self, request: web.BaseRequest, path: list[str]
    ) -> web.StreamResponse:
        """Answer a request for ``/ws``.

        Raises:
            Refusal: It cannot be done. Who is refused too often waits for it.
        """
        try:
            return await self._open_websocket(request, path)
        except Refusal:
            await self._hold_up(request.remote or "")
            raise

    async def _open_websocket(
        self, request: web.BaseRequest, path: list[str]
    ) -> web.StreamResponse:
        if path != ["ws"]:
            raise Refusal("not_found")
        accept = check_upgrade(request)
        wanted = read_request(request, "", self._settings)
        token = read_token(request, self._settings)
        sessions = self._read_sessions(request)
        reading = _read_reading(wanted.reading, sessions)
        visit = Visit(self._parts, sessions, reading)
        doorway = Doorway(self._settings, visit)
        opening = Opening(wanted, self._dialect, token)
        return await doorway.open_websocket(request, accept, opening)

    def _read_sessions(self, request: web.BaseRequest) -> list[str] | None:
        """What the URL names, else what the settings name."""
        given = [
            *request.query.getall("session", []),
            *request.query.getall("session_uuid", []),
        ]
        named = list(dict.fromkeys(name for name in given if name))
        if not all(map(is_session_name, named)):
            raise Refusal("bad_request", BAD_SESSION)
        if len(named) > self._settings.max_subscriptions_per_connection:
            raise Refusal("bad_request", "the URL names too many sessions")
        if not named and self._settings.council_session:
            return [self._settings.council_session]
        return named or None

    async def _hold_up(self, address: str) -> None:
        if self._prompt.take(address) or self._held >= HELD_MAX:
            return
        self._held += 1
        try:
            await asyncio.sleep(random.uniform(*HOLD_S))  # noqa: S311 - spreading load
        finally:
            self._held -= 1

    def refuse(self, request: web.BaseRequest, refusal: Refusal) -> web.StreamResponse:
        """Always by HTTP, before the upgrade."""
        del request
        return error_response(refusal)


def _read_reading(wanted: Reading, sessions: list[str] | None) -> Reading:
    """How the sessions are to be read: live, unless the URL says from where."""
    if wanted.start.at is StartAt.LIVE:
        return Reading(seek=FROM_HERE, takeover=wanted.takeover)
    if wanted.start.at is StartAt.POSITION and len(sessions or ()) != 1:
        raise Refusal("bad_request", "a position is of one session: name it")
    return Reading(start=wanted.start, takeover=wanted.takeover)


def _swallow(connection: Connection, frame: ClientFrame) -> None:
    """Its front end says ``ping`` and waits for nothing."""
    del connection, frame
