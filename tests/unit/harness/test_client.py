"""The test client must refuse what a server must not send."""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.harness import wire
from tests.harness.client import Address, ConnectionEnded, Refused, WebSocketClient
from tests.harness.wire import ServerFault

Serve = Callable[[bytes], Awaitable[Address]]


def server_frame(opcode: int, payload: bytes) -> bytes:
    return wire.client_frame(opcode, payload, masked=False)


def accept(key: str, extra: str = "") -> bytes:
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Accept: {wire.accept_of(key)}\r\n"
        f"{extra}\r\n"
    ).encode()


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """A server that accepts the upgrade and then sends given bytes."""
    servers: list[asyncio.Server] = []

    async def start(data: bytes) -> Address:
        async def answer(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            found = re.search("Sec-WebSocket-Key: (.*)\r\n", head)
            assert found
            writer.write(data if data.startswith(b"HTTP") else accept(found[1]) + data)
            await reader.read()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        servers.append(server)
        host, port = server.sockets[0].getsockname()[:2]
        return host, port

    yield start
    for server in servers:
        server.close()


async def test_frames_are_read_in_order(serve: Serve) -> None:
    """Short, long and very long frames in one piece."""
    texts = [b'{"n":1}', b'{"n":"' + b"x" * 300 + b'"}', b'"' + b"y" * 70_000 + b'"']
    address = await serve(b"".join(server_frame(wire.TEXT, text) for text in texts))
    client = await WebSocketClient.connect(address, "/")
    frames: list[object] = [await client.frame() for _ in range(3)]
    client.cut()

    assert frames == [{"n": 1}, {"n": "x" * 300}, "y" * 70_000]
    assert client.fault is None


@pytest.mark.parametrize(
    "data",
    [
        wire.client_frame(wire.TEXT, b"{}"),
        wire.client_frame(wire.TEXT, b"{}", masked=False, fin=False),
        wire.client_frame(wire.TEXT, b"{}", masked=False, rsv=4),
        server_frame(wire.BINARY, b"{}"),
        server_frame(wire.TEXT, b"not json"),
        server_frame(wire.CLOSE, struct.pack("!H", 1000))
        + server_frame(wire.TEXT, b"{}"),
        b"\x81\x7e\x00\x01a",
        server_frame(wire.PING, b"x" * 126),
    ],
    ids=[
        "masked",
        "fragment",
        "rsv",
        "binary",
        "not-json",
        "after-close",
        "length",
        "control",
    ],
)
async def test_violations_are_caught(serve: Serve, data: bytes) -> None:
    """What RFC 6455 or the protocol forbids is a fault of the connection."""
    client = await WebSocketClient.connect(await serve(data), "/")
    await client.wait_ended()

    assert isinstance(client.fault, ServerFault)


async def test_wrong_accept_value_is_caught(serve: Serve) -> None:
    """The handshake proves that the server has read the key."""
    address = await serve(accept(wire.new_key()))
    with pytest.raises(ServerFault, match="Sec-WebSocket-Accept"):
        await WebSocketClient.connect(address, "/")


async def test_refusal_has_status_headers_and_body(serve: Serve) -> None:
    """A refused upgrade tells why."""
    address = await serve(
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\n"
        b"Content-Length: 11\r\n\r\n" + b'{"a":"bcd"}'
    )
    with pytest.raises(Refused) as refused:
        await WebSocketClient.connect(address, "/")

    assert refused.value.status == 503
    assert refused.value.headers["retry-after"] == "3"
    assert refused.value.json() == {"a": "bcd"}


async def test_close_frame_is_answered_and_told(serve: Serve) -> None:
    """The code and the reason of the server arrive."""
    payload = struct.pack("!H", 4000) + b"draining"
    address = await serve(server_frame(wire.CLOSE, payload))
    client = await WebSocketClient.connect(address, "/")
    with pytest.raises(TimeoutError):
        await client.frame(timeout_s=0.05)
    client.cut()
    ended = await client.wait_ended()

    assert (ended.code, ended.reason) == (4000, "draining")
    with pytest.raises(ConnectionEnded):
        await client.frame()
