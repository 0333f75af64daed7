"""A bare loop of ``os.write`` of the ready frame to every socket.

The floor for one system call per delivery: no buffers, so what a full socket does not
take is lost (and counted), and nothing is read after the upgrade.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import select
import socket
import time

from loadtest.baselines.events import EventMaker, text_frame
from loadtest.command import CommandPipe
from loadtest.pacing import Pace

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def upgrade_response(request: bytes) -> bytes:
    """The 101 for an upgrade request."""
    key = b""
    for line in request.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"sec-websocket-key":
            key = value.strip()
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
        % base64.b64encode(digest)
    )


def accept_one(listener: socket.socket) -> socket.socket | None:
    """Accept and upgrade one connection; None if the client was gone at once."""
    connection, _ = listener.accept()
    connection.settimeout(5)
    try:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            part = connection.recv(65536)
            if not part:
                raise ConnectionResetError
            request += part
        connection.sendall(upgrade_response(request))
    except OSError:
        connection.close()
        return None
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    return connection


def publish(connections: list[socket.socket], pace: Pace, maker: EventMaker) -> int:
    """Write every event that is due to every socket; how many writes did not go."""
    refused = 0
    write = os.write
    descriptors = [connection.fileno() for connection in connections]
    while not pace.finished:
        time.sleep(max(0, pace.deadline_ns - time.monotonic_ns()) / 1e9)
        for _ in range(pace.take(time.monotonic_ns(), 100)):
            frame = text_frame(maker.make())
            for fd in descriptors:
                try:
                    write(fd, frame)
                except OSError:
                    refused += 1
    return refused


def main(port: int) -> None:
    """Serve on *port* of 127.0.0.1."""
    pipe = CommandPipe()
    maker = EventMaker()
    connections: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(4096)
        pipe.answer(ready=True)
        while True:
            ready, _, _ = select.select([listener.fileno(), pipe.fd], [], [])
            if listener.fileno() in ready:
                connection = accept_one(listener)
                if connection is not None:
                    connections.append(stack.enter_context(connection))
            if pipe.fd not in ready:
                continue
            try:
                commands = pipe.read()
            except EOFError:
                return
            for command in commands:
                if command["do"] == "run":
                    start_ns = time.monotonic_ns()
                    pace = Pace(command["rate"], command["seconds"], start_ns)
                    refused = publish(connections, pace, maker)
                    pipe.answer(refused=refused, **pace.summary())
