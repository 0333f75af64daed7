"""The raw connection against peers whose every packet a test decides."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.errors import (
    ServerUnsuitable,
    StoreUnavailable,
)
from broker.store.connection import Connection
from tests.integration.store.conftest import Open

HELLO_OK = b"%1\r\n$5\r\nproto\r\n:3\r\n"


@asynccontextmanager
async def peer(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A listener that answers each connection with *talk*; gives its URL."""
    tasks: list[asyncio.Task[Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        try:
            await talk(reader, writer)
            await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def push_after(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes
) -> None:
    await reader.read(1000)
    writer.write(HELLO_OK)
    await reader.read(1000)
    writer.write(answer)


def ring(key: str) -> bytes:
    return f">2\r\n$10\r\ninvalidate\r\n*1\r\n${len(key)}\r\n{key}\r\n".encode()


async def test_rediss_encrypts_and_checks_the_certificate(
    open_connection: Open, tmp_path: Path
) -> None:
    """TLS works with the given authority and is refused without it."""
    certificate, key = make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await push_after(reader, writer, b"+PONG\r\n")
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        url = f"rediss://localhost:{port}"
        connection = await open_connection(f"{url}?ssl_ca_certs={certificate}")
        assert await connection.call("PING") == b"PONG"
        connection.close()
        with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
            await open_connection(url)


def make_certificate(directory: Path) -> tuple[Path, Path]:
    certificate, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


async def test_peer_that_never_answers_is_given_up_in_time() -> None:
    """The log-in is part of the connect timeout."""

    async def say_nothing(*_: object) -> None: ...

    async with peer(say_nothing) as url:
        with pytest.raises(StoreUnavailable, match=r"within 0\.2 s"):
            await Connection.open(url, client_name="t", connect_timeout_s=0.2)


async def test_peer_that_speaks_no_resp3_is_unsuitable() -> None:
    """RESP3 is the only mode: RESP2 doorbells go deaf without a word."""

    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read(1000)
        writer.write(b"-NOPROTO unsupported protocol version\r\n")

    async with peer(refuse) as url:
        with pytest.raises(ServerUnsuitable, match="RESP3"):
            await Connection.open(url, client_name="t")


async def test_peer_that_is_no_redis_is_unavailable() -> None:
    """Answers that are not RESP end the attempt with the reason."""

    async def greet(
        _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with peer(greet) as url:
        with pytest.raises(StoreUnavailable, match="does not speak RESP"):
            await Connection.open(url, client_name="t")


async def test_push_before_a_reply_is_handled_before_the_waiter_runs(
    open_connection: Open,
) -> None:
    """A ring in front of a reply in the same packet is seen first, every time."""
    seen: list[object] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await push_after(reader, writer, ring("k") + b"+PONG\r\n")

    async with peer(talk) as url:
        connection = await open_connection(url, on_push=seen.append)
        await connection.send(("PING",))
        seen.append("reply")

    assert seen == [[b"invalidate", [b"k"]], "reply"]


async def test_push_between_two_replies_is_handled_between_their_futures(
    open_connection: Open,
) -> None:
    """The order of arrival holds: no future is done early, none late."""
    done_at_push: list[tuple[bool, bool]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await push_after(reader, writer, b"+A\r\n" + ring("k") + b"+B\r\n")

    async with peer(talk) as url:
        connection = await open_connection(url)
        first = connection.send(("PING",))
        second = connection.send(("PING",))
        connection.on_push = lambda _: done_at_push.append(
            (first.done(), second.done())
        )
        await second

    assert done_at_push == [(True, False)]


async def test_push_behind_a_reply_is_handled_before_the_waiter_runs(
    open_connection: Open,
) -> None:
    """So clearing a mark after the reply would lose a ring; before the send it is safe.

    A key must leave the dirty set before its read is sent: the ring below belongs to
    an entry that the reply does not hold, and it is handled before the code that
    waits for the reply can do anything.
    """
    dirty = {b"k"}

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await push_after(reader, writer, b"_\r\n" + ring("k"))

    async with peer(talk) as url:
        connection = await open_connection(url, on_push=lambda p: dirty.update(p[1]))
        dirty.discard(b"k")
        await connection.send(("XREAD",))

    assert dirty == {b"k"}


async def test_answer_that_nobody_asked_for_ends_the_connection(
    open_connection: Open,
) -> None:
    """Once replies and calls are out of step nothing later can be trusted."""
    lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await push_after(reader, writer, b"+PONG\r\n+PONG\r\n")

    async with peer(talk) as url:
        connection = await open_connection(url, on_lost=lost.set_result)
        assert await connection.call("PING") == b"PONG"
        error = await lost

    assert "nobody asked" in str(error)
