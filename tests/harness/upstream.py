"""One worker's way to the command stream, without the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broker.config import load_settings
from broker.control.upstream import SCRIPTS, Upstream
from broker.store.connection import Connection
from broker.store.scripts import load_scripts
from broker.store.standing import StandingConnection

NO_RATE = {
    "BROKER_COMMAND_RATE_PER_S": "100000",
    "BROKER_COMMAND_RATE_PER_USER_PER_S": "100000",
}


class Sender:
    """A connection that says something."""

    def __init__(self, connection_id: str = "c1", user: str = "ann") -> None:
        self.user = user
        self.connection_id = connection_id
        self.command_allowance: tuple[float, float] | None = None


@asynccontextmanager
async def running_upstream(
    url: str,
    *,
    stream: str = "broker:commands",
    trims: bool = False,
    timeout_s: float = 3,
    backlog: int = 100_000,
) -> AsyncIterator[Upstream]:
    """Connected to the server at *url*, with rates that nobody reaches."""
    given = NO_RATE | {
        "BROKER_COMMAND_STREAM": stream,
        "BROKER_COMMAND_BACKLOG": str(backlog),
    }
    standing = StandingConnection(
        url, "test-upstream", _prepare, command_timeout_s=timeout_s
    )
    upstream = Upstream(standing, load_settings(given, env_file=None), trims=trims)
    task = asyncio.create_task(standing.run())
    try:
        await standing.wait_up()
        yield upstream
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _prepare(connection: Connection) -> None:
    await load_scripts(connection, *SCRIPTS)
