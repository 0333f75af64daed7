"""The raw connection against real servers."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hiredis import ReplyError

from broker.errors import (
    ConfigError,
    StoreRefused,
    StoreUnavailable,
)
from broker.store.connection import Connection, encode_commands
from broker.store.embedded import EmbeddedServer
from tests.integration.store.conftest import Open, StartServer


def test_commands_are_encoded_in_order() -> None:
    """Text, bytes and numbers of several commands become one piece of RESP."""
    assert encode_commands(("GET", b"a"), [b"SELECT", 1]) == (
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n"
    )


async def test_replies_come_in_the_order_of_their_commands(
    open_connection: Open,
) -> None:
    """Calls that overlap each get their own answers."""
    connection = await open_connection()

    first = connection.send(("SET", "a", 1), ("INCR", "a"))
    second = connection.send(("GET", "a"))

    assert await second == [b"2"]
    assert await first == [b"OK", 2]


async def test_error_reply_is_a_value_of_send_and_an_exception_of_call(
    open_connection: Open,
) -> None:
    """One refused command of many does not hide the answers to the others."""
    connection = await open_connection()

    refused, answered = await connection.send(("LPUSH", "a"), ("ECHO", "x"))

    assert isinstance(refused, ReplyError)
    assert answered == b"x"
    await connection.call("SET", "a", "1")
    with pytest.raises(StoreRefused) as caught:
        await connection.call("XADD", "a", "*", "f", "v")
    assert caught.value.kind == "WRONGTYPE"


async def test_cancelled_call_does_not_shift_later_replies(
    open_connection: Open,
) -> None:
    """Whoever stops waiting takes no answer away from the next."""
    connection = await open_connection()
    waiting = asyncio.create_task(connection.call("ECHO", "first"))
    await asyncio.sleep(0)
    waiting.cancel()

    assert await connection.call("ECHO", "second") == b"second"


async def test_each_reply_is_handed_on_as_soon_as_it_has_come(
    open_connection: Open,
) -> None:
    """The first of a call is used while its last is not there yet."""
    connection = await open_connection()
    taken: list[object] = []
    first = asyncio.Event()

    def take(reply: object) -> None:
        taken.append(reply)
        first.set()

    blocked = connection.send_each(
        take, ("ECHO", "a"), ("BLPOP", "list", 0), ("LPUSH",)
    )
    await first.wait()
    assert taken == [b"a"]
    assert not blocked.done()
    other = await open_connection()
    await other.call("RPUSH", "list", "x")

    assert await blocked == []
    assert taken[:2] == [b"a", [b"list", b"x"]]
    assert isinstance(taken[2], ReplyError)


async def test_replies_are_handed_on_though_nobody_waits(
    open_connection: Open,
) -> None:
    """What they mean is done all the same; the next call gets its own."""
    connection = await open_connection()
    taken: list[object] = []
    connection.send_each(taken.append, ("ECHO", "a"), ("ECHO", "b")).cancel()

    assert await connection.call("ECHO", "c") == b"c"
    assert taken == [b"a", b"b"]


async def test_reply_that_cannot_be_used_ends_the_connection(
    open_connection: Open,
) -> None:
    """Whoever asked gets what was raised; the others hear that it is lost."""
    lost: list[Exception | None] = []
    connection = await open_connection(on_lost=lost.append)

    def take(reply: object) -> None:
        raise KeyError(reply)

    failed = connection.send_each(take, ("ECHO", "a"), ("ECHO", "b"))
    other = connection.send(("ECHO", "c"))

    with pytest.raises(KeyError, match="a"):
        await failed
    with pytest.raises(StoreUnavailable, match="could not be used"):
        await other
    assert connection.closed
    assert len(lost) == 1


async def test_nothing_is_handed_on_after_the_end(open_connection: Open) -> None:
    """Who ends it with the first answer gets no second one."""
    connection = await open_connection()
    taken: list[object] = []

    def take(reply: object) -> None:
        taken.append(reply)
        connection.close()

    with pytest.raises(StoreUnavailable):
        await connection.send_each(take, ("ECHO", "a"), ("ECHO", "b"))
    assert taken == [b"a"]


async def test_reply_that_cannot_be_used_is_no_secret_when_nobody_waits(
    open_connection: Open,
) -> None:
    """The loop's handler, which logs, gets what was raised."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))
    lost = asyncio.Event()
    connection = await open_connection(on_lost=lambda _: lost.set())

    def take(reply: object) -> None:
        raise KeyError(reply)

    connection.send_each(take, ("ECHO", "a")).cancel()
    await lost.wait()
    assert [repr(what["exception"]) for what in told] == ["KeyError(b'a')"]


async def test_client_is_named_and_uses_the_database_of_the_url(
    server: EmbeddedServer, open_connection: Open
) -> None:
    """CLIENT LIST shows who it is, and keys land in the database that was named."""
    url = server.url.removesuffix("/0") + "/3"
    connection = await open_connection(url, client_name="broker-reader-x")

    info = await connection.call("CLIENT", "INFO")

    assert b" name=broker-reader-x " in info
    assert b" db=3 " in info
    assert b" resp=3" in info


async def test_user_and_password_of_the_url_log_in(
    server: EmbeddedServer, open_connection: Open
) -> None:
    """An ACL user logs in; a wrong password is refused without being repeated."""
    admin = await open_connection()
    await admin.call("ACL", "SETUSER", "eve", "on", ">p@ss", "~*", "+@all")
    host = server.url.removeprefix("redis://")

    connection = await open_connection(f"redis://eve:p%40ss@{host}")

    assert await connection.call("ACL", "WHOAMI") == b"eve"
    with pytest.raises(StoreRefused, match="WRONGPASS") as caught:
        await open_connection(f"redis://eve:canary@{host}")
    assert "canary" not in str(caught.value)
    await admin.call("ACL", "DELUSER", "eve")


async def test_unix_socket_works_like_tcp(
    start_server: StartServer, open_connection: Open, tmp_path: Path
) -> None:
    """unix:// leads to the same server."""
    path = tmp_path / "s"
    start_server("--unixsocket", str(path))

    connection = await open_connection(f"unix://{path}?db=2")

    assert b" db=2 " in await connection.call("CLIENT", "INFO")


async def test_nobody_listening_is_unavailable() -> None:
    """A refused connection says where, without the password."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port}") as caught:
            await Connection.open(f"redis://:canary@127.0.0.1:{port}", client_name="t")

    assert "canary" not in str(caught.value)


async def test_bad_url_is_a_config_error() -> None:
    """The URL is checked before anything is connected."""
    with pytest.raises(ConfigError):
        await Connection.open("http://127.0.0.1", client_name="t")


async def test_no_ring_is_lost_between_write_and_reply(open_connection: Open) -> None:
    """A key that leaves the dirty set before its read is sent never goes deaf."""
    keys = [b"k%d" % number for number in range(20)]
    cursors = dict.fromkeys(keys, b"0-0")
    dirty = set(keys)
    rang = asyncio.Event()
    received = 0

    def handle_push(push: list[Any]) -> None:
        dirty.update(push[1])
        rang.set()

    connection = await open_connection(on_push=handle_push)
    writer = await open_connection()
    await connection.call("CLIENT", "TRACKING", "ON")

    async def write() -> None:
        for number in range(2000):
            sent = writer.send(("XADD", keys[number % 20], "*", "n", number))
            if number % 7 == 0:
                await sent

    writing = asyncio.create_task(write())
    async with asyncio.timeout(20):
        while received < 2000:
            if not dirty:
                rang.clear()
                await rang.wait()
            batch = list(dirty)
            dirty.clear()
            ids = [cursors[key] for key in batch]
            reply = await connection.call("XREAD", "STREAMS", *batch, *ids)
            for key, entries in (reply or {}).items():
                cursors[key] = entries[-1][0]
                received += len(entries)
    await writing

    assert received == 2000


async def test_killed_connection_does_not_come_back_by_itself(
    open_connection: Open,
) -> None:
    """After CLIENT KILL the owner is told once, and everything pending fails."""
    lost: list[Exception | None] = []
    connection = await open_connection(on_lost=lost.append)
    admin = await open_connection()
    client_id = await connection.call("CLIENT", "ID")
    pending = connection.send(("BLPOP", "nothing", 0))

    await admin.call("CLIENT", "KILL", "ID", client_id)

    with pytest.raises(StoreUnavailable):
        await pending
    assert connection.closed
    assert len(lost) == 1
    assert isinstance(lost[0], StoreUnavailable)
    with pytest.raises(StoreUnavailable, match="closed"):
        await connection.call("PING")
    clients = await admin.call("CLIENT", "LIST")
    assert clients.count(b"\n") == 1


async def test_server_that_dies_ends_the_connection(
    start_server: StartServer, open_connection: Open
) -> None:
    """An idle connection learns of it as well: a read is always pending."""
    server = start_server()
    lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    await open_connection(server.url, on_lost=lost.set_result)

    server.kill()

    async with asyncio.timeout(5):
        assert isinstance(await lost, StoreUnavailable)


async def test_stopped_server_is_given_up_at_the_deadline(
    start_server: StartServer, open_connection: Open
) -> None:
    """A server that keeps its sockets and answers nothing ends the connection."""
    server = start_server()
    lost: list[Exception | None] = []
    connection = await open_connection(
        server.url, command_timeout_s=0.3, on_lost=lost.append
    )
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    begun = time.monotonic()

    first = connection.send(("PING",))
    second = connection.send(("PING",))
    with pytest.raises(StoreUnavailable, match=r"within 0\.3 s"):
        await first

    assert 0.25 < time.monotonic() - begun < 2
    assert connection.closed
    assert len(lost) == 1
    with pytest.raises(StoreUnavailable):
        await second


async def test_deadline_counts_from_each_call(
    open_connection: Open, server: EmbeddedServer
) -> None:
    """A connection in use for longer than the deadline is not cut off."""
    connection = await open_connection(command_timeout_s=0.4)
    begun = time.monotonic()

    while time.monotonic() - begun < 1:
        await connection.call("DEBUG", "SLEEP", "0.1")

    assert not connection.closed


async def test_call_that_began_later_has_its_own_deadline(
    open_connection: Open,
) -> None:
    """A busy server is given up as soon as the oldest call is late, not before."""
    connection = await open_connection(command_timeout_s=0.6)
    await connection.call("PING")
    await asyncio.sleep(0.4)
    begun = time.monotonic()

    with pytest.raises(StoreUnavailable):
        await connection.call("DEBUG", "SLEEP", "1")

    assert 0.55 < time.monotonic() - begun < 0.95


async def test_busy_server_is_unavailable_and_the_connection_stays(
    open_connection: Open,
) -> None:
    """BUSY is an answer: it ends nothing, and the next try may succeed."""
    connection = await open_connection()
    other = await open_connection()
    script = other.send(("EVAL", "while true do end", 0))
    await asyncio.sleep(0.2)

    with pytest.raises(StoreUnavailable, match="BUSY"):
        await connection.call("XREAD", "STREAMS", "k", "0-0")
    assert await connection.call("SCRIPT", "KILL") == b"OK"

    assert isinstance((await script)[0], ReplyError)
    assert await connection.call("PING") == b"PONG"


async def test_close_fails_what_is_pending_and_calls_nobody(
    open_connection: Open,
) -> None:
    """Its owner knows already; a second close does nothing."""
    lost: list[Exception | None] = []
    connection = await open_connection(on_lost=lost.append)
    pending = connection.send(("BLPOP", "nothing", 0))

    connection.close()
    connection.close()

    with pytest.raises(StoreUnavailable, match="was closed"):
        await pending
    await asyncio.sleep(0.05)
    assert lost == []


async def test_no_timer_is_left_when_nothing_is_pending(open_connection: Open) -> None:
    """An idle connection wakes nobody, and a closed one is collected."""
    connection = await open_connection(command_timeout_s=0.1)
    await connection.call("PING")
    await asyncio.sleep(0.2)

    assert connection._timer is None
    assert not connection.closed


async def test_large_reply_arrives_whole(open_connection: Open) -> None:
    """A reply of many packets is put together."""
    connection = await open_connection()
    value = b"x" * (8 * 1024 * 1024)

    await connection.call("SET", "large", value)

    assert await connection.call("GET", "large") == value
    gc.collect()
