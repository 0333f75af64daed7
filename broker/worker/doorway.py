"""Takes sockets away from aiohttp and makes connections of them."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, Protocol, cast

from aiohttp import hdrs, web

from broker.config import Settings
from broker.control.identity import Identity
from broker.metrics.slots import Row
from broker.protocols import websocket
from broker.worker.connection import Connection
from broker.worker.dialect import Dialect
from broker.worker.handshake import Refusal, Wanted

SWITCHING = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {}\r\n{}\r\n"
)


class Host(Protocol):
    """What lets clients in needs of the worker."""

    values: Row
    asks_for_tokens: bool

    async def identify(self, token: str | None, user: str) -> Identity:
        """Find out who has a token, or raise `Refusal`."""

    def check_right(self, identity: Identity, session: str) -> None:
        """Raise `Refusal` if somebody may not read a session."""

    async def admit(self, identity: Identity, wanted: Wanted) -> Wanted:
        """Let somebody open a connection and the session it names, or `Refusal`."""

    def give_up(self, identity: Identity, wanted: Wanted) -> None:
        """Somebody who was admitted has left before there was a connection."""

    def check_waiting_room(self) -> None:
        """Raise `Refusal` if no more connections may wait for their first frame."""

    def new_connection(
        self, identity: Identity | None, session: str, dialect: Dialect
    ) -> Connection:
        """A connection that is not attached yet."""

    def welcome(self, connection: Connection, wanted: Wanted) -> None:
        """A connection is open: greet it and subscribe what its path names."""

    def await_token(self, connection: Connection, wanted: Wanted) -> None:
        """A connection is open that has not said who it is."""


class Opening(NamedTuple):
    """A socket that a request asks for.

    Attributes:
        wanted: What the client wants to read.
        dialect: How it is talked with.
        token: What it has shown in the request, None for nothing.
        speaks_first: Whether it is let in only when it has sent its first frame, which
            the dialect reads: its token, or only that it is there.
        greeting: What is sent at once, before anybody is let in.
    """

    wanted: Wanted
    dialect: Dialect
    token: str | None = None
    speaks_first: bool = False
    greeting: bytes = b""


class Doorway:
    """Opens the sockets that edges ask for.

    Args:
        settings: The effective settings.
        host: Lets clients in and keeps their connections.
    """

    def __init__(self, settings: Settings, host: Host) -> None:
        self.host = host
        self._max_frame_bytes = settings.max_frame_bytes

    async def open_websocket(
        self, request: web.BaseRequest, accept: str, opening: Opening
    ) -> web.StreamResponse:
        """Make a connection of a request for a WebSocket.

        Args:
            request: The request.
            accept: What `check_upgrade` has answered to it.
            opening: What it asks for.

        Raises:
            Refusal: Its client may not come in.
        """
        wanted, dialect = opening.wanted, opening.dialect
        identity = None
        if opening.speaks_first:
            self.host.check_waiting_room()
        else:
            identity = await self.host.identify(opening.token, wanted.user)
            wanted = await self.host.admit(identity, wanted)
        if has_left(request):
            if identity is not None:
                self.host.give_up(identity, wanted)
            return HANDED_OVER
        connection = self.host.new_connection(identity, wanted.session, dialect)
        offered = request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, [])
        subprotocol = websocket.choose_subprotocol(offered)[0]
        transport, early = take_over(request)
        connection.attach(transport, websocket.FrameParser(self._max_frame_bytes))
        connection.send(switching(accept, subprotocol) + opening.greeting)
        if identity is None:
            self.host.await_token(connection, wanted)
        else:
            self.host.welcome(connection, wanted)
        connection.uncork()
        if early:
            asyncio.get_running_loop().call_soon(connection.data_received, early)
        return HANDED_OVER

    async def open_stream(
        self, request: web.BaseRequest, opening: Opening
    ) -> web.StreamResponse:
        """Make a connection of a request whose answer never ends.

        The greeting is the head of the answer.

        Raises:
            Refusal: Its client may not come in.
        """
        wanted = opening.wanted
        identity = await self.host.identify(opening.token, wanted.user)
        wanted = await self.host.admit(identity, wanted)
        if has_left(request):
            self.host.give_up(identity, wanted)
            return HANDED_OVER
        connection = self.host.new_connection(identity, wanted.session, opening.dialect)
        transport, _early = take_over(request)
        connection.attach(transport, None)
        connection.send(opening.greeting)
        self.host.welcome(connection, wanted)
        connection.uncork()
        return HANDED_OVER


def check_upgrade(request: web.BaseRequest) -> str:
    """The value of ``Sec-WebSocket-Accept`` for a request.

    Raises:
        Refusal: It is no opening handshake of a WebSocket.
    """
    version = (request.version.major, request.version.minor)
    accept = websocket.check_upgrade(request.headers, request.method, version)
    if isinstance(accept, websocket.UpgradeRefusal):
        raise Refusal(
            "bad_upgrade",
            accept.message,
            status=accept.status,
            headers=accept.headers,
        )
    return accept


def switching(accept: str, subprotocol: str | None = None) -> bytes:
    """The answer that makes a WebSocket of a request."""
    line = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return SWITCHING.format(accept, line).encode()


class _HandedOver(web.StreamResponse):
    """Stands for an answer that somebody else writes."""

    @property
    def keep_alive(self) -> bool:
        return False

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


HANDED_OVER = _HandedOver()


class _Rest:
    """Takes what a client sent behind its request."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        pass


def take_over(request: web.BaseRequest) -> tuple[asyncio.Transport, bytes]:
    """Take the socket of a request away from aiohttp, which then forgets it.

    Returns:
        The transport, and what the client has sent behind the request already.
    """
    protocol = request.protocol
    transport = cast("asyncio.Transport", request.transport)
    rest = _Rest()
    protocol.set_parser(cast("Any", rest))
    transport.set_protocol(asyncio.Protocol())
    # To aiohttp it looks as if the client had left: no timer, no task, no reference.
    protocol.transport = None
    protocol.connection_lost(None)
    return transport, rest.data


def has_left(request: web.BaseRequest) -> bool:
    """Whether the client went away while somebody was asked about it."""
    transport = request.transport
    return transport is None or transport.is_closing()
