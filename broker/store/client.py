"""Publishing by hand and for the demo: what is rare and asks one thing at a time."""

from __future__ import annotations

import asyncio
from typing import Any, Final, Self

from broker.store.address import parse_url
from broker.store.cluster import open_connection
from broker.store.connection import Command, Connection

DEFAULT_MAX_LEN: Final = 10_000
"""About how many entries a stream keeps when nothing else is asked for."""
TIMEOUT_S = 5.0


class Client:
    """Connects when it is first used, and anew when the connection was lost.

    Nothing is sent twice: a repeated ``XADD`` could store an entry twice. An
    asynchronous context manager that closes it.

    Raises:
        ConfigError: The URL cannot be used.
    """

    def __init__(self, url: str, *, client_name: str = "broker") -> None:
        self._address = parse_url(url)
        self._name = client_name
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()

    async def call_all(self, *commands: Command) -> list[Any]:
        """Send *commands* in one write and return their replies.

        Raises:
            StoreUnavailable: No connection, no answer in time, or not ready. They may
                or may not have run.
            StoreRefused: A reply is another error, or the log-in is refused.
            ServerUnsuitable: The server does not speak RESP3.
        """
        async with self._opening:
            if self._connection is None or self._connection.closed:
                self._connection = await open_connection(
                    self._address,
                    client_name=self._name,
                    connect_timeout_s=TIMEOUT_S,
                    command_timeout_s=TIMEOUT_S,
                )
        return await self._connection.call_all(*commands)


def connect(url: str, *, client_name: str = "broker") -> Client:
    """A client for *url*; it connects when it is first used.

    Raises:
        ConfigError: The URL cannot be used.
    """
    return Client(url, client_name=client_name)


async def publish(
    client: Client,
    key: str | bytes,
    event: str,
    data: str | None = None,
    *,
    max_len: int = DEFAULT_MAX_LEN,
    exact: bool = False,
    expire_s: int | None = None,
) -> str:
    """Add one event to the stream at *key*, as any publisher may; returns its id.

    Args:
        client: From `connect`.
        key: The stream.
        event: Name of the event.
        data: JSON text; absent means null.
        max_len: How many entries are kept, about unless *exact*.
        exact: Whether to keep not one more.
        expire_s: The whole stream goes away if nothing is added for so long.

    Raises:
        StoreUnavailable: No connection, no answer in time, or not ready. The event
            may or may not have been stored.
        StoreRefused: The answer is another error.
    """
    bound = "=" if exact else "~"
    add: list[bytes | str | int] = ["XADD", key, "MAXLEN", bound, max_len, "*"]
    add += ["event", event]
    if data is not None:
        add += ["data", data]
    # In one write: an expiry of its own would ring every reader a second time.
    commands: list[Command] = [add]
    if expire_s is not None:
        commands.append(("EXPIRE", key, expire_s))
    answers = await client.call_all(*commands)
    entry_id: bytes = answers[0]
    return entry_id.decode()
