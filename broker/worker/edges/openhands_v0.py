"""OpenHands V0: Socket.IO over WebSocket at ``/socket.io/``."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping

import msgspec
import orjson
from aiohttp import web

from broker.config import Settings
from broker.control.upstream import Answer
from broker.disconnect import Disconnect
from broker.metrics import catalog
from broker.model import is_session_name
from broker.protocols import websocket
from broker.protocols.native import BadFrame
from broker.protocols.openhands import socketio, v0
from broker.protocols.openhands.socketio import Engine, Kind, Packet
from broker.worker.archive import Archive
from broker.worker.channels import Start
from broker.worker.connection import Connection
from broker.worker.dialect import Dialect, Farewell, close_frame
from broker.worker.doorway import Opening, check_upgrade
from broker.worker.edges.edge import json_response
from broker.worker.edges.parts import Parts
from broker.worker.handshake import Refusal, Wanted, check_origin, read_user
from broker.worker.seeking import RETAINED, Seeker
from broker.worker.starting import Reading

PING_TIMEOUT_MS = 20_000
"""How long after a ping was due a client gives up; upstream's value."""
SID_BYTES = 15

WRONG_VERSION = (
    "The client is using an unsupported version of the Socket.IO or Engine.IO protocols"
)
WRONG_TRANSPORT = "Transport unknown: this server speaks websocket only"


class EngineRefusal(Refusal):
    """A request that Engine.IO has a word for.

    Attributes:
        body: The answer, JSON-ready.
    """

    def __init__(self, body: object) -> None:
        super().__init__("bad_request")
        self.body = body


class AfterEvent(msgspec.Struct, frozen=True):
    """Begins behind the last event that a client has.

    Attributes:
        number: Of that event.
        max_event_bytes: Larger entries are no events.
    """

    number: int
    max_event_bytes: int

    async def find(self, archive: Archive, session: str) -> Start:
        """The start.

        Raises:
            StoreError: The stream cannot be read.
        """
        seeker = Seeker(archive, session, v0.event_id, self.max_event_bytes)
        return await seeker.start(self.number + 1)


class V0Dialect(Dialect):
    """One client, from its connect packet on.

    Args:
        parts: Of the worker.
        token: What it has shown in its request, None for nothing.
        refusal: Why it cannot be let in whatever it shows, empty if it can.
    """

    __slots__ = (
        "_asked",
        "_attachments",
        "_held",
        "_joined",
        "_parts",
        "_refusal",
        "_token",
    )

    format = v0.JOINING

    def __init__(self, parts: Parts, token: str | None, refusal: bytes) -> None:
        self._parts = parts
        self._token = token
        self._refusal = refusal
        self._asked = False  # It wants to connect.
        self._joined = False  # It was told that it is connected.
        self._held = b""  # How the agent stands, until it is connected.
        self._attachments = 0  # Binary frames that belong to what was refused.

    # Before it is let in.

    def read_token(self, payload: bytes) -> str | None:
        """The token of a connect packet, or else that of the request.

        Raises:
            BadFrame: It is another packet, or there is nothing that it may connect to.
        """
        packet = socketio.read_packet(payload)
        if packet.engine is not Engine.MESSAGE or packet.kind is not Kind.CONNECT:
            raise BadFrame("unauthorized", "the first packet is a connect packet")
        self._asked = True
        if packet.namespace != socketio.DEFAULT_NAMESPACE:
            self._refusal = _wrong_namespace(packet.namespace)
        if self._refusal:
            raise BadFrame("unauthorized", "there is nothing to connect to")
        # It is not kept: nobody asks for it again.
        token, self._token = self._token, None
        return v0.read_auth(packet.data) or token

    # What it is told.

    def notify(
        self,
        connection: Connection,
        event: str,
        data: object,
        session: str | None = None,
    ) -> None:
        """Tell an event of the broker, and that it is connected once it is live."""
        resume = data.get("resume") if isinstance(data, dict) else None
        if event == "caught_up" or resume == "live":
            self._join(connection)
            return
        if event == "reset" or resume == "reset":
            self._held = b""
            event = "reset"
        super().notify(connection, event, data, session)

    def hold(self, connection: Connection, frame: bytes) -> None:
        """Keep how the agent stands until everything else was sent."""
        self._held = frame

    def _join(self, connection: Connection) -> None:
        if self._joined:
            return
        self._joined = True
        connection.format = v0.LIVE
        packet = socketio.connect_packet(connection.connection_id)
        connection.send(self._held + websocket.text_frame(packet))
        self._held = b""

    def farewell(
        self, connection: Connection, reason: Disconnect, details: Mapping[str, object]
    ) -> Farewell:
        """Its library comes back by itself unless it is disconnected or refused.

        Who is refused keeps its socket for a moment: its library closes it.
        """
        goodbye = close_frame(reason)
        if reason.code < 4000:
            words = b"" if reason is Disconnect.NORMAL else v0.error_frame(reason.text)
            return Farewell(words if self._joined else b"", goodbye)
        if reason.retry:
            return Farewell(b"", goodbye)
        if self._joined:
            words = (
                v0.TOO_MANY_FRAME
                if reason is Disconnect.SESSION_EVICTED
                else v0.error_frame(reason.text)
            )
            return Farewell(words + v0.DISCONNECT_FRAME, goodbye)
        if not self._asked:
            return Farewell(b"", goodbye)
        refusal = self._refusal or v0.refusal_packet(
            reason, connection.session, details
        )
        return Farewell(b"", websocket.text_frame(refusal))

    # What it says.

    def hear(self, connection: Connection, payload: bytes) -> None:
        """Take a packet; a bad one is answered with an error event."""
        self._parts.values[catalog.CLIENT_FRAMES.slot] += 1
        try:
            self._take(connection, socketio.read_packet(payload))
        except BadFrame as error:
            self._parts.commands.refuse(connection, error)

    def hear_binary(self, connection: Connection, payload: bytes) -> None:
        """Binary data has no meaning here; the connection stays."""
        if self._attachments:
            self._attachments -= 1  # Said already.
            return
        error = BadFrame("bad_frame", "binary data is not read here")
        self._parts.commands.refuse(connection, error)

    def _take(self, connection: Connection, packet: Packet) -> None:
        if packet.engine is Engine.MESSAGE:
            self._take_message(connection, packet)
        elif packet.engine is Engine.PING:
            pong = socketio.pong_packet(packet.data)
            connection.send(websocket.text_frame(pong))
        elif packet.engine is Engine.CLOSE:
            connection.close(Disconnect.NORMAL)
        elif packet.engine is Engine.OPEN:
            raise BadFrame("bad_frame", "only a server opens")

    def _take_message(self, connection: Connection, packet: Packet) -> None:
        if packet.kind in (Kind.BINARY_EVENT, Kind.BINARY_ACK):
            self._attachments += packet.attachments
            raise BadFrame("bad_frame", "binary data is not read here")
        if packet.namespace != socketio.DEFAULT_NAMESPACE:
            if packet.kind is Kind.CONNECT:
                refusal = _wrong_namespace(packet.namespace)
                connection.send(websocket.text_frame(refusal))
        elif packet.kind is Kind.CONNECT:
            raise BadFrame("bad_frame", "this connection has asked already")
        elif packet.kind is Kind.DISCONNECT:
            connection.close(Disconnect.NORMAL)
        elif packet.kind is Kind.EVENT:
            self._take_event(connection, packet)

    def _take_event(self, connection: Connection, packet: Packet) -> None:
        if not self._joined:
            raise BadFrame("bad_frame", "this connection is not connected yet")
        said = socketio.read_event(packet.data)
        if said.name not in v0.COMMANDS:
            _acknowledge(connection, packet.id)
            return
        data = v0.read_command(said)
        send = self._parts.applications.send
        answer = send(connection, connection.session, said.name, data)

        def tell(done: asyncio.Future[Answer]) -> None:
            result = done.result()
            if result.code:
                connection.notify("error", {"message": result.message})
            else:
                _acknowledge(connection, packet.id)

        if answer.done():
            tell(answer)
        else:
            answer.add_done_callback(tell)


def _acknowledge(connection: Connection, number: int | None) -> None:
    if number is not None:
        connection.send(websocket.text_frame(socketio.ack_packet(number)))


def _wrong_namespace(name: str) -> bytes:
    return socketio.connect_error_packet("Invalid namespace", namespace=name)


class V0Edge:
    """Clients of OpenHands V0.

    Args:
        parts: Of the worker.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._settings = parts.settings

    async def handle(
        self, request: web.BaseRequest, path: list[str]
    ) -> web.StreamResponse:
        """Open a socket; who it is for is known when its first packet has come.

        Raises:
            Refusal: It cannot be done.
        """
        if path[1:] not in ([], [""]):
            raise Refusal("not_found")
        query = request.query
        if query.get("EIO") != "4":
            raise EngineRefusal(WRONG_VERSION)
        if query.get("transport") != "websocket":
            raise EngineRefusal({"code": 0, "message": WRONG_TRANSPORT})
        if v0.given(query.get("sid")):
            raise EngineRefusal({"code": 1, "message": "Session ID unknown"})
        check_origin(request, self._settings)
        wanted, refusal = _read_wanted(query, self._settings)
        dialect = V0Dialect(self._parts, _read_token(request), refusal)
        greeting = self._greeting()
        opening = Opening(wanted, dialect, speaks_first=True, greeting=greeting)
        accept = check_upgrade(request)
        return await self._parts.doorway.open_websocket(request, accept, opening)

    def _greeting(self) -> bytes:
        packet = socketio.open_packet(
            secrets.token_urlsafe(SID_BYTES),
            int(self._settings.heartbeat_s * 1000),
            PING_TIMEOUT_MS,
            self._settings.max_frame_bytes,
        )
        return websocket.text_frame(packet)

    def refuse(self, request: web.BaseRequest, refusal: Refusal) -> web.StreamResponse:
        """In Engine.IO's form: ``{"code", "message"}``."""
        code = 4 if refusal.status == 403 else 3
        body: object = {"code": code, "message": refusal.message}
        if isinstance(refusal, EngineRefusal):
            body = refusal.body
        return json_response(
            orjson.dumps(body), status=refusal.status, headers=refusal.headers
        )


def _read_wanted(query: Mapping[str, str], settings: Settings) -> tuple[Wanted, bytes]:
    """What a client wants, or the packet that says why it cannot have it."""
    user = read_user(query)
    conversation = v0.given(query.get("conversation_id"))
    if not conversation:
        return Wanted(), socketio.connect_error_packet(v0.NO_CONVERSATION)
    if not is_session_name(conversation):
        return Wanted(), socketio.connect_error_packet(v0.NO_SUCH_CONVERSATION)
    number = v0.read_latest_event_id(query.get("latest_event_id"))
    if number < 0:
        # A page that was opened just now: its user wants this conversation.
        reading = Reading(start=RETAINED, takeover=True)
    else:
        reading = Reading(seek=AfterEvent(number, settings.max_event_bytes))
    return Wanted(session=conversation, user=user, reading=reading), b""


def _read_token(request: web.BaseRequest) -> str | None:
    """The key in the URL, which is where these clients have it, or a bearer token."""
    key = v0.given(request.query.get("session_api_key"))
    if key:
        return key
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
