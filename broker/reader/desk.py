"""Takes the workers' requests from the Unix socket."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from typing import Protocol, cast

import msgspec
import structlog

from broker.ring import requests

log = structlog.get_logger(__name__)

_CREDENTIALS = struct.Struct("=3i")
_LINE_BYTES_MAX = 4096


class Clerk(Protocol):
    """Who handles requests; each worker's in the order sent."""

    def handle_watch(self, worker: int, request: requests.Watch) -> None:
        """A worker needs a session."""

    def handle_unwatch(self, worker: int, request: requests.Unwatch) -> None:
        """A worker needs a session no longer."""

    def handle_gone(self, worker: int) -> None:
        """A worker's connection ended; it needs nothing any more."""

    def handle_end_of_batch(self) -> None:
        """All requests that had arrived are handled."""


class Desk(asyncio.Protocol):
    """One worker's connection.

    Only processes of the same user may connect: the address is in the abstract
    namespace, where no file mode protects it.
    """

    def __init__(self, clerk: Clerk, desks: dict[int, Desk]) -> None:
        self._clerk = clerk
        self._desks = desks
        self._rest = b""
        self._worker = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Check who connects."""
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _pid, uid, _gid = _CREDENTIALS.unpack(raw)
        if uid != os.getuid():
            log.warning("request_socket_foreign_user", uid=uid)
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Handle the whole lines that have come."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        try:
            for line in lines:
                self._handle(requests.decode(line))
        except msgspec.MsgspecError as error:
            self._refuse(str(error))
        if len(self._rest) > _LINE_BYTES_MAX:
            self._refuse("line too long")
        self._clerk.handle_end_of_batch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take back what the worker had asked for."""
        if self._worker:
            del self._desks[self._worker]
            self._clerk.handle_gone(self._worker)

    def _handle(self, request: requests.Request) -> None:
        match request:
            case requests.Hello(worker=worker):
                self._greet(worker)
            case requests.Watch() if self._worker:
                self._clerk.handle_watch(self._worker, request)
            case requests.Unwatch() if self._worker:
                self._clerk.handle_unwatch(self._worker, request)
            case _:
                self._refuse("a request came before hello")

    def _greet(self, worker: int) -> None:
        # A restarted worker may be heard before the end of its predecessor is.
        former = self._desks.pop(worker, None)
        if former is not None:
            former.dismiss()
            self._clerk.handle_gone(worker)
        self._worker = worker
        self._desks[worker] = self

    def dismiss(self) -> None:
        """End the connection of a worker process that another one has replaced."""
        self._worker = 0
        self._refuse("another process took its place")

    def _refuse(self, why: str) -> None:
        log.error("request_unreadable", worker=self._worker, why=why)
        if self._transport is not None:
            self._transport.abort()


async def open_desk(clerk: Clerk, listening_fd: int) -> asyncio.Server:
    """Accept workers on the inherited listening socket."""
    loop = asyncio.get_running_loop()
    desks: dict[int, Desk] = {}
    listening = socket.socket(fileno=listening_fd)
    listening.setblocking(False)
    return await loop.create_unix_server(lambda: Desk(clerk, desks), sock=listening)
