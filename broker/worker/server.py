"""Lets clients in: routes, refusals, and the hand-over of sockets from aiohttp."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

import orjson
import structlog
from aiohttp import hdrs, web

from broker.config import Settings
from broker.control.identity import Identity
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.protocols import websocket
from broker.protocols.formats import NATIVE, SSE
from broker.protocols.sse import retry_block
from broker.worker.connection import Connection
from broker.worker.handshake import (
    TERMINAL,
    Refusal,
    Wanted,
    check_origin,
    read_request,
    read_token,
)
from broker.worker.limits import PerAddress

log = structlog.get_logger(__name__)

TERMINAL_DELAY_S = (1.0, 3.0)
TERMINAL_PER_S, TERMINAL_BURST = 2, 20
"""Terminal refusals per address that are told by a close code."""
SSE_RETRY_MS = (1000, 5000)
HEADERS = {hdrs.SERVER: "broker", hdrs.CACHE_CONTROL: "no-store"}
SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-store\r\nX-Accel-Buffering: no\r\nConnection: close\r\n"
)
SWITCHING = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {}\r\n{}\r\n"
)


class Host(Protocol):
    """What the server needs of the worker."""

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
        """Raise `Refusal` if no more connections may wait for their token."""

    def new_connection(
        self, identity: Identity | None, session: str, *, sse: bool
    ) -> Connection:
        """A connection that is not attached yet."""

    def welcome(self, connection: Connection, wanted: Wanted) -> None:
        """A connection is open: greet it and subscribe what its path names."""

    def await_token(self, connection: Connection, wanted: Wanted) -> None:
        """A connection is open that has not said who it is."""


HistoryHandler = Callable[[web.BaseRequest, list[str]], Awaitable[web.Response]]


class Server:
    """The public HTTP server of one worker."""

    def __init__(self, settings: Settings, host: Host, history: HistoryHandler) -> None:
        self._settings = settings
        self._host = host
        self._history = history
        self._terminal = PerAddress(TERMINAL_PER_S, TERMINAL_BURST)
        self._manager = web.Server(self._handle)

    def protocol(self) -> asyncio.Protocol:
        """The protocol of an accepted socket: aiohttp's, until it is handed over."""
        return Handler(
            self._manager,
            loop=asyncio.get_running_loop(),
            access_log=cast("Any", None),
            # A request that is not complete by then is cut.
            keepalive_timeout=self._settings.handshake_s,
            tcp_keepalive=False,
            auto_decompress=False,  # what cannot be unpacked would be an error of ours
        )

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._route(request)
        except Refusal as refusal:
            return self._refuse(request, refusal)

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        match request.path.split("/"):
            case ["", "v1", "ws"]:
                return await self._open_websocket(request, "")
            case ["", "v1", "ws", *rest]:
                return await self._open_websocket(request, "/".join(rest) or "/")
            case ["", "v1", "sse", *rest] if rest:
                return await self._open_sse(request, "/".join(rest) or "/")
            case ["", "v1", "sessions", session, "events", *rest] if session:
                return await self._show_history(request, [session, *rest])
        raise Refusal("not_found")

    async def _show_history(
        self, request: web.BaseRequest, path: list[str]
    ) -> web.Response:
        check_origin(request, self._settings)
        identity = await self._identify(request, "")
        self._host.check_right(identity, path[0])
        return await self._history(request, path)

    async def _identify(self, request: web.BaseRequest, user: str) -> Identity:
        return await self._host.identify(read_token(request, self._settings), user)

    async def _open_websocket(
        self, request: web.BaseRequest, session: str
    ) -> web.StreamResponse:
        version = (request.version.major, request.version.minor)
        accept = websocket.check_upgrade(request.headers, request.method, version)
        if isinstance(accept, websocket.UpgradeRefusal):
            raise Refusal(
                "bad_upgrade",
                accept.message,
                status=accept.status,
                headers=accept.headers,
            )
        wanted = read_request(request, session, self._settings)
        token = read_token(request, self._settings)
        identity = None
        if token is None and self._host.asks_for_tokens:
            self._host.check_waiting_room()
        else:
            identity = await self._host.identify(token, wanted.user)
            wanted = await self._host.admit(identity, wanted)
        if _has_left(request):
            if identity is not None:
                self._host.give_up(identity, wanted)
            return HANDED_OVER
        connection = self._host.new_connection(identity, session, sse=False)
        offered = request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, [])
        head = _switching(accept, websocket.choose_subprotocol(offered)[0])
        transport, early = take_over(request)
        parser = websocket.FrameParser(self._settings.max_frame_bytes)
        connection.attach(transport, parser)
        connection.send(head)
        if identity is None:
            self._host.await_token(connection, wanted)
        else:
            self._host.welcome(connection, wanted)
        connection.uncork()
        if early:
            asyncio.get_running_loop().call_soon(connection.data_received, early)
        return HANDED_OVER

    async def _open_sse(
        self, request: web.BaseRequest, session: str
    ) -> web.StreamResponse:
        if request.method != hdrs.METH_GET:
            raise Refusal("bad_request", "an event stream is read with GET")
        wanted = self._read_sse(request, session)
        identity = await self._identify(request, wanted.user)
        wanted = await self._host.admit(identity, wanted)
        if _has_left(request):
            self._host.give_up(identity, wanted)
            return HANDED_OVER
        connection = self._host.new_connection(identity, session, sse=True)
        origin = request.headers.get(hdrs.ORIGIN, "")
        transport, _early = take_over(request)
        connection.attach(transport, None)
        connection.send(SSE_HEAD + _cors(origin) + b"\r\n")
        self._host.welcome(connection, wanted)
        connection.uncork()
        return HANDED_OVER

    def _read_sse(self, request: web.BaseRequest, session: str) -> Wanted:
        # EventSource repeats the URL it was made with, so its own header is newer.
        last = request.headers.get("Last-Event-ID", "")
        newer = {"last_event_id": last} if last else {}
        return read_request(request, session, self._settings, newer)

    # Refusals.

    def _refuse(self, request: web.BaseRequest, refusal: Refusal) -> web.StreamResponse:
        if _has_left(request):
            return HANDED_OVER
        label = refusal.reason
        if label.startswith("too_many_connections"):
            label = "too_many_connections"
        self._host.values[catalog.REFUSED.slots[label]] += 1
        if request.path.startswith("/v1/sse/"):
            answer = _refuse_event_source(refusal)
            if answer is not None:
                return answer
        elif refusal.reason in TERMINAL:
            accepted = self._refuse_browser(request, refusal)
            if accepted is not None:
                return accepted
        return _error(refusal)

    def _refuse_browser(
        self, request: web.BaseRequest, refusal: Refusal
    ) -> web.StreamResponse | None:
        """Accept only to close with a code: a page cannot see a refusal's status."""
        offered = request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, [])
        subprotocol, _token = websocket.choose_subprotocol(offered)
        version = (request.version.major, request.version.minor)
        accept = websocket.check_upgrade(request.headers, request.method, version)
        if subprotocol is None or isinstance(accept, websocket.UpgradeRefusal):
            return None
        if not self._terminal.take(request.remote or ""):
            return None
        transport, _early = take_over(request)
        transport.write(_switching(accept, subprotocol))
        asyncio.get_running_loop().call_later(
            random.uniform(*TERMINAL_DELAY_S),  # noqa: S311 - spreading load
            _close_terminally,
            transport,
            refusal,
        )
        return HANDED_OVER


class Handler(web.RequestHandler):
    """aiohttp's protocol, with answers to malformed requests that repeat nothing."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer with a fixed text: aiohttp's own quotes the request, with tokens."""
        if status >= 500:
            log.error("request_failed", status=status, error=type(exc).__name__)
        response = _error(
            Refusal("bad_request" if status < 500 else "internal", status=status)
        )
        response.force_close()
        return response


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


def _switching(accept: str, subprotocol: str | None) -> bytes:
    line = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return SWITCHING.format(accept, line).encode()


def _cors(origin: str) -> bytes:
    # The origin has been checked; it is repeated only if it is plain.
    if not origin or not origin.isascii() or not origin.isprintable():
        return b""
    return b"Access-Control-Allow-Origin: %b\r\nVary: Origin\r\n" % origin.encode()


def _error(refusal: Refusal) -> web.Response:
    body = {"error": {"code": refusal.reason, "message": refusal.message}}
    return web.Response(
        status=refusal.status,
        body=orjson.dumps(body),
        content_type="application/json",
        headers=HEADERS | refusal.headers,
    )


def _refuse_event_source(refusal: Refusal) -> web.Response | None:
    """EventSource gives up after any status but 200, and for good only after 204."""
    if refusal.temporary:
        delay = random.randint(*SSE_RETRY_MS)  # noqa: S311 - spreading load
        return web.Response(
            body=retry_block(delay),
            content_type="text/event-stream",
            headers=HEADERS,
        )
    if refusal.reason in TERMINAL:
        return web.Response(status=204, headers=HEADERS)
    return None


def _close_terminally(transport: asyncio.Transport, refusal: Refusal) -> None:
    if transport.is_closing():
        return
    reason = TERMINAL[refusal.reason]
    data = {"code": reason.code, "reason": reason.label, "retry": reason.retry}
    transport.write(
        NATIVE.notice("closing", data | dict(refusal.details))
        + websocket.close_frame(reason.code, reason.text)
    )
    transport.close()


def _has_left(request: web.BaseRequest) -> bool:
    """Whether the client went away while somebody was asked about it."""
    transport = request.transport
    return transport is None or transport.is_closing()


__all__ = ["SSE", "Handler", "Host", "Server", "take_over"]
