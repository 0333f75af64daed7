"""A strict WebSocket client for the tests, one asyncio protocol without any magic."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast
from urllib.parse import quote, urlencode

import orjson

from tests.harness import wire
from tests.harness.wire import ServerFault

Frame = dict[str, Any]
Address = tuple[str, int]


class Refused(Exception):
    """The server answered the upgrade with plain HTTP."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(f"{status} {body[:200]!r}")
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return orjson.loads(self.body)


class ConnectionEnded(Exception):
    """The connection ended while something was awaited from it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a connection ended; ``code`` is None if no Close frame came."""

    code: int | None
    reason: str


def target(path: str, query: Mapping[str, str | int] | None = None) -> str:
    return path + (f"?{urlencode(query, quote_via=quote)}" if query else "")


def request_head(
    address: Address,
    where: str,
    key: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    """A correct upgrade request; later *headers* come in addition."""
    lines = [
        f"GET {where} HTTP/1.1",
        f"Host: {address[0]}:{address[1]}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
    ]
    if subprotocols:
        lines.append(f"Sec-WebSocket-Protocol: {', '.join(subprotocols)}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class WebSocketClient(asyncio.Protocol):
    """One WebSocket connection; frames go to ``on_frame`` or wait for :meth:`frame`.

    Attributes:
        ended: Resolves when the TCP connection is gone.
        fault: What the server did wrong, if anything; tests check it at the end.
        pings: How many pings came.
    """

    def __init__(
        self, address: Address, on_frame: Callable[[Frame], None] | None = None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.address = address
        self.opened: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[Ended] = loop.create_future()
        self.fault: ServerFault | None = None
        self.subprotocol: str | None = None
        self.answers_pings = True
        self.pings = 0
        self.pongs: list[bytes] = []
        self.received_bytes = 0
        self._on_frame = on_frame
        self._frames: deque[Frame] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._head: bytearray | None = bytearray()
        self._key = ""
        self._offered: Sequence[str] = ()
        self._reader = wire.FrameReader()
        self._close: Ended | None = None

    @classmethod
    async def connect(
        cls,
        address: Address,
        path: str,
        query: Mapping[str, str | int] | None = None,
        *,
        on_frame: Callable[[Frame], None] | None = None,
        subprotocols: Sequence[str] = ("broker.v1",),
        headers: Sequence[tuple[str, str]] = (),
        receive_buffer_bytes: int = 0,
        source: str = "127.0.0.1",
        timeout_s: float = 10.0,
    ) -> Self:
        """Open a connection up to the 101 answer.

        Raises:
            Refused: The answer was another one.
            ServerFault: The 101 answer is wrong.
        """
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        if receive_buffer_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        client = cls(address, on_frame)
        try:
            async with asyncio.timeout(timeout_s):
                sock.bind((source, 0))
                await loop.sock_connect(sock, address)
                await loop.create_connection(lambda: client, sock=sock)
                client._upgrade(target(path, query), subprotocols, headers)
                await client.opened
        except BaseException:
            if client._transport is None:
                sock.close()
            client.cut()
            raise
        return client

    def _upgrade(
        self,
        where: str,
        subprotocols: Sequence[str],
        headers: Sequence[tuple[str, str]],
    ) -> None:
        self._key = wire.new_key()
        self._offered = subprotocols
        head = request_head(
            self.address, where, self._key, subprotocols=subprotocols, headers=headers
        )
        self.transport.write(head)

    @property
    def transport(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    # What a test does with it.

    async def frame(self, timeout_s: float = 10.0) -> Frame:
        """The next frame.

        Raises:
            ConnectionEnded: No frame is left and none will come.
            TimeoutError: None came in time.
        """
        async with asyncio.timeout(timeout_s):
            while not self._frames:
                if self.ended.done():
                    raise ConnectionEnded(f"ended with {self.ended.result()}")
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
        return self._frames.popleft()

    async def until(self, event: str, timeout_s: float = 10.0) -> Frame:
        """The next frame with this event name; what comes before it is dropped."""
        async with asyncio.timeout(timeout_s):
            while True:
                frame = await self.frame(timeout_s)
                if frame["event"] == event:
                    return frame

    def send(self, frame: Frame | list[Any]) -> None:
        self.send_frame(wire.TEXT, orjson.dumps(frame))

    def send_frame(self, opcode: int, payload: bytes = b"") -> None:
        self.transport.write(wire.client_frame(opcode, payload))

    def send_raw(self, data: bytes) -> None:
        self.transport.write(data)

    def pause(self) -> None:
        """Read nothing more from the socket, as a client that hangs."""
        self.transport.pause_reading()

    def resume(self) -> None:
        self.transport.resume_reading()

    def cut(self) -> None:
        """Drop the TCP connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    async def close(self, code: int = 1000, timeout_s: float = 10.0) -> Ended:
        """Close in order and wait until the server has closed the connection."""
        if not self.ended.done() and self._close is None:
            self.send_frame(wire.CLOSE, struct.pack("!H", code))
        return await self.wait_ended(timeout_s)

    async def wait_ended(self, timeout_s: float = 10.0) -> Ended:
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(self.ended)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        try:
            if self._head is not None:
                data = self._read_head(data)
            for opcode, payload in self._reader.feed(data):
                self._handle(opcode, payload)
        except ServerFault as fault:
            self.fault = fault
            if not self.opened.done():
                self.opened.set_exception(fault)
            self.cut()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(self._refusal() or ConnectionEnded("no answer"))
        if not self.ended.done():
            self.ended.set_result(self._close or Ended(None, str(error or "")))
        self._wake()

    def _read_head(self, data: bytes) -> bytes:
        """Take the answer's head; returns what follows a 101."""
        assert self._head is not None
        self._head += data
        head, found, rest = bytes(self._head).partition(b"\r\n\r\n")
        if not found:
            return b""
        if not head.startswith(b"HTTP/1.1 101 "):
            refusal = self._refusal()
            if refusal is not None and not self.opened.done():
                length = int(refusal.headers.get("content-length", -1))
                if len(refusal.body) == length:
                    self.opened.set_exception(refusal)
            return b""
        self._check_answer(_headers(head))
        self._head = None
        self.opened.set_result(None)
        return rest

    def _refusal(self) -> Refused | None:
        head, found, body = bytes(self._head or b"").partition(b"\r\n\r\n")
        if not found:
            return None
        return Refused(int(head.split(b" ")[1]), _headers(head), body)

    def _check_answer(self, headers: dict[str, str]) -> None:
        if headers.get("sec-websocket-accept") != wire.accept_of(self._key):
            raise ServerFault("a wrong Sec-WebSocket-Accept")
        if "sec-websocket-extensions" in headers:
            raise ServerFault("an extension that was not offered")
        self.subprotocol = headers.get("sec-websocket-protocol")
        if self.subprotocol is not None and self.subprotocol not in self._offered:
            raise ServerFault(f"a subprotocol that was not offered: {self.subprotocol}")

    def _handle(self, opcode: int, payload: bytes) -> None:
        if opcode == wire.TEXT:
            try:
                frame = orjson.loads(payload)
            except orjson.JSONDecodeError:
                raise ServerFault(f"not JSON: {payload[:100]!r}") from None
            if self._on_frame is not None:
                self._on_frame(frame)
            else:
                self._frames.append(frame)
                self._wake()
        elif opcode == wire.PING:
            self.pings += 1
            if self.answers_pings:
                self.send_frame(wire.PONG, payload)
        elif opcode == wire.PONG:
            self.pongs.append(payload)
        else:
            self._take_close(payload)

    def _take_close(self, payload: bytes) -> None:
        code = int.from_bytes(payload[:2], "big") if len(payload) > 1 else 1005
        try:
            self._close = Ended(code, payload[2:].decode())
        except UnicodeDecodeError:
            raise ServerFault("a close reason that is not UTF-8") from None
        self.send_frame(wire.CLOSE, payload[:2])

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
