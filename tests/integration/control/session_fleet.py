"""Workers that keep sessions on a real server, without sockets."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from broker.config import Settings, load_settings
from broker.control.janitor import Janitor
from broker.control.notices import SessionEnded
from broker.control.sessions import SCRIPTS, Admission, SessionKeeper
from broker.errors import StoreUnavailable
from broker.store.connection import Connection
from broker.store.scripts import load_scripts
from broker.store.standing import StandingConnection
from tests.integration.store.book import Book

LIMIT = 3


def settings(**given: object) -> Settings:
    wanted: dict[str, object] = {"session_lease_s": 1, "session_linger_s": 2} | given
    named = {f"BROKER_{name.upper()}": str(value) for name, value in wanted.items()}
    return load_settings(named, env_file=None)


async def until(is_true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await is_true():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


class Fleet:
    """Workers of several pods on one server.

    Attributes:
        is_deaf: Whether notices are lost.
        workers: Those that run.
    """

    def __init__(self, url: str, **given: object) -> None:
        self.url = url
        self.settings = settings(**given)
        self.is_deaf = False
        self.workers: list[Worker] = []
        self._tasks: list[asyncio.Task[None]] = []

    def tell(self, notice: SessionEnded) -> None:
        loop = asyncio.get_running_loop()
        for worker in [] if self.is_deaf else self.workers:
            loop.call_soon(worker.keeper.handle_ended, notice)

    async def start_worker(self) -> Worker:
        worker = Worker(self)
        await worker.start()
        self.workers.append(worker)
        return worker

    async def start_janitor(self) -> None:
        standing = await self._stand("test-janitor")
        self._tasks.append(asyncio.create_task(Janitor(standing, self.settings).run()))

    async def book(self, user: str = "ann") -> Book:
        """A look at what Redis has."""
        standing = await self._stand("test-book")
        return Book(standing.use(), user)

    async def _stand(self, name: str) -> StandingConnection:
        standing = StandingConnection(self.url, name, load)
        self._tasks.append(asyncio.create_task(standing.run()))
        await standing.wait_up()
        return standing

    async def stop(self) -> None:
        for worker in list(self.workers):
            await worker.kill()
        await end_all(self._tasks)


async def load(connection: Connection) -> None:
    await load_scripts(connection, *SCRIPTS)


async def end_all(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Worker:
    """One worker.

    Attributes:
        ended: Session, reason and successor of each end it was told of.
        connections: How many there are to each session of each user.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.ended: list[tuple[str, str, str]] = []
        self.connections: Counter[tuple[str, str]] = Counter()
        self.standing = StandingConnection(fleet.url, "test-worker", load)
        self.keeper = SessionKeeper(
            self.standing, fleet.settings, self._end, fleet.tell
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        runs = (self.standing.run(), self.keeper.run())
        self._tasks = [asyncio.create_task(run) for run in runs]
        await self.standing.wait_up()

    async def kill(self) -> None:
        """End as a process that is killed: nothing is said to anybody."""
        self._fleet.workers.remove(self)
        await end_all(self._tasks)

    async def connect(
        self, *sessions: str, user: str = "ann", deliberate: bool = False
    ) -> list[Admission]:
        """Connect to each, one after the other."""
        return [await self._connect(user, one, deliberate) for one in sessions]

    async def _connect(self, user: str, session: str, deliberate: bool) -> Admission:
        """Connect as a client does that tries again when Redis is away."""
        while True:
            await self.standing.wait_up()
            try:
                admission = await self.keeper.admit(
                    user, session, limit=LIMIT, deliberate=deliberate
                )
            except StoreUnavailable:
                await asyncio.sleep(0.01)
                continue
            if admission.verdict == "open":
                self.keeper.entered(user, session)
                self.connections[user, session] += 1
            return admission

    def leave(self, session: str, user: str = "ann") -> None:
        self.connections[user, session] -= 1
        self.keeper.left(user, session)

    def _end(
        self, user: str, session: str, fence: int, reason: str, replaced_by: str
    ) -> None:
        del fence
        self.ended.append((session, reason, replaced_by))
        for _ in range(self.connections.pop((user, session), 0)):
            self.keeper.left(user, session)


@asynccontextmanager
async def running_fleet(url: str, **given: object) -> AsyncIterator[Fleet]:
    """A fleet that is stopped in the end; keywords are settings."""
    fleet = Fleet(url, **given)
    try:
        yield fleet
    finally:
        await fleet.stop()


async def lifecycle(connection: Connection) -> list[tuple[str, str, dict[str, Any]]]:
    """Event, session and data of all entries, in order; repeated ones once."""
    entries = await connection.call("XRANGE", "broker:lifecycle", "-", "+")
    seen: dict[tuple[object, ...], tuple[str, str, dict[str, Any]]] = {}
    for _, raw in entries:
        fields = {
            name.decode(): value.decode()
            for name, value in zip(raw[::2], raw[1::2], strict=True)
        }
        data = json.loads(fields["data"])
        at = data.pop("at")
        event = fields["event"].removeprefix("session_")
        key = event, fields["session"], fields["fence"], at
        seen.setdefault(key, (event, fields["session"], data))
    return list(seen.values())
