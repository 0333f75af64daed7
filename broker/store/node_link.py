"""A connection to one node of a cluster, opened when it is first needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from broker.errors import BrokerError, StoreUnavailable
from broker.store.connection import Command, Connection

RETRY_S: Final = 0.2
"""How long a node that could not be reached is left alone."""

Replies = asyncio.Future[list[Any]]


class NodeLink:
    """Keeps what is said in order, also while the connection is being opened.

    Args:
        opens: Opens the connection and prepares it.
        on_failure: Called when that has failed; what waited has failed by then.

    Attributes:
        connection: None until it is open.
    """

    def __init__(
        self,
        opens: Callable[[], Any],
        on_failure: Callable[[], None],
    ) -> None:
        self.connection: Connection | None = None
        self._opens = opens
        self._on_failure = on_failure
        self._opening: asyncio.Task[None] | None = None
        self._waiting: list[tuple[Sequence[Command], Replies]] = []
        self._failed_at = float("-inf")
        self._why = ""

    @property
    def idle(self) -> bool:
        """Whether it may be closed without anybody missing it."""
        return self._opening is None

    def send(self, commands: Sequence[Command]) -> Replies:
        """As `Connection.send`."""
        if self.connection is not None:
            return self.connection.send(*commands)
        loop = asyncio.get_running_loop()
        future: Replies = loop.create_future()
        if loop.time() - self._failed_at < RETRY_S:
            future.set_exception(StoreUnavailable(self._why))
            return future
        self._waiting.append((commands, future))
        self._begin()
        return future

    async def opened(self) -> Connection:
        """The connection.

        Raises:
            BrokerError: It cannot be opened.
        """
        if self.connection is None:
            self.connection = await self._opens()
        return self.connection

    def close(self) -> None:
        """End the connection; what waits for it fails."""
        if self._opening is not None:
            self._opening.cancel()
        if self.connection is not None:
            self.connection.close()
        self._fail("the connection was closed")

    def _begin(self) -> None:
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="node-link")

    async def _open(self) -> None:
        try:
            connection = await self._opens()
        except (BrokerError, OSError, ValueError) as error:  # Or a name that is none.
            self._failed_at = asyncio.get_running_loop().time()
            self._fail(str(error))
            self._on_failure()
            return
        finally:
            self._opening = None
        self.connection = connection
        waiting, self._waiting = self._waiting, []
        for commands, future in waiting:
            connection.send(*commands).add_done_callback(partial(_hand_on, future))

    def _fail(self, why: str) -> None:
        self._why = why
        waiting, self._waiting = self._waiting, []
        for _commands, future in waiting:
            if not future.done():
                future.set_exception(StoreUnavailable(why))


def _hand_on(to: Replies, done: Replies) -> None:
    if to.done():
        return
    if done.cancelled():
        to.cancel()
    elif (error := done.exception()) is not None:
        to.set_exception(error)
    else:
        to.set_result(done.result())
