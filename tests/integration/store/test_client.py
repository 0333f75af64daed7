"""Publishing by hand."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from broker.errors import ConfigError, StoreRefused, StoreUnavailable
from broker.model import parse_stream_id
from broker.store import client as store_client
from broker.store.client import Client
from broker.store.embedded import EmbeddedServer
from broker.store.streams import history
from tests.integration.store.conftest import Open, StartServer

Connect = Callable[[str], Client]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Makes clients that are closed when the test ends, however it ends."""
    async with AsyncExitStack() as stack:

        def connect_one(url: str) -> Client:
            client = store_client.connect(url)
            stack.callback(client.close)
            return client

        yield connect_one


@pytest.fixture
def client(server: EmbeddedServer, connect: Connect) -> Client:
    return connect(server.url)


async def test_published_event_has_the_fields_of_the_contract(
    client: Client, open_connection: Open
) -> None:
    """The answer is the id of the entry; data is left out when there is none."""
    first = await store_client.publish(client, b"s", "started")
    second = await store_client.publish(client, "s", "token", '{"chunk":"Hé"}')

    entries = await history(await open_connection(), b"s", None, None, 9, reverse=False)

    assert entries == [
        (parse_stream_id(first.encode()), [b"event", b"started"]),
        (
            parse_stream_id(second.encode()),
            [b"event", b"token", b"data", '{"chunk":"Hé"}'.encode()],
        ),
    ]


async def test_stream_keeps_what_it_is_told_and_expires(
    client: Client, open_connection: Open
) -> None:
    """A bound that is exact, and a lifetime for the whole stream."""
    for _ in range(3):
        await store_client.publish(
            client, "s", "probe", max_len=1, exact=True, expire_s=60
        )

    connection = await open_connection()
    assert await connection.call("XLEN", "s") == 1
    assert 50 < await connection.call("TTL", "s") <= 60


async def test_publish_with_expiry_rings_a_reader_once(
    client: Client, open_connection: Open
) -> None:
    """XADD and EXPIRE leave in one write, so no reader is woken for nothing."""
    pushes: list[object] = []
    connection = await open_connection(on_push=pushes.append)
    await connection.call("CLIENT", "TRACKING", "ON")
    for _ in range(20):
        await connection.call("XREAD", "STREAMS", "s", "0-0")
        await store_client.publish(client, "s", "probe", max_len=1, expire_s=60)
        await connection.call("PING")

    assert len(pushes) == 20


async def test_server_that_is_gone_is_unavailable(
    start_server: StartServer, connect: Connect
) -> None:
    """The next try connects anew, once somebody is there again."""
    server = start_server()
    client = connect(server.url)
    await client.call_all(("PING",))
    server.kill()

    with pytest.raises(StoreUnavailable):
        await store_client.publish(client, "s", "x")
    await asyncio.to_thread(server.start)
    await store_client.publish(client, "s", "x")


async def test_server_that_stalls_is_given_up_and_nothing_is_sent_again(
    start_server: StartServer,
    open_connection: Open,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One publish is stored once at most, even if its answer came too late."""
    monkeypatch.setattr(store_client, "TIMEOUT_S", 0.3)
    server = start_server()
    client = connect(server.url)
    await client.call_all(("PING",))
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    loop = asyncio.get_running_loop()
    # Late for the first try, in time for a second one if there were any.
    loop.call_later(0.45, os.kill, server.pid, signal.SIGCONT)

    with pytest.raises(StoreUnavailable):
        await store_client.publish(client, "s", "x")

    connection = await open_connection(server.url)
    assert await connection.call("XLEN", "s") == 1


async def test_key_of_another_type_is_refused(
    client: Client, open_connection: Open
) -> None:
    """A publisher who names a wrong key is told the reason."""
    connection = await open_connection()
    await connection.call("SET", "wrong", "x")

    with pytest.raises(StoreRefused, match="wrong kind of value"):
        await store_client.publish(client, "wrong", "x")


async def test_bad_url_is_a_config_error() -> None:
    """The URL is checked at once, not with the first command."""
    with pytest.raises(ConfigError):
        _ = store_client.connect("http://127.0.0.1")
