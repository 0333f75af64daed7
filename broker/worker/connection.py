"""One client socket, from the upgrade to its end.

aiohttp parses the HTTP request; then the transport is handed to the small protocol
here and aiohttp's objects are released, which leaves 2 KB per idle connection.
"""

from __future__ import annotations

import asyncio
import random
import socket
from os import write
from typing import Protocol, cast

from broker.control.identity import Identity
from broker.disconnect import Disconnect
from broker.protocols import websocket
from broker.protocols.formats import Format
from broker.worker.channels import Subscription
from broker.worker.dialect import Dialect

CLOSE_WAIT_S = 2.0
"""How long the peer has to answer a close frame before its socket is cut."""
CLOSE_FLUSH_S = 5.0
"""The same while bytes are still waiting to be sent."""
USER_TIMEOUT_MS = 30_000
"""Unacknowledged bytes end a connection after this time (TCP_USER_TIMEOUT)."""
TCP_NOTSENT_LOWAT = 25


class Owner(Protocol):
    """What a connection needs of its worker; one object for all connections."""

    write_buffer_bytes: int
    lag_timeout_ms: int

    def handle_text(self, connection: Connection, payload: bytes) -> None:
        """A client said something."""

    def handle_binary(self, connection: Connection, payload: bytes) -> None:
        """A client sent bytes that are no text."""

    def handle_drained(self, connection: Connection) -> None:
        """A socket that was blocked takes bytes again."""

    def handle_lost(self, connection: Connection, label: str) -> None:
        """A connection has ended; *label* says why."""


class Connection(asyncio.Protocol):
    """One WebSocket or event-stream client.

    Attributes:
        dialect: How it is talked with.
        format: The wire format; its dialect may choose another one later.
        number: 64 random bits that name it.
        identity: Who it is and what that allows; None until a token has said so.
        session: The session named by the path, empty for ``/v1/ws``.
        subs: Its subscriptions by session.
        fd: Descriptor that may be written to at once; -1 while bytes are queued, and
            once the connection is closing.
        blocked: The write buffer is above its mark.
        heard: Something came since the last heartbeat.
        errors: Bad frames so far.
        allowance: State of the subscribe rate limit, None until it is used.
        command_allowance: The same for commands.
        slot: Its place in the heartbeat wheel.
    """

    __slots__ = (
        "_corked",
        "_owner",
        "_parser",
        "_reason",
        "_socket_fd",
        "_transport",
        "allowance",
        "blocked",
        "command_allowance",
        "dialect",
        "errors",
        "fd",
        "format",
        "heard",
        "identity",
        "number",
        "session",
        "slot",
        "subs",
    )

    def __init__(
        self, owner: Owner, dialect: Dialect, identity: Identity | None, session: str
    ) -> None:
        self._owner = owner
        self._parser: websocket.FrameParser | None = None
        self._transport: asyncio.Transport | None = None
        self._socket_fd = -1
        self._corked: list[bytes] | None = None
        self._reason: Disconnect | None = None
        self.fd = -1
        self.dialect = dialect
        self.format: Format = dialect.format
        self.number = random.getrandbits(64)
        self.identity = identity
        self.session = session
        self.subs: dict[str, Subscription] = {}
        self.blocked = False
        self.heard = True
        self.errors = 0
        self.allowance: tuple[float, float] | None = None
        self.command_allowance: tuple[float, float] | None = None
        self.slot = 0

    def attach(
        self, transport: asyncio.Transport, parser: websocket.FrameParser | None
    ) -> None:
        """Take over *transport*; writes are collected until ``uncork``.

        Args:
            transport: Of an accepted TCP socket, with nothing left to write.
            parser: Reads the client's frames; None where a client cannot speak (SSE).
        """
        self._parser = parser
        self._transport = transport
        self._corked = []
        high = self._owner.write_buffer_bytes
        transport.set_write_buffer_limits(high=high, low=high // 4)
        transport.set_protocol(self)
        self._socket_fd = transport.get_extra_info("socket").fileno()

    def uncork(self) -> None:
        """Write what was collected, as one."""
        corked, self._corked = self._corked, None
        if corked and self._transport is not None:
            self._set_direct(True)
            self._write(b"".join(corked))

    @property
    def user(self) -> str:
        """Whose it is; empty for nobody's."""
        return "" if self.identity is None else self.identity.user

    @property
    def connection_id(self) -> str:
        """The name of the connection, as clients and services see it."""
        return f"{self.number:016x}"

    @property
    def ending(self) -> str:
        """Why it ends, as a metric label."""
        if self._reason is not None:
            return self._reason.label
        return "lost" if self._transport is None else "unsubscribed"

    def set_frame_limit(self, size: int) -> None:
        """Allow messages of at most *size* bytes from now on."""
        if self._parser is not None:
            self._parser.max_frame_bytes = size

    @property
    def open(self) -> bool:
        """Whether frames may still be written."""
        transport = self._transport
        if transport is None or self._reason is not None:
            return False
        return not transport.is_closing()

    @property
    def buffered_bytes(self) -> int:
        """Bytes that wait in this process for the kernel to take them."""
        transport = self._transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def send(self, data: bytes) -> None:
        """Write prepared bytes; does nothing once the connection is closing.

        The kernel is asked directly while the transport has nothing queued: a delivery
        then costs one system call and 0.3 us of Python around it.
        """
        if self.fd >= 0:
            # Only while the connection is open: closing and losing it end this.
            try:
                written = write(self.fd, data)
            except OSError as error:
                written = self._handle_write_error(error)
            if written != len(data):
                self.queue_rest(data, written)
        elif self._reason is None:
            self._write(data)

    def notify(self, event: str, data: object, session: str | None = None) -> None:
        """Tell an event of the broker itself, in the client's own words."""
        self.dialect.notify(self, event, data, session)

    def hold(self, frame: bytes) -> None:
        """Keep *frame* until the subscription has caught up; the newest one counts."""
        self.dialect.hold(self, frame)

    def close(self, reason: Disconnect, **details: object) -> None:
        """Tell the client why, then close; the first reason counts.

        Args:
            reason: Its code tells the client whether to come back.
            details: More for its last words, such as ``delay_ms``.
        """
        if self._reason is not None or self._transport is None:
            return
        farewell = self.dialect.farewell(self, reason, details)
        if self._corked is not None:
            self.uncork()
        if farewell is None:
            self.abort(reason)
            return
        self._write(farewell.words)
        self._set_direct(False)
        self._reason = reason
        wait = CLOSE_FLUSH_S
        if farewell.close:
            self._transport.write(farewell.close)
            wait = CLOSE_FLUSH_S if self.buffered_bytes else CLOSE_WAIT_S
        else:
            self._transport.close()
        asyncio.get_running_loop().call_later(wait, self.abort)

    def abort(self, reason: Disconnect | None = None) -> None:
        """Cut the connection without a word."""
        if self._transport is not None:
            self._reason = self._reason or reason
            self._set_direct(False)
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if self.fd < 0:
            if self._corked is not None:
                self._corked.append(data)
                return
            if transport.get_write_buffer_size():
                transport.write(data)
                return
            self._set_direct(True)
        self.send(data)

    def _set_direct(self, direct: bool) -> None:
        fd = self._socket_fd if direct else -1
        if fd != self.fd:
            self.fd = fd
            for sub in self.subs.values():
                sub.channel.note_fd(sub)

    def _handle_write_error(self, error: OSError) -> int:
        if not isinstance(error, BlockingIOError):
            self.abort()
        return 0

    def queue_rest(self, data: bytes, written: int) -> None:
        """Leave to the transport what the kernel has not taken of *data*."""
        # It keeps the view as it is: a large frame for many slow sockets is in memory
        # once.
        self._set_direct(False)
        if self._transport is not None:
            self._transport.write(memoryview(data)[written:])

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        """Read what the client says."""
        self.heard = True
        parser = self._parser
        if parser is None:
            return  # An event stream's client has nothing to say.
        try:
            messages = parser.feed(data)
        except websocket.FrameError as fault:
            # What was whole before the fault still counts.
            for opcode, payload in fault.messages:
                self._handle(opcode, payload)
            self.close(_BY_CODE.get(fault.code, Disconnect.PROTOCOL_ERROR))
            return
        for opcode, payload in messages:
            self._handle(opcode, payload)

    def _handle(self, opcode: int, payload: bytes) -> None:
        if self._transport is None:
            return
        if opcode == websocket.TEXT:
            if self._reason is None:
                self._owner.handle_text(self, payload)
                self._hold_back()
        elif opcode == websocket.PING:
            if not self.blocked:
                self.send(websocket.pong_frame(payload))
        elif opcode == websocket.CLOSE:
            self._handle_close(payload)
        elif opcode == websocket.BINARY and self._reason is None:
            self._owner.handle_binary(self, payload)

    def _hold_back(self) -> None:
        # A client that asks and does not read the answers is not read either.
        if self.blocked and self._transport is not None:
            self._transport.pause_reading()

    def _handle_close(self, payload: bytes) -> None:
        if self._reason is None:
            code, _text = websocket.read_close(payload)
            answer = code if code != websocket.NO_CODE else Disconnect.NORMAL.code
            self._write(websocket.close_frame(answer))
            self._set_direct(False)
            self._reason = Disconnect.NORMAL
        if self._transport is not None:
            self._transport.close()
            # Who closes and does not read would hold what is queued for it.
            asyncio.get_running_loop().call_later(CLOSE_FLUSH_S, self.abort)

    def eof_received(self) -> bool:
        """The client says no more: nobody reads what is still queued."""
        if self.buffered_bytes:
            self.abort()
        return False

    def pause_writing(self) -> None:
        """The write buffer is above its mark."""
        self.blocked = True
        self._set_user_timeout(self._owner.lag_timeout_ms)

    def resume_writing(self) -> None:
        """The write buffer has drained."""
        self.blocked = False
        self._set_user_timeout(USER_TIMEOUT_MS)
        if self._transport is not None:
            self._transport.resume_reading()
        self._owner.handle_drained(self)

    def _set_user_timeout(self, timeout_ms: int) -> None:
        # The kernel counts a closed window as no progress, too: a client that just
        # does not read may do so for the time that the broker allows.
        if self._transport is not None and not self._transport.is_closing():
            sock = cast("socket.socket", self._transport.get_extra_info("socket"))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone; its descriptor must not be used again."""
        if self._transport is None:
            return
        self._transport = None
        self._set_direct(False)
        self._socket_fd = -1
        self._owner.handle_lost(self, self.ending)


def prepare_listening(sock: socket.socket, notsent_lowat_bytes: int) -> None:
    """Set the options that accepted sockets inherit from their listening socket."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, notsent_lowat_bytes)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


_BY_CODE = {
    reason.code: reason
    for reason in (
        Disconnect.PROTOCOL_ERROR,
        Disconnect.INVALID_PAYLOAD,
        Disconnect.FRAME_TOO_BIG,
    )
}
