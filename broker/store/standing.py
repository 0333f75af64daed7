"""A connection that is opened again whenever it is lost, while it is needed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import ClassVar

from broker.errors import StoreError, StoreUnavailable
from broker.store.cluster import open_connection
from broker.store.connection import Connection, OnPush
from broker.store.server import is_master

ROLE_CHECK_S = 5.0
FIRST_RETRY_S = 0.05
RETRIES_DOUBLED = 5


async def _nothing(_: Connection) -> None:
    pass


class StandingConnection:
    """One supervised connection to the primary, or to the primaries of a cluster.

    What was under way when it is lost fails and is not repeated: only who asked knows
    whether asking twice does harm.

    Args:
        url: As `broker.store.address.parse_url` reads it.
        name: For ``CLIENT LIST``.
        prepare: Awaited with each new connection before anybody may use it.
        on_push: Called with each push, such as a message of a channel.
        command_timeout_s: A reply that takes longer ends the connection.

    Attributes:
        retries: How often all of this process were lost or not opened, and tried again.
    """

    retries: ClassVar[int] = 0

    def __init__(
        self,
        url: str,
        name: str,
        prepare: Callable[[Connection], Awaitable[None]] = _nothing,
        *,
        on_push: OnPush | None = None,
        command_timeout_s: float = 5.0,
    ) -> None:
        self._url = url
        self._name = name
        self._prepare = prepare
        self._on_push = on_push
        self._command_timeout_s = command_timeout_s
        self._connection: Connection | None = None
        self._lost = asyncio.Event()
        self._opened = asyncio.Event()

    @property
    def up(self) -> bool:
        """Whether there is a connection to a primary."""
        return self._connection is not None

    def use(self) -> Connection:
        """The connection.

        Raises:
            StoreUnavailable: There is none now.
        """
        if self._connection is None:
            raise StoreUnavailable("no connection to Redis")
        return self._connection

    def drop(self) -> None:
        """End the connection, which does not lead where it should, and open another."""
        self._lost.set()

    async def wait_up(self) -> None:
        """Return as soon as there is a connection."""
        await self._opened.wait()

    async def run(self) -> None:
        """Keep the connection; never returns."""
        failures = 0
        while True:
            try:
                await self._hold()
                failures = 0
            except StoreError:
                failures = min(failures + 1, RETRIES_DOUBLED)
            StandingConnection.retries += 1
            delay_s = FIRST_RETRY_S * 2**failures
            await asyncio.sleep(delay_s * random.uniform(0.5, 1))  # noqa: S311 - jitter

    async def _hold(self) -> None:
        self._lost.clear()
        connection = await open_connection(
            self._url,
            client_name=self._name,
            on_push=self._on_push,
            on_lost=lambda _: self._lost.set(),
            command_timeout_s=self._command_timeout_s,
        )
        try:
            await self._prepare(connection)
            self._connection = connection
            self._opened.set()
            await self._until_lost(connection)
        finally:
            self._connection = None
            self._opened.clear()
            connection.close()

    async def _until_lost(self, connection: Connection) -> None:
        while not self._lost.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROLE_CHECK_S):
                    await self._lost.wait()
            if not self._lost.is_set() and not await is_master(connection):
                return
