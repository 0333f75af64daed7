"""Events of a service, each stored once however often it had to be sent.

::

    async with Publisher("redis://127.0.0.1:6379/0") as publish:
        await publish("s1", "started")
        await publish("s1", "token_stream", {"chunk": "Hel"}, node_id="writer")
        position = await publish("s1", "done", {"tokens": 412}, id="run-17-done")
        print(position)

A plain ``XADD`` does as well, but one whose answer got lost may or may not have been
stored. Await each event of a session before the next one: of those under way together,
an outage may change the order.
"""

from __future__ import annotations

import asyncio
import uuid
from types import TracebackType
from typing import Any, Self

import orjson

from broker.client.follow import backoff_s
from broker.entry import Skipped, is_rfc3339, read_entry
from broker.errors import StoreRefused, StoreUnavailable
from broker.model import is_session_name
from broker.store.client import DEFAULT_MAX_LEN
from broker.store.cluster import open_connection
from broker.store.connection import Command, Connection
from broker.store.keys import DEFAULT_EVENT_STREAM, event_key_pattern
from broker.store.once import SCRIPT, OnceStream, digest, read_added
from broker.store.scripts import load_scripts
from broker.store.server import WRITES_REFUSED

MAX_EVENT_BYTES = 1024 * 1024
ANSWER_S = 5.0
SLOWEST_RETRY = 2
"""After so many failures the wait until the next try no longer doubles: 2 s at most."""
_TRIED_AGAIN = WRITES_REFUSED | {"NOSCRIPT"}


class Publisher:
    """Publishes over one connection, for any number of tasks."""

    def __init__(
        self,
        url: str,
        *,
        event_stream: str = DEFAULT_EVENT_STREAM,
        max_len: int = DEFAULT_MAX_LEN,
        max_event_bytes: int = MAX_EVENT_BYTES,
        give_up_s: float = 30.0,
        remember_s: float = 300.0,
    ) -> None:
        """Prepare without connecting.

        Args:
            url: Of the Redis primary, of Sentinels or of a cluster.
            event_stream: ``BROKER_EVENT_STREAM``.
            max_len: About how many events a session keeps.
            max_event_bytes: ``BROKER_MAX_EVENT_BYTES``.
            give_up_s: How long an event is tried again.
            remember_s: For how long an id that you give stands for its event. Each
                takes some 200 bytes of Redis; events without id do so only for twice
                *give_up_s*.

        Raises:
            ConfigError: *event_stream* cannot be used.
        """
        self._url = url
        self._keys = event_key_pattern(event_stream)
        self._max_len = max_len
        self._max_event_bytes = max_event_bytes
        self._give_up_s = give_up_s
        self._remember_s = remember_s
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._closed = False

    async def __aenter__(self) -> Self:
        """Nothing yet: the first event connects."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect; what is under way is given up."""
        self._closed = True
        if self._connection is not None:
            self._connection.close()

    async def __call__(
        self,
        session: str,
        event: str,
        data: Any = None,
        *,
        key: str = "",
        node_id: str = "",
        timestamp: str = "",
        transient: bool = False,
        id: str = "",  # noqa: A002 - as everywhere else in the protocol
    ) -> str:
        """Store one event.

        Args:
            session: Whose.
            event: Its name.
            data: What orjson can write.
            key: What ``overflow=latest`` conflates by.
            node_id: Which part of the service says it.
            timestamp: RFC 3339; default: when it is stored.
            transient: Delivered live, never replayed.
            id: Your name for it: a second call with it stores nothing and returns what
                the first one did. Default: one that only the retries of this call use.

        Returns:
            The stream id: the position from which a client resumes behind the event.

        Raises:
            ValueError: The event breaks the contract of ``broker.entry``, or *id* was
                given to another event.
            StoreUnavailable: Redis was away, or took no writes, for *give_up_s*. Nobody
                knows whether the event was stored; it is safe to call again with the
                same *id*.
            StoreRefused: Redis does not allow it.
            ConfigError: The URL cannot be used.
        """
        fields = _fields(event, data, key, node_id, timestamp, transient=transient)
        self._check(session, fields)
        command = self._command(session, fields, id)
        stored = await self._persist(command)
        if stored is None:
            raise ValueError("this id was given to another event of the session")
        return stored

    def _check(self, session: str, fields: list[bytes]) -> None:
        if not is_session_name(session):
            raise ValueError(f"{session!r} cannot be the name of a session")
        entry = read_entry(fields, self._max_event_bytes)
        if isinstance(entry, Skipped):
            raise ValueError(entry.detail.decode())  # noqa: TRY004 - not a wrong type

    def _command(self, session: str, fields: list[bytes], given: str) -> Command:
        remember_s = self._remember_s if given else 2 * self._give_up_s
        options: list[bytes | int] = [b"MAXLEN", b"~", self._max_len, b"*"]
        return OnceStream(self._keys.key(session)).add(
            digest("event", given or uuid.uuid4().hex),
            digest(*fields),
            max(1, int(remember_s * 1000)),
            *options,
            *fields,
        )

    async def _persist(self, command: Command) -> str | None:
        """Send it until there is an answer: the server knows what it has seen."""
        why = "no connection"
        try:
            async with asyncio.timeout(self._give_up_s):
                failures = 0
                while True:
                    try:
                        return await self._send(command)
                    except StoreUnavailable as error:
                        why = str(error)
                    delay_s = backoff_s(min(failures, SLOWEST_RETRY))
                    failures += 1
                    await asyncio.sleep(delay_s)
        except TimeoutError as error:
            raise StoreUnavailable(
                f"not stored for sure within {self._give_up_s} s: {why}"
            ) from error

    async def _send(self, command: Command) -> str | None:
        connection = await self._connected()
        try:
            (reply,) = await connection.send(command)
            return read_added(reply)
        except StoreUnavailable:
            connection.close()
            raise
        except StoreRefused as error:
            if error.kind not in _TRIED_AGAIN:
                raise
            # Somebody flushed the scripts: the next connection loads them again. Or no
            # writes are taken: the address may lead to a better server by then.
            connection.close()
            raise StoreUnavailable(str(error)) from error

    async def _connected(self) -> Connection:
        async with self._connecting:
            if self._closed:
                raise RuntimeError("the publisher is closed")
            if self._connection is None or self._connection.closed:
                self._connection = await self._open()
            return self._connection

    async def _open(self) -> Connection:
        connection = await open_connection(
            self._url,
            client_name="broker-client-publisher",
            command_timeout_s=ANSWER_S,
        )
        try:
            await load_scripts(connection, SCRIPT)
        except BaseException:
            connection.close()
            raise
        return connection


def _fields(
    event: str,
    data: Any,
    key: str,
    node_id: str,
    timestamp: str,
    *,
    transient: bool,
) -> list[bytes]:
    """The fields of the entry, name and value in turn; empty ones are left out."""
    try:
        text = orjson.dumps(data)
    except TypeError as error:
        raise ValueError(f"data cannot be written as JSON: {error}") from error
    if timestamp and not is_rfc3339(timestamp.encode()):
        raise ValueError("timestamp is not RFC 3339")
    fields = [b"event", event.encode(), b"data", text]
    rest = {b"key": key, b"node_id": node_id, b"timestamp": timestamp}
    for name, value in rest.items():
        if value:
            fields += [name, value.encode()]
    if transient:
        fields += [b"transient", b"1"]
    return fields
