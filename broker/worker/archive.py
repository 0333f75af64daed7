"""Reads the past from Redis for those whom the ring no longer serves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import structlog

from broker.errors import StoreUnavailable
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.model import StreamId
from broker.store.cluster import ClusterConnection
from broker.store.connection import Connection
from broker.store.keys import EventKeys
from broker.store.server import identify
from broker.store.standing import StandingConnection
from broker.store.stream_info import StreamInfo
from broker.store.streams import Entry, EntryPage, history, read_page, stream_info

log = structlog.get_logger(__name__)

T = TypeVar("T")

READS_AT_ONCE = 32
"""Reads under way per worker: resuming clients must not starve the publishers."""
SHARED_S = 0.5
"""How long an answer serves others with the same question."""
READ_BYTES_MAX = 512 * 1024
WALK_BYTES_MAX = 32 * 1024 * 1024
"""What Redis sends at most to find the last N entries; there may be fewer then."""
PATIENCE_S = 2.0
"""How long who asks waits for a connection: a ready worker may have none yet."""
FIRST_COUNT = 10
COUNT_MAX = 500


class SharedRead:
    """One page of a stream and what was made of it, for all who asked the same.

    Attributes:
        page: What Redis answered.
        life: Of which life of the channel the page is.
        built: Results for subscriptions at the same place, by what distinguishes them.
    """

    __slots__ = ("built", "life", "page")

    def __init__(self, page: EntryPage, life: int) -> None:
        self.page = page
        self.life = life
        self.built: dict[tuple[object, ...], Any] = {}


class Archive:
    """One supervised connection for reads of the past; identical reads are shared.

    It must lead to the server that the reader reads. After a failover an old connection
    may go on answering from a primary that is none any more: its past is another one.

    Args:
        url: Of the primary.
        name: For ``CLIENT LIST``.
        keys: Names of the streams.
        values: The process's metric row.
        identity: Number of the server that the reader reads, 0 for not known; of a
            cluster the epoch.
    """

    def __init__(
        self,
        url: str,
        name: str,
        keys: EventKeys,
        values: Row,
        identity: Callable[[], int],
    ) -> None:
        self._standing = StandingConnection(url, name, self._identify)
        self._keys = keys
        self._values = values
        self._expected = identity
        self._identity = 0
        self._slots = asyncio.Semaphore(READS_AT_ONCE)
        self._shared: dict[tuple[object, ...], asyncio.Task[Any]] = {}

    @property
    def up(self) -> bool:
        """Whether there is a connection to a primary."""
        return self._standing.up

    async def wait_up(self) -> None:
        """Give a connection that is just being made a moment."""
        if not self._standing.up:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await self._standing.wait_up()

    async def run(self) -> None:
        """Keep the connection; never returns."""
        await self._standing.run()

    async def _identify(self, connection: Connection) -> None:
        if not isinstance(connection, ClusterConnection):
            self._identity = (await identify(connection)).number

    def page(
        self, session: str, after: StreamId, count: int, *, check: bool, life: int = 0
    ) -> asyncio.Task[SharedRead]:
        """Entries after a position, with the XINFO of the same moment.

        Args:
            session: The session's name.
            after: Where to begin.
            count: Entries at most.
            check: Find out whether there is an entry at *after*.
            life: Another number, another answer: of a stream that was found to be
                another one, nothing that was read before may be used.
        """

        async def ask(connection: Connection) -> SharedRead:
            key = self._keys.key(session)
            page = await read_page(connection, key, after, count, inclusive_check=check)
            return SharedRead(page, life)

        return self._share(("page", session, after, count, check, life), ask)

    def info(self, session: str) -> asyncio.Task[StreamInfo | None]:
        """The XINFO of a session's stream, asked for after this call."""
        question = ("info", session)

        async def ask(connection: Connection) -> StreamInfo | None:
            # Who comes later may know of entries that this answer does not.
            self._shared.pop(question, None)
            return await stream_info(connection, self._keys.key(session))

        return self._share(question, ask)

    def before_last(
        self, session: str, count: int, *, life: int = 0
    ) -> asyncio.Task[StreamId | None]:
        """The id right before the last *count* entries, None if there are no more."""
        key = self._keys.key(session)
        return self._share_work(
            ("last", session, count, life), lambda: self._before_last(key, count)
        )

    async def _before_last(self, key: bytes, count: int) -> StreamId | None:
        # XREVRANGE sends whole entries: bounded steps, as large as their size allows,
        # each with a place of its own in the queue.
        before: StreamId | None = None
        step, left, size = FIRST_COUNT, count + 1, 0
        while left and size < WALK_BYTES_MAX:
            asked = min(step, left)
            await self.wait_up()
            async with self._slots:
                entries = await history(self._use(), key, None, before, asked, True)
            if len(entries) < asked:
                return None
            left -= asked
            size += sum(len(field) for _id, fields in entries for field in fields)
            before = entries[-1][0]
            step = next_count(entries)
        return before

    async def history(
        self,
        session: str,
        after: StreamId | None,
        before: StreamId | None,
        limit: int,
        reverse: bool,
    ) -> list[Entry]:
        """Entries between two ids, at most *limit*."""
        key = self._keys.key(session)
        await self.wait_up()
        async with self._slots:
            return await history(self._use(), key, after, before, limit, reverse)

    def _share(
        self,
        question: tuple[object, ...],
        ask: Callable[[Connection], Awaitable[T]],
    ) -> asyncio.Task[T]:
        return self._share_work(question, lambda: self._ask(ask))

    def _share_work(
        self, question: tuple[object, ...], work: Callable[[], Coroutine[Any, Any, T]]
    ) -> asyncio.Task[T]:
        task = self._shared.get(question)
        if task is None:
            self._values[catalog.REPLAY_READS.slot] += 1
            task = asyncio.get_running_loop().create_task(work())
            self._shared[question] = task
            task.add_done_callback(partial(self._forget_later, question))
        return task

    def _forget_later(
        self, question: tuple[object, ...], task: asyncio.Task[Any]
    ) -> None:
        failed = task.cancelled() or task.exception() is not None
        delay = 0 if failed else SHARED_S
        asyncio.get_running_loop().call_later(delay, self._forget, question, task)

    def _forget(self, question: tuple[object, ...], task: asyncio.Task[Any]) -> None:
        if self._shared.get(question) is task:
            del self._shared[question]

    async def _ask(self, ask: Callable[[Connection], Awaitable[T]]) -> T:
        await self.wait_up()
        async with self._slots:
            answer = await ask(self._use())
            self._use()  # An answer from the former server is none.
            return answer

    def _use(self) -> Connection:
        connection = self._standing.use()
        expected = self._expected()
        if isinstance(connection, ClusterConnection):
            # The reader's number is the epoch: who knows an earlier one may ask a
            # primary that is none any more.
            if connection.epoch < expected:
                connection.look_again(expected)
                raise StoreUnavailable("the reader knows a later state of the cluster")
        elif expected not in (0, self._identity):
            self._standing.drop()
            raise StoreUnavailable("the reader reads another server")
        return connection


def next_count(entries: list[Entry]) -> int:
    """How many entries of this size one read may bring."""
    size = sum(len(field) for _id, fields in entries for field in fields)
    return count_of(size / len(entries)) if entries else FIRST_COUNT


def count_of(mean_bytes: float) -> int:
    """How many entries of *mean_bytes* one read may bring."""
    return max(1, min(COUNT_MAX, int(READ_BYTES_MAX / max(mean_bytes, 1))))
